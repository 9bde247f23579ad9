"""Judge a drill's evidence by the checks that the drill lists and by the checks of every drill.

A check that raises an exception has the state `error`; all other checks still run. A drill with an unknown check is refused
before anything starts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from drills.judging.checks import authority, delivery, fleet, network, phases, reconnect, service, stale
from drills.judging.checks.base import NAN, Answer, Case, Decide, result
from drills.judging.checks.registry import EVIDENCE, INVARIANTS, LOSS_UNNOTICEABLE, OF_RUNS, RUNNABLE, STOP_CONDITION
from drills.judging.checks.registry import GATES as GATES
from drills.judging.checks.specs import CheckSpec
from drills.judging.checks.thresholds import Threshold, Thresholds
from drills.judging.checks.thresholds import load_thresholds as load_thresholds
from drills.judging.checks.verdicts import CheckResult, DrillVerdict, ServerView, State
from sim.analysis import machine, metrics, samples, server_metrics
from sim.analysis.endings import endings
from sim.analysis.invariants import registry
from sim.analysis.invariants.evidence import Violation
from sim.analysis.metrics import Metric
from sim.analysis.samples import Share
from sim.base.errors import UsageError
from sim.drill.model import Drill
from sim.record.history import History
from sim.record.observations import Kind

DECISIONS: Mapping[str, Decide] = {
    **service.DECISIONS,
    **reconnect.DECISIONS,
    **authority.DECISIONS,
    **delivery.DECISIONS,
    **network.DECISIONS,
    **phases.DECISIONS,
    **stale.DECISIONS,
}
GENERATOR = "drill.generator_lag_ms"
_NOT_REACHED = ("drill.steady_state", "drill.faults_observed", "drill.load")  # what a drill on a busy machine may not reach
_NAMED_FROM_S = 1.0  # [ours] busy for less does not explain that
HOOKS_FOLDER = "hooks"
PACED_SHARE = 0.1  # [ours] share of the connects after the first fault that a cap may delay


def require_checks(drill: Drill, thresholds: Thresholds) -> None:
    """Raise `UsageError` when the drill lists a check that does not exist or has no threshold."""
    known = [name for name in DECISIONS if OF_RUNS[name].gate in GATES]
    for name in drill.checks:
        if name not in known:
            raise UsageError(f"drill {drill.name}: unknown check '{name}' in 'checks'; there are: {', '.join(known)}.")
    for spec in asked_of(drill):
        if spec.takes_threshold and spec.name not in thresholds:
            raise UsageError(f"drill {drill.name}: check '{spec.name}' has no threshold; add a table [{spec.name}].")


def judge(drill: Drill, history: History, thresholds: Thresholds, evidence: str) -> DrillVerdict:
    """Judge a drill's history by the checks that it lists and those of every drill.

    `evidence` names the file of the history. Raises `UsageError` as `require_checks` does.
    """
    require_checks(drill, thresholds)
    case, header = Case(drill, history), history.header
    violated, checked = _invariants(case, evidence)
    found, trouble = _metrics(case)
    results = [_excuse(answer(spec, case, thresholds.get(spec.name), evidence), case, thresholds) for spec in asked_of(drill)]
    paced = samples.paced(history)
    results = [*_doubt(_disown(results), paced)]
    return DrillVerdict(
        name=drill.name,
        clients=header.clients,
        duration_s=header.duration_s,
        checks=(read_evidence(evidence, len(history), trouble), checked, *results, *_unnoticeable(case, evidence)),
        violations=violated,
        metrics=found,
        summary=drill.summary,
        policy=header.policy,
        defects=tuple(header.defects),
        remarks=(*_remarks(case, paced), *fleet.remarks(case, (checked, *results)), *_not_required(results)),
        prediction=header.prediction,
        server=_server_view(history),
        endings=endings(history),
    )


def _unnoticeable(case: Case, evidence: str) -> Iterator[CheckResult]:
    """The check that makes a drill inconclusive whose withheld events no client can notice as missing."""
    withheld = case.history.fleet(Kind.WITHHELD)
    if len(withheld) and case.history.positions != "dense":
        reason = (
            f"{len(withheld)} events were withheld from clients, and positions of protocol '{case.history.header.protocol}' do "
            "not show missing events. So no client could notice the loss, and whether clients recover is unknown"
        )
        yield result(OF_RUNS[LOSS_UNNOTICEABLE], Answer(State.INCONCLUSIVE, len(withheld), len(withheld), reason), evidence)


def _remarks(case: Case, paced: Share) -> Iterator[str]:
    """Sentences on how the drill was run."""
    history = case.history
    yield from history.header.remarks
    if case.busy_times:
        when = machine.in_words(case.busy_times)
        yield f"The machine was too busy {when}: latencies may be too long then, and none too short."
    if paced.hits:
        yield f"{paced.hits} of {paced.n} connects waited for the target's cap: this storm was paced, so it shows less."
    for name, why in history.header.unasked.items():
        yield f"The negative client {name} was left out: {why}."
    if hooks := history.header.hooks:
        yield f"{len(hooks)} hook commands were run; their output is in {HOOKS_FOLDER}/ of the drill's folder."
    polls = server_metrics.polls(history)
    if polls.failures:
        why = ", ".join(f"{reason} ({count})" for reason, count in polls.failed.items())
        yield (
            f"The runtime's metrics endpoint did not answer {polls.failures} of {polls.n} polls: {why}. Its metrics are "
            "missing then, not zero; every check above reads what clients observed."
        )


def _not_required(results: Sequence[CheckResult]) -> Iterator[str]:
    """Sentences on the checks that the decision does without, by their reason."""
    left: dict[str, list[str]] = {}
    for each in results:
        if not each.is_required:
            left.setdefault(each.reason, []).append(each.name)
    for reason, names in left.items():
        yield f"The decision does not require {', '.join(names)}: {reason}."


def _server_view(history: History) -> ServerView | None:
    polls = server_metrics.polls(history)
    if polls.n == 0:
        return None
    absent = server_metrics.absent(history, history.header.metrics_profile)
    return ServerView(polls.n, polls.failed, server_metrics.served(history), absent)


def _doubt(results: Sequence[CheckResult], paced: Share) -> Sequence[CheckResult]:
    """Make checks of times inconclusive if a cap delayed many connects: the storm was smaller than the drill declares."""
    if paced.n == 0 or paced.ratio <= PACED_SHARE:
        return results
    why = f"the target's cap paced {paced.hits} of {paced.n} connects, so this was no storm of that size"
    decided = (State.PASS, State.FAIL)
    return [
        replace(result, state=State.INCONCLUSIVE, reason=f"{why} ({result.reason})")
        if OF_RUNS[result.name].is_timed and result.state in decided
        else result
        for result in results
    ]


def _excuse(found: CheckResult, case: Case, thresholds: Thresholds) -> CheckResult:
    """Make a failure an error if it goes away without what our own machine may have delayed, and name it in other errors.

    So is a check that nothing decides, if it passes without that.

    A pass stays a pass: latencies count from when an action was due, so a busy machine only makes them longer.
    """
    if not case.busy_times or case.history.header.tally is not None:
        return found
    why = f"the machine was too busy {machine.in_words(case.busy_times)}"
    if found.state is State.ERROR and found.name in _NOT_REACHED and case.busy_s("steady", "settle") >= _NAMED_FROM_S:
        return replace(found, reason=f"{why}, which may explain this: {found.reason}")
    if found.state not in (State.FAIL, State.INCONCLUSIVE):
        return found
    again = answer(OF_RUNS[found.name], case.excused, thresholds.get(found.name), found.evidence)
    if again.state is State.FAIL or (found.state is State.INCONCLUSIVE and again.state is not State.PASS):
        return found
    return replace(found, state=State.ERROR, reason=f"{why}, which alone may explain this: {found.reason}")


def _disown(results: Sequence[CheckResult]) -> Sequence[CheckResult]:
    """Make checks of times errors if the load generator was saturated, because they then do not measure the target."""
    if not any(result.name == GENERATOR and result.state is State.ERROR for result in results):
        return results
    why = "the load generator was late itself, so this does not measure the target"
    return [
        replace(found, state=State.ERROR, reason=f"{why} ({found.reason})") if OF_RUNS[found.name].is_timed else found
        for found in results
    ]


def _invariants(case: Case, evidence: str) -> tuple[tuple[Violation, ...], CheckResult]:
    """The violated invariants, and the check that reports them or why they could not be checked.

    If a busy machine alone may explain all that were found, the check is an error, and none of them is held against the target.
    """
    found: list[Violation] = []

    def decide(case: Case, threshold: Threshold | None) -> Answer:
        found[:] = registry.violations(case.history, case.ledger, busy=case.busy)
        names = ", ".join(violation.invariant for violation in found)
        state = State.FAIL if found else State.PASS
        return Answer(state, len(found), len(case.history), f"violated: {names}" if found else "no invariant was violated")

    answered = _answer(OF_RUNS[INVARIANTS], decide, case, None, evidence)
    if answered.state is State.FAIL and case.busy_times:
        again = _answer(OF_RUNS[INVARIANTS], decide, case.excused, None, evidence)
        if again.state is not State.PASS:
            return tuple(found), again
        why = f"the machine was too busy {machine.in_words(case.busy_times)}, which alone may explain this"
        answered = replace(answered, state=State.ERROR, reason=f"{why}: {answered.reason}")
    return tuple(found), answered


def _metrics(case: Case) -> tuple[tuple[Metric, ...], str]:
    """The run's metrics, or why they could not be computed."""
    try:
        return tuple(metrics.run_metrics(case.history, case.ledger)), ""
    except Exception as error:  # the run must not pass, but must still be reported
        return (), f"the run cannot be measured: {error or type(error).__name__}"


def answer(spec: CheckSpec, case: Case, threshold: Threshold | None, evidence: str) -> CheckResult:
    """The result of one check. An exception inside the check becomes an `error` with its text."""
    return _answer(spec, DECISIONS[spec.name], case, threshold, evidence)


def _answer(spec: CheckSpec, decide: Decide, case: Case, threshold: Threshold | None, evidence: str) -> CheckResult:
    if case.history.header.tally is not None:
        decide = fleet.decider(spec.name, decide)
    if lacks := case.lacks(spec):
        return replace(result(spec, Answer(State.NO_DATA, NAN, 0, lacks), evidence, threshold), is_required=False)
    try:
        found = result(spec, decide(case, threshold), evidence, threshold)
        if found.state in (State.NO_DATA, State.NOT_RUN) and spec.origin == "client" and not case.history.header.has_socket:
            return replace(found, reason="the target has no socket, so there were no clients", is_required=False)
        return found
    except Exception as error:  # a broken check must not count as a pass
        reason = f"the check could not be worked out: {error or type(error).__name__}"
        return result(spec, Answer(State.ERROR, NAN, 0, reason), evidence, threshold)


def read_evidence(evidence: str, rows: int, trouble: str = "") -> CheckResult:
    """The check whether a drill's files are complete and unchanged; `trouble` says why not."""
    state, reason = State.ERROR if trouble else State.PASS, trouble or f"{rows} observations, as they were recorded"
    return result(OF_RUNS[EVIDENCE], Answer(state, rows, rows, reason), evidence)


def stopped(evidence: str, condition: str) -> CheckResult:
    """The check that fails because a stop condition of the target ended the drill."""
    reason = f"a stop condition of the target was met: {condition}"
    return result(OF_RUNS[STOP_CONDITION], Answer(State.FAIL, 1, 1, reason), evidence)


def unreadable(name: str, trouble: str, evidence: str) -> DrillVerdict:
    """The verdict on a drill whose files cannot be read."""
    return DrillVerdict(name, 0, float("nan"), (read_evidence(evidence, 0, trouble),))


def not_run(name: str, reason: str) -> DrillVerdict:
    """The verdict on a drill that the target cannot run."""
    check = result(OF_RUNS[RUNNABLE], Answer(State.NOT_RUN, NAN, 0, reason), "")
    return DrillVerdict(name, 0, 0.0, (replace(check, is_required=False),), not_run=reason)


def asked_of(drill: Drill) -> Sequence[CheckSpec]:
    """The checks that a drill lists, then those of every drill."""
    own = [OF_RUNS[name] for name in dict.fromkeys(drill.checks)]
    return [*own, *(spec for spec in OF_RUNS.values() if _is_always_on(spec) and spec.when.holds(drill))]


def _is_always_on(spec: CheckSpec) -> bool:
    return spec.gate not in GATES and spec.name in DECISIONS
