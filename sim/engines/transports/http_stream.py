"""The client's end of one HTTP request whose answer is awaited: an SSE stream, or a long poll."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httptools

from sim.base.errors import TargetError
from sim.engines.transports.wire import MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_MESSAGE_BYTES, Owner, Wire
from sim.protocols.adapter import Open, Transport, TransportEnd

_NOT_MODIFIED = 304


class HttpStream(Wire):
    """See `Wire`. The parts of an SSE body are reported as they come, the body of a long poll as one message.

    A status that does not accept is reported as the end, with the body's first 64 KiB. An answer that ended as it should is
    reported with its status, one that was cut without. After a long poll, the TCP connection stays open if the peer allows it.
    """

    def __init__(self, owner: Owner, wanted: Open) -> None:
        super().__init__(owner, wanted)
        self._request = _request(wanted, self.host if self.port in (80, 443) else f"{self.host}:{self.port}")
        self._is_poll = wanted.transport is Transport.LONG_POLL
        self._answer = _Answer()
        self._parser: Any = httptools.HttpResponseParser(self._answer)
        self._answer.status_of, self._answer.keeps = self._parser.get_status_code, self._parser.should_keep_alive
        self._outgoing: list[bytes] = []
        self._body = bytearray()
        self._head_bytes = 0

    def send(self, data: bytes, is_text: bool = True) -> None:
        """Do nothing: the request is complete."""

    def _ask(self) -> None:
        self._outgoing.append(self._request)
        self._flush()

    def _to_send(self) -> list[bytes]:
        out, self._outgoing = self._outgoing, []
        return out

    def _take_bytes(self, data: bytes) -> None:
        answer = self._answer
        if self.is_reusable:  # bytes after the answer
            self._take_end(None)
            self._hang_up()
            return
        if not answer.has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._finish(TransportEnd(is_broken=True))
            return
        if answer.has_head:
            self._take_answer()
        elif self._head_bytes > MAX_HEAD_BYTES:
            self._finish(TransportEnd(is_broken=True))

    def _take_answer(self) -> None:
        answer = self._answer
        if not self._is_open and answer.is_accepted and self._owner is not None:
            self._is_open = True
            self._owner.socket_open(self, answer.status, answer.headers)
        body = answer.take_body()
        if answer.is_accepted and not self._is_poll:
            if body and self._owner is not None:
                self._owner.socket_message(self, body, True)
        else:
            self._body += body
        if len(self._body) > (MAX_MESSAGE_BYTES if answer.is_accepted else MAX_BODY_BYTES):
            self._finish(TransportEnd(is_broken=True) if answer.is_accepted else self._complete())
        elif answer.is_complete:
            self._finish(self._complete())

    def _take_end(self, error: Exception | None) -> None:
        self.is_reusable = False
        super()._take_end(error)

    def _take_eof(self) -> None:
        if self.is_reusable:
            self._take_end(None)
            self._hang_up()
            return
        answer = self._answer
        self._finish(self._complete() if answer.has_head and answer.ends_with_connection else TransportEnd())

    def _complete(self) -> TransportEnd:
        """Report the body of a poll; return the end of an answer that came as a whole."""
        answer = self._answer
        if not answer.is_accepted:
            return TransportEnd(status=answer.status, headers=answer.headers, body=bytes(self._body[:MAX_BODY_BYTES]))
        if self._is_poll and self._owner is not None:
            self._owner.socket_message(self, bytes(self._body), True)
        return TransportEnd(status=answer.status, headers=answer.headers)

    def _finish(self, end: TransportEnd) -> None:
        answer = self._answer
        self.is_reusable = self._is_poll and answer.is_accepted and answer.is_complete and answer.keeps_connection
        self._end(end)
        if not self.is_reusable:
            self._hang_up()


class _Answer:
    """What the parser has found; it calls the `on_…` methods. Only the last answer counts, not `100 Continue`."""

    def __init__(self) -> None:
        self.status_of: Callable[[], int] = int
        self.keeps: Callable[[], bool] = bool
        self.status = 0
        self.headers: dict[str, str] = {}
        self.has_head = self.is_complete = self.keeps_connection = False
        self._parts: list[bytes] = []

    @property
    def is_accepted(self) -> bool:
        return 200 <= self.status < 300 or self.status == _NOT_MODIFIED

    @property
    def ends_with_connection(self) -> bool:
        return "content-length" not in self.headers and "transfer-encoding" not in self.headers

    def take_body(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def on_message_begin(self) -> None:
        if not self.has_head:
            self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if not self.has_head and self.status_of() >= 200:
            self.status, self.has_head = self.status_of(), True

    def on_body(self, body: bytes) -> None:
        if not self.is_complete:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = self.has_head
        self.keeps_connection = self.keeps()  # the parser knows it only now


def _request(wanted: Open, host: str) -> bytes:
    url = urlsplit(wanted.url)
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    accept = "text/event-stream" if wanted.transport is Transport.SSE else "*/*"
    keeps = "keep-alive" if wanted.transport is Transport.LONG_POLL else "close"
    headers = {"host": host, "accept": accept, "connection": keeps} | {k.lower(): v for k, v in wanted.headers.items()}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    if any("\r" in line or "\n" in line for line in lines):
        raise TargetError(f"{wanted.url}: the request has a line break in its URL or in a header.")
    return "\r\n".join(lines).encode("latin-1", "replace")
