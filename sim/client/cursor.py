"""Cursors: a client's position in a stream, for dense, ordered and opaque positions.

Only this module, `spans` and `checkpoints` of the sessions add, subtract or compare positions. A cursor counts in numbers: the
offsets of the server where they are numbers, otherwise the client's own count of applied events.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import ClassVar, Literal, NamedTuple

from sim.client.marks import UNREADABLE, Marks
from sim.protocols.adapter import Positions
from sim.protocols.events import Item, Position

UNKNOWN = math.nan  # a number of events that the client cannot know
MAX_REMEMBERED = 4096  # [ours] events that an opaque cursor recognizes as duplicates


class Outcome(Enum):
    """What the apply rule decides about one event."""

    APPLY = auto()
    DUPLICATE = auto()
    GAP = auto()  # nothing is applied; the client subscribes again from its watermark


class DesktopBatch(NamedTuple):
    """The result of a batch: sequence numbers by outcome, and the checkpoint (watermark and cursor) after it."""

    applied: list[int]
    duplicate: list[int]
    gap: list[int]
    checkpoint: int


class Start(NamedTuple):
    """Where a cursor continues: from the watermark `old` (None: unknown, or it had none), with this many events `lost`.

    `last` is the last lost event; None: the new watermark.
    """

    how: Literal["fresh", "retained", "other_log"]
    old: int | None = None
    lost: float = 0
    last: int | None = None


def offset_of(position: Position | None) -> int:
    """Return a position's number. Raises `TypeError` for one that is not a number."""
    if position is None or not isinstance(position.offset, int):
        raise TypeError(f"{position} is not a number")
    return position.offset


def number_of(position: Position | None) -> int:
    """Return a position's number; -1 without a number."""
    return position.offset if position is not None and isinstance(position.offset, int) else -1


def apply_outcome(watermark: int, seq: int) -> Outcome:
    """The apply rule for event `seq` at `watermark`."""
    if seq <= watermark:
        return Outcome.DUPLICATE
    return Outcome.APPLY if seq == watermark + 1 else Outcome.GAP


def apply_as_desktop(watermark: int, seqs: Iterable[int]) -> DesktopBatch:
    """Apply a batch of events as the shipped desktop client does; `tests/vectors` has that client's own results.

    After a gap its checkpoint becomes `min(gap) - 1`, which is above the watermark: it skips the missing events silently.
    The event after the gap was not applied, so the next one is a gap again.
    """
    batch = DesktopBatch([], [], [], watermark)
    for seq in seqs:
        outcome = apply_outcome(watermark, seq)
        if outcome is Outcome.APPLY:
            watermark = seq
            batch.applied.append(seq)
        else:
            (batch.duplicate if outcome is Outcome.DUPLICATE else batch.gap).append(seq)
    return batch._replace(checkpoint=min(batch.gap) - 1 if batch.gap else watermark)


@dataclass(slots=True)
class Cursor:
    """A cursor of dense positions. `watermark` is the highest applied seq, None before any snapshot or cursor was accepted."""

    takes_spans: ClassVar[bool] = True  # whether consecutive events can be applied at once

    topic: str
    stream: str  # the topic's name in observations
    watermark: int | None = None
    checkpoint: int | None = None  # the persisted position, from which a reconnect resumes
    start: int | None = None  # after a stale cursor: applied or covered by a snapshot up to here
    restored: int | None = None  # the checkpoint from the client's earlier process
    proven: int | None = None  # up to here `restored` is right: the earlier process had really been there
    doubted: bool = False  # `restored` was above the head: which events were applied is unknown
    head: int = 0  # highest reported head
    head_before: int = 0  # head of the heartbeat before the last
    seen: int = 0  # highest seq above the watermark received on this connection
    asked_from: int | None = None  # cursor of the subscribe whose replay is running
    replayed: int = 0
    replayed_new: int = 0
    epoch: str | None = None  # of the log, in protocols with epochs
    noted_epoch: str | None = None  # the last one in observations
    heeds_epochs: bool = True  # otherwise it goes on at its position in any log
    hides_epoch: bool = False  # it resumes with an empty epoch
    is_log_lost: bool = False  # the log that it had followed was replaced, or its position is not known any more
    marks: Marks = field(default_factory=Marks)  # the run's events that it has

    @classmethod
    def at(cls, topic: str, stream: str, position: Position | None) -> "Cursor":
        """Return a cursor that resumes from a stored position; None: without one."""
        if position is None or not isinstance(position.offset, int):
            return cls(topic, stream)
        seq = position.offset
        return cls(topic, stream, seq, seq, restored=seq, proven=seq, epoch=position.epoch, marks=Marks(after=seq))

    # --- positions ----------------------------------------------------------------------------------

    @property
    def position(self) -> Position | None:
        """The position to resume from."""
        return None if self.watermark is None else Position(self.watermark, self.epoch)

    @property
    def stored(self) -> Position | None:
        """The persisted position."""
        return None if self.checkpoint is None else Position(self.checkpoint, self.epoch)

    def seq_of(self, item: Item) -> int:
        """Return an event's number."""
        return offset_of(item.position)

    def shown(self, seq: int | None) -> int:
        """Return a number as observations contain it; -1: none that the server would know."""
        return -1 if seq is None else seq

    def is_other_log(self, position: Position | None) -> bool:
        """Whether a position belongs to another log than the cursor's."""
        is_known = position is not None and None not in (position.epoch, self.epoch)
        return self.heeds_epochs and is_known and position is not None and position.epoch != self.epoch

    def learn_epoch(self, position: Position | None) -> None:
        """Store the epoch of the first position that has one."""
        if position is not None and (self.epoch is None or not self.heeds_epochs):
            self.epoch = position.epoch or self.epoch

    # --- replays ------------------------------------------------------------------------------------

    def begin_connection(self) -> None:
        """Reset the state of the previous connection."""
        self.seen = self.head_before = 0

    def begin_replay(self, asked_from: int | None) -> Position | None:
        """Start a replay after the cursor `asked_from`; returns its position."""
        self.asked_from = asked_from
        self.replayed = self.replayed_new = 0
        epoch = "" if self.hides_epoch and self.epoch is not None else self.epoch
        return None if asked_from is None else Position(asked_from, epoch)

    def count_replayed(self, seq: int) -> bool:
        """Count an event of the replay; True if it is at or below the requested cursor."""
        self.replayed += 1
        self.replayed_new += self.watermark is None or seq > self.watermark
        return self.asked_from is not None and seq <= self.asked_from

    @property
    def is_behind(self) -> bool:
        """Whether events are missing: one above the watermark was received, or the replay started above it."""
        return self.watermark is not None and self.watermark < max(self.seen, self.asked_from or 0)

    # --- applying -----------------------------------------------------------------------------------

    def may_skip_to(self, after: int) -> bool:
        """Whether the event after this position may follow, although the position is above the watermark."""
        return False

    def offer(self, seq: int) -> Outcome:
        """Return the apply rule's decision about a received event."""
        assert self.watermark is not None
        outcome = apply_outcome(self.watermark, seq)
        if outcome is not Outcome.DUPLICATE and seq > self.seen:
            self.seen = seq
        return outcome

    def apply(self, seq: int, item: Item) -> None:
        """Move to an event that is being applied."""
        self.watermark = seq

    def reject(self) -> None:
        """Do not apply an event whose hash is wrong; the next replay must bring it again."""

    def end_batch(self, after: Position | None) -> None:
        """Take the position after a batch, in protocols whose events have none of their own."""

    def write_checkpoint(self) -> bool:
        """Persist the position; False if nothing changed."""
        is_new = self.checkpoint != self.known
        self.checkpoint = self.known
        return is_new

    @property
    def known(self) -> int | None:
        """The seq up to which everything is applied or covered, also between a rebootstrap and its first event."""
        return self.start if self.watermark is None else self.watermark

    def accept_head(self) -> Start:
        """Continue from the head after an empty replay."""
        return self.accept_start(self.head + 1)

    def accept_start(self, first_seq: int) -> Start:
        """Continue from the first retained event. The events between the watermark before and the new one are lost."""
        baseline = max(first_seq - 1, 0)
        if self.start is None:
            self.watermark = baseline
            is_lost, self.is_log_lost = self.is_log_lost, False
            return Start("other_log", None, UNKNOWN) if is_lost else Start("fresh")
        old, self.start = self.start, None
        self.watermark = max(old, baseline)
        return Start("retained", old, self.watermark - old)

    def jump(self, seqs: Iterable[int]) -> DesktopBatch:
        """Apply a batch as the desktop client does."""
        assert self.watermark is not None
        result = apply_as_desktop(self.watermark, seqs)
        self.start, self.watermark = None, result.checkpoint
        return result

    # --- heads and lost positions -------------------------------------------------------------------

    def learn_head(self, head: int) -> bool:
        """Store the head; True if the watermark is above it, which is impossible.

        A head below an event received on this connection is outdated.
        """
        self.head = head
        return self.watermark is not None and self.seen <= head < self.watermark

    def compare_head(self, head: int) -> bool:
        """Store a heartbeat's head; True if the watermark has not reached the head of the heartbeat before."""
        is_stuck = self.watermark is not None and self.watermark < self.head_before
        self.head_before = head
        return is_stuck

    def clamp(self, head: int) -> None:
        """Lower the watermark to the head.

        Events that this process applied up to the head are valid. A checkpoint from an earlier process proves nothing.
        """
        self.doubted = self.watermark == self.restored
        self.watermark = head

    def forget(self) -> None:
        """Forget all positions, like a new client."""
        self.watermark = self.checkpoint = self.start = self.restored = self.asked_from = self.epoch = None
        self.doubted = False

    def lose_log(self) -> None:
        """Forget all positions, because the server has another log or does not know where the client was."""
        is_lost = self.is_log_lost or self.known is not None
        self.forget()
        self.seen = self.head = self.head_before = 0
        self.is_log_lost = is_lost

    def rebootstrap(self, snapshot: int | None) -> bool:
        """Drop the cursor. Events that a snapshot covers or that were applied before need not be received again.

        True if the snapshot is ahead of what was applied.
        """
        old = self.known
        covered = [seq for seq in (old, snapshot) if seq is not None]
        self.start = max(covered) if covered else None
        self.watermark = None
        return snapshot is not None and snapshot > (old or 0)

    def is_below(self, position: Position) -> bool:
        """Whether a server that starts at this position skips events that the client lacks."""
        asked = self.known if self.asked_from is None else self.asked_from
        return asked is not None and offset_of(position) > asked

    def is_above(self, position: Position) -> bool:
        """Whether the cursor is above a position of its own log."""
        return self.watermark is not None and offset_of(position) < self.watermark

    def is_at(self, position: Position) -> bool:
        """Whether the cursor is at this position."""
        return self.watermark == offset_of(position)

    def continue_at(self, position: Position) -> Start:
        """Continue at the position where the server starts."""
        if self.is_other_log(position):
            self.lose_log()
        self.learn_epoch(position)
        at, asked = offset_of(position), self.asked_from
        if self.watermark is None:
            return self.accept_start(at + 1)
        old = self.watermark if asked is None else min(asked, self.watermark)
        lost = max(at - old, 0)
        # Events above `at` that came before the answer are applied already, or are above a gap and come again.
        self.watermark = max(self.watermark, at)
        self.asked_from = None
        return Start("retained", old, lost, at)

    # --- how far it is ------------------------------------------------------------------------------

    def is_unconfirmed(self, acknowledged: int) -> bool:
        """Whether it is still at a restored position that no process reached, and that is above all `acknowledged` events.

        An event, a lower head or a new start moves it. A head that repeats the position confirms nothing.
        """
        if self.watermark is None or self.watermark != self.restored:
            return False
        return self.watermark > max(self.proven or 0, acknowledged)

    @property
    def has_reached_head(self) -> bool:
        """Whether everything up to the last reported head was received on this connection, or applied."""
        return max(self.watermark or 0, self.seen) >= self.head

    def lacks(self, head: int) -> bool:
        """Whether any event up to this head is not applied."""
        return (self.watermark or 0) < head

    def lag(self, head: int) -> int | None:
        """Return the events between the watermark and this head; None without a watermark."""
        return None if self.watermark is None else head - self.watermark


@dataclass(slots=True)
class OrderedCursor(Cursor):
    """A cursor of increasing positions with lawful holes: a missing event is not visible, and a head proves no loss."""

    is_blocked: bool = False  # an event was not applied: none after it may be, until a replay brings it again

    @property
    def is_behind(self) -> bool:
        """Whether an event is known to be missing."""
        return self.is_blocked

    def begin_replay(self, asked_from: int | None) -> Position | None:
        """See `Cursor`."""
        self.is_blocked = False
        # Without the zero-argument form, which a dataclass with slots does not support here.
        return Cursor.begin_replay(self, asked_from)

    def may_skip_to(self, after: int) -> bool:
        """See `Cursor`."""
        return self.watermark is not None and self.watermark < after and not self.is_blocked

    def offer(self, seq: int) -> Outcome:
        """See `Cursor`."""
        assert self.watermark is not None
        if seq <= self.watermark:
            return Outcome.DUPLICATE
        self.seen = max(self.seen, seq)
        return Outcome.GAP if self.is_blocked else Outcome.APPLY

    def reject(self) -> None:
        """See `Cursor`."""
        self.is_blocked = True

    def compare_head(self, head: int) -> bool:
        """Return False: the events up to a head may be another stream's."""
        return False


@dataclass(slots=True)
class OpaqueCursor(OrderedCursor):
    """A cursor of positions that only the server can read. `watermark` counts the events that this process applied.

    A duplicate is an event with the position of an applied one or, where events have no position of their own, with its
    payload.
    """

    takes_spans: ClassVar[bool] = False

    place: Position | None = None  # the server's position, as it gave it
    stored_place: Position | None = None
    recent: dict[object, int] = field(default_factory=dict)  # what identifies the last applied events, and their numbers

    @classmethod
    def at(cls, topic: str, stream: str, position: Position | None) -> "OpaqueCursor":
        """See `Cursor`."""
        if position is None:
            return cls(topic, stream)
        marks = Marks(after=UNREADABLE)
        return cls(topic, stream, 0, restored=0, epoch=position.epoch, marks=marks, place=position, stored_place=position)

    @property
    def position(self) -> Position | None:
        """See `Cursor`."""
        return self.place

    @property
    def stored(self) -> Position | None:
        """See `Cursor`."""
        return self.stored_place

    def seq_of(self, item: Item) -> int:
        """Return the number that the event would get, 0 for a duplicate."""
        return 0 if identity(item) in self.recent else (self.known or 0) + 1

    def shown(self, seq: int | None) -> int:
        """See `Cursor`."""
        return -1

    def begin_replay(self, asked_from: int | None) -> Position | None:
        """See `Cursor`."""
        self.is_blocked = False
        Cursor.begin_replay(self, asked_from)
        return self.place

    def count_replayed(self, seq: int) -> bool:
        """Count an event of the replay; False, because positions cannot be compared."""
        self.replayed += 1
        self.replayed_new += seq > 0
        return False

    def apply(self, seq: int, item: Item) -> None:
        """See `Cursor`."""
        self.watermark = seq
        self.recent[identity(item)] = 0
        if len(self.recent) > MAX_REMEMBERED:
            del self.recent[next(iter(self.recent))]
        if item.position is not None:
            self.place = item.position

    def end_batch(self, after: Position | None) -> None:
        """See `Cursor`."""
        if after is not None and not self.is_blocked:
            self.place = after

    def write_checkpoint(self) -> bool:
        """See `Cursor`."""
        is_new = self.stored_place != self.place
        self.stored_place = self.place
        return is_new

    def accept_start(self, first_seq: int) -> Start:
        """See `Cursor`; how many events are lost is unknown."""
        return self._start(is_lost=self.is_log_lost or self.start is not None)

    def _start(self, is_lost: bool) -> Start:
        self.watermark, self.start, self.is_log_lost = self.known or 0, None, False
        return Start("other_log", None, UNKNOWN) if is_lost else Start("fresh")

    def learn_head(self, head: int) -> bool:
        """Return False: a head cannot be compared."""
        return False

    def forget(self) -> None:
        """See `Cursor`; the applied events are still recognized."""
        self.place = self.stored_place = None
        Cursor.forget(self)

    def rebootstrap(self, snapshot: int | None) -> bool:
        """See `Cursor`; a snapshot's position cannot be compared."""
        self.place = None
        return Cursor.rebootstrap(self, None)

    def is_below(self, position: Position) -> bool:
        """Return False: positions cannot be compared."""
        return False

    def is_above(self, position: Position) -> bool:
        """Return False: positions cannot be compared."""
        return False

    def is_at(self, position: Position) -> bool:
        """See `Cursor`."""
        return self.place == position

    def continue_at(self, position: Position) -> Start:
        """See `Cursor`."""
        self.place, self.epoch = position, position.epoch
        return self._start(is_lost=self.is_log_lost or self.known is not None)

    def lacks(self, head: int) -> bool:
        """Return False: positions cannot be compared."""
        return False

    def lag(self, head: int) -> int | None:
        """Return None: positions cannot be compared."""
        return None


def identity(item: Item) -> object:
    """Return what identifies an event: its position, or else its payload."""
    return item.position if item.position is not None else hash(bytes(item.payload))


KINDS: dict[Positions, type[Cursor]] = {
    Positions.DENSE: Cursor,
    Positions.ORDERED: OrderedCursor,
    Positions.OPAQUE: OpaqueCursor,
}
