"""The authority's log of one stream: append, idempotency, the retained window, and the check of cursors."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sim.base.errors import PeerError
from sim.protocols.payloads import payload_hash

RETENTION_FLOOR_BREACH = "retention_floor_breach"
REPLAY_BUDGET_EXCEEDED = "replay_budget_exceeded"
SNAPSHOT_FORMAT = "openagents.sync.snapshot.v1"
_COMPACT_AT = 1024  # trimmed entries at the front of a log above which it may be compacted


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
    """Return the effective replay budget in events: a budget of 0 still allows one event, as in the shipped code."""
    return max(replay_budget_events, 1)


def replay_lag(after: int, window: Window) -> int:
    """Return how many events a cursor is behind the head; 0 for a cursor at or above it."""
    return max(window.head - after, 0)


def stale_reasons(after: int, window: Window | None, replay_budget_events: int) -> tuple[str, ...]:
    """Return why a cursor cannot resume, in the contract's order; empty: it can.

    A cursor can resume if its stream has no window (nothing was ever appended), or if it is above the head.
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
    """A publisher's expected next sequence number is not the log's."""

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
    """The result of an append. For a duplicate, `entry` is the first one, without payload and time if it was trimmed."""

    entry: Entry
    duplicate: bool


class StreamLog:
    """An append-only log with a retained window; sequence numbers start at 1 and have no holes.

    Idempotency keys and hashes are kept for ever, payloads only inside the window. `append` never
    trims, so an append whose commit failed can be undone with `truncate`.
    """

    def __init__(self, window_events: int, retention_s: float, hash_of: Callable[[bytes], str] = payload_hash) -> None:
        self._window_events = window_events
        self._retention_s = retention_s
        self._hash_of = hash_of
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
        hash_of: Callable[[bytes], str] = payload_hash,
    ) -> Self:
        """Return a log restored from durable storage.

        `entries` are the retained ones, consecutive up to `head`; `keys` gives the (seq, hash) of every
        idempotency key, trimmed entries included. Raises ValueError when they contradict each other.
        """
        log = cls(window_events, retention_s, hash_of)
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
        """The last sequence number; 0 if nothing was ever appended."""
        return len(self._hashes)

    @property
    def next_seq(self) -> int:
        """The sequence number of the next append."""
        return self.head + 1

    @property
    def oldest(self) -> int:
        """The first retained sequence number; `head + 1` if nothing is retained."""
        return self.head - self.retained + 1

    @property
    def retained(self) -> int:
        """Number of retained entries."""
        return len(self._entries) - self._start

    def window(self) -> Window | None:
        """Return the retained window; None if nothing was ever appended."""
        return Window(self.oldest, self.head) if self._hashes else None

    def append(self, key: str, payload: bytes, now: float, expected_next_seq: int | None = None) -> Appended:
        """Append canonical JSON under an idempotency key, or return what that key appended before.

        Raises WrongNextSeqError for a new key if `expected_next_seq` is wrong; for a known key it is ignored.
        """
        known = self._seqs.get(key)
        if known is not None:
            return Appended(self._remembered(known, key), duplicate=True)
        if expected_next_seq is not None and expected_next_seq != self.next_seq:
            raise WrongNextSeqError(self.next_seq, expected_next_seq)
        entry = Entry(self.next_seq, key, payload, self._hash_of(payload), now)
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
        """Drop the oldest entries, beyond the window or the retention time; returns their number."""
        past = max(self.retained - self._window_events, 0)
        horizon = now - self._retention_s
        while past < self.retained and self._entries[self._start + past].appended_at < horizon:
            past += 1
        return self._drop(past)

    def keep_newest(self, count: int) -> int:
        """Drop all but the newest `count` entries (a fault, not retention); returns the number of dropped entries."""
        return self._drop(max(self.retained - max(count, 0), 0))

    def _drop(self, count: int) -> int:
        self._start += count
        # Compact only when half of the list is trimmed, so that a drop costs O(1) on average.
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
        """Return at most `limit` retained entries above `cursor`, in order; costs O(limit) for any cursor."""
        begin = self._index(max(cursor + 1, self.oldest))
        return self._entries[begin : begin + max(limit, 0)]

    def digest(self) -> str:
        """Return the hex SHA-256 of all payload hashes from seq 1 to the head, joined; equal digests mean equal histories."""
        for declared in self._hashes[self._digested :]:
            self._digest.update(declared.encode())
        self._digested = self.head
        return self._digest.hexdigest()

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the snapshot for stale clients; `taken_at` is in unix seconds."""
        head = self.head
        return {
            "format": SNAPSHOT_FORMAT,
            "watermark": head,
            "events": head,
            "digest": self.digest(),
            "taken_at": now,
        }
