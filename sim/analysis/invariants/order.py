"""The order of events by real time: what was acknowledged first comes first."""

import numpy as np

from sim.analysis.invariants.evidence import Evidence
from sim.analysis.invariants.watermarks import EPOCH_SPAN, changes
from sim.record.history import Rows
from sim.record.observations import Kind
from sim.record.published import first_sent_t


def real_time_order(evidence: Evidence) -> Rows:
    """Events that a client applied, or the service stored, after one that was first sent when they had been acknowledged.

    Two publishes under way at the same time may be put in any order. A client that starts again, from a snapshot or checkpoint,
    is read from there on like another one.
    """
    history, published, walk = evidence.history, evidence.ledger.published, evidence.walk
    stored = history.of(Kind.READ_BACK)
    rows = walk.rows.take(walk.applied).and_then(stored)
    reader = np.concatenate((walk.epoch[walk.applied], walk.epoch.max(initial=0) + 1 + stored.stream))
    order = np.flatnonzero(rows.marker >= 0)
    order = order[np.argsort(reader[order], kind="stable")]
    rows, reader = rows.take(order), reader[order]
    _, first = np.unique(reader * EPOCH_SPAN + rows.marker, return_index=True)
    rows, reader = rows.take(np.sort(first)), reader[np.sort(first)]
    index = published.find(rows)
    sent_t = first_sent_t(history, rows.stream, rows.marker, np.full(len(rows), -np.inf))
    acknowledged_t = np.where(index >= 0, published.acknowledged_t[index] if len(published) else np.inf, np.inf)
    moments = np.unique(sent_t)
    latest = np.searchsorted(moments, sent_t)  # as ranks, because a running maximum per client needs whole numbers
    group = np.cumsum(changes(reader)) * (len(moments) + 1)
    latest_before = np.maximum.accumulate(group + latest) - group
    return rows.take(latest_before >= np.searchsorted(moments, acknowledged_t, side="right"))
