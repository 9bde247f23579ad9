"""The watermark of each client and stream, row by row, and what breaks the order of application."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.record.history import History, Ints, Mask, Rows
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
    """The watermark of each (client, stream), row by row.

    Applied events, a rebootstrap and a clamp move it; it starts at 0. An *epoch* lasts from one rebootstrap to the next, and
    within it no event may be applied twice. When a fault kills the client's process, a new epoch starts at the stored
    checkpoint; without one (-1), the client must rebootstrap before it applies anything.
    """

    def __init__(self, history: History, rows: Rows) -> None:
        self.positions = history.positions
        rows = history.without_unplanned_restarts(rows)
        pair = history.pair(rows)
        order = order_of(pair)
        self.rows = rows.take(order)
        first = changes(pair[order])
        self.applied = self.rows.is_kind(Kind.APPLIED)
        # `fresh` is a client's first baseline on a stream; a later one is not a recovery.
        restart = self.rows.is_kind(Kind.REBOOTSTRAPPED) & ~history.detail_is(self.rows, ["fresh"])
        restart |= self.rows.is_kind(Kind.RESTARTED)
        self.epoch = np.cumsum(first | restart)
        before = np.append(0, self.rows.seq[:-1]) if len(self.rows) else 0
        # A client that goes on in a new log cannot see that the new log's first events are missing.
        is_new_log = history.base_stream[self.rows.stream] != self.rows.stream
        self.watermark = np.where(first, np.where(is_new_log, self.rows.seq - 1, 0), before)

    @cached_property
    def hole(self) -> Mask:
        return self.applied & (self.rows.seq > self.watermark + 1) & (self.positions == "dense")

    @cached_property
    def back(self) -> Mask:
        return self.applied & (self.rows.seq <= self.watermark) & (self.positions != "opaque")

    @cached_property
    def twice(self) -> Mask:
        """Which rows apply an event, by position or by marker, for the second time in the same epoch."""
        by_marker = self._repeated(self.rows.marker)
        return by_marker if self.positions == "opaque" else by_marker | self._repeated(self.rows.seq)

    def _repeated(self, number: Ints) -> Mask:
        mask = np.zeros(len(self.rows), np.bool_)
        where = np.flatnonzero(self.applied & (number >= 0))
        epoch, seq = self.epoch[where], number[where]
        # Only an epoch whose sequence does not always rise can contain a number twice.
        suspect = np.unique(epoch[1:][(np.diff(epoch) == 0) & (np.diff(seq) <= 0)])
        where = where[np.isin(epoch, suspect)]
        where = where[np.lexsort((where, number[where], self.epoch[where]))]
        repeated = (np.diff(self.epoch[where]) == 0) & (np.diff(number[where]) == 0)
        mask[where[1:][repeated]] = True
        return mask

    @cached_property
    def highest_applied(self) -> Ints:
        """The highest seq applied so far in the epoch, or 0."""
        reached = self.epoch * EPOCH_SPAN + np.where(self.applied, self.rows.seq, 0)
        highest: Ints = np.maximum.accumulate(reached) - self.epoch * EPOCH_SPAN
        return highest


def changes(codes: Ints) -> Mask:
    """Where a value differs from the previous one; true for the first."""
    return np.append(True, np.diff(codes) != 0) if len(codes) else np.zeros(0, np.bool_)


def events(rows: Rows) -> Ints:
    """One integer for each row's event: its stream and the number of its marker."""
    return rows.stream * EPOCH_SPAN + rows.marker
