"""What was decoded once, for all clients that receive the same bytes.

Equal bytes give the same `Message` object. Its effect on a client that has all earlier events is then computed once, too (see
`sim.client.notices.KnownRuns`). The key is all bytes of a message, or of a payload in an envelope that differs by client, so
that a damaged copy is never taken for the intact one.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from sim.protocols.events import Message

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_ENTRIES = 4096
MAX_BYTES = 16 * 2**20


class BoundedCache(Generic[K, V]):
    """A cache with at most `max_entries` and `max_bytes`. It forgets the older half of its entries, never a recent one.

    With `max_entries=0` it keeps nothing.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._half_entries, self._half_bytes = max_entries // 2, max_bytes // 2
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._bytes = 0  # of the young

    def get(self, key: K) -> V | None:
        """Return the value; None if the key is unknown."""
        if (value := self._young.get(key)) is None:
            return self._old.get(key)
        return value

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep a value of about this size, unless it alone would fill half of the cache."""
        if size_bytes > self._half_bytes or not self._half_entries:
            return
        if len(self._young) >= self._half_entries or self._bytes + size_bytes > self._half_bytes:
            self._old, self._young, self._bytes = self._young, {}, 0
        self._young[key] = value
        self._bytes += size_bytes


class SharedDecoding(BoundedCache[Hashable, Message]):
    """Decoded messages: by all their bytes and, where each client has its own envelope, by kind and payload."""

    def message(self, data: bytes, kind: str, payload: bytes, decode: Callable[[], Message]) -> Message:
        """Return what a payload means in any envelope. `data` is the whole message, which `get` did not find."""
        if (message := self.get((kind, payload))) is None:
            message = decode()
            self.put((kind, payload), message, 2 * len(payload))
            self.put(data, message, len(data))
        return message
