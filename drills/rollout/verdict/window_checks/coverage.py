"""Check the window itself: enough snapshots, canary checks as planned, and no violated invariant."""

from collections.abc import Mapping

from drills.judging.checks import phases
from drills.judging.checks.base import NAN, Answer, Case
from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data.base import Source, by_clients, most_severe
from drills.rollout.verdict.window_data.clients import MAX_LEFT_OUT_SHARE, is_late
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis.invariants import registry
from sim.analysis.invariants.evidence import Violation


def violations(window: StageWindow) -> list[Violation]:
    """All invariants that were violated in a canary check."""
    return [found for check in window.canary_checks for found in check.once("invariants", _violations)]


def _violations(case: Case) -> list[Violation]:
    return registry.violations(case.history, case.ledger, busy=case.busy)


def _invariants(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    def judge() -> Answer:
        found = violations(window)
        rows = sum(check.rows for check in window.canary_checks)
        named = ", ".join(dict.fromkeys(f"{each.invariant} ({each.first})" for each in found))
        state = State.FAIL if found else State.PASS if rows else State.NO_DATA
        reason = f"violated: {named}" if found else f"no invariant was violated in {rows} observations"
        return Answer(state, len(found), rows, reason)

    return by_clients(window, judge)


def _coverage(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    found = window.coverage
    changed = f"; revisions changed: {'; '.join(map(str, window.revisions))}" if len(window.revisions) > 1 else ""
    return Answer(State(found.state), found.got / found.expected, found.got, found.reason + changed)


def _canary_checks(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    def judge() -> Answer:
        n, late = len(window.canary_checks), sum(map(is_late, window.canary_checks))
        found = [answer for check in window.canary_checks for answer in check.once("phases", _failed_phases)]
        worst = most_severe(found) if found else Answer(State.PASS, 0, n, "")
        if worst.state is not State.PASS:
            return Answer(worst.state, len(found), n, worst.reason)
        left_out = f"{window.cut_short} were cut short, {late} had a late load generator"
        if window.cut_short + late > MAX_LEFT_OUT_SHARE * (n + window.cut_short):
            return Answer(State.INCONCLUSIVE, window.cut_short + late, n, f"{n} canary checks, of which {left_out}")
        return Answer(State.PASS, 0, n, f"{n} canary checks ran as planned; {left_out}")

    return by_clients(window, judge)


def _failed_phases(case: Case) -> list[Answer]:
    """The checks of a drill's phases that did not pass in a canary check, except the check of the load generator."""
    found = []
    for name, decide in phases.DECISIONS.items():
        if OF_RUNS[name].takes_threshold:
            continue
        answer = decide(case, None)
        if answer.state is not State.PASS:
            found.append(Answer(answer.state, NAN, answer.n, f"{name}: {answer.reason}"))
    return found


SOURCES: Mapping[str, tuple[Source, ...]] = {
    "window.coverage": (Source("server", _coverage),),
    "window.canary_checks": (Source("client", _canary_checks),),
    "window.invariants": (Source("client", _invariants),),
}
