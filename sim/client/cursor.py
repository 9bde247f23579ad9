"""Dense cursors: a client's position in a stream whose positions are consecutive numbers.

Only this module of the sessions adds, subtracts or compares positions.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, NamedTuple

from sim.protocols.events import Batch, Hash, Head, Message, Position

Damage = Literal["kept", "old", "lost", "torn", "future"]


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


def offset_of(position: Position | None) -> int:
    """Return a position's number. Raises `TypeError` for one that is not dense."""
    if position is None or not isinstance(position.offset, int):
        raise TypeError(f"{position} is not a dense position")
    return position.offset


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
    """`watermark` is the highest applied seq, None before any snapshot or cursor was accepted."""

    topic: str
    stream: str  # the topic's name in observations
    watermark: int | None = None
    checkpoint: int | None = None  # the persisted position, from which a reconnect resumes
    start: int | None = None  # after a stale cursor: applied or covered by a snapshot up to here
    restored: int | None = None  # the checkpoint from the client's earlier process
    doubted: bool = False  # `restored` was above the head: which events were applied is unknown
    head: int = 0  # highest reported head
    head_before: int = 0  # head of the heartbeat before the last
    seen: int = 0  # highest seq above the watermark received on this connection
    asked_from: int | None = None  # cursor of the subscribe whose replay is running
    replayed: int = 0
    replayed_new: int = 0

    # --- replays ------------------------------------------------------------------------------------

    def begin_connection(self) -> None:
        """Reset the state of the previous connection."""
        self.seen = self.head_before = 0

    def begin_replay(self, asked_from: int | None) -> Position | None:
        """Start a replay after the cursor `asked_from`; returns its position."""
        self.asked_from = asked_from
        self.replayed = self.replayed_new = 0
        return None if asked_from is None else Position(asked_from)

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

    def offer(self, seq: int) -> Outcome:
        """Return the apply rule's decision about a received event."""
        assert self.watermark is not None
        outcome = apply_outcome(self.watermark, seq)
        if outcome is not Outcome.DUPLICATE and seq > self.seen:
            self.seen = seq
        return outcome

    @property
    def known(self) -> int | None:
        """The seq up to which everything is applied or covered, also between a rebootstrap and its first event."""
        return self.start if self.watermark is None else self.watermark

    def accept_head(self) -> tuple[int, int]:
        """Continue from the head after an empty replay; returns the same as `accept_start`."""
        return self.accept_start(self.head + 1)

    def accept_start(self, first_seq: int) -> tuple[int, int]:
        """Continue from the first retained event.

        Returns (old, lost): the watermark before (-1: none), and the number of events between it and the new
        one, which are lost.
        """
        baseline = max(first_seq - 1, 0)
        if self.start is None:
            self.watermark = baseline
            return -1, 0
        old, self.start = self.start, None
        self.watermark = max(old, baseline)
        return old, self.watermark - old

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
        self.watermark = self.checkpoint = self.start = self.restored = None
        self.doubted = False

    def rebootstrap(self, snapshot: int | None) -> bool:
        """Drop the cursor. Events that a snapshot covers or that were applied before need not be received again.

        True if the snapshot is ahead of what was applied.
        """
        old = self.known
        covered = [seq for seq in (old, snapshot) if seq is not None]
        self.start = max(covered) if covered else None
        self.watermark = None
        return snapshot is not None and snapshot > (old or 0)

    # --- how far it is ------------------------------------------------------------------------------

    def lacks(self, head: int) -> bool:
        """Whether any event up to this head is not applied."""
        return (self.watermark or 0) < head

    def lag(self, head: int) -> int | None:
        """Return the events between the watermark and this head; None without a watermark."""
        return None if self.watermark is None else head - self.watermark


# --- runs: consecutive events, the same for all clients that have all earlier ones ------------------------


class Span(NamedTuple):
    """Events `after + 1` to `last` of one topic; `head` is the topic's head in the message."""

    topic: str
    after: int
    last: int
    head: int


def spans_of(message: Message) -> tuple[Span, ...] | None:
    """Return a message's spans if it has only intact, consecutive events with a head for each topic; otherwise None."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    marks = [event for event in message if isinstance(event, Head)]
    for batch in [event for event in message if isinstance(event, Batch)]:
        for item in batch.items:
            seq = offset_of(item.position)
            if seq != last.get(batch.stream, seq - 1) + 1 or item.check is Hash.BAD:
                return None
            first.setdefault(batch.stream, seq)
            last[batch.stream] = seq
    heads = {mark.stream: offset_of(mark.position) for mark in marks}
    if not last or len(marks) != len(last) or any(heads.get(topic, -1) < last[topic] for topic in last):
        return None
    return tuple(Span(topic, first[topic] - 1, last[topic], heads[topic]) for topic in last)


def take_spans(cursors: Mapping[str, Cursor], spans: tuple[Span, ...], replaying: bool) -> bool:
    """Apply all spans at once. If a client does not have exactly the events before them, return False and change nothing."""
    for topic, after, last, _ in spans:
        cursor = cursors.get(topic)
        if cursor is None or cursor.watermark != after or cursor.checkpoint == last:
            return False
        if replaying and after < (cursor.asked_from or 0):
            return False
    if replaying:
        for topic, after, last, _ in spans:
            cursors[topic].replayed += last - after
            cursors[topic].replayed_new += last - after
    return follow_spans(cursors, spans)


def follow_spans(cursors: Mapping[str, Cursor], spans: tuple[Span, ...]) -> bool:
    """Apply spans that should continue at the watermarks; False if one does not, which leaves the cursors invalid."""
    for topic, after, last, head in spans:
        cursor = cursors[topic]
        if cursor.watermark != after:
            return False
        cursor.watermark = cursor.checkpoint = last
        cursor.head = head
        if cursor.seen < last:
            cursor.seen = last
    return True


def go_on(spans: tuple[Span, ...], places: dict[str, int]) -> bool:
    """Whether spans continue at these places by topic; if so, the places move to their ends."""
    if len(spans) == 1:
        topic, after, last, _ = spans[0]
        if places.get(topic) != after:
            return False
        places[topic] = last
        return True
    for topic, after, _, _ in spans:
        if places.get(topic) != after:
            return False
    for topic, _, last, _ in spans:
        places[topic] = last
    return True


# --- stored checkpoints, which survive a client's process -------------------------------------------------


def stored(seq: int) -> str:
    """Return a checkpoint in its stored form: `57:b0dc4b06` is a number and the CRC-32 of its digits."""
    return f"{seq}:{zlib.crc32(str(seq).encode()):08x}"


def restore(text: str | None, careless: bool = False) -> int | None:
    """Return the checkpoint in a stored text; None without a text, or if it was not completely written.

    `careless` is the defect `reads_torn_checkpoints`: any digits are accepted.
    """
    digits = (text or "").partition(":")[0]
    if not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits) if careless or text == stored(int(digits)) else None


def damage(text: str | None, how: Damage, events: int) -> str | None:
    """Return a stored checkpoint after damage of this kind; `events` is how many events it becomes too low or too high."""
    seq = restore(text)
    if text is None or seq is None or how == "lost":
        return None
    if how == "torn":
        return text[: max(len(str(seq)) // 2, 1)]  # the write was interrupted here
    return stored({"kept": seq, "old": max(seq - events, 0), "future": seq + events}[how])
