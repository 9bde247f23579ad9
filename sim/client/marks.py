"""Which of a run's events a client has, by the numbers of their markers, and which of them were acknowledged.

What is still pending follows from both, whatever a service says about positions and heads.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec


class Acknowledged(msgspec.Struct):
    """The acknowledged events of a stream: all numbers up to `number` except the `open` ones.

    `position` is the highest position in an acknowledgement, 0 without any. `sent_at` is when number `number` was first sent.
    """

    number: int = 0
    open: set[int] = set()
    position: int = 0
    sent_at: float = 0.0

    def add(self, number: int, position: int, sent_at: float) -> None:
        """Take an acknowledgement; its position is -1 if it has none."""
        self.position = max(self.position, position)
        if number <= self.number:
            self.open.discard(number)
            return
        self.open.update(range(self.number + 1, number))
        self.number, self.sent_at = number, sent_at

    def count_above(self, number: int) -> int:
        """How many acknowledged events have a higher number."""
        above = max(self.number - number, 0)
        return above - sum(each > number for each in self.open) if self.open else above


@dataclass(slots=True)
class Marks:
    """The events of a stream that a client has since its start: all numbers up to `high` except the `missing` ones.

    0: it has none. Numbers below the first are before its start.
    """

    high: int = 0
    missing: set[int] = field(default_factory=set)

    def take(self, numbers: Iterable[int]) -> None:
        """Take applied events, in any order."""
        for number in numbers:
            if number <= self.high:
                self.missing.discard(number)
                continue
            if self.high:
                self.missing.update(range(self.high + 1, number))
            self.high = number

    def restart(self) -> None:
        """Start again at the next event: what lies before it is covered by a snapshot, or its loss is declared."""
        self.high = 0
        self.missing.clear()

    def lacked(self, acknowledged: Acknowledged) -> int:
        """How many acknowledged events since its start the client lacks."""
        above = acknowledged.count_above(self.high)
        if not self.missing:
            return above
        return above + sum(number <= acknowledged.number for number in self.missing - acknowledged.open)


class MarkRange(NamedTuple):
    """The markers in one topic's part of a message; from `first` to `last` without a gap if `numbers` is empty."""

    topic: str
    first: int
    last: int
    numbers: tuple[int, ...] = ()


def mark_range(topic: str, numbers: Iterable[int]) -> MarkRange | None:
    """Return the markers of applied events as a range; None if no event has one."""
    own = tuple(number for number in numbers if number > 0)
    if not own:
        return None
    is_dense = own == tuple(range(own[0], own[0] + len(own)))
    return MarkRange(topic, own[0], own[-1], () if is_dense else own)
