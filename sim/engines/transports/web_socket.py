"""The client's end of a WebSocket connection, based on the sans-I/O protocol of `websockets`.

It answers pings but sends none, because the session sends heartbeats.
"""

from typing import cast

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from sim.engines.transports.wire import MAX_BODY_BYTES, MAX_FRAGMENTS, MAX_HEAD_BYTES, MAX_MESSAGE_BYTES, Owner, Wire
from sim.protocols.adapter import Open, TransportEnd

_HEAD_END = b"\r\n\r\n"
_TEXT_FRAME, _BINARY_FRAME = 0x81, 0x82  # the first byte of a message in one frame, without extensions
_WHOLE_MESSAGES = (_TEXT_FRAME, _BINARY_FRAME)
_MASKED = b"\x80"  # the second byte of a frame, which is wrong from a server


class WebSocket(Wire):
    """See `Wire`."""

    def __init__(self, owner: Owner, wanted: Open) -> None:
        super().__init__(owner, wanted)
        subprotocols = [cast(Subprotocol, each) for each in wanted.subprotocols]
        self._ws = ClientProtocol(parse_uri(wanted.url), max_size=MAX_MESSAGE_BYTES, subprotocols=subprotocols or None)
        self._headers = wanted.headers
        self._parts: list[bytes] = []  # of a fragmented message
        self._is_text = True
        self._has_head = False  # the head of the answer to the upgrade was read
        self._rest = bytearray()  # the beginning of a frame, or of the answer to the upgrade
        self._needed = 0  # bytes of `_rest` before it is worth another look

    def send(self, data: bytes, is_text: bool = True) -> None:
        """See `Wire`."""
        if self._ws.state is State.OPEN:
            if is_text:
                self._ws.send_text(data)
            else:
                self._ws.send_binary(data)
            self._flush()

    def close(self) -> None:
        """Send a close frame, and disconnect without waiting for an answer."""
        self._owner = None
        if self._ws.state is State.OPEN:
            self._ws.send_close(1000)
            self._flush()
        super().close()

    def _to_send(self) -> list[bytes]:
        return self._ws.data_to_send()

    def _ask(self) -> None:
        request = self._ws.connect()
        for name, value in self._headers.items():
            request.headers[name] = value
        self._ws.send_request(request)
        self._flush()

    def _take_bytes(self, data: bytes) -> None:
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        if self._is_open:
            self._take_frames(data)
        elif self._has_head:  # the upgrade was refused: the rest is the answer's body
            self._feed(data)
        elif (end := data.find(_HEAD_END) + len(_HEAD_END)) >= len(_HEAD_END):
            self._has_head = True
            self._feed(data[:end])
            self._take_bytes(data[end:])
        elif len(data) <= MAX_HEAD_BYTES:
            self._rest += data
        else:
            self._end(TransportEnd(is_broken=True))

    def _take_frames(self, data: bytes) -> None:
        """Pass on each whole message of one frame at once. `websockets` gets all other frames, each in one piece."""
        at, end = 0, len(data)
        while at < end:
            if self._ws.state is not State.OPEN or data[at + 1 : at + 2] >= _MASKED:
                self._feed(data[at:])
                return
            start, stop = _frame_at(data, at)
            fits = stop - start <= MAX_MESSAGE_BYTES
            if fits and stop > end:
                self._rest += data[at:]
                self._needed = stop - at
                return
            if fits and data[at] in _WHOLE_MESSAGES and not self._parts:
                if self._owner is not None:
                    self._owner.socket_message(self, data[start:stop], data[at] == _TEXT_FRAME)
            else:
                self._feed(data[at:stop])
            at = stop

    def _feed(self, data: bytes) -> None:
        """Let `websockets` read these bytes."""
        self._ws.receive_data(data)
        self._report()
        self._flush()

    def _report(self) -> None:
        for event in self._ws.events_received():
            if isinstance(event, Response):
                self._upgraded(event)
            elif isinstance(event, Frame):
                self._take(event)
        if self._ws.handshake_exc is not None and not self._is_open:
            self._end(TransportEnd(is_broken=True))

    def _take_eof(self) -> None:
        self._ws.receive_eof()
        self._report()

    # --- reports to the owner ---------------------------------------------------------------------------

    def _upgraded(self, response: Response) -> None:
        if response.status_code == 101 and self._ws.handshake_exc is None:
            self._is_open = True
            if self._owner is not None:
                self._owner.socket_open(self, response.status_code, _headers_of(response))
        else:
            self._end(_refusal(response))

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            close = self._ws.close_rcvd
            self._end(TransportEnd(code=close.code, reason=close.reason) if close else TransportEnd())
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if frame.opcode is not Opcode.CONT:
                self._is_text = frame.opcode is Opcode.TEXT
            if not frame.fin or self._parts:
                self._parts.append(bytes(frame.data))
                if len(self._parts) > MAX_FRAGMENTS:
                    self._end(TransportEnd(is_broken=True))
                    self._cut()
                    return
                if not frame.fin:
                    return
                data, self._parts = b"".join(self._parts), []
            else:
                data = bytes(frame.data)
            if self._owner is not None:
                self._owner.socket_message(self, data, self._is_text)


def _headers_of(response: Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.raw_items()}


def _refusal(response: Response) -> TransportEnd:
    body = bytes(response.body or b"")[:MAX_BODY_BYTES]
    return TransportEnd(status=response.status_code, headers=_headers_of(response), body=body)


def _frame_at(data: bytes, at: int) -> tuple[int, int]:
    """Return where the payload of the unmasked frame at `at` starts and stops (RFC 6455, 5.2).

    Both may be after the data's end. Without its whole header, a frame stops at the header's end.
    """
    if len(data) < at + 2:
        return at + 2, at + 2
    if (length := data[at + 1]) < 126:
        return at + 2, at + 2 + length
    start = at + (4 if length == 126 else 10)
    if len(data) < start:
        return start, start
    return start, start + int.from_bytes(data[at + 2 : start])
