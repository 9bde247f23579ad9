"""Server-sent events: any pieces give the same events, and an endless one is refused."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import MalformedFrameError
from sim.protocols.sse import MAX_EVENT_BYTES, SseEvent, SseParser

STREAM = (
    '\ufeff: a comment\n\nid: 7\nevent: control\ndata: {"a":1}\n\ndata:one\ndata: two\r\n\r\n'
    "data\n\nretry: 250\nretry: x\nid: bad\0id\nunknown: field\r\rid\ndata: ö\r\r\nevent: lost\n\ndata: unfinished"
).encode()
EVENTS = [
    SseEvent("control", '{"a":1}', "7"),
    SseEvent("message", "one\ntwo", "7"),
    SseEvent("message", "", "7"),
    SseEvent("message", "ö", ""),
]


@given(st.lists(st.integers(0, len(STREAM))))
def test_stream_in_any_pieces_gives_the_same_events(cuts: list[int]):
    parser = SseParser()
    events = [event for start, stop in pairwise([0, *sorted(cuts), len(STREAM)]) for event in parser.feed(STREAM[start:stop])]
    assert events == EVENTS
    assert parser.retry_ms == 250


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_event_is_returned_with_the_last_byte_of_its_end(end: bytes):
    parser = SseParser()
    assert parser.feed(b"data: x" + end) == []
    assert parser.feed(end[:1]) == [SseEvent("message", "x", "")]
    assert parser.feed(end[1:]) == []


@given(st.lists(st.binary(max_size=40)))
def test_no_bytes_raise_anything(pieces: list[bytes]):
    parser = SseParser()
    for piece in pieces:
        parser.feed(piece)


@pytest.mark.parametrize("line", [b"x" * 1000, b"data: " + b"x" * 1000 + b"\n"])
def test_endless_event_is_refused(line: bytes):
    def flood() -> None:
        parser = SseParser()
        for _ in range(MAX_EVENT_BYTES // len(line) + 10):
            parser.feed(line)

    with pytest.raises(MalformedFrameError, match="more than"):
        flood()
