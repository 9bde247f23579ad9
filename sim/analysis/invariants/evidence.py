"""The input of all invariants, and what they return. Intermediate results that several of them need are computed once."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.analysis.endings import ConnectHistory
from sim.analysis.invariants.watermarks import MOVES, Walk
from sim.analysis.machine import NO_SPANS, Spans, had_no_time
from sim.record.history import History, Mask, Rows, at
from sim.record.ledger import Ledger


@dataclass(frozen=True)
class Violation:
    """A violated invariant: how often, and the first occurrence as text."""

    invariant: str
    count: int
    first: str


class Evidence:
    """The input of all invariants, with intermediate results computed once. While `busy`, nobody was at rest."""

    def __init__(self, history: History, ledger: Ledger, busy: Spans = NO_SPANS) -> None:
        self.history = history
        self.ledger = ledger
        self.busy = busy

    @cached_property
    def walk(self) -> Walk:
        return Walk(self.history, self.history.session_rows(*MOVES))

    @cached_property
    def could_settle(self) -> bool:
        """Whether a busy machine left time at the end to deliver what was under way."""
        return not had_no_time(self.history, self.busy, "settle", "end")

    @cached_property
    def connects(self) -> ConnectHistory:
        return ConnectHistory(self.history)

    @cached_property
    def is_own_stream(self) -> Mask:
        """Per stream: whether only this run publishes to it."""
        history = self.history
        own = set(history.header.own_streams)
        return np.array([history.streams[base] in own for base in history.base_stream], np.bool_)

    def violated(self, invariant: str, rows: Rows) -> Iterator[Violation]:
        """One violation for all `rows`, which shows the earliest; no violation without rows."""
        if len(rows):
            first = int(np.argmin(rows.t))
            stream = self.history.streams[rows.stream[first]]
            where = at(int(rows.client[first]), stream, int(rows.seq[first]), float(rows.t[first]))
            yield Violation(invariant, len(rows), where)
