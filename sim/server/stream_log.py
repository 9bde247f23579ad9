"""The authority's log of one stream: append, idempotency, the retained window, and which cursors it can resume."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sim.base.errors import PeerError
from sim.protocols.payloads import payload_hash

RETENTION_FLOOR_BREACH = "retention_floor_breach"
REPLAY_BUDGET_EXCEEDED = "replay_budget_exceeded"
SNAPSHOT_FORMAT = "openagents.sync.snapshot.v1"
_COMPACT_AT = 1024  # dead entries at the front of a log that are tolerated before it is moved together


@dataclass(frozen=True, slots=True)
class Window:
    """What a runtime retains of a stream: the sequence numbers `oldest` to `head`, empty when `oldest` is `head + 1`."""

    oldest: int
    head: int

    @property
    def floor(self) -> int:
        """The retention floor: the lowest cursor that misses nothing."""
        return self.oldest - 1


def effective_budget(replay_budget_events: int) -> int:
    """The replay budget in force, in events: a budget of 0 still lets one event through, as the shipped code has it."""
    return max(replay_budget_events, 1)


def replay_lag(after: int, window: Window) -> int:
    """How many events a cursor is behind the head; 0 for a cursor at or above it."""
    return max(window.head - after, 0)


def stale_reasons(after: int, window: Window | None, replay_budget_events: int) -> tuple[str, ...]:
    """Why a cursor cannot resume, in the contract's order; empty: it can.

    A stream without a window (nothing was ever appended) and a cursor above the head resume.
    """
    if window is None:
        return ()
    reasons = []
    if after < window.floor:
        reasons.append(RETENTION_FLOOR_BREACH)
    if replay_lag(after, window) > effective_budget(replay_budget_events):
        reasons.append(REPLAY_BUDGET_EXCEEDED)
    return tuple(reasons)


class WrongNextSeqError(PeerError):
    """A publisher expected another next sequence number than the log's."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"the log's next seq is {expected}, but the publisher expected {found}")
        self.expected = expected
        self.found = found


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of a log. `payload` is canonical JSON; `appended_at` is in unix seconds."""

    seq: int
    key: str
    payload: bytes
    payload_hash: str
    appended_at: float


@dataclass(frozen=True, slots=True)
class Appended:
    """An append's answer. A duplicate's `entry` is the first one; without payload and time when it was trimmed."""

    entry: Entry
    duplicate: bool


class StreamLog:
    """An append-only log with a retained window; sequence numbers start at 1 and have no holes.

    Idempotency keys and hashes are kept for ever, payloads only inside the window. `append` never
    trims, so an append whose commit failed can be undone with `truncate`.
    """

    def __init__(self, window_events: int, retention_s: float) -> None:
        self._window_events = window_events
        self._retention_s = retention_s
        self._entries: list[Entry] = []
        self._start = 0  # entries before this index are trimmed and wait for compaction
        self._seqs: dict[str, int] = {}  # by idempotency key, ascending
        self._hashes: list[str] = []  # by seq - 1
        self._digest = hashlib.sha256()
        self._digested = 0

    @classmethod
    def restore(
        cls,
        window_events: int,
        retention_s: float,
        entries: Iterable[Entry],
        keys: Mapping[str, tuple[int, str]],
        head: int,
    ) -> Self:
        """A log as a durable store remembers it.

        `entries` are the retained ones, consecutive up to `head`; `keys` gives the (seq, hash) of every
        idempotency key, trimmed entries included. Raises ValueError when they contradict each other.
        """
        log = cls(window_events, retention_s)
        log._entries = sorted(entries, key=lambda entry: entry.seq)
        known = {**keys, **{entry.key: (entry.seq, entry.payload_hash) for entry in log._entries}}
        log._seqs = {key: seq for key, (seq, _) in sorted(known.items(), key=lambda item: item[1][0])}
        log._hashes = [""] * head
        log._check_restored(head)
        for seq, declared in known.values():
            log._hashes[seq - 1] = declared
        return log

    def _check_restored(self, head: int) -> None:
        first = head - len(self._entries) + 1
        if first < 1 or any(entry.seq != first + i for i, entry in enumerate(self._entries)):
            raise ValueError(f"the retained entries are not consecutive up to seq {head}")
        if any(not 1 <= seq <= head for seq in self._seqs.values()):
            raise ValueError(f"an idempotency key belongs to a seq outside 1..{head}")

    @property
    def head(self) -> int:
        """The last sequence number, 0 when nothing was ever appended."""
        return len(self._hashes)

    @property
    def next_seq(self) -> int:
        """The sequence number the next append gets."""
        return self.head + 1

    @property
    def oldest(self) -> int:
        """The first retained sequence number; `head + 1` when nothing is retained."""
        return self.head - self.retained + 1

    @property
    def retained(self) -> int:
        """How many entries are retained."""
        return len(self._entries) - self._start

    def window(self) -> Window | None:
        """The retained window, None when nothing was ever appended."""
        return Window(self.oldest, self.head) if self._hashes else None

    def append(self, key: str, payload: bytes, now: float, expected_next_seq: int | None = None) -> Appended:
        """Append canonical JSON under an idempotency key, or find what that key appended before.

        Raises WrongNextSeqError for a new key with a wrong expectation; a known key answers whatever was expected.
        """
        known = self._seqs.get(key)
        if known is not None:
            return Appended(self._remembered(known, key), duplicate=True)
        if expected_next_seq is not None and expected_next_seq != self.next_seq:
            raise WrongNextSeqError(self.next_seq, expected_next_seq)
        entry = Entry(self.next_seq, key, payload, payload_hash(payload), now)
        self._entries.append(entry)
        self._hashes.append(entry.payload_hash)
        self._seqs[key] = entry.seq
        return Appended(entry, duplicate=False)

    def _remembered(self, seq: int, key: str) -> Entry:
        if seq >= self.oldest:
            return self._entries[self._index(seq)]
        return Entry(seq, key, b"", self._hashes[seq - 1], 0.0)

    def _index(self, seq: int) -> int:
        return self._start + seq - self.oldest

    def trim(self, now: float) -> int:
        """Drop from the front what the window or the retention no longer holds; how many went."""
        past = max(self.retained - self._window_events, 0)
        horizon = now - self._retention_s
        while past < self.retained and self._entries[self._start + past].appended_at < horizon:
            past += 1
        return self._drop(past)

    def keep_newest(self, count: int) -> int:
        """Drop all but the newest `count` entries (a fault, not retention); how many went."""
        return self._drop(max(self.retained - max(count, 0), 0))

    def _drop(self, count: int) -> int:
        self._start += count
        # Moving the list only once half of it is dead makes a drop cost O(1) on average.
        if self._start > _COMPACT_AT and self._start * 2 > len(self._entries):
            del self._entries[: self._start]
            self._start = 0
        return count

    def truncate(self, head: int) -> None:
        """Undo every append after `head`, their keys included. Raises ValueError for a head the log never had."""
        if not 0 <= head <= self.head:
            raise ValueError(f"cannot truncate to seq {head}: the head is {self.head}")
        undone = self.head - head
        del self._entries[max(len(self._entries) - undone, self._start) :]
        del self._hashes[head:]
        while self._seqs and next(reversed(self._seqs.values())) > head:
            self._seqs.popitem()
        if self._digested > head:
            self._digest, self._digested = hashlib.sha256(), 0

    def after(self, cursor: int, limit: int) -> list[Entry]:
        """At most `limit` retained entries above `cursor`, in order; costs O(limit) wherever the cursor is."""
        begin = self._index(max(cursor + 1, self.oldest))
        return self._entries[begin : begin + max(limit, 0)]

    def digest(self) -> str:
        """Hex SHA-256 over all payload hashes from seq 1 to the head, joined; equal digests mean equal histories."""
        for declared in self._hashes[self._digested :]:
            self._digest.update(declared.encode())
        self._digested = self.head
        return self._digest.hexdigest()

    def snapshot(self, now: float) -> dict[str, Any]:
        """What a stale client rebootstraps from; `taken_at` is in unix seconds."""
        head = self.head
        return {
            "format": SNAPSHOT_FORMAT,
            "watermark": head,
            "events": head,
            "digest": self.digest(),
            "taken_at": now,
        }
