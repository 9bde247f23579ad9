"""One client's place in one stream: the apply rule, and what a rebootstrap and a learnt head do to it."""

from dataclasses import dataclass, field

from sim.protocols.spacetime.streams import stream_id


@dataclass(slots=True)
class Cursor:
    """`watermark` is the highest applied seq, None before any snapshot or cursor was accepted."""

    topic: str
    watermark: int | None = None
    checkpoint: int | None = None  # what was persisted, and what a reconnect resumes after
    start: int | None = None  # after a stale cursor: applied or covered by a snapshot up to here
    restored: int | None = None  # the checkpoint that an earlier life of the client left
    doubted: bool = False  # and that was above the head: nobody knows what of the stream was ever applied
    head: int = 0  # highest head heard of
    head_before: int = 0  # head of the heartbeat before the last
    seen: int = 0  # highest seq above the watermark received on this connection
    asked_from: int | None = None  # cursor of the subscribe whose replay is running
    replayed: int = 0
    replayed_new: int = 0
    stream: str = field(init=False)

    def __post_init__(self) -> None:
        self.stream = stream_id(self.topic)

    def begin_connection(self) -> None:
        """A socket is open; nothing came over it yet."""
        self.seen = self.head_before = 0

    def begin_replay(self, asked_from: int | None) -> None:
        """A subscribe was sent with this cursor."""
        self.asked_from = asked_from
        self.replayed = self.replayed_new = 0

    @property
    def is_behind(self) -> bool:
        """Whether events are known to be missing: something above the watermark came, or the replay began above it."""
        return self.watermark is not None and self.watermark < max(self.seen, self.asked_from or 0)

    @property
    def known(self) -> int | None:
        """Up to where everything is applied or covered, the time between a rebootstrap and its first event included."""
        return self.start if self.watermark is None else self.watermark

    def clamp(self, head: int) -> None:
        """Come back to the head, which lies below the watermark.

        What this life applied up to the head is there. Of a checkpoint that only came from an earlier one, nothing is known.
        """
        self.doubted = self.watermark == self.restored
        self.watermark = head

    def forget(self) -> None:
        """Begin anew, as a client without a past."""
        self.watermark = self.checkpoint = self.start = self.restored = None
        self.doubted = False

    def accept_start(self, first_seq: int) -> tuple[int, int]:
        """Take the first retained event as the place to go on from.

        Returns (old, lost): the watermark there was before, or -1, and how many events lie between it and the
        new one, lost for good.
        """
        baseline = max(first_seq - 1, 0)
        if self.start is None:
            self.watermark = baseline
            return -1, 0
        old, self.start = self.start, None
        self.watermark = max(old, baseline)
        return old, self.watermark - old

    def rebootstrap(self, snapshot_watermark: int | None) -> None:
        """Drop the cursor; what a snapshot covers, and what was applied before, need not come again."""
        covered = [seq for seq in (self.known, snapshot_watermark) if seq is not None]
        self.start = max(covered) if covered else None
        self.watermark = None
