"""What a check of a window is, from whom it takes its answer, and what makes an answer doubtful.

A check asks several origins in its order. What any of them shows as failed fails, and an error of any is one; else the first
that has data decides, and says which it was. Clients stand in for a server only where the servers were asked throughout and
have no such figure by their nature: one that is promised and was not served, or was served with holes, lets nobody else speak.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from drills.judging.checks.base import NAN, Answer, result
from drills.judging.checks.registry import CheckSpec, Origin
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, State
from drills.rollout.setup.records import CANARY_CHECK_LIST, SNAPSHOTS
from drills.rollout.verdict.window_data.counters import Counted, counted, disagreement, promised, unanswered
from drills.rollout.verdict.window_data.stage_window import StageWindow

Decide = Callable[[StageWindow, Threshold | None], Answer | None]
EVIDENCE = {"server": SNAPSHOTS, "client": CANARY_CHECK_LIST, "synthetic": CANARY_CHECK_LIST}
NONE_SAYS = "no source of this window can say it"


class Ask(NamedTuple):
    """One origin's way to an answer; None where it has no such data by its nature. `figures` are the servers' that it reads."""

    origin: Origin
    decide: Decide
    figures: tuple[str, ...] = ()


@dataclass(frozen=True)
class WindowCheck:
    """A declared check and its sources, which are asked in order."""

    spec: CheckSpec
    asks: tuple[Ask, ...]

    @property
    def origins(self) -> tuple[Origin, ...]:
        """The origins of its sources, in order."""
        return tuple(ask.origin for ask in self.asks)


def attach(declared: Mapping[str, CheckSpec], asks: Mapping[str, tuple[Ask, ...]]) -> Mapping[str, WindowCheck]:
    """Each declared check with its sources, in the order of the declarations."""
    return {name: WindowCheck(spec, asks[name]) for name, spec in declared.items()}


def answer(check: WindowCheck, window: StageWindow, threshold: Threshold | None) -> CheckResult:
    """One check's result. An exception inside it makes it an `error` that says what happened."""
    origin, found = _resolved(check, window, threshold)
    return result(check.spec, found, EVIDENCE[origin], threshold, origin)


class Suspicion(Answer):
    """Something that would be a failure, but for what is missing to tell it by: whoever else passes, nobody knows."""


def _resolved(check: WindowCheck, window: StageWindow, threshold: Threshold | None) -> tuple[Origin, Answer]:
    """Who answers: whoever shows a failure, or that something is not in order, else the first who has data."""
    if check.spec.takes_threshold and threshold is None:
        return check.asks[0].origin, Answer(State.ERROR, NAN, 0, f"there is no threshold of {check.spec.name}")
    answers = [(ask.origin, found) for ask in check.asks if (found := _asked(ask, window, threshold)) is not None]
    grave = [each for state in (State.FAIL, State.ERROR) for each in answers if each[1].state is state]
    grave += [each for each in answers if isinstance(each[1], Suspicion)]
    if grave or answers:
        return (grave or answers)[0]
    return check.asks[0].origin, Answer(State.NO_DATA, NAN, 0, NONE_SAYS)


def _asked(ask: Ask, window: StageWindow, threshold: Threshold | None) -> Answer | None:
    try:
        return ask.decide(window, threshold)
    except Exception as error:  # a check that fails to work must not be taken for one that passes
        return Answer(State.ERROR, NAN, 0, f"the check could not be worked out: {error or type(error).__name__}")


def doubted(found: Answer, doubt: str) -> Answer:
    """The answer, but no pass where there is a doubt."""
    if not doubt or found.state is not State.PASS:
        return found
    return replace(found, state=State.INCONCLUSIVE, reason=f"{doubt} ({found.reason})")


def gravest(answers: Sequence[Answer]) -> Answer:
    """The gravest of several, of equal ones the first."""
    return min(answers, key=lambda each: GRAVEST_FIRST.index(each.state))


def by_server(window: StageWindow, names: Sequence[str], decide: Callable[[Counted], Answer]) -> Answer | None:
    """What the servers' counters say to something, `decide` being asked of each source that has them all.

    None where no source has such counters by its nature, so that somebody else may be asked.
    """
    sources = counted(window, names)
    if not sources:
        return unserved(window, names)
    answers = [trusted(window, doubted(decide(each), each.doubt)) for each in sources]
    failed = [each for each in answers if each.state is State.FAIL]
    return doubted((failed or answers)[0], disagreement(window, sources))


def unserved(window: StageWindow, names: Sequence[str]) -> Answer | None:
    """What is to be said of counters that no answer has: nothing, if servers were asked throughout and promise none."""
    if promised(window, names):
        return Answer(State.NO_DATA, NAN, 0, f"{', '.join(names)}: promised, and never served together")
    if why := unanswered(window, names):
        return Answer(State.NO_DATA, NAN, 0, f"{', '.join(names)}: {why}")
    return None


def trusted(window: StageWindow, found: Answer) -> Answer:
    """The answer of a server, but nothing less than an error where snapshots were tampered with."""
    if window.snapshot_trouble and found.state is not State.FAIL:
        return replace(found, state=State.ERROR, reason=f"{window.snapshot_trouble} ({found.reason})")
    return found


def by_clients(window: StageWindow, decide: Callable[[], Answer]) -> Answer | None:
    """What the watches' clients say to something; None where there was no watch."""
    if window.canary_check_trouble:
        found = decide() if window.canary_checks else Answer(State.NO_DATA, NAN, 0, "there is no watch")
        if found.state is State.FAIL:
            return found
        return replace(found, state=State.ERROR, reason=f"{window.canary_check_trouble} ({found.reason})")
    if not window.canary_checks:
        return None
    return doubted(decide(), window.client_hole)
