"""The order of events by real time: what was acknowledged first comes first."""

import numpy as np

from sim.analysis.invariants.evidence import Evidence
from sim.analysis.invariants.watermarks import EPOCH_SPAN, changes
from sim.record.history import Ints, Mask, Rows
from sim.record.observations import Kind
from sim.record.published import first_sent_t
from sim.record.sorting import first_of_each, order_of


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
    order = order[order_of(reader[order])]
    rows, reader = rows.take(order), reader[order]
    index = published.find(rows)
    sent_t = first_sent_t(history, rows.stream, rows.marker, np.full(len(rows), -np.inf))
    acknowledged_t = np.where(index >= 0, published.acknowledged_t[index] if len(published) else np.inf, np.inf)
    moments = np.unique(sent_t)
    latest = np.searchsorted(moments, sent_t)  # as ranks, because a running maximum per client needs whole numbers
    group = np.cumsum(changes(reader)) * (len(moments) + 1)
    latest_before = np.maximum.accumulate(group + latest) - group
    wrong = latest_before >= np.searchsorted(moments, acknowledged_t, side="right")
    return rows.take(wrong & _is_first(reader, rows.marker, wrong))


def _is_first(reader: Ints, number: Ints, wanted: Mask) -> Mask:
    """Where a reader has an event for the first time, among the readers that have any of the `wanted` rows."""
    places = np.flatnonzero(np.isin(reader, np.unique(reader[wanted]))) if wanted.any() else np.zeros(0, np.int64)
    _, first = first_of_each(reader[places] * EPOCH_SPAN + number[places])
    is_first = np.zeros(len(reader), np.bool_)
    is_first[places[first]] = True
    return is_first
