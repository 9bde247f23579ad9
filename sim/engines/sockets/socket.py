"""One connection of a client on asyncio.

A connection has no task and no queue: the event loop calls it, and it passes on frames at once.
"""

import asyncio
from typing import cast

from sim.engines.transports.http_stream import HttpStream
from sim.engines.transports.web_socket import WebSocket
from sim.engines.transports.wire import Wire


class TcpEnd(Wire, asyncio.Protocol):
    """The TCP connection below a wire."""

    _transport: asyncio.Transport | None = None
    _reads = True

    def read(self, reads: bool) -> None:
        """Resume reading, or pause it. While paused, the kernel's buffers fill until the other side cannot send."""
        was, self._reads = self._reads, reads
        if self._transport is None or was == reads or self._transport.is_closing():
            return
        if reads:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def take_over(self, other: "TcpEnd") -> bool:
        """Send the request on the TCP connection of an answered one. Return whether that connection is still open."""
        transport, other._transport, other.is_reusable = other._transport, None, False
        if transport is None or transport.is_closing():
            return False
        self.is_second = True
        transport.set_protocol(self)
        self.connection_made(transport)
        return True

    # --- the event loop's side ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`. Send the request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class has the same methods, but another base
        if self._owner is None:
            self._transport.abort()
            return
        if not self._reads:
            self._transport.pause_reading()
        self._ask()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._take_bytes(data)

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        self._take_eof()

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._take_end(error)

    # --- what is done to TCP ------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        for data in self._to_send():
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof():
                self._transport.close()

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class ClientSocket(WebSocket, TcpEnd):
    """A WebSocket connection."""


class ClientStream(HttpStream, TcpEnd):
    """A request whose answer is awaited."""
