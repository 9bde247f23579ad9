"""The logs of a stream: one more each time that its positions start over.

A log that the server deletes and creates again has the same stream and positions, but other events. What shows it is an event
with a lower position than one that was acknowledged before the event was first sent: in one log, positions rise. Where they
are dense, some position must also have been given to two events. Opaque positions show nothing, so there the fault
`recreate_log` separates the logs, if a new client finds no event from before it. Where clients learned epochs, an event is in
the log whose epoch most clients knew when they applied it, unless its position contradicts that.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Events:
    """The acknowledged events of one stream by their numbers; `seq` is -1 where an event's position is not known."""

    number: Ints  # of the marker, ascending
    seq: Ints
    sent_t: Floats  # the first try
    acknowledged_t: Floats


@dataclass(frozen=True)
class Epochs:
    """The epoch under which clients applied events of one stream. Epochs are numbers from 0, in the order of their creation."""

    number: Ints  # of the marker, ascending; also of events that were not acknowledged
    epoch: Ints

    def of(self, number: Ints) -> Ints:
        """The epoch of each event by its number; -1 if nobody applied it under one."""
        if len(self.number) == 0:
            return np.full(len(number), -1, np.int64)
        index = np.minimum(np.searchsorted(self.number, number), len(self.number) - 1)
        return np.where(self.number[index] == number, self.epoch[index], -1)


NO_EPOCHS = Epochs(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Logs:
    """The logs of one stream whose positions started over at least once."""

    events: Events
    log: Ints  # of each event, from 0
    seen: Epochs = NO_EPOCHS  # the log of each event that clients applied under an epoch

    @property
    def count(self) -> int:
        """Number of logs."""
        return int(self.log.max(initial=0)) + 1

    def of_numbers(self, number: Ints) -> Ints:
        """The log of each event by its number.

        One that was not acknowledged is in the log in which clients saw it, or else in that of the acknowledged one before it.
        """
        place = np.maximum(np.searchsorted(self.events.number, number, side="right") - 1, 0)
        seen = np.where(self.events.number[place] == number, -1, self.seen.of(number))
        return np.where(seen >= 0, seen, self.log[place])

    def seq_of_numbers(self, number: Ints) -> Ints:
        """The position of each event by its number; -1 if it is not known."""
        index = np.minimum(np.searchsorted(self.events.number, number), len(self.log) - 1)
        return np.where(self.events.number[index] == number, self.events.seq[index], -1)

    def earliest_t(self, log: int) -> float:
        """A log was created after this: an event of an earlier log was sent then."""
        return float(self.events.sent_t[self.log < log].max(initial=-np.inf))

    def latest_t(self, log: int) -> float:
        """A log existed at this time: its first event was acknowledged."""
        return float(self.events.acknowledged_t[self.log == log].min(initial=np.inf))

    def possible(self, t: Floats) -> Ints:
        """Per time, the newest log that may have existed."""
        return self._newest(self.earliest_t, t)

    def certain(self, t: Floats) -> Ints:
        """Per time, the newest log that existed for certain."""
        return self._newest(self.latest_t, t)

    def _newest(self, moment: Callable[[int], float], t: Floats) -> Ints:
        moments = np.array([moment(log) for log in range(1, self.count)])
        return np.searchsorted(np.maximum.accumulate(moments), t, side="right")


def by_positions(events: Events, *, are_dense: bool, epochs: Epochs = NO_EPOCHS) -> Logs | None:
    """Separate the logs of a stream by the positions of its events; None if they never started over."""
    known = np.flatnonzero(events.seq >= 0)
    order = known[np.argsort(events.acknowledged_t[known], kind="stable")]
    seq, acknowledged_t, sent_t = events.seq[order], events.acknowledged_t[order], events.sent_t[order]
    epoch = epochs.of(events.number)
    highest = np.maximum.accumulate(np.append(-1, seq))
    is_lower = bool((seq < highest[np.searchsorted(acknowledged_t, sent_t, side="left")]).any())
    starts_over = is_lower and not (are_dense and len(np.unique(seq)) == len(seq))
    if not starts_over and not _are_shared(seq, epoch[order]):
        return None
    log = np.zeros(len(events.seq), np.int64)
    log[order] = _in_order(seq.tolist(), sent_t.tolist(), acknowledged_t.tolist(), epoch[order].tolist())
    _fill(log, events.seq >= 0)
    kinds, log = np.unique(log, return_inverse=True)
    if len(kinds) == 1:
        return None
    is_kept = np.isin(epochs.epoch, kinds)
    seen = Epochs(epochs.number[is_kept], np.searchsorted(kinds, epochs.epoch[is_kept]))
    return Logs(events, log.astype(np.int64), seen)


def _are_shared(seq: Ints, epoch: Ints) -> bool:
    """Whether events of different epochs have the same position."""
    pairs = np.unique(np.stack((seq, epoch))[:, epoch >= 0], axis=1)
    return bool(pairs.shape[1] > len(np.unique(pairs[0])))


def by_times(events: Events, recreated: Sequence[tuple[float, float]], is_retained: Mask) -> Logs | None:
    """Separate the logs of a stream by the times in which a fault created it again; None if the log did not change.

    `is_retained`: which events a new client found at the end. If one of them is older than the last fault, that fault did
    nothing. Of the events that were under way during the fault, those that it found are in the new log.
    """
    start_t, _ = max(recreated)
    if not is_retained.any() or (is_retained & (events.acknowledged_t < start_t)).any():
        return None
    ends_t = np.sort([end_t for _, end_t in recreated])
    log = np.searchsorted(ends_t, events.sent_t, side="right")
    log[is_retained] = len(ends_t)
    kinds, log = np.unique(log, return_inverse=True)
    return Logs(events, log.astype(np.int64)) if len(kinds) > 1 else None


def _fill(log: Ints, known: Mask) -> None:
    """Give each event of unknown position the log of the known one before it by number."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(log)), -1))
    log[:] = np.where(last >= 0, log[np.maximum(last, 0)], 0)


@dataclass
class _Log:
    first_t: float = np.inf
    taken: set[int] = field(default_factory=set)
    acknowledged_t: list[float] = field(default_factory=list)
    highest: list[int] = field(default_factory=list)  # after each acknowledgement

    def add(self, seq: int, acknowledged_t: float) -> None:
        self.first_t = min(self.first_t, acknowledged_t)
        self.taken.add(seq)
        self.acknowledged_t.append(acknowledged_t)
        self.highest.append(max(seq, self.highest[-1] if self.highest else -1))

    def has_passed(self, seq: int, sent_t: float) -> bool:
        """Whether a higher position was acknowledged before an event was sent."""
        before = bisect_left(self.acknowledged_t, sent_t)
        return before > 0 and self.highest[before - 1] > seq

    def may_have(self, seq: int, sent_t: float) -> bool:
        """Whether an event can be in this log: nothing else has its position, and the log had not passed it."""
        return seq not in self.taken and not self.has_passed(seq, sent_t)

    def distance(self, seq: int) -> int:
        return abs(seq - self.highest[-1]) if self.highest else seq


def _in_order(seq: list[int], sent_t: list[float], acknowledged_t: list[float], epochs: list[int]) -> list[int]:
    """The log of each event, in the order of acknowledgements: that of its epoch, if it can be there, or else by its position.

    An event of the log before may be acknowledged late. It has a position there that no other event has.
    """
    logs, found = [_Log()], []
    for place, sent, acknowledged, epoch in zip(seq, sent_t, acknowledged_t, epochs, strict=True):
        logs += [_Log() for _ in range(len(logs), epoch + 1)]
        log = epoch if epoch >= 0 and logs[epoch].may_have(place, sent) else _by_position(logs, place, sent)
        if log == len(logs):
            logs.append(_Log())
        logs[log].add(place, acknowledged)
        found.append(log)
    return found


def _by_position(logs: list[_Log], place: int, sent: float) -> int:
    """The last log, the one before it, or a new one, by what their positions say of an event."""
    current = logs[-1]
    before = logs[-2] if len(logs) > 1 and sent < current.first_t and logs[-2].may_have(place, sent) else None
    if before is not None and (current.has_passed(place, sent) or before.distance(place) < current.distance(place)):
        return len(logs) - 2
    return len(logs) if current.has_passed(place, sent) else len(logs) - 1
