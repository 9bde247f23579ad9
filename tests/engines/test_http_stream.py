"""The client's end of an SSE stream or a long poll: what it reports of an answer in any pieces, and its bounds."""

from collections.abc import Mapping

import pytest

from sim.base.errors import TargetError
from sim.engines.transports import http_stream
from sim.engines.transports.http_stream import HttpStream
from sim.engines.transports.wire import Wire
from sim.protocols.adapter import Open, Transport, TransportEnd

OK = b"HTTP/1.1 200 OK\r\nX-Next: 5\r\n"
HEADERS = {"x-next": "5"}
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
SIZED = OK + b"Content-Length: 5\r\n\r\nabcde"
ENDED = OK + b"\r\nabcde"


class Peer(HttpStream):
    """A request without a network that records what it reports and sends."""

    def __init__(self, transport: Transport, url: str = "http://peer:81/a%20b?c=d", **headers: str) -> None:
        super().__init__(self, Open(3, transport, url, headers))
        self.reports: list[object] = []
        self.sent = b""
        self.is_closed = False

    def socket_open(self, _: Wire, status: int, headers: Mapping[str, str]) -> None:
        self.reports.append((status, headers["x-next"]))

    def socket_message(self, _: Wire, data: bytes, is_text: bool) -> None:
        self.reports.append(data)

    def socket_ended(self, _: Wire, end: TransportEnd) -> None:
        self.reports.append(end)

    def _flush(self) -> None:
        self.sent += b"".join(self._to_send())

    def _hang_up(self) -> None:
        self.is_closed = True

    _cut = _hang_up

    def get(self, *pieces: bytes, ends: bool = True) -> list[object]:
        for piece in pieces:
            self._take_bytes(piece)
        if ends:
            self._take_eof()
        return self.reports


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_request_has_the_headers_of_the_adapter():
    peer = Peer(Transport.SSE, Authorization="Bearer x", Accept="text/plain")
    peer._ask()
    head, *fields = peer.sent.decode().removesuffix("\r\n\r\n").split("\r\n")
    assert head == "GET /a%20b?c=d HTTP/1.1"
    assert sorted(fields) == ["accept: text/plain", "authorization: Bearer x", "connection: close", "host: peer:81"]


@pytest.mark.parametrize("value", ["a\nb", "a\r\nx: y"])
def test_header_with_a_line_break_is_refused(value: str):
    with pytest.raises(TargetError, match="line break"):
        Peer(Transport.SSE, Authorization=value)


@pytest.mark.parametrize("answer", [CHUNKED, SIZED, ENDED, b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_body_of_a_poll_is_one_message(answer: bytes, size: int):
    peer = Peer(Transport.LONG_POLL)
    opened, body, end = peer.get(*in_pieces(answer, size))
    assert (opened, body) == ((200, "5"), b"abcde")
    assert isinstance(end, TransportEnd)
    assert (end.status, end.headers["x-next"]) == (200, "5")
    assert peer.is_closed


@pytest.mark.parametrize("answer", [CHUNKED, SIZED, ENDED])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_parts_of_a_stream_are_reported_as_they_come(answer: bytes, size: int):
    opened, *parts, end = Peer(Transport.SSE).get(*in_pieces(answer, size))
    assert opened == (200, "5")
    assert b"".join(part for part in parts if isinstance(part, bytes)) == b"abcde"
    assert isinstance(end, TransportEnd)
    assert end.status == 200


@pytest.mark.parametrize("answer", [CHUNKED[:-9], SIZED[:-2], SIZED[:20]])
def test_cut_answer_has_no_status(answer: bytes):
    assert Peer(Transport.LONG_POLL).get(answer)[-1] == TransportEnd()
    assert b"abcde" not in Peer(Transport.LONG_POLL).get(answer)


def test_refusal_has_status_headers_and_the_first_64_kib_of_its_body():
    head = b"HTTP/1.1 409 No\r\nX-Next: 5\r\nContent-Length: 1000000\r\n\r\n"
    (end,) = Peer(Transport.SSE).get(head, bytes(40_000), bytes(40_000), bytes(40_000), ends=False)
    assert isinstance(end, TransportEnd)
    assert (end.status, end.headers["x-next"], len(end.body)) == (409, "5", 65_536)


@pytest.mark.parametrize("data", [b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000])
def test_what_is_no_answer_breaks_the_connection(data: bytes):
    peer = Peer(Transport.LONG_POLL)
    assert peer.get(*in_pieces(data, 4096), ends=False) == [TransportEnd(is_broken=True)]
    assert peer.is_closed


def test_body_of_a_poll_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_stream, "MAX_MESSAGE_BYTES", 4)
    assert Peer(Transport.LONG_POLL).get(SIZED)[1:] == [TransportEnd(is_broken=True)]


def test_nothing_is_reported_after_an_abort():
    peer = Peer(Transport.SSE)
    peer.get(CHUNKED[:-20], ends=False)
    before = len(peer.reports)
    peer.abort()
    assert len(peer.get(CHUNKED[-20:])) == before
