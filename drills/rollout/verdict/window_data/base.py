"""How a check of a stage's window decides: its sources, their order, and the reasons to doubt a result.

All sources of a check decide, in order. A failure or an error of any source counts; otherwise the first source with data
decides. Clients replace servers only if servers answered all the time and do not have the metric at all. If a metric is
promised but not served, or served with holes, clients cannot replace it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from drills.judging.checks.base import NAN, Answer, needed, result
from drills.judging.checks.specs import CheckSpec, Origin
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, State
from drills.rollout.setup.records import CANARY_CHECK_LIST, SNAPSHOTS
from drills.rollout.verdict.window_data.counters import Counted, counted, disagreement, promised, unanswered
from drills.rollout.verdict.window_data.stage_window import StageWindow

Decide = Callable[[StageWindow, Threshold | None], Answer | None]
"""A function that decides for one source; it returns None if the source does not have such data at all."""
EVIDENCE = {"server": SNAPSHOTS, "client": CANARY_CHECK_LIST, "synthetic": CANARY_CHECK_LIST}


class Source(NamedTuple):
    """One source of a check. `metrics` are the servers' metrics that it reads."""

    origin: Origin
    decide: Decide
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class WindowCheck:
    """A declared check and its sources, in the order in which they decide."""

    spec: CheckSpec
    sources: tuple[Source, ...]

    @property
    def origins(self) -> tuple[Origin, ...]:
        """The origins of its sources, in order."""
        return tuple(source.origin for source in self.sources)


def attach(declared: Mapping[str, CheckSpec], sources: Mapping[str, tuple[Source, ...]]) -> Mapping[str, WindowCheck]:
    """Combine each declared check with its sources, in the order of the declarations."""
    return {name: WindowCheck(spec, sources[name]) for name, spec in declared.items()}


def answer(check: WindowCheck, window: StageWindow, threshold: Threshold | None) -> CheckResult:
    """The result of one check. An exception inside the check becomes an `error` with its text."""
    origin, found = _decide(check, window, threshold)
    if found.state is State.FAIL and (when := window.busy_times):
        _, again = _decide(check, window.excused, threshold)
        if again.state is not State.FAIL:
            why = f"the machine of the clients was too busy {when}, which alone may explain this"
            found = replace(found, state=State.INCONCLUSIVE, reason=f"{why}: {found.reason}")
    return result(check.spec, found, EVIDENCE[origin], threshold, origin)


class Suspicion(Answer):
    """A result that may be a failure but lacks the data to decide. A pass of another source does not replace it."""


def _decide(check: WindowCheck, window: StageWindow, threshold: Threshold | None) -> tuple[Origin, Answer]:
    """The result of the first source with a failure; else with an error; else with a suspicion; else with data."""
    first = check.sources[0].origin
    if check.spec.takes_threshold and threshold is None:
        return first, Answer(State.ERROR, NAN, 0, f"there is no threshold for {check.spec.name}")
    answers = [(each.origin, found) for each in check.sources if (found := _ask(each, window, threshold)) is not None]
    severe = [each for state in (State.FAIL, State.ERROR) for each in answers if each[1].state is state]
    severe += [each for each in answers if isinstance(each[1], Suspicion)]
    return next(iter(severe or answers), (first, Answer(State.NO_DATA, NAN, 0, "no source of this window has the data")))


def _ask(source: Source, window: StageWindow, threshold: Threshold | None) -> Answer | None:
    try:
        return source.decide(window, threshold)
    except Exception as error:  # a broken check must not count as a pass
        return Answer(State.ERROR, NAN, 0, f"the check could not be worked out: {error or type(error).__name__}")


def doubted(found: Answer, doubt: str) -> Answer:
    """Return the result; a pass with a doubt becomes inconclusive."""
    if not doubt or found.state is not State.PASS:
        return found
    return replace(found, state=State.INCONCLUSIVE, reason=f"{doubt} ({found.reason})")


def most_severe(answers: Sequence[Answer]) -> Answer:
    """The result with the most severe state; the first of equal ones."""
    return min(answers, key=lambda each: GRAVEST_FIRST.index(each.state))


def by_limit(low: float, high: float, limit: float) -> State:
    """Decide by bounds: fail if the lower is over the limit, pass if the upper is at most the limit, else inconclusive."""
    return State.FAIL if low > limit else State.PASS if high <= limit else State.INCONCLUSIVE


def from_servers(names: Sequence[str], judge: Callable[[StageWindow, Counted, Threshold], Answer]) -> Source:
    """Make a source of servers' counters: `judge` decides by each server source that has all of them."""

    def decide(window: StageWindow, threshold: Threshold | None) -> Answer | None:
        return by_server(window, names, lambda source: judge(window, source, needed(threshold)))

    return Source("server", decide, tuple(names))


def by_server(window: StageWindow, names: Sequence[str], judge: Callable[[Counted], Answer]) -> Answer | None:
    """Decide by the servers' counters; None if the servers do not have them, so that another source may decide."""
    sources = counted(window, names)
    if not sources:
        return unserved(window, names)
    answers = [trusted(window, doubted(judge(each), each.doubt)) for each in sources]
    failed = [each for each in answers if each.state is State.FAIL]
    return doubted((failed or answers)[0], disagreement(window, sources))


def unserved(window: StageWindow, names: Sequence[str]) -> Answer | None:
    """The result for counters without data; None if servers answered all the time and do not promise them."""
    if promised(window, names):
        return Answer(State.NO_DATA, NAN, 0, f"{', '.join(names)}: promised, but never served together")
    if why := unanswered(window, names):
        return Answer(State.NO_DATA, NAN, 0, f"{', '.join(names)}: {why}")
    return None


def trusted(window: StageWindow, found: Answer) -> Answer:
    """Return a server's result; an error if snapshots are invalid, unless it is a failure."""
    if window.snapshot_problem and found.state is not State.FAIL:
        return replace(found, state=State.ERROR, reason=f"{window.snapshot_problem} ({found.reason})")
    return found


def from_clients(judge: Callable[[StageWindow, Threshold], Answer], origin: Origin = "client") -> Source:
    """Make a source of the canary checks' clients: `judge` decides by their observations."""
    return Source(origin, lambda window, threshold: by_clients(window, lambda: judge(window, needed(threshold))))


def by_clients(window: StageWindow, judge: Callable[[], Answer]) -> Answer | None:
    """Decide by the clients of the canary checks; None without a canary check."""
    if window.canary_check_problem:
        found = judge() if window.canary_checks else Answer(State.NO_DATA, NAN, 0, "there is no canary check")
        if found.state is State.FAIL:
            return found
        return replace(found, state=State.ERROR, reason=f"{window.canary_check_problem} ({found.reason})")
    if not window.canary_checks:
        return None
    return doubted(judge(), window.client_hole)
