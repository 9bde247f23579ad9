"""What clients applied, checkpointed and recovered: out of order, twice, never."""

from collections.abc import Iterator

import numpy as np

from sim.analysis.invariants.evidence import Evidence, Violation
from sim.analysis.invariants.watermarks import EPOCH_SPAN, MOVES, before_an_earlier, changes
from sim.analysis.samples import RECOVERIES
from sim.record.history import History, Rows
from sim.record.observations import Kind
from sim.record.sorting import order_of

_REORDER = ("reorder_deliveries", "delay_deliveries")


def applied_twice(evidence: Evidence) -> Rows:
    """Events that a client applied twice, by position or by marker."""
    return evidence.walk.rows.take(evidence.walk.twice)


def applied_out_of_order(evidence: Evidence) -> Rows:
    """Events that a client applied after a later one."""
    if evidence.walk.positions == "opaque":
        return _against_another_reader(evidence)
    return evidence.walk.rows.take(evidence.walk.back & ~evidence.walk.twice)


def promises_one_order(history: History) -> bool:
    """Whether all readers get the events of a stream in one order, where positions are opaque, and no fault changes it."""
    is_stated = bool(history.header.capabilities.get("has_one_order", False))
    return is_stated and all(fault.kind not in _REORDER for fault in history.faults)


def _against_another_reader(evidence: Evidence) -> Rows:
    """Events that a client applied after one that the most complete reader applied later, where all readers get one order.

    A client that starts again is read from there on like another one. Where a fault changes the order, none is promised.
    """
    published, walk, is_promised = evidence.ledger.published, evidence.walk, promises_one_order(evidence.history)
    index = published.find(walk.rows)
    is_seen = np.append(~published.is_assumed, False)[index]
    where = np.flatnonzero(walk.applied & ~walk.twice & (index >= 0) & is_seen & is_promised)
    rows, epoch, place = walk.rows.take(where), walk.epoch[where], published.place[index[where]]
    return rows.take(before_an_earlier(epoch, place)) if len(rows) else rows


def hole(evidence: Evidence) -> Rows:
    """Events that a client applied although the one before was missing."""
    return evidence.walk.rows.take(evidence.walk.hole)


def checkpoint_regressed(evidence: Evidence) -> Rows:
    """Checkpoints lowered without a rebootstrap, a clamp or a restart, and clamps below an applied event."""
    history, walk = evidence.history, evidence.walk
    if walk.positions == "opaque":
        return walk.rows.take(np.zeros(len(walk.rows), np.bool_))
    kinds = (Kind.CHECKPOINT_WRITTEN, Kind.REBOOTSTRAPPED, Kind.CLAMPED, Kind.RESTARTED)
    rows = history.without_unplanned_restarts(history.session_rows(*kinds))
    found = rows.by_clients(lambda part: _regressed(history, part))
    return found.and_then(walk.rows.take(walk.clamped_below_applied))


def _regressed(history: History, rows: Rows) -> Rows:
    pair = history.pair(rows)
    order = order_of(pair)
    rows, first = rows.take(order), changes(pair[order])
    written = rows.is_kind(Kind.CHECKPOINT_WRITTEN)
    moved = ~written & ~history.detail_is(rows, ["fresh"])
    stretch = np.cumsum(first | moved)
    # After a restart, the process that died may not write any more: what it wrote last is the lowest.
    kept = written | rows.is_kind(Kind.RESTARTED)
    rows, stretch, written = rows.take(kept), stretch[kept], written[kept]
    lower = np.append(False, (np.diff(stretch) == 0) & (np.diff(rows.seq) < 0)) if len(rows) else written
    return rows.take(lower & written)


def checkpoint_ahead(evidence: Evidence) -> Rows:
    """Checkpoints above all that the client had applied, that a snapshot covers or that it declared lost.

    After a restart, a checkpoint is right up to the one that the process before had written: a fault may have raised it.
    """
    history = evidence.history
    kinds = (*MOVES, Kind.DECLARED_LOSS, Kind.CHECKPOINT_WRITTEN)
    rows = history.without_unplanned_restarts(history.session_rows(*kinds))
    if history.positions == "opaque":
        return rows.take(np.zeros(0, np.int64))
    return rows.by_clients(lambda part: _ahead(history, part))


def _ahead(history: History, rows: Rows) -> Rows:
    pair = history.pair(rows)
    order = order_of(pair)
    rows, first = rows.take(order), changes(pair[order])
    written, restarted = rows.is_kind(Kind.CHECKPOINT_WRITTEN), rows.is_kind(Kind.RESTARTED)
    before = np.where(np.isnan(rows.value), -1, rows.value).astype(np.int64)
    reached = np.where(restarted, np.minimum(rows.seq, before), rows.seq) + 1
    span = np.cumsum(first | restarted | rows.is_kind(Kind.CLAMPED))
    highest = np.maximum.accumulate(span * EPOCH_SPAN + np.where(written, 0, reached)) - span * EPOCH_SPAN
    return rows.take(written & (rows.seq + 1 > highest))


def stale_without_recovery(evidence: Evidence) -> Rows:
    """Clients that were stale, never recovered and did not settle."""
    history = evidence.history
    stale = history.fleet(Kind.STALE)
    recovered_t = np.full(history.header.clients, -np.inf)
    recoveries = history.fleet(*RECOVERIES)
    np.maximum.at(recovered_t, recoveries.client, recoveries.t)
    recovered_t[history.fleet(Kind.SETTLED).client] = np.inf
    stuck = stale.take(stale.t > recovered_t[stale.client])
    _, first = np.unique(stuck.client, return_index=True)
    return stuck.take(first)


def silent_loss(evidence: Evidence) -> Iterator[Violation]:
    silent = evidence.ledger.silent
    yield Violation("silent_loss", silent.count, f"client {silent.client}, {silent.event}, never applied")
