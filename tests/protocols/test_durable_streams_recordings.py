"""The durable_streams adapter on recordings of the reference server, against a reader that knows only the recorded texts."""

import json
import pickle
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import UsageError
from sim.protocols.adapter import MAX_HELD_BYTES, Close, Credentials, Open, Transport, TransportEnd
from sim.protocols.durable_streams.adapter import DurableStreamsConnection
from sim.protocols.events import (
    Activity,
    Batch,
    CaughtUp,
    Event,
    Joined,
    Malformed,
    Message,
    Opened,
    Position,
    PositionUnknown,
    Refused,
    Resumed,
    Step,
    StreamEnded,
)
from sim.protocols.intents import AskHead, Compatibility, Join, Leave, Subscribe, Unsubscribe

FOLDER = Path(__file__).parent.parent / "vectors" / "durable_streams"
RECORDINGS = sorted(FOLDER.glob("*.jsonl"))
CLIENTS_OWN = re.compile(r"(live=long-poll&)?offset=(-1|\d+_\d+)(&cursor=\d+)?")  # not malformed, and without `now`


@cache
def recorded(path: Path) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in path.read_text().splitlines())


def query_of(path: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(path).query, keep_blank_values=True))


def written(event: Event) -> str:
    match event:
        case Batch(stream, items, after):
            assert after is not None
            return f"batch {stream} {[json.loads(bytes(item.payload)) for item in items]} after {after.offset}"
        case PositionUnknown(stream, asked, head):
            assert asked is not None
            assert head is not None
            return f"unknown {stream} {asked.offset}, the end is {head.offset}"
        case Resumed(_, stream):
            return f"resumed {stream}"
        case Refused(_, code, _, following):
            assert event.is_open
            return f"refused {event.streams} {code}, {following.step}"
        case StreamEnded(stream, code, following):
            return f"ended {stream} {code}, {following.step}"
        case CaughtUp(stream):
            return f"caught up {stream}"
        case Activity(stream):
            return f"alive {stream}"
    return str(event)


# --- the reader -----------------------------------------------------------------------------------------

STEPS = {404: "refetch", 410: "terminal", 400: "terminal", 405: "terminal"}


def stated(stream: str, asked: str, messages: list[Any], following: str, up_to_date: bool) -> list[str]:
    """What an answer or a control event says, with the messages before it."""
    if asked != "-1" and following < asked:
        return [f"unknown {stream} {asked}, the end is {following}"]
    return [f"batch {stream} {messages} after {following}", *([f"caught up {stream}"] if up_to_date else [])]


def read_answer(line: dict[str, Any], stream: str, asked: str, is_poll: bool) -> list[str]:
    if line["status"] >= 400:
        return [f"refused {(stream,)} status_{line['status']}, {STEPS[line['status']]}"]
    headers = line["answer_headers"]
    following, messages = headers["stream-next-offset"], json.loads(line["answer"] or "[]")
    said = stated(stream, asked, messages, following, headers.get("stream-up-to-date") == "true")
    if headers.get("stream-closed") == "true":
        return [f"resumed {stream}", *said, f"ended {stream} stream_closed, terminal"]
    waits = is_poll and following == asked
    return [f"resumed {stream}", *said, *([f"ended {stream} poll, resubscribe"] * waits)]


class SseReader:
    """Reads along the body of one SSE request."""

    def __init__(self, stream: str, asked: str) -> None:
        self.stream, self.asked = stream, asked
        self.text, self.messages, self.is_over = "", [], False

    def read(self, piece: str) -> list[str]:
        if self.is_over:  # the client has dropped the request
            return []
        self.text += piece
        *blocks, self.text = self.text.split("\n\n")
        said: list[str] = []
        for block in blocks:
            kind, data = block.split("\n")
            value = json.loads(data.removeprefix("data:"))
            if kind == "event: data":
                self.messages += value
            else:
                messages, self.messages = self.messages, []
                is_end = value.get("upToDate") or value.get("streamClosed", False)
                said += stated(self.stream, self.asked, messages, value["streamNextOffset"], is_end)
                self.asked, self.is_over = value["streamNextOffset"], said[-1].startswith("unknown")
                said += [f"ended {self.stream} stream_closed, terminal"] if value.get("streamClosed") else []
        return said or [f"alive {self.stream}"]


# --- replaying a recording ------------------------------------------------------------------------------


def connection_of(live: str) -> DurableStreamsConnection:
    connection = DurableStreamsConnection("ws://host/v1", {"live": live})
    assert connection.connect(Credentials("t")) == (Opened(),)
    assert connection.send(Join("1", Compatibility())) == (Joined("1", ping_s=30.0),)
    return connection


def opened(connection: DurableStreamsConnection) -> Open:
    (action,) = [action for action in connection.actions() if isinstance(action, Open)]
    return action


class Asked:
    """One recorded read: the adapter sends the same request, and takes its answer."""

    def __init__(self, path: str) -> None:
        query = query_of(path)
        self.stream, self.offset = unquote(urlsplit(path).path.removeprefix("/v1/")), query["offset"]
        self.is_poll = query.get("live") == "long-poll"
        self.connection = connection_of("sse" if query.get("live") == "sse" else "long-poll")
        position = None if self.offset == "-1" else Position(self.offset)
        self.connection.send(Subscribe("2", {self.stream: position}))
        if self.is_poll:
            self._reach_the_end(query.get("cursor", ""))
        self.sent = opened(self.connection)
        assert query_of(self.sent.url) == query, "the same request as the recorded one"
        assert urlsplit(self.sent.url).path == urlsplit(path).path

    def _reach_the_end(self, cursor: str) -> None:
        """A long poll is sent from the end of a stream only, so the client reaches it first."""
        first = opened(self.connection)
        ended = {"stream-next-offset": self.offset, "stream-up-to-date": "true"} | ({"stream-cursor": cursor} if cursor else {})
        self.connection.opened(first.id, 200, ended)
        self.connection.received(first.id, b"[]", True)
        if not cursor:  # a session that asks again, which a client without a cursor must have done
            self.connection.actions()
            self.connection.send(Subscribe("3", {self.stream: Position(self.offset)}))

    def answer(self, line: dict[str, Any]) -> list[str]:
        headers, status = line["answer_headers"], line["status"]
        if status >= 400:
            end = TransportEnd(status=status, headers=headers, body=line["answer"].encode())
            return [written(event) for event in self.connection.closed(self.sent.id, end)]
        events = self.connection.opened(self.sent.id, status, headers)
        events += self.connection.received(self.sent.id, line["answer"].encode(), True)
        assert self.connection.closed(self.sent.id, TransportEnd(status=status, headers=headers)) == ()
        return [written(event) for event in events]


def reads(path: Path) -> Iterator[dict[str, Any]]:
    """The recorded whole answers to requests that a client of ours sends."""
    for line in recorded(path):
        is_read = line.get("event") == "http" and line["method"] == "GET" and "headers" not in line
        if is_read and CLIENTS_OWN.fullmatch(urlsplit(line["path"]).query):
            yield line


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_each_recorded_answer_gives_the_events_that_a_reader_writes_down(path: Path) -> None:
    for line in reads(path):
        asked = Asked(line["path"])
        expected = read_answer(line, asked.stream, asked.offset, asked.is_poll)
        if asked.is_poll and query_of(line["path"]).get("cursor"):
            expected = [each.replace("resumed", "alive") for each in expected]  # the request follows by itself
        assert asked.answer(line) == expected, line


def test_recordings_hold_every_kind_of_answer() -> None:
    lines = [line for path in RECORDINGS for line in reads(path)]
    assert len(lines) >= 20
    assert {200, 204, 404, 410} <= {line["status"] for line in lines}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_each_recorded_sse_body_gives_the_events_that_a_reader_writes_down(path: Path) -> None:
    open_: dict[int, tuple[Asked, SseReader]] = {}
    line_before: dict[str, Any] = {}
    for line in recorded(path):
        if line.get("event") == "sse_open":
            asked = Asked(line["path"])
            assert asked.sent.transport is Transport.SSE
            (resumed,) = asked.connection.opened(asked.sent.id, line["status"], line["answer_headers"])
            assert written(resumed) == f"resumed {asked.stream}"
            open_[line["conn"]] = asked, SseReader(asked.stream, asked.offset)
        elif line.get("event") == "recv" and line["conn"] in open_:
            asked, reader = open_[line["conn"]]
            expected = reader.read(line["text"])
            events = asked.connection.received(asked.sent.id, line["text"].encode(), True)
            assert [written(event) for event in events] == expected, line
        elif line.get("event") == "sse_close":
            asked, _ = open_[line["conn"]]
            in_order = line["reason"] == "end of the chunked body"
            events = asked.connection.closed(asked.sent.id, TransportEnd(status=200) if in_order else TransportEnd())
            expected = [f"ended {asked.stream} {'body_ended' if in_order else 'network'}, retry"]
            assert [written(event) for event in events] == ([] if "streamClosed" in line_before["text"] else expected)
        line_before = line if "text" in line else line_before


def test_data_before_its_control_event_is_not_passed_on() -> None:
    """Recorded as D3: the body was cut after two messages. The client reads both again, from the position before."""
    lines = recorded(FOLDER / "defects.jsonl")
    bodies = [line["text"] for line in lines if line.get("event") == "recv" and "\r\n" in line["text"]]
    (request,) = {line["text"].split()[1] for line in lines if line.get("event") == "send"}
    assert len(bodies) == 2
    for body in bodies:
        text = "".join(re.findall(r"[0-9a-f]+\r\n(.*?)\r\n", body, re.DOTALL))
        assert text.count("event: data") >= 2
        asked = Asked(request)
        asked.connection.opened(asked.sent.id, 200, {})
        assert asked.connection.received(asked.sent.id, text.encode(), True) == (Activity("u"),)
        (ended,) = asked.connection.closed(asked.sent.id, TransportEnd())
        assert written(ended) == "ended u network, retry"


# --- what is not recorded -------------------------------------------------------------------------------


def test_catch_up_in_parts_is_followed_to_its_end_and_then_polled() -> None:
    connection = connection_of("long-poll")
    connection.send(Subscribe("2", {"a": None}))
    urls, events = [], []
    for offset, is_end in (("01", False), ("02", True), ("03", True)):
        request = opened(connection)
        urls.append(urlsplit(request.url).query)
        headers = {"stream-next-offset": offset, "stream-cursor": "7"} | ({"stream-up-to-date": "true"} if is_end else {})
        events += connection.opened(request.id, 200, headers)
        events += connection.received(request.id, b'[{"n":1}]', True)
        assert connection.closed(request.id, TransportEnd(status=200)) == ()
    assert urls == ["offset=-1", "offset=01", "offset=02&live=long-poll&cursor=7"]
    assert [type(event).__name__ for event in events] == [
        "Resumed",
        *["Batch", "Activity", "Batch", "CaughtUp"],
        "Activity",
        *["Batch", "CaughtUp"],
    ]
    assert query_of(opened(connection).url) == {"offset": "03", "live": "long-poll", "cursor": "7"}


def test_part_that_does_not_move_is_not_asked_again_at_once() -> None:
    connection = connection_of("long-poll")
    connection.send(Subscribe("2", {"a": Position("05")}))
    request = opened(connection)
    connection.opened(request.id, 200, {"stream-next-offset": "05"})
    assert written(connection.received(request.id, b"[]", True)[-1]) == "ended a poll, resubscribe"
    assert connection.actions() == []


@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_closed_stream_ends_for_good_after_its_last_messages(live: str) -> None:
    connection = connection_of(live)
    connection.send(Subscribe("2", {"a": None}))
    request = opened(connection)
    connection.opened(request.id, 200, {"stream-next-offset": "09", "stream-up-to-date": "true", "stream-closed": "true"})
    body = b'event: data\ndata:[1]\n\nevent: control\ndata:{"streamNextOffset":"09","upToDate":true,"streamClosed":true}\n\n'
    events = connection.received(request.id, body if live == "sse" else b"[1]", True)
    assert [written(event) for event in events] == ["batch a [1] after 09", "caught up a", "ended a stream_closed, terminal"]
    assert connection.closed(request.id, TransportEnd(status=200)) == ()


@pytest.mark.parametrize(
    ("status", "headers", "step", "wait_ms"),
    [
        (401, {}, Step.MINT, None),
        (403, {}, Step.MINT, None),
        (429, {"retry-after": "3"}, Step.WAIT, 3000.0),
        (503, {"retry-after": "soon"}, Step.RETRY, None),
        (500, {}, Step.RETRY, None),
    ],
)
def test_answers_of_a_proxy_say_what_comes_next(
    status: int, headers: dict[str, str], step: Step, wait_ms: float | None
) -> None:
    connection = connection_of("sse")
    connection.send(Subscribe("2", {"a": None}))
    (refused,) = connection.closed(opened(connection).id, TransportEnd(status=status, headers=headers))
    assert isinstance(refused, Refused)
    assert (refused.next.step, refused.next.wait_ms) == (step, wait_ms)


def test_messages_without_a_control_event_are_held_up_to_a_limit() -> None:
    connection = connection_of("sse")
    connection.send(Subscribe("2", {"a": None}))
    request = opened(connection)
    connection.opened(request.id, 200, {})
    message = b'event: data\ndata:["' + b"x" * 500_000 + b'"]\n\n'
    before = MAX_HELD_BYTES // 500_004
    for _ in range(before):
        assert connection.received(request.id, message, True) == (Activity("a"),)
    events = connection.received(request.id, message, True)
    assert [written(event) for event in events] == ["ended a held_too_much, retry"]
    assert connection.actions() == [Close(request.id)]
    assert connection.received(request.id, message, True) == ()


def test_streams_are_read_and_stopped_one_by_one() -> None:
    connection = connection_of("sse")
    connection.send(Subscribe("2", {"a b": None, "c/d": Position("05")}))
    first, second = [action for action in connection.actions() if isinstance(action, Open)]
    assert first.url == "http://host/v1/a%20b?offset=-1&live=sse"
    assert second.url == "http://host/v1/c/d?offset=05&live=sse"
    connection.send(Subscribe("3", {"a b": None}))
    assert [type(action) for action in connection.actions()] == [Close, Open]
    connection.send(Unsubscribe("4", ("c/d",)))
    assert connection.actions() == [Close(second.id)]
    connection.send(Leave("5"))
    assert [type(action) for action in connection.actions()] == [Close]
    with pytest.raises(TypeError):
        connection.send(AskHead("6", "c/d"))


def test_token_is_sent_only_if_the_target_says_so() -> None:
    for options, headers in (({}, {}), ({"bearer": True}, {"Authorization": "Bearer t"})):
        connection = DurableStreamsConnection("wss://host/v1", options)
        connection.connect(Credentials("t"))
        connection.send(Subscribe("2", {"a": None}))
        request = opened(connection)
        assert request.headers == headers
        assert request.url.startswith("https://host/v1/a?")


@pytest.mark.parametrize("options", [{"live": "websocket"}, {"live_": "sse"}, {"long_poll_timeout_s": 0}])
def test_unknown_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="protocol_options"):
        DurableStreamsConnection("ws://host/v1", options)


def test_connection_keeps_nothing_of_what_a_peer_sends() -> None:
    connection = connection_of("sse")
    sizes = []
    for number in range(300):
        connection.send(Subscribe("2", {"a": Position("05")}))
        request = opened(connection)
        connection.opened(request.id, 200, {})
        connection.received(request.id, f'event: data\ndata:[{{"n":{number % 7}}}]\n\n'.encode(), True)
        connection.received(request.id, b'event: control\ndata:{"streamNextOffset":"06"}\n\n: here\n\n', True)
        connection.closed(request.id, TransportEnd())
        sizes.append(len(pickle.dumps({key: value for key, value in vars(connection).items() if key != "_options"})))
    assert sizes[-1] <= sizes[0] + 8


BODIES = [line["text"] for path in RECORDINGS for line in recorded(path) if line.get("event") == "recv"]
ANSWERS = [line["answer"] for path in RECORDINGS for line in recorded(path) if line.get("event") == "http"]


@given(
    st.binary(max_size=300)
    | st.sampled_from(BODIES + ANSWERS).map(str.encode)
    | st.permutations(BODIES[:12]).map("".join).map(str.encode),
    st.sampled_from(["sse", "long-poll"]),
    st.integers(0, 300),
    st.dictionaries(st.sampled_from(["stream-next-offset", "stream-up-to-date", "stream-closed"]), st.text(max_size=5)),
)
def test_any_input_of_a_peer_is_read_without_an_error(data: bytes, live: str, cut: int, headers: dict[str, str]) -> None:
    """Random bytes, recorded bodies, in any order, cut, or with a damaged byte."""
    connection = connection_of(live)
    for each in (data, data[:cut], data[:cut] + b"\xff" + data[cut + 1 :]):
        connection.actions()
        connection.send(Subscribe("2", {"a": Position("05")}))
        request = opened(connection)
        events: Message = connection.opened(request.id, 200, headers)
        events += connection.received(request.id, each[: cut // 2], True)
        events += connection.received(request.id, each[cut // 2 :], True)
        events += connection.closed(request.id, TransportEnd(status=200))
        for event in events:
            assert isinstance(event, Malformed) or written(event)
