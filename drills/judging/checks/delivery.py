"""Checks of delivery: clients notice its faults, and all clients see the same order."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from drills.judging.checks.base import NAN, Answer, Case, Decide, by_count, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.analysis import corrupted
from sim.analysis.invariants import application
from sim.analysis.invariants.evidence import Evidence
from sim.analysis.reconnects import NOTICE_S
from sim.record.history import History
from sim.record.observations import Kind
from sim.record.published import SPAN

# [ours] The share of a fault's effects that clients must notice: some are in flight when a socket closes.
_NOTICED_SHARE = 0.5
_NOTICED_BY = {
    "duplicate_deliveries": Kind.DUPLICATE_DROPPED,
    "jumble_deliveries": Kind.HASH_MISMATCH,
    "malform_frames": Kind.MALFORMED,
    "reorder_deliveries": Kind.GAP,
    "delay_deliveries": Kind.GAP,
}


def _faults_noticed(case: Case, threshold: Threshold | None) -> Answer:
    """Check that clients drop duplicates, report corrupt and malformed messages, and request missing ones again."""
    effects = corrupted.effects(case.history)
    unnoticed, n = [], 0
    for index, fault in enumerate(case.history.header.plan):
        if (kind := str(fault.get("kind"))) in _NOTICED_BY:
            times, seen = effects.get(index, 0), _noticed(case.history, index, kind)
            n += times
            if times == 0 or seen < _NOTICED_SHARE * times:
                unnoticed.append(f"{kind} took effect {times} times and was noticed {seen} times")
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, "no fault of delivery had an observed effect")
    if unnoticed:
        return Answer(State.FAIL, len(unnoticed), n, "; ".join(unnoticed))
    return Answer(State.PASS, 0, n, f"clients noticed all faults, which took effect {n} times")


def _noticed(history: History, index: int, kind: str) -> int:
    """How often the fleet noticed this fault while it was active."""
    rows = history.fleet(_NOTICED_BY[kind])
    since_t, until_t = history.fault_times(kind).get(index, (np.inf, np.inf))
    return int(((rows.t >= since_t) & (rows.t <= until_t + NOTICE_S)).sum())


def _one_order(case: Case, threshold: Threshold | None) -> Answer:
    """Count the events that two clients applied with different payloads, or in another order, among those that two applied.

    Where positions can be compared, two payloads at one position show that.
    """
    rows = case.history.fleet(Kind.APPLIED)
    if case.history.positions == "opaque":
        if not application.promises_one_order(case.history):
            return Answer(State.NO_DATA, NAN, 0, "a fault changed the order of events, and positions do not show it")
        rows = rows.take(rows.marker >= 0)
        readers = np.unique(case.history.pair(rows) * SPAN + rows.marker)
        of_event = readers // SPAN % max(len(case.history.streams), 1) * SPAN + readers % SPAN
        shared = int((np.unique(of_event, return_counts=True)[1] > 1).sum())
        wrong = len(application.applied_out_of_order(Evidence(case.history, case.ledger)))
        return by_count(wrong, shared, needed(threshold), "events in another order", "events that several applied")
    rows = rows.take((rows.seq >= 0) & (~case.history.detail_is(rows, [""]) | (rows.marker >= 0)))
    content = {"hash": rows.detail, "marker": rows.marker}
    seen = pd.DataFrame({"stream": rows.stream, "seq": rows.seq, "client": rows.client, **content})
    event = ["stream", "seq"]
    versions = seen.drop_duplicates([*event, *content]).duplicated(event).sum()
    shared = seen.drop_duplicates([*event, "client"]).groupby(event).size().gt(1).sum()
    what, among = "events on which clients disagree", "events that several applied"
    return by_count(int(versions), int(shared), needed(threshold), what, among)


def _cut_once(case: Case, threshold: Threshold | None) -> Answer:
    """Count the clients that a deploy in waves disconnected more than once."""
    history = case.history
    cut = history.fleet(Kind.DISCONNECTED)
    cut = cut.take((cut.t >= history.first_fault_t) & (cut.t <= history.phases.get("recovery", np.inf)))
    _, times = np.unique(cut.client, return_counts=True)
    if len(times) == 0:
        return Answer(State.NO_DATA, NAN, 0, "the deploy disconnected no client")
    if n := int((times > 1).sum()):
        return Answer(State.FAIL, n, len(times), f"{n} of {len(times)} clients were disconnected more than once")
    return Answer(State.PASS, 0, len(times), f"each of {len(times)} clients was disconnected once")


DECISIONS: Mapping[str, Decide] = {
    "delivery.one_order": _one_order,
    "drill.faults_noticed": _faults_noticed,
    "drill.cut_once": _cut_once,
}
