"""The watermark of each client and stream, row by row, and what breaks the order of application."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sim.record.history import Codes, History, Ints, Mask, Rows
from sim.record.observations import Kind
from sim.record.sorting import order_of

EPOCH_SPAN = 1 << 40
MOVES = (Kind.APPLIED, Kind.REBOOTSTRAPPED, Kind.CLAMPED, Kind.RESTARTED)
"""The kinds that move a client's watermark."""


@dataclass(frozen=True)
class Integrity:
    """Rows that violate the order of application."""

    applied_twice: Rows
    out_of_order: Rows
    holes: Rows


def integrity(history: History, select: Callable[[History], Rows] | None = None) -> Integrity:
    """Events applied twice, out of order, or after a hole: by the fleet, or in the rows that `select` returns."""
    walk = Walk(history, select(history) if select else history.fleet(*MOVES))
    return Integrity(walk.rows.take(walk.twice), walk.rows.take(walk.back & ~walk.twice), walk.rows.take(walk.hole))


class Walk:
    """The watermark of each (client, stream), row by row, and which `rows` break its order.

    Applied events, a rebootstrap and a clamp move it; it starts at 0. An *epoch* lasts from one rebootstrap to the next, and
    within it no event may be applied twice. When a fault kills the client's process, a new epoch starts at the stored
    checkpoint; without one (-1), the client must rebootstrap before it applies anything.
    """

    def __init__(self, history: History, rows: Rows) -> None:
        self.positions = history.positions
        rows = history.without_unplanned_restarts(rows)
        self.rows = rows.take(order_of(history.pair(rows)))
        rows = self.rows.take(np.arange(len(self.rows)))  # with the columns that only this needs
        first = changes(history.pair(rows))
        self.applied: Mask = rows.is_kind(Kind.APPLIED)
        # `fresh` is a client's first baseline on a stream; a later one is not a recovery.
        restart = rows.is_kind(Kind.REBOOTSTRAPPED) & ~history.detail_is(rows, ["fresh"])
        restart |= rows.is_kind(Kind.RESTARTED)
        self.epoch: Codes = np.cumsum(first | restart, dtype=np.int32)
        before = np.append(0, rows.seq[:-1]) if len(rows) else 0
        # A client that goes on in a new log cannot see that the new log's first events are missing.
        is_new_log = history.base_stream[rows.stream] != rows.stream
        watermark = np.where(first, np.where(is_new_log, rows.seq - 1, 0), before)
        self.hole: Mask = self.applied & (rows.seq > watermark + 1) & (self.positions == "dense")
        self.back: Mask = self.applied & (rows.seq <= watermark) & (self.positions != "opaque")
        # Events applied, by position or by marker, for the second time in the same epoch.
        self.twice = _repeated(self.epoch, rows.marker, self.applied)
        if self.positions != "opaque":
            self.twice |= _repeated(self.epoch, rows.seq, self.applied)
        self.clamped_below_applied = rows.is_kind(Kind.CLAMPED)
        if self.clamped_below_applied.any():
            self.clamped_below_applied &= rows.seq < _highest(self.epoch, np.where(self.applied, rows.seq, 0))


def _repeated(epoch: Codes, number: Ints, chosen: Mask) -> Mask:
    """Which of the chosen rows have a number for the second time in the same epoch."""
    mask = np.zeros(len(number), np.bool_)
    where = np.flatnonzero(chosen & (number >= 0))
    own, seq = epoch[where], number[where]
    # Only an epoch whose sequence does not always rise can contain a number twice.
    suspect = np.unique(own[1:][(np.diff(own) == 0) & (np.diff(seq) <= 0)])
    where = where[np.isin(own, suspect)]
    where = where[np.lexsort((where, number[where], epoch[where]))]
    repeated = (np.diff(epoch[where]) == 0) & (np.diff(number[where]) == 0)
    mask[where[1:][repeated]] = True
    return mask


def _highest(epoch: Codes, number: Ints) -> Ints:
    """The highest number so far in the epoch."""
    base = epoch.astype(np.int64) * EPOCH_SPAN
    highest: Ints = np.maximum.accumulate(base + number) - base
    return highest


def changes(codes: Ints) -> Mask:
    """Where a value differs from the previous one; true for the first."""
    return np.append(True, np.diff(codes) != 0) if len(codes) else np.zeros(0, np.bool_)


def events(rows: Rows) -> Ints:
    """One integer for each row's event: its stream and the number of its marker."""
    return rows.stream * EPOCH_SPAN + rows.marker


def before_an_earlier(epoch: Codes, place: Ints) -> Mask:
    """Where an event stands, in another order, before one that the client applied earlier in the same epoch."""
    span = int(place.max()) + 1
    epoch = np.cumsum(np.append(0, np.diff(epoch) != 0))  # from 0 on, so that the products stay small
    reached: Ints = np.maximum.accumulate(epoch * span + place)
    before = np.append(-1, reached[:-1])
    return (epoch * span + place < before) & (before >= epoch * span)
