"""The three changes of a rollback, smallest blast radius first, and how each is observed from outside.

A lever makes and restores a change: an operator's two commands on a target, or a route of our own mock. An observation proves
it: the services' revisions, the outcome of a burst, or the routing of some hundred keys. A change is restored if the
observation is the same as before the change.
"""

import asyncio
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

from drills.judging.checks.verdicts import State
from drills.rollout.rollback.bursts import GUARD_CODES, Burst
from drills.rollout.servers import routing_checks
from drills.rollout.setup.commands import hook_environment
from drills.rollout.setup.records import Revisions, RoutingCheck
from drills.rollout.setup.stages import RoutingChecks
from sim.base import operator_command
from sim.base.clocks import Clock
from sim.base.errors import HookError, StormgateError
from sim.base.operator_command import Output
from sim.base.redaction import Redactor
from sim.drill.target_rules import RollbackHook
from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.sockets.http import ServiceHttp

Action = Literal["apply", "restore"]
Name = Literal["traffic", "throttle", "cohort"]
ROUTING_CHECKS = RoutingChecks()  # the number and rate of the routing checks
_BURST_APART_S = 1.0  # between two bursts, because the caps apply to any one second


class Lever(ABC):
    """A way to make one change and to restore it. `evidence` lists files relative to the run's folder."""

    def __init__(self) -> None:
        self.evidence: list[str] = []

    def apply(self) -> None:
        """Make the change. Raises a `StormgateError` if that fails."""
        self._set("apply")

    def restore(self) -> None:
        """Restore the state, also after an `apply` that failed halfway. Raises a `StormgateError` if that fails."""
        self._set("restore")

    @abstractmethod
    def _set(self, action: Action) -> None: ...

    @abstractmethod
    def command(self, action: Action) -> str:
        """The command line of an action, as a person would type it; without secrets."""


class HookLever(Lever):
    """An operator's two commands. Their output is kept in `folder`, without secrets."""

    def __init__(self, name: str, hook: RollbackHook, endpoints: Endpoints, folder: Path, about: Mapping[str, str]) -> None:
        super().__init__()
        self._name, self._hook, self._folder, self._endpoints = name, hook, folder, endpoints
        self._redact = Redactor(endpoints.secrets)
        self._about = {"STEP": name, **about}

    def command(self, action: Action) -> str:
        return shlex.join(self._redact.text(part) for part in getattr(self._hook, action))

    def _set(self, action: Action) -> None:
        output = Output(self._redact)
        environment = hook_environment(self._endpoints, ACTION=action, **self._about)
        name = f"{self._name}-{action}.txt"
        try:
            run = operator_command.run(getattr(self._hook, action), environment, self._hook.timeout_s, output)
            _, why = asyncio.run(run)
        finally:
            output.keep(self._folder / name)
            self.evidence.append(f"{self._folder.name}/{name}")
        if why:
            raise HookError(f"the command to {action} {self._name} {why}; its output is in {self._folder / name}.")


class MockLever(Lever):
    """A route of our own mock: PUT a new body, and restore the body from before."""

    def __init__(self, endpoints: Endpoints, name: str, wanted: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        super().__init__()
        self._endpoints, self._name = endpoints, name
        self._bodies: dict[Action, Mapping[str, Any]] = {"apply": wanted, "restore": before}

    def command(self, action: Action) -> str:
        body = msgspec.json.encode(self._bodies[action]).decode()
        return shlex.join(["curl", "-X", "PUT", "-d", body, f"{self._endpoints.runtime_url}/_mock/{self._name}"])

    def _set(self, action: Action) -> None:
        async def put() -> None:
            async with ServiceHttp(self._endpoints) as http:
                await http.ask(service_api.change, self._name, self._bodies[action])

        asyncio.run(put())


class CannotBeginError(StormgateError):
    """The rehearsal cannot observe its changes, or there is nothing to roll back; nothing was changed."""


@dataclass(frozen=True)
class Observation:
    """The observation of a change. `missing`: the differences from what is expected; empty without any."""

    facts: dict[str, str]
    missing: str
    words: str


class Change(ABC):
    """One change of the rollback, which is restored after the rehearsal."""

    name: Name
    is_restored_at_once = False  # before the next step, because nothing can be observed while it is in effect

    def __init__(self, lever: Lever, observed_by: str) -> None:
        self.lever, self.observed_by = lever, observed_by  # `observed_by`: in words

    @property
    def evidence(self) -> tuple[str, ...]:
        """Evidence files, relative to the run's folder."""
        return tuple(self.lever.evidence)

    @abstractmethod
    def begin(self) -> dict[str, str]:
        """Observe the state before any change. Raises `CannotBeginError`."""

    @abstractmethod
    def rolled_back(self) -> Observation:
        """Observe whether the change took effect."""

    @abstractmethod
    def restored(self) -> Observation:
        """Observe whether the state is the one that `begin` found."""


class Traffic(Change):
    """Step 1: traffic to the last known good revisions, `good`. `find` returns the serving revisions."""

    name: Name = "traffic"

    def __init__(self, lever: Lever, good: Revisions, find: Callable[[], Revisions]) -> None:
        super().__init__(lever, f"control service and runtime report their revisions: {good}")
        self._good, self._find = good, find
        self._before = Revisions()

    def begin(self) -> dict[str, str]:
        self._before = self._find()
        if not self._before.known:
            raise CannotBeginError(f"the revisions that serve cannot be found out ({self._before}).")
        if self._before == self._good:
            raise CannotBeginError(f"the last known good revisions serve already ({self._good}): nothing to roll back.")
        return msgspec.structs.asdict(self._before)

    def rolled_back(self) -> Observation:
        return self._observed(self._good)

    def restored(self) -> Observation:
        return self._observed(self._before)

    def _observed(self, wanted: Revisions) -> Observation:
        now = self._find()
        found, expected = msgspec.structs.asdict(now), msgspec.structs.asdict(wanted)
        wrong = [
            f"{name} is {is_ or 'unknown'}, expected {expected[name]}" for name, is_ in found.items() if is_ != expected[name]
        ]
        return Observation(found, "; ".join(wrong), f"the services reported their revisions: {now}")


class Throttle(Change):
    """Step 2: a tighter throttle, observed by bursts, which are accepted completely without it and partly refused with it."""

    name: Name = "throttle"

    def __init__(self, lever: Lever, burst: Callable[[], Burst], in_words: str, clock: Clock) -> None:
        part = "refused whole with it" if self.is_restored_at_once else "refused in part with it"
        super().__init__(lever, f"a burst of {in_words} at once: accepted whole before, {part}")
        self._burst, self._clock = burst, clock

    def begin(self) -> dict[str, str]:
        seen = self.restored()
        if seen.missing:
            raise CannotBeginError(f"the throttle's effect could not be told from what there is already: {seen.missing}.")
        return seen.facts

    def rolled_back(self) -> Observation:
        burst = self._send()
        missing = "" if burst.refused else f"all {burst.n} {burst.what} of a burst were accepted: the throttle had no effect"
        if burst.other:
            missing = f"of {burst.n} {burst.what}, {burst.other} were refused, which is no throttle's answer"
        words = (
            f"of a burst of {burst.n} {burst.what}, {burst.refused} were refused by the rate limit and {burst.taken} accepted"
        )
        return Observation(burst.facts, missing, words)

    def restored(self) -> Observation:
        burst = self._send()
        codes = ", ".join(f"{count} by {code}" for code, count in burst.codes.items())
        missing = f"of a burst of {burst.n} {burst.what}, {codes} were refused" if burst.codes else ""
        return Observation(burst.facts, missing, f"a burst of {burst.n} {burst.what} was accepted whole")

    def _send(self) -> Burst:
        burst = self._burst()
        self._clock.sleep_until(self._clock.now() + timedelta(seconds=_BURST_APART_S))
        return burst


class Guard(Throttle):
    """Step 2 with a read-only guard, which refuses every write. No canary check can publish under it, so it ends at once."""

    is_restored_at_once = True

    def rolled_back(self) -> Observation:
        burst = self._send()
        codes = ", ".join(f"{count} by {code}" for code, count in burst.codes.items())
        missing = f"{burst.taken} of {burst.n} writes were accepted: the guard let them through" if burst.taken else ""
        if not missing and not burst.codes.keys() <= GUARD_CODES:
            missing = f"of {burst.n} writes, {codes} were refused, which is no guard's answer"
        words = f"of a burst of {burst.n} writes all were refused ({codes}); then restored, as no client can publish under it"
        return Observation(burst.facts, missing, words)


class Cohort(Change):
    """Step 3: the client cohort, down to `percent` of all keys, observed by routing checks."""

    name: Name = "cohort"

    def __init__(self, lever: Lever, percent: float, endpoints: Endpoints, folder: Path, clock: Clock) -> None:
        by = f"the routing service puts {percent:g} % of {ROUTING_CHECKS.keys} keys into the cohort (Wilson's interval)"
        super().__init__(lever, by)
        self._percent, self._endpoints, self._folder, self._clock = percent, endpoints, folder, clock
        self._before: frozenset[str] = frozenset()
        self._kept: list[str] = []

    @property
    def evidence(self) -> tuple[str, ...]:
        return (*self.lever.evidence, *self._kept)

    def begin(self) -> dict[str, str]:
        checks = self._ask()
        if silent := [check for check in checks if check.in_cohort is None]:
            raise CannotBeginError(
                f"the routing service gave no answer for {len(silent)} of {len(checks)} keys ({silent[0].outcome})."
            )
        self._before = _inside(checks)
        lower, upper = routing_checks.interval(len(self._before), len(checks))
        if lower <= self._percent / 100 <= upper:
            raise CannotBeginError(
                f"{len(self._before)} of {len(checks)} keys are in the cohort, which cannot be told from {self._percent:g} %: "
                "nothing to roll back."
            )
        return _shares(checks)

    def rolled_back(self) -> Observation:
        checks = self._ask()
        found = routing_checks.judge(checks, self._percent)
        return Observation(_shares(checks), "" if found.state == State.PASS else found.reason, found.reason)

    def restored(self) -> Observation:
        checks = self._ask()
        silent = sum(check.in_cohort is None for check in checks)
        moved = len(_inside(checks) ^ self._before)
        missing = (
            f"{moved} of {len(checks)} keys are not where they were, and {silent} got no answer" if moved or silent else ""
        )
        return Observation(_shares(checks), missing, f"each of {len(checks)} keys is where it was")

    def _ask(self) -> list[RoutingCheck]:
        folder = self._folder / f"cohort-{len(self._kept) + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        self._kept.append(f"{self._folder.name}/{folder.name}")
        return routing_checks.ask(self._endpoints, ROUTING_CHECKS, folder, self._clock)


def _inside(checks: Sequence[RoutingCheck]) -> frozenset[str]:
    return frozenset(check.key for check in checks if check.in_cohort)


def _shares(checks: Sequence[RoutingCheck]) -> dict[str, str]:
    answered = sum(check.in_cohort is not None for check in checks)
    facts = {"keys": str(len(checks)), "answered": str(answered)}
    if not answered:
        return facts
    inside = len(_inside(checks))
    lower, upper = routing_checks.interval(inside, answered)
    share = f"{100 * inside / answered:.1f} % ({100 * lower:.1f} to {100 * upper:.1f} %)"
    return {**facts, "in_cohort": str(inside), "share": share}
