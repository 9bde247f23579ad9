"""Which of a run's events a client has, by the numbers of their markers, and which of them were acknowledged.

What is still pending follows from both, whatever a service says about positions and heads.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

_REMEMBERED = 4096  # [ours] events of one stream that were in flight together with others
_IN_FLIGHT = 256  # [ours] events of one stream that may be in flight together
UNREADABLE = -1  # a position that only the server can read


class Acknowledged(msgspec.Struct):
    """The acknowledged events of a stream: all numbers up to `number` except the `open` ones.

    `position` is the highest position in an acknowledgement, 0 without any; after a log has started again, the highest of the
    new one. `sent_at` is when number `number` was first sent.
    `overtaking` has the positions of the events that are before an event with a lower number: they were in flight together.
    `overlapping` has the last numbers that were in flight together with others, and when each was first sent.
    """

    number: int = 0
    open: set[int] = set()
    position: int = 0
    sent_at: float = 0.0
    overtaking: dict[int, int] = {}
    recent: dict[int, int] = {}  # the positions of the last `_IN_FLIGHT` acknowledged numbers
    position_at: float = 0.0  # when `position` was acknowledged
    overlapping: dict[int, float] = {}
    answered_at: float = 0.0  # when the last acknowledgement came

    def add(self, number: int, position: int, sent_at: float, now: float) -> None:
        """Take an acknowledgement; its position is -1 if it has none.

        In one log, an event that was sent after an acknowledgement has a higher position.
        """
        while 0 < position <= self.position and sent_at > self.position_at:
            self._start_again()
        if position > 0:
            self._compare(number, position)
        elif sent_at < self.answered_at or number > self.number + 1 or (self.open and number > min(self.open)):
            self.overlapping[number] = sent_at
            if len(self.overlapping) > _REMEMBERED:
                del self.overlapping[next(iter(self.overlapping))]
        self.answered_at = now
        if position > self.position:
            self.position, self.position_at = position, now
        if number <= self.number:
            self.open.discard(number)
            return
        self.open.update(range(self.number + 1, number))
        self.number, self.sent_at = number, sent_at

    def _start_again(self) -> None:
        """Forget the log before: what was acknowledged after its highest position is of the new one."""
        order = list(self.recent.items())
        last = max((place for place, (_, at) in enumerate(order) if at == self.position), default=len(order) - 1)
        self.position, self.position_at = 0, self.answered_at
        self.overtaking.clear()
        self.recent.clear()
        for number, position in order[last + 1 :]:
            self._compare(number, position)
            self.position = max(self.position, position)

    def _compare(self, number: int, position: int) -> None:
        """Find the events that overtook one with a lower number."""
        if number <= self.number or position <= self.position:
            if any(other < number and at > position for other, at in self.recent.items()):
                self.overtaking[number] = position
            self.overtaking.update({n: at for n, at in self.recent.items() if n > number and at < position})
        self.recent[number] = position
        if len(self.recent) > _IN_FLIGHT:
            del self.recent[next(iter(self.recent))]

    def count_above(self, number: int) -> int:
        """How many acknowledged events have a higher number."""
        above = max(self.number - number, 0)
        return above - sum(each > number for each in self.open) if self.open else above


@dataclass(slots=True)
class Marks:
    """The events of a stream that a client has since its start: all numbers up to `high` except the `missing` ones.

    0: it has none. Numbers below the first are before its start. So are events up to the position `after` (0: the log's start)
    that overtook it and, where the service sends nothing of the past, those that were first sent before the time `since`. Where
    acknowledgements have no positions, any event that was in flight with others may be one that overtook the first.
    """

    high: int = 0
    after: int = 0
    missing: set[int] = field(default_factory=set)
    since: float = -math.inf
    first: int = 0  # the number of the first event that it took after its start

    def take(self, numbers: Iterable[int]) -> None:
        """Take applied events, in any order."""
        for number in numbers:
            if number <= self.high:
                self.missing.discard(number)
                continue
            if self.high:
                self.missing.update(range(self.high + 1, number))
            else:
                self.first = number
            self.high = number

    def restart(self, after: int = 0, since: float = -math.inf) -> None:
        """Start again after a position (0: the log's start): a snapshot covers what lies before, or its loss is declared."""
        self.high, self.after, self.since, self.first = 0, after, since, 0
        self.missing.clear()

    def lacked(self, acknowledged: Acknowledged) -> int:
        """How many acknowledged events since its start the client lacks."""
        lacked = acknowledged.count_above(self.high)
        if self.missing:
            lacked += sum(number <= acknowledged.number for number in self.missing - acknowledged.open)
        if not lacked:
            return 0
        before = self._before(acknowledged)
        self.missing.difference_update(before)
        return lacked - len(before)

    def _before(self, acknowledged: Acknowledged) -> list[int]:
        """Events that the client lacks, and that are before its start: they overtook one after it."""
        of: Mapping[int, float] = acknowledged.overlapping
        limit = self.since
        if self.after and acknowledged.overtaking:
            of, limit = acknowledged.overtaking, self.after
        above = range(self.high + 1, acknowledged.number + 1)
        lacked = [*self.missing, *(above if len(above) < len(of) else (number for number in of if number > self.high))]
        if self.after and not acknowledged.position:
            return [number for number in lacked if number in of and number <= self.first + _IN_FLIGHT]
        return [number for number in lacked if of.get(number, math.inf) <= limit]


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
