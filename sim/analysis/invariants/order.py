"""The order of events by real time: what was acknowledged first comes first."""

import numpy as np

from sim.analysis.invariants.evidence import Evidence
from sim.analysis.invariants.watermarks import EPOCH_SPAN, changes
from sim.record.history import Rows
from sim.record.observations import Kind
from sim.record.published import first_sent_t


def real_time_order(evidence: Evidence) -> Rows:
    """Events that a client applied, or the service stored, after one that was first sent when they had been acknowledged.

    Two publishes under way at the same time may be put in any order.
    """
    history, published = evidence.history, evidence.ledger.published
    rows = history.session_rows(Kind.APPLIED).and_then(history.of(Kind.READ_BACK))
    rows = rows.take(rows.marker >= 0)
    rows = rows.take(np.argsort(history.pair(rows), kind="stable"))
    pair = history.pair(rows)
    _, first = np.unique(pair * EPOCH_SPAN + rows.marker, return_index=True)
    rows, pair = rows.take(np.sort(first)), pair[np.sort(first)]
    index = published.find(rows)
    sent_t = first_sent_t(history, rows.stream, rows.marker, np.full(len(rows), -np.inf))
    acknowledged_t = np.where(index >= 0, published.acknowledged_t[index] if len(published) else np.inf, np.inf)
    moments = np.unique(sent_t)
    latest = np.searchsorted(moments, sent_t)  # as ranks, because a running maximum per client needs whole numbers
    group = np.cumsum(changes(pair)) * (len(moments) + 1)
    latest_before = np.maximum.accumulate(group + latest) - group
    return rows.take(latest_before >= np.searchsorted(moments, acknowledged_t, side="right"))
