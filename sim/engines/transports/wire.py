"""The client's end of one connection, whatever it carries."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from sim.protocols.adapter import Open, TransportEnd

MAX_BODY_BYTES = 65_536  # of an answer that refuses
MAX_HEAD_BYTES = 65_536
MAX_MESSAGE_BYTES = 16 * 2**20
MAX_FRAGMENTS = 65_536  # [ours] of a message; they may be empty


class Owner(Protocol):
    """Receives the reports of its connections."""

    def socket_open(self, wire: "Wire", status: int, headers: Mapping[str, str]) -> None:
        """Handle an accepted request. The names of headers are in lower case."""

    def socket_message(self, wire: "Wire", data: bytes, is_text: bool) -> None:
        """Handle a complete message, a part of an SSE body, or the whole body of a long poll."""

    def socket_ended(self, wire: "Wire", end: TransportEnd) -> None:
        """Handle the end of the connection, or a failed request. No further report follows."""


class Wire(ABC):
    """One connection. After `close` or `abort` it reports nothing more.

    A subclass adds the form of the data, and another one the TCP connection. The latter calls `_ask` and the `_take…` methods,
    and implements `_flush`, `_hang_up` and `_cut`.
    """

    def __init__(self, owner: Owner, wanted: Open) -> None:
        url = urlsplit(wanted.url)
        self.id = wanted.id
        self.is_secure = url.scheme in ("wss", "https")
        self.host, self.port = url.hostname or "", url.port or (443 if self.is_secure else 80)
        self._owner: Owner | None = owner
        self._is_open = False
        self.is_reusable = False  # its request was answered, and the TCP connection can carry another one
        self.is_second = False  # the TCP connection was open before

    @property
    def origin(self) -> tuple[bool, str, int]:
        """Where the TCP connection goes."""
        return self.is_secure, self.host, self.port

    @property
    def failed_on_reuse(self) -> bool:
        """Whether a TCP connection that was open before did not bring an accepted answer."""
        return self.is_second and not self._is_open

    # --- the owner's side ---------------------------------------------------------------------------

    @abstractmethod
    def send(self, data: bytes, is_text: bool = True) -> None:
        """Send one message; do nothing if the connection is not open."""

    def close(self) -> None:
        """Disconnect in order, without waiting for an answer."""
        self._owner = None
        self._hang_up()

    def abort(self) -> None:
        """Cut the connection, as a failed network does."""
        self._owner = None
        self._cut()

    # --- what the TCP connection reports --------------------------------------------------------------

    @abstractmethod
    def _ask(self) -> None:
        """Send the request on the new TCP connection."""

    @abstractmethod
    def _take_bytes(self, data: bytes) -> None:
        """Read data."""

    @abstractmethod
    def _take_eof(self) -> None:
        """Handle the end of the peer's data."""

    def _take_end(self, error: Exception | None) -> None:
        """Handle the end of the TCP connection."""
        self._end(TransportEnd())

    # --- what is done to the TCP connection -----------------------------------------------------------

    @abstractmethod
    def _to_send(self) -> list[bytes]:
        """Return the data to send, each once; empty bytes mean the end of the stream."""

    @abstractmethod
    def _flush(self) -> None:
        """Send what `_to_send` returns."""

    @abstractmethod
    def _hang_up(self) -> None:
        """Close the TCP connection after the flushed data is sent."""

    @abstractmethod
    def _cut(self) -> None:
        """Close the TCP connection at once."""

    # --- reports to the owner ---------------------------------------------------------------------------

    def _end(self, end: TransportEnd) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.socket_ended(self, end)
        if not self._is_open:
            self._hang_up()
