"""The client's WebSocket: whole messages skip the library's parser, and nothing else changes."""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engines.transports import web_socket
from sim.engines.transports.web_socket import WebSocket
from sim.engines.transports.wire import Wire
from sim.protocols.adapter import Open, Transport, TransportEnd

MAX_BYTES = 1000


class Peer(WebSocket):
    """A socket without a network that records what it reports and sends."""

    def __init__(self) -> None:
        super().__init__(self, Open(0, Transport.WEBSOCKET, "ws://peer/"))
        self.reports: list[object] = []
        self.sent = b""
        self.is_cut = False

    def socket_open(self, _: Wire, status: int, headers: Mapping[str, str]) -> None:
        self.reports.append("open")

    def socket_message(self, _: Wire, data: bytes, is_text: bool) -> None:
        self.reports.append((data, is_text))

    def socket_ended(self, _: Wire, end: TransportEnd) -> None:
        self.reports.append(end)

    def _flush(self) -> None:
        self.sent += b"".join(self._to_send())

    def _hang_up(self) -> None:
        self.is_cut = True

    _cut = _hang_up

    def answer(self) -> bytes:
        """The answer that accepts its request for an upgrade."""
        self._ask()
        self.sent = b""
        key = hashlib.sha1(self._ws.key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        accept = b"Sec-WebSocket-Accept: " + base64.b64encode(key)
        return b"HTTP/1.1 101 Hi\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + accept + b"\r\n\r\n"


class ByTheLibrary(Peer):
    """The library reads everything."""

    def _take_bytes(self, data: bytes) -> None:
        self._feed(data)


@pytest.fixture(autouse=True, scope="module")
def small_messages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web_socket, "MAX_MESSAGE_BYTES", MAX_BYTES)
        yield


def frame(first: int, payload: bytes, masked: bool = False) -> bytes:
    length = len(payload)
    size = bytes([length]) if length < 126 else b"\x7e" + length.to_bytes(2) if length < 2**16 else b"\x7f" + length.to_bytes(8)
    if masked:
        return bytes([first, size[0] | 0x80]) + size[1:] + bytes(4) + payload
    return bytes([first]) + size + payload


payloads = st.one_of(st.binary(max_size=8), st.sampled_from((125, 126, 200, 999, 1000, 1001, 70_000)).map(bytes))
# Text, binary, parts of messages, ping, pong, close, with a reserved bit, with a reserved opcode.
firsts = st.sampled_from((0x81, 0x81, 0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x88, 0xC1, 0x83))


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    first = draw(firsts)
    return frame(first, draw(st.binary(max_size=5) if first & 0x08 else payloads), draw(st.integers(0, 20)) == 0)


@given(st.lists(frames(), max_size=8), st.data())
def test_frames_in_any_pieces_are_read_as_the_library_reads_them(received: list[bytes], data: st.DataObject):
    got = []
    for kind in (Peer, ByTheLibrary):
        peer = kind()
        wire = peer.answer() + b"".join(received)
        cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=6)) if kind is Peer else []
        places = [0, *sorted(cuts), len(wire)]
        for start, stop in pairwise(places):
            peer._take_bytes(wire[start:stop])
        peer._take_eof()
        got.append((peer.reports, bytes(len(peer.sent))))  # the masks of what it sends are random
    assert got[0] == got[1]


@pytest.mark.parametrize("piece", [1, 7, 200])
def test_message_that_comes_in_small_pieces_is_read_once_whole(piece: int):
    peer = Peer()
    wire = peer.answer() + frame(0x81, b"a" * 900) + frame(0x82, b"b")
    for at in range(0, len(wire), piece):
        peer._take_bytes(wire[at : at + piece])
    assert peer.reports == ["open", (b"a" * 900, True), (b"b", False)]


def test_frame_that_is_too_long_is_refused_by_its_header():
    peer = Peer()
    peer._take_bytes(peer.answer() + frame(0x81, bytes(1001))[:4])
    assert peer.sent[:1] == b"\x88"  # the close frame
    peer._take_bytes(frame(0x81, b"later"))
    assert peer.reports == ["open"]


@pytest.mark.parametrize("payload", [b"", b"a"])
def test_message_in_endless_fragments_breaks_the_connection(payload: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web_socket, "MAX_FRAGMENTS", 100)
    peer = Peer()
    peer._take_bytes(peer.answer() + frame(0x01, payload) + frame(0x00, payload) * 99)
    assert peer.reports == ["open"]
    peer._take_bytes(frame(0x00, payload))
    assert peer.reports == ["open", TransportEnd(is_broken=True)]
    assert peer.is_cut


def test_answer_whose_head_never_ends_is_a_failed_upgrade():
    peer = Peer()
    peer.answer()
    peer._take_bytes(b"HTTP/1.1 101 Hi\r\n" + b"X: y\r\n" * 20_000)
    assert peer.reports == [TransportEnd(is_broken=True)]
    assert peer.is_cut


@pytest.mark.parametrize("length", [b"Content-Length: 5", b"Connection: close"])
def test_refusal_has_its_status_and_body(length: bytes):
    peer = Peer()
    peer.answer()
    for piece in (b"HTTP/1.1 403 No\r\n" + length[:4], length[4:] + b"\r\n\r\nsor", b"ry"):
        peer._take_bytes(piece)
    peer._take_eof()
    (end,) = peer.reports
    assert isinstance(end, TransportEnd)
    assert (end.status, end.body) == (403, b"sorry")
