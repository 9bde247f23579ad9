"""Decide checks of a run on the fleet engine, which counts the reconnects of a storm and records no deliveries.

A check without a decision here has no data, and invariants are not checked. So a fleet run can fail, but never pass.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from drills.judging.checks import phases, reconnect
from drills.judging.checks.base import NAN, Answer, Case, Decide, by_count, by_percentile, by_ratio, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.analysis import reconnects
from sim.analysis.samples import Share
from sim.record.tally import Tally

_UNANSWERED = (State.NO_DATA, State.NOT_RUN)
_P95 = 0.95
# Checks that need only the few observations that a fleet run records.
# Checks that read the markers in payloads, which a fleet run does not have.
_BY_MARKERS = (
    *("delivery.dropped_deliveries", "delivery.one_order", "ux.integrity", "ux.publish_to_apply_ms"),
    *("drill.invariants", "drill.audited", "drill.declared_loss"),
)
_BY_ROWS = (*("drill.phases", "drill.steady_state", "drill.faults_observed", "drill.generator_lag_ms", "drill.wall_clocks"),)


class _Answered(Protocol):
    """A check's result."""

    @property
    def name(self) -> str:
        """`gate.check`."""

    @property
    def state(self) -> State:
        """The state of the result."""


def decider(name: str, decide: Decide) -> Decide:
    """Return how a check decides about a fleet run; `decide` is its decision about recorded deliveries."""
    by_tally = decide if name in _BY_ROWS else _DECISIONS.get(name)
    if by_tally is None:
        return _no_markers if name in _BY_MARKERS else _no_data
    return _within_model(by_tally)


def remarks(case: Case, results: Sequence[_Answered]) -> Iterator[str]:
    """Sentences about the limits of a fleet run, for the report."""
    tally = case.history.header.tally
    if tally is None:
        return
    unanswered = [result.name for result in results if result.state in _UNANSWERED]
    yield (
        "The fleet engine simulates the storm and delivers nothing. It has no data for: "
        f"{', '.join(unanswered)}. The virtual engine checks all of them, with fewer clients."
    )
    if tally.overloaded_at_s is not None:
        yield (
            f"From {tally.overloaded_at_s:.1f} s on, delivery was so far behind that a server would have evicted slow clients. "
            "That is not simulated here, so this run may look better than a real one."
        )


def _no_markers(case: Case, threshold: Threshold | None) -> Answer:
    return Answer(State.NO_DATA, NAN, 0, "the fleet engine delivers no payloads, so there are no markers to judge")


def _no_data(case: Case, threshold: Threshold | None) -> Answer:
    return Answer(State.NO_DATA, NAN, 0, "the fleet engine does not measure this")


def _within_model(decide: Decide) -> Decide:
    """Make a pass inconclusive if delivery was overloaded; a failure stays a failure, because a real run would be worse."""

    def doubt(case: Case, threshold: Threshold | None) -> Answer:
        answer, overloaded_at_s = decide(case, threshold), _tally(case).overloaded_at_s
        if answer.state is not State.PASS or overloaded_at_s is None:
            return answer
        why = f"delivery was overloaded from {overloaded_at_s:.1f} s on, beyond what is simulated ({answer.reason})"
        return replace(answer, state=State.INCONCLUSIVE, reason=why)

    return doubt


def _tally(case: Case) -> Tally:
    tally = case.history.header.tally
    assert tally is not None
    return tally


# --- gates ------------------------------------------------------------------------------------------


def _token_failures(case: Case, threshold: Threshold | None) -> Answer:
    totals = _tally(case).totals
    refused = totals["tokens_refused"]
    return by_ratio(Share(refused, refused + totals["tokens_minted"]), needed(threshold), "token requests refused")


def _stale_cursors(case: Case, threshold: Threshold | None) -> Answer:
    """Count stale answers in the worst window. Windows consist of whole bins and are never shorter than `window_s`."""
    limit, tally = needed(threshold), _tally(case)
    width_s = limit.window_s or 0.0
    stale = np.array([0, *np.cumsum(tally.series["stale_answers"])])
    width = min(math.ceil(width_s / tally.bin_s) + 1, len(stale) - 1)
    worst = int((stale[width:] - stale[: len(stale) - width]).max(initial=0))
    answers = tally.totals["subscribe_answers"]
    return by_count(worst, answers, limit, f"stale answers in the worst {width_s:g} s", "answers to subscribes")


def _bootstrap(case: Case, threshold: Threshold | None) -> Answer:
    return by_percentile(_tally(case).bootstrap_ms.samples(), _P95, needed(threshold), "bootstraps")


def _live_again(case: Case, threshold: Threshold | None) -> Answer:
    recoveries = _tally(case).recoveries
    if not recoveries:
        return Answer(State.NOT_RUN, NAN, 0, "no fault disconnected a client")
    found = [(math.inf if (s := each.live_again_s["99"]) is None else s, each.fault, each.clients) for each in recoveries]
    return reconnect.by_recovery(*max(found), needed(threshold))


def _bounded(case: Case, threshold: Threshold | None) -> Answer:
    tally = _tally(case)
    longest, n = tally.max_backoff_ms, tally.totals["backoffs"]
    if longest is None:
        return Answer(State.NO_DATA, NAN, 0, "no client chose a backoff itself")
    state = State.PASS if longest <= needed(threshold).threshold else State.FAIL
    return Answer(state, longest, n, f"the longest of {n} delays is {longest:.4g} ms")


def _unjittered(case: Case, threshold: Threshold | None) -> Answer:
    return reconnect.by_herds(_tally(case).herds, needed(threshold))


def _never_resets(case: Case, threshold: Threshold | None) -> Answer:
    limit = needed(threshold)
    lives = next((each for each in _tally(case).lives if each.from_s >= (limit.live_for_s or 0.0) - 1e-9), None)
    if lives is None:
        return Answer(State.NO_DATA, NAN, 0, "live periods of this length are not counted")
    return by_count(lives.missed, lives.n, limit, "backoffs were not reset", "backoffs after a live period")


# --- the gate `drill` -------------------------------------------------------------------------------


def _undisturbed(case: Case, threshold: Threshold | None) -> Answer:
    history, tally = case.history, _tally(case)
    calm_t = reconnects.calm_t(history)
    begins = np.arange(len(tally.series["disconnected"])) * tally.bin_s
    calm = (begins + tally.bin_s <= history.first_fault_t) | (begins > calm_t)
    lost, lives = int(np.array(tally.series["disconnected"])[calm].sum()), tally.totals["went_live"]
    if lost:
        return Answer(State.FAIL, lost, lives, f"{lost} connections were lost while no fault was active")
    if lives == 0:
        return Answer(State.NO_DATA, NAN, 0, "no client was ever live")
    return Answer(State.PASS, 0, lives, "no connection was lost while no fault was active")


def _load(case: Case, threshold: Threshold | None) -> Answer:
    return phases.by_load(case, _tally(case).totals["published"])


def _converged(case: Case, threshold: Threshold | None) -> Answer:
    clients, pending = case.history.header.clients, _tally(case).unconverged
    if pending:
        return Answer(State.FAIL, pending, clients, f"{pending} of {clients} clients were not live again at the end")
    return Answer(State.PASS, 0, clients, f"all {clients} clients were live, and had time to get the last publishes")


_DECISIONS: Mapping[str, Decide] = {
    "error.token_issue_failure_ratio": _token_failures,
    "error.stale_cursors": _stale_cursors,
    "replay.bootstrap_ms": _bootstrap,
    "reconnect.live_again_99_s": _live_again,
    "reconnect.backoff_bounded": _bounded,
    "reconnect.backoff_unjittered": _unjittered,
    "reconnect.backoff_never_resets": _never_resets,
    "drill.undisturbed": _undisturbed,
    "drill.load": _load,
    "drill.converged": _converged,
}
