"""Checks of the window itself: was it watched well enough, did the watches run as they must, was any law broken?"""

from collections.abc import Mapping

from drills.judging.checks import phases
from drills.judging.checks.base import NAN, Answer, Case
from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data.base import Ask, by_clients, gravest
from drills.rollout.verdict.window_data.clients import is_late
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis import invariants
from sim.analysis.invariants import Violation

_LEFT_OUT_SHARE = 0.1  # [ours] of the watches, that may have been cut short or have measured themselves


def violations(window: StageWindow) -> list[Violation]:
    """All laws that any watch saw broken."""
    return [found for watch in window.canary_checks for found in watch.once("invariants", _violations)]


def _violations(case: Case) -> list[Violation]:
    return invariants.violations(case.history, case.ledger)


def _invariants(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    def judged() -> Answer:
        found = violations(window)
        rows = sum(watch.rows for watch in window.canary_checks)
        named = ", ".join(dict.fromkeys(f"{each.invariant} ({each.first})" for each in found))
        state = State.FAIL if found else State.PASS if rows else State.NO_DATA
        return Answer(state, len(found), rows, f"broken: {named}" if found else f"no law was broken in {rows} observations")

    return by_clients(window, judged)


def _coverage(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    found = window.coverage
    share = found.got / found.expected
    deployed = "; ".join(f"control {each.control or '?'}, runtime {each.runtime or '?'}" for each in window.revisions)
    changed = f"; revisions changed: {deployed}" if len(window.revisions) > 1 else ""
    return Answer(State(found.state), share, found.got, found.reason + changed)


def _watches(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    def judged() -> Answer:
        n, late = len(window.canary_checks), sum(map(is_late, window.canary_checks))
        found = [answer for watch in window.canary_checks for answer in watch.once("phases", _course)]
        worst = gravest(found) if found else Answer(State.PASS, 0, n, "")
        if worst.state is not State.PASS:
            return Answer(worst.state, len(found), n, worst.reason)
        left_out = f"{window.cut_short} were cut short, {late} measured themselves"
        if window.cut_short + late > _LEFT_OUT_SHARE * (n + window.cut_short):
            return Answer(State.INCONCLUSIVE, window.cut_short + late, n, f"{n} watches, of which {left_out}")
        return Answer(State.PASS, 0, n, f"{n} watches ran as they must; {left_out}")

    return by_clients(window, judged)


def _course(case: Case) -> list[Answer]:
    """What did not go as it must in a watch, its load generator's lateness aside."""
    found = []
    for name, decide in phases.DECISIONS.items():
        if OF_RUNS[name].takes_threshold:
            continue
        answer = decide(case, None)
        if answer.state is not State.PASS:
            found.append(Answer(answer.state, NAN, answer.n, f"{name}: {answer.reason}"))
    return found


ASKS: Mapping[str, tuple[Ask, ...]] = {
    "window.coverage": (Ask("server", _coverage),),
    "window.canary_checks": (Ask("client", _watches),),
    "window.invariants": (Ask("client", _invariants),),
}
