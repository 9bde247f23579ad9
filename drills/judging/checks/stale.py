"""Checks of staleness: only clients with a stale cursor get a stale answer, and for the right reason."""

from collections.abc import Mapping

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case, Decide
from drills.judging.checks.specs import trims_nothing
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.analysis import samples
from sim.drill.fault_kinds import ShrinkReplayBudget
from sim.record.observations import Kind
from sim.server.stream_log import REPLAY_BUDGET_EXCEEDED, RETENTION_FLOOR_BREACH, effective_budget


def _unexpected_stale(case: Case, threshold: Threshold | None) -> Answer:
    rows, answers = samples.stale_answers(case.history), samples.subscribe_answers(case.history)
    if len(rows):
        why = ", ".join(text or "no reason" for text in case.history.detail_counts(rows))
        return Answer(State.FAIL, len(rows), answers, f"clients got stale answers, which this drill does not expect: {why}")
    if answers == 0:
        return Answer(State.NO_DATA, NAN, 0, "no subscribe was answered")
    return Answer(State.PASS, 0, answers, "no client got a stale answer")


def _stale_signalled(case: Case, threshold: Threshold | None) -> Answer:
    history, wanted = case.history, case.drill.expect.stale_reasons
    rows = history.fleet(Kind.STALE)
    seen = {reason for text in history.detail_counts(rows) for reason in text.split("+")}
    missing = [reason for reason in wanted if reason not in seen]
    if not case.states_stale_reasons:  # the server's answer has none: those of the rows are the client's own
        seen, missing = set(), list(wanted) * (len(rows) == 0)
    if unexpected := sorted(seen - {*wanted, ""}):
        reason = f"clients got the reasons {', '.join(unexpected)}, which this drill does not expect"
        return Answer(State.FAIL, len(unexpected), len(rows), reason)
    if missing:
        reason = f"no client got the reason {', '.join(missing)}, which this drill expects"
        return Answer(State.FAIL, len(wanted) - len(missing), len(rows), reason)
    stale, share = len(np.unique(rows.client)), case.drill.expect.stale_share
    if stale < share * history.header.clients:
        reason = f"{stale} of {history.header.clients} clients got a stale answer; {share:.0%} must get one"
        return Answer(State.FAIL, stale, len(rows), reason)
    return Answer(State.PASS, len(wanted), len(rows), f"{stale} clients got the reasons {', '.join(wanted)}")


def _stale_justified(case: Case, threshold: Threshold | None) -> Answer:
    """Check that no cursor was refused that the smallest replay budget, or the retained window, covers.

    The events due by then limit how far a cursor is behind. Others may publish to a stream that the run does not own.
    """
    history = case.history
    rows = history.fleet(Kind.STALE)
    names = [history.base_name(code) for code in range(len(history.streams))]
    is_own = np.isin(names, history.header.own_streams)[rows.stream] & trims_nothing(case.drill)
    for_budget, for_window = (history.detail_is(rows, [reason]) for reason in (REPLAY_BUDGET_EXCEEDED, RETENTION_FLOOR_BREACH))
    is_judged = (for_budget | (for_window & is_own)) & (rows.seq >= 0)
    rows, for_budget = rows.take(is_judged), for_budget[is_judged]
    if len(rows) == 0:
        return Answer(State.NO_DATA, NAN, 0, "no cursor was refused that the replay budget or the retained window may cover")
    budgets = np.array([_smallest_budget(case, name) for name in names], np.float64)
    if np.isnan(budgets[rows.stream][for_budget]).any():
        return Answer(State.NO_DATA, NAN, 0, "the service's replay budget is not known")
    covered = np.where(for_budget, budgets[rows.stream], case.window_events)
    needless = case.ledger.published.head_due(rows.stream, rows.t) - rows.seq <= covered
    if n := int(needless.sum()):
        reason = f"{n} cursors were refused though the replay budget or the retained window covers them"
        return Answer(State.FAIL, n, len(rows), reason)
    return Answer(State.PASS, 0, len(rows), f"none of {len(rows)} refused cursors was covered")


def _smallest_budget(case: Case, stream: str) -> float:
    """Return the smallest budget of a stream, NaN if it is not known."""
    shrunk = [fault.events for fault in case.drill.faults if isinstance(fault, ShrinkReplayBudget)]
    limits = case.history.header.streams.get(stream)
    own = case.drill.runtime.replay_budget_events or (limits.replay_budget_events if limits else 0)
    known = [own, *shrunk] if own else shrunk
    return float(effective_budget(min(known))) if known else NAN


DECISIONS: Mapping[str, Decide] = {
    "drill.unexpected_stale": _unexpected_stale,
    "drill.stale_signalled": _stale_signalled,
    "drill.stale_justified": _stale_justified,
}
