"""The gates: which checks there are, what a drill is asked, and the answers.

A check that cannot be worked out is an `error` of that check and never stops the others; a check of a name that
nobody knows is a mistake of the user's and stops everything before it begins.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from drills.judging.checks import authority, delivery, fleet, malformed, network, phases, reconnect, service, stale
from drills.judging.checks import thresholds as thresholds_file
from drills.judging.checks.base import Answer, Case, Check
from drills.judging.checks.thresholds import Expected, Threshold, Thresholds
from drills.judging.checks.verdicts import CheckResult, DrillVerdict, ServerView, State
from drills.rollout.verdict.window_checks import AGAINST_CONTROL
from drills.rollout.verdict.window_checks import REGISTRY as WINDOW_REGISTRY
from drills.rollout.verdict.window_data.base import WindowCheck
from sim.analysis import invariants, metrics, samples, server_metrics
from sim.analysis.invariants import Violation
from sim.analysis.metrics import Metric
from sim.analysis.samples import Share
from sim.base.errors import UsageError
from sim.drill.model import Drill
from sim.record.history import History

_CHECKS = (
    *(*service.CHECKS, *reconnect.CHECKS, *authority.CHECKS, *delivery.CHECKS),
    *(*network.CHECKS, *phases.CHECKS, *stale.CHECKS, *malformed.CHECKS),
)
REGISTRY: Mapping[str, Check] = {check.full_name: check for check in _CHECKS}
GENERATOR = "drill.generator_lag_ms"
HOOKS_FOLDER = "hooks"
_PACED_SHARE = 0.1  # [ours] of the connects after the first fault, that may wait for a cap
GATES = ("error", "replay", "reconnect", "delivery", "ux")


def load_thresholds(path: Path = thresholds_file.DEFAULT_PATH, is_record: bool = False) -> Thresholds:
    """Read a thresholds file; unless it is a run's own copy it must serve every check. Raises `UsageError`.

    A check of drills and one of a stage's window that have one name have one threshold.
    """
    return thresholds_file.load(path, expected_thresholds(), is_record)


def expected_thresholds() -> dict[str, Expected]:
    """What each check takes from the file, of drills first."""
    expected: dict[str, Expected] = {}
    of_windows = (*WINDOW_REGISTRY.values(), *AGAINST_CONTROL.values())
    checks: tuple[Check | WindowCheck, ...] = (*REGISTRY.values(), *of_windows)
    for check in checks:
        if check.takes_threshold:
            expected[check.full_name] = check.expected.joined(expected.get(check.full_name))
    return expected


def require_checks(drill: Drill, thresholds: Thresholds) -> None:
    """Raise `UsageError` when the drill lists a check that does not exist or has no threshold."""
    known = [name for name, check in REGISTRY.items() if check.gate in GATES]
    for name in drill.checks:
        if name not in known:
            raise UsageError(f"drill {drill.name}: there is no check '{name}'; there are: {', '.join(known)}.")
    for check in _asked(drill):
        if check.takes_threshold and check.full_name not in thresholds:
            raise UsageError(f"drill {drill.name}: check '{check.full_name}' has no threshold.")


def judge(drill: Drill, history: History, thresholds: Thresholds, evidence: str) -> DrillVerdict:
    """Ask a drill's evidence everything its drill lists, and everything that is always asked.

    `evidence` names the file it came from. Raises `UsageError` as `require_checks` does.
    """
    require_checks(drill, thresholds)
    case, header = Case(drill, history), history.header
    broken, laws = _invariants(case, evidence)
    measures, trouble = _measures(case)
    results = _disown([answer(check, case, thresholds.get(check.full_name), evidence) for check in _asked(drill)])
    paced = samples.paced(history)
    results = _doubt(results, paced)
    return DrillVerdict(
        name=drill.name,
        clients=header.clients,
        duration_s=header.duration_s,
        checks=(read_evidence(evidence, len(history), trouble), laws, *results),
        violations=broken,
        metrics=measures,
        summary=drill.summary,
        policy=header.policy,
        defects=tuple(header.defects),
        remarks=(*_remarks(history, paced), *fleet.remarks(case, (laws, *results))),
        prediction=header.prediction,
        server=_server_view(history),
    )


def _remarks(history: History, paced: Share) -> Iterator[str]:
    """What a reader must know of how a drill was run, in sentences."""
    yield from history.header.remarks
    if paced.hits:
        yield f"{paced.hits} of {paced.n} connects waited for the target's cap: this storm was paced, so it measures less."
    if hooks := history.header.hooks:
        yield f"{len(hooks)} hook commands were run; what they said is in {HOOKS_FOLDER}/ of the drill's folder."
    polls = server_metrics.polls(history)
    if polls.failures:
        why = ", ".join(f"{reason} ({count})" for reason, count in polls.failed.items())
        yield (
            f"The runtime's metrics endpoint gave nothing at {polls.failures} of {polls.n} polls: {why}. What it would have "
            "said is missing here, not zero; every check above rests on what clients saw."
        )


def _server_view(history: History) -> ServerView | None:
    polls = server_metrics.polls(history)
    if polls.n == 0:
        return None
    absent = server_metrics.absent(history, history.header.metrics_profile)
    return ServerView(polls.n, polls.failed, server_metrics.served(history), absent)


def _doubt(results: Sequence[CheckResult], paced: Share) -> Sequence[CheckResult]:
    """Where a cap held back many of the storm's connects, times are neither the target's nor a storm's: they decide nothing."""
    if paced.n == 0 or paced.ratio <= _PACED_SHARE:
        return results
    why = f"the target's cap paced {paced.hits} of {paced.n} connects, so this was no storm of that size"
    timed = {name for name, check in REGISTRY.items() if check.timed}
    decided = (State.PASS, State.FAIL)
    return [
        replace(result, state=State.INCONCLUSIVE, reason=f"{why} ({result.reason})")
        if result.name in timed and result.state in decided
        else result
        for result in results
    ]


def _disown(results: Sequence[CheckResult]) -> Sequence[CheckResult]:
    """With a saturated load generator, no figure of time is the target's: none may pass, and none may fail."""
    if not any(result.name == GENERATOR and result.state is State.ERROR for result in results):
        return results
    why = "the load generator was late itself, so this is no figure of the target's"
    timed = {name for name, check in REGISTRY.items() if check.timed}
    return [replace(r, state=State.ERROR, reason=f"{why} ({r.reason})") if r.name in timed else r for r in results]


def _invariants(case: Case, evidence: str) -> tuple[tuple[Violation, ...], CheckResult]:
    """The broken invariants, and the check that says whether there are any, or that they could not be looked for."""
    found: list[Violation] = []

    def decide(case: Case, threshold: Threshold | None) -> Answer:
        found.extend(invariants.violations(case.history, case.ledger))
        names = ", ".join(violation.invariant for violation in found)
        state = State.FAIL if found else State.PASS
        return Answer(state, len(found), len(case.history), f"broken: {names}" if found else "no law was broken")

    check = Check("drill", "invariants", "laws", "laws that were broken", "count, 0 allowed", decide)
    result = answer(check, case, None, evidence)
    return tuple(found), result


def _measures(case: Case) -> tuple[tuple[Metric, ...], str]:
    """What was measured, or why it could not be."""
    try:
        return tuple(metrics.run_metrics(case.history, case.ledger)), ""
    except Exception as error:  # a run that cannot be measured must not pass, and must still be reported
        return (), f"the run cannot be measured: {error or type(error).__name__}"


def answer(check: Check, case: Case, threshold: Threshold | None, evidence: str) -> CheckResult:
    """One check's result; whatever goes wrong inside it makes it an `error` that says what."""
    try:
        decide = check.decide if case.history.header.tally is None else fleet.decider(check)
        found = decide(case, threshold)
        state, value, n, interval, reason = found.state, float(found.value), found.n, found.interval, found.reason
    except Exception as error:  # a check that fails to work must not be taken for one that passes
        state, value, n, interval = State.ERROR, float("nan"), 0, None
        reason = f"the check could not be worked out: {error or type(error).__name__}"
    return CheckResult(
        gate=check.gate,
        check=check.name,
        state=state,
        value=value,
        unit=check.unit,
        n=n,
        interval=interval,
        comparator=check.comparator if threshold else "",
        threshold=threshold.threshold if threshold else None,
        source=threshold.source if threshold else "law of a drill's course",
        window=check.window,
        method=check.method,
        origin=check.origin,
        reason=reason,
        evidence=evidence,
    ).sound()


def read_evidence(evidence: str, rows: int, trouble: str = "") -> CheckResult:
    """Whether a drill's files can be believed; `trouble` says why not."""
    return CheckResult(
        gate="drill",
        check="evidence",
        state=State.ERROR if trouble else State.PASS,
        value=float(rows),
        unit="rows",
        n=rows,
        interval=None,
        comparator="",
        threshold=None,
        source="law of a drill's course",
        window="whole run",
        method="complete, and byte for byte what the run recorded",
        origin="synthetic",
        reason=trouble or f"{rows} observations, as they were recorded",
        evidence=evidence,
    )


def stopped(evidence: str, condition: str) -> CheckResult:
    """A stop condition of the target ended the drill: that is a failure, whatever else can be said."""
    return CheckResult(
        gate="drill",
        check="stop_condition",
        state=State.FAIL,
        value=1.0,
        unit="conditions",
        n=1,
        interval=None,
        comparator="",
        threshold=None,
        source="the target's stop conditions",
        window="until then",
        method="none may be met",
        origin="synthetic",
        reason=f"a stop condition of the target was met, {condition}",
        evidence=evidence,
    )


def unreadable(name: str, trouble: str, evidence: str) -> DrillVerdict:
    """The verdict on a drill of which nothing can be read."""
    return DrillVerdict(name, 0, float("nan"), (read_evidence(evidence, 0, trouble),))


def _asked(drill: Drill) -> Sequence[Check]:
    """The drill's own checks, then those that are always on."""
    own = [REGISTRY[name] for name in dict.fromkeys(drill.checks)]
    return [*own, *(check for check in _CHECKS if check.gate not in GATES and check.applies(drill))]
