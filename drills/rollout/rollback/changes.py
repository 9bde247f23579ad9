"""The three things that a rollback changes, smallest blast radius first, and how each change is seen from outside.

A change is made by its lever, and believed only when it was seen: by asking the services for their revisions, by what becomes
of a burst, by where the routing service puts some hundred keys. It is restored when what was seen before is seen again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, Protocol

from drills.judging.checks.verdicts import State
from drills.rollout.rollback.bursts import Burst
from drills.rollout.rollback.levers import Lever
from drills.rollout.servers import routing_checks
from drills.rollout.setup.records import Revisions, RoutingCheck
from drills.rollout.setup.stages import RoutingChecks
from sim.base.clocks import Clock
from sim.base.errors import StormgateError
from sim.engines.shared.endpoints import Endpoints

Name = Literal["traffic", "throttle", "cohort"]
ROUTING_CHECKS = RoutingChecks()  # how the routing service is asked
_BURST_APART_S = 1.0  # a burst is all that is let in within a second: caps are of any one second


class CannotBeginError(StormgateError):
    """What a rehearsal would have to see is not there to be seen, or there is nothing to roll back; nothing was changed."""


@dataclass(frozen=True)
class Sighting:
    """What was seen of a change. `missing`: what was expected and is not so; empty when all of it is."""

    facts: dict[str, str]
    missing: str
    words: str


class Change(Protocol):
    """One thing that is rolled back, and put back after the rehearsal."""

    name: Name
    lever: Lever

    def begin(self) -> dict[str, str]:
        """Look at it before anything is changed. Raises `CannotBeginError`."""
        ...

    def rolled_back(self) -> Sighting:
        """Look whether it is rolled back."""
        ...

    def restored(self) -> Sighting:
        """Look whether it is as it was when `begin` looked."""
        ...

    @property
    def evidence(self) -> tuple[str, ...]:
        """Files below the run's folder."""
        ...

    @property
    def seen_by(self) -> str:
        """How it is seen, in words."""
        ...


class Traffic:
    """Step 1: traffic to the last known good revisions, `good`. `find` asks for the revisions that serve."""

    name: Name = "traffic"

    def __init__(self, lever: Lever, good: Revisions, find: Callable[[], Revisions]) -> None:
        self.lever = lever
        self._good, self._find = good, find
        self._before = Revisions()

    def begin(self) -> dict[str, str]:
        """See `Change`."""
        self._before = self._find()
        if not self._before.known:
            raise CannotBeginError(f"the revisions that serve cannot be found out ({_revisions(self._before)}).")
        if self._before == self._good:
            raise CannotBeginError(
                f"the last known good revisions serve already ({_revisions(self._good)}): nothing to roll back."
            )
        return _facts(self._before)

    def rolled_back(self) -> Sighting:
        """See `Change`."""
        return self._seen(self._good)

    def restored(self) -> Sighting:
        """See `Change`."""
        return self._seen(self._before)

    def _seen(self, wanted: Revisions) -> Sighting:
        now = self._find()
        found, expected = _facts(now), _facts(wanted)
        wrong = [
            f"{name} is {found[name] or 'unknown'}, expected {expected[name]}"
            for name in found
            if found[name] != expected[name]
        ]
        return Sighting(found, "; ".join(wrong), f"the services told their revisions: {_revisions(now)}")

    @property
    def evidence(self) -> tuple[str, ...]:
        """See `Change`."""
        return self.lever.evidence

    @property
    def seen_by(self) -> str:
        """See `Change`."""
        return f"control service and runtime tell their revisions: {_revisions(self._good)}"


def _facts(revisions: Revisions) -> dict[str, str]:
    return {"control": revisions.control, "runtime": revisions.runtime}


def _revisions(revisions: Revisions) -> str:
    return ", ".join(f"{name} {revision or 'unknown'}" for name, revision in _facts(revisions).items())


class Throttle:
    """Step 2: a tighter throttle, seen by bursts: taken whole without it, refused in part, and by the right code, with it."""

    name: Name = "throttle"

    def __init__(self, lever: Lever, burst: Callable[[], Burst], in_words: str, clock: Clock) -> None:
        self.lever = lever
        self._burst, self._in_words, self._clock = burst, in_words, clock

    def begin(self) -> dict[str, str]:
        """See `Change`."""
        seen = self.restored()
        if seen.missing:
            raise CannotBeginError(f"the throttle's effect could not be told from what there is already: {seen.missing}.")
        return seen.facts

    def rolled_back(self) -> Sighting:
        """See `Change`."""
        burst = self._again()
        missing = "" if burst.refused else f"all {burst.n} {burst.what} of a burst were taken: the throttle had no effect"
        if burst.other:
            missing = f"of {burst.n} {burst.what}, {burst.other} were refused, which is no throttle's answer"
        words = f"of a burst of {burst.n} {burst.what}, {burst.refused} were refused as too many and {burst.taken} taken"
        return Sighting(burst.facts, missing, words)

    def restored(self) -> Sighting:
        """See `Change`."""
        burst = self._again()
        codes = ", ".join(f"{count} by {code}" for code, count in burst.codes.items())
        missing = f"of a burst of {burst.n} {burst.what}, {codes} were refused" if burst.codes else ""
        return Sighting(burst.facts, missing, f"a burst of {burst.n} {burst.what} was taken whole")

    def _again(self) -> Burst:
        burst = self._burst()
        self._clock.sleep_until(self._clock.now() + timedelta(seconds=_BURST_APART_S))
        return burst

    @property
    def evidence(self) -> tuple[str, ...]:
        """See `Change`."""
        return self.lever.evidence

    @property
    def seen_by(self) -> str:
        """See `Change`."""
        return f"a burst of {self._in_words} at once: taken whole before, refused in part with it"


class Cohort:
    """Step 3: the client cohort alone, down to `percent` of all keys, seen by where the routing service puts some of them."""

    name: Name = "cohort"

    def __init__(self, lever: Lever, percent: float, endpoints: Endpoints, folder: Path, clock: Clock) -> None:
        self.lever = lever
        self._percent, self._endpoints, self._folder, self._clock = percent, endpoints, folder, clock
        self._asked = 0
        self._before: frozenset[str] = frozenset()
        self._kept: list[str] = []

    def begin(self) -> dict[str, str]:
        """See `Change`."""
        probes = self._probe()
        if silent := [probe for probe in probes if probe.in_cohort is None]:
            raise CannotBeginError(
                f"the routing service tells nothing of {len(silent)} of {len(probes)} keys ({silent[0].outcome})."
            )
        self._before = _inside(probes)
        least, most = routing_checks.interval(len(self._before), len(probes))
        if least <= self._percent / 100 <= most:
            said = f"{len(self._before)} of {len(probes)} keys are in the cohort"
            raise CannotBeginError(f"{said}, which cannot be told from {self._percent:g} %: nothing to roll back.")
        return _shares(probes)

    def rolled_back(self) -> Sighting:
        """See `Change`."""
        probes = self._probe()
        part = routing_checks.judge(probes, self._percent)
        return Sighting(_shares(probes), "" if part.state == State.PASS else part.reason, part.reason)

    def restored(self) -> Sighting:
        """See `Change`."""
        probes = self._probe()
        silent = sum(probe.in_cohort is None for probe in probes)
        others = len(_inside(probes) ^ self._before)
        missing = (
            f"{others} of {len(probes)} keys are not where they were, and {silent} got no answer" if others or silent else ""
        )
        return Sighting(_shares(probes), missing, f"each of {len(probes)} keys is where it was")

    def _probe(self) -> list[RoutingCheck]:
        self._asked += 1
        folder = self._folder / f"cohort-{self._asked}"
        folder.mkdir(parents=True, exist_ok=True)
        self._kept.append(f"{self._folder.name}/{folder.name}")
        return routing_checks.ask(self._endpoints, ROUTING_CHECKS, folder, self._clock)

    @property
    def evidence(self) -> tuple[str, ...]:
        """See `Change`."""
        return (*self.lever.evidence, *self._kept)

    @property
    def seen_by(self) -> str:
        """See `Change`."""
        return f"the routing service puts {self._percent:g} % of {ROUTING_CHECKS.keys} keys into the cohort (Wilson's interval)"


def _inside(probes: list[RoutingCheck]) -> frozenset[str]:
    return frozenset(probe.key for probe in probes if probe.in_cohort)


def _shares(probes: list[RoutingCheck]) -> dict[str, str]:
    told = [probe for probe in probes if probe.in_cohort is not None]
    inside = len(_inside(probes))
    if not told:
        return {"keys": str(len(probes)), "answered": "0"}
    least, most = routing_checks.interval(inside, len(told))
    return {
        "keys": str(len(probes)),
        "answered": str(len(told)),
        "in_cohort": str(inside),
        "share": f"{100 * inside / len(told):.1f} % ({100 * least:.1f} to {100 * most:.1f} %)",
    }
