"""One WebSocket connection on asyncio: bytes to and from the sans-I/O `websockets` protocol.

No task and no queue a connection: the event loop calls, frames are handed on at once. Pings are answered,
none are sent; heartbeats are the session's business.
"""

import asyncio
from typing import Protocol, cast

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import WebSocketURI

MAX_MESSAGE_BYTES = 16 * 2**20
_ERROR_CODE = msgspec.json.Decoder(dict[str, dict[str, object]])


class Owner(Protocol):
    """Who is told what happens on a socket."""

    def socket_open(self, socket: "ClientSocket") -> None:
        """The upgrade succeeded."""

    def socket_refused(self, socket: "ClientSocket", code: str) -> None:
        """The upgrade did not succeed; nothing more will come."""

    def socket_text(self, socket: "ClientSocket", text: bytes) -> None:
        """A whole message came in."""

    def socket_lost(self, socket: "ClientSocket", reason: str) -> None:
        """An open socket is gone; nothing more will come."""


class ClientSocket(asyncio.Protocol):
    """The client's end of one connection. After `close` or `abort` its owner hears nothing more."""

    def __init__(self, uri: WebSocketURI, owner: Owner) -> None:
        self._ws = ClientProtocol(uri, max_size=MAX_MESSAGE_BYTES)
        self._owner: Owner | None = owner
        self._transport: asyncio.Transport | None = None
        self._is_open = False
        self._parts: list[bytes] = []
        self._reads = True

    # --- the owner's side ---------------------------------------------------------------------------

    def send(self, message: str | bytes) -> None:
        """Send one message, text or binary by its type; nothing happens when the other side is already closing."""
        if self._ws.state is State.OPEN:
            if isinstance(message, str):
                self._ws.send_text(message.encode())
            else:
                self._ws.send_binary(message)
            self._flush()

    def close(self) -> None:
        """Say goodbye and leave without waiting for an answer."""
        self._owner = None
        if self._transport is not None:
            if self._ws.state is State.OPEN:
                self._ws.send_close(1000)
                self._flush()
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection, as a network that is gone would."""
        self._owner = None
        if self._transport is not None:
            self._transport.abort()

    def read(self, reads: bool) -> None:
        """Read what comes, or leave it to the kernel until that is full, and the other side cannot send."""
        was, self._reads = self._reads, reads
        if self._transport is None or was == reads or self._transport.is_closing():
            return
        if reads:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # --- the event loop's side ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is there: ask for the upgrade."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape, not by class
        if self._owner is None:
            self._transport.abort()
            return
        if not self._reads:
            self._transport.pause_reading()
        self._ws.send_request(self._ws.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        self._ws.receive_data(data)
        for event in self._ws.events_received():
            if isinstance(event, Response):
                self._upgraded(event)
            elif isinstance(event, Frame):
                self._take(event)
        if self._ws.handshake_exc is not None and not self._is_open:
            self._refuse("protocol")
        self._flush()

    def eof_received(self) -> None:
        """The other side will send no more."""
        self._ws.receive_eof()
        if self._ws.handshake_exc is not None and not self._is_open:
            self._refuse("protocol")

    def connection_lost(self, error: Exception | None) -> None:
        """TCP is gone."""
        if self._is_open:
            self._lose("Connection reset by peer" if error else "spacetime websocket closed")
        else:
            self._refuse("network")

    def _upgraded(self, response: Response) -> None:
        if response.status_code == 101 and self._ws.handshake_exc is None:
            self._is_open = True
            if self._owner is not None:
                self._owner.socket_open(self)
        else:
            self._refuse(_refusal_code(response))

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self._lose("spacetime websocket closed")
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if not frame.fin or self._parts:
                self._parts.append(bytes(frame.data))
                if not frame.fin:
                    return
                text, self._parts = b"".join(self._parts), []
            else:
                text = bytes(frame.data)
            if self._owner is not None:
                self._owner.socket_text(self, text)

    def _refuse(self, code: str) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.socket_refused(self, code)
        if self._transport is not None:
            self._transport.close()

    def _lose(self, reason: str) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.socket_lost(self, reason)

    def _flush(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        for data in self._ws.data_to_send():
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof():
                self._transport.close()


def _refusal_code(response: Response) -> str:
    """Why an upgrade was refused: the runtime's own code where its body names one, else from the status."""
    try:
        code = _ERROR_CODE.decode(response.body)["error"]["code"]
        if isinstance(code, str) and code:
            return code
    except (msgspec.DecodeError, KeyError):
        pass
    return {401: "unauthorized", 403: "forbidden"}.get(response.status_code, "protocol")
