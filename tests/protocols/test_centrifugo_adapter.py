"""The centrifugo adapter beyond its recordings: resuming without an epoch, leaving first, sharing, and arbitrary input."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import UsageError
from sim.protocols import registry
from sim.protocols.adapter import Credentials, Open, Positions, TransportEnd, Write
from sim.protocols.centrifugo.adapter import CentrifugoConnection
from sim.protocols.events import Answer, Closed, DisconnectReason, Malformed, Position
from sim.protocols.intents import AskHead, Compatibility, Join, Renew, Subscribe
from sim.protocols.shared_decoding import SharedDecoding
from tests.protocols.test_centrifugo_recordings import RECORDINGS, Replay, objects, recorded, written


def joined(has_history: bool = True, shared: SharedDecoding | None = None) -> CentrifugoConnection:
    connection = CentrifugoConnection("ws://host/connection/websocket", has_history, shared or SharedDecoding())
    connection.connect(Credentials("t"))
    (opening,) = connection.actions()
    assert isinstance(opening, Open)
    assert (opening.url, opening.headers) == ("ws://host/connection/websocket", {})
    connection.opened(0, 101, {})
    connection.send(Join("1", Compatibility(), "t"))
    connection.received(0, b'{"id":1,"connect":{"client":"c","ping":25,"pong":true}}', True)
    connection.actions()
    return connection


def subscribed(connection: CentrifugoConnection, after: Position | None, answer: str) -> list[str]:
    connection.send(Subscribe("s", {"ev:a": after}))
    (write,) = connection.actions()
    assert isinstance(write, Write)
    number = json.loads(write.data.split(b"\n")[-1])["id"]
    return [written(event) for event in connection.received(0, f'{{"id":{number},"subscribe":{answer}}}'.encode(), True)]


def test_a_position_without_an_epoch_is_never_resumed_from() -> None:
    """The server would skip the comparison of logs, and say that it recovered."""
    connection = joined()
    connection.send(Subscribe("s", {"ev:a": Position(3)}))
    (write,) = connection.actions()
    assert isinstance(write, Write)
    assert "recover" not in json.loads(write.data)["subscribe"]
    (event,) = connection.received(0, b'{"id":2,"subscribe":{"epoch":"e","offset":9}}', True)
    assert written(event) == "s unknown ev:a at 3@None, no_epoch, goes on at 9@e"


def test_second_subscribe_on_a_connection_leaves_the_channel_first() -> None:
    """Otherwise the answer would be error 105, already subscribed."""
    connection = joined()
    assert subscribed(connection, None, '{"epoch":"e","offset":9}') == ["s resumed ev:a at 9@e, head 9@e"]
    connection.send(Subscribe("s2", {"ev:a": Position(9, "e"), "ev:b": None}))
    (write,) = connection.actions()
    assert isinstance(write, Write)
    left, again, other = objects(write.data.decode())
    assert left["unsubscribe"] == {"channel": "ev:a"}
    assert [each["subscribe"]["channel"] for each in (again, other)] == ["ev:a", "ev:b"]
    assert [each["id"] for each in (left, again, other)] == [3, 4, 5]


def test_channel_without_positions_is_refused_with_the_setting_to_change_unless_it_is_expected() -> None:
    assert subscribed(joined(), None, "{}") == ["s refused no_history ['ev:a'], terminal, open"]
    assert subscribed(joined(has_history=False), None, "{}") == ["s resumed ev:a at nowhere, head nowhere"]


def test_target_file_says_whether_a_namespace_keeps_a_history() -> None:
    protocol = registry.get("centrifugo")
    assert [protocol.able(options).positions for options in ({}, {"history": False})] == [Positions.DENSE, Positions.OPAQUE]
    for wrong in ({"history": "no"}, {"histroy": False}):
        with pytest.raises(UsageError, match="protocol_options"):
            protocol.able(wrong)
        with pytest.raises(UsageError, match="protocol_options"):
            protocol.new_connection(registry.ConnectionOptions("ws://host", wrong))


def test_event_without_an_offset_is_malformed_where_there_should_be_one() -> None:
    push = b'{"push":{"channel":"ev:a","pub":{"data":{"n":1}}}}'
    for has_history, expected in ((True, Malformed("no_offset")), (False, "batch ev:a ['nowhere'] ['{\"n\":1}']")):
        (event,) = joined(has_history).received(0, push, True)
        assert expected in (event, written(event))


def test_equal_frames_are_read_once_for_the_connections_that_know_the_same_log() -> None:
    shared, push = SharedDecoding(), b'{"push":{"channel":"ev:a","pub":{"data":1,"offset":10}}}'
    connections = [joined(shared=shared) for _ in range(3)]
    for connection, epoch in zip(connections, ("e", "e", "f"), strict=True):
        subscribed(connection, None, f'{{"epoch":"{epoch}","offset":9}}')
    first, same, other = [connection.received(0, push, True) for connection in connections]
    assert first is same
    assert [written(event) for event in (*first, *other)] == ["batch ev:a ['10@e'] ['1']", "batch ev:a ['10@f'] ['1']"]


def test_question_for_a_head_is_history_without_events_and_its_refusal_ends_nothing() -> None:
    connection = joined()
    connection.send(AskHead("7", "ev:a"))
    (write,) = connection.actions()
    assert isinstance(write, Write)
    assert json.loads(write.data) == {"id": 2, "history": {"channel": "ev:a", "limit": 0}}
    answer = b'{"id":2,"error":{"code":103,"message":"permission denied"}}'
    assert connection.received(0, answer, True) == (Answer("7", False, "permission_denied"),)


def test_connection_keeps_nothing_of_what_a_peer_sends_or_has_answered() -> None:
    connection, sizes = joined(), []
    for number in range(300):
        assert subscribed(connection, None, '{"epoch":"e","offset":9}')
        connection.send(AskHead("h", "ev:a"))
        for text in (
            f'{{"push":{{"channel":"{number}","pub":{{"data":1,"offset":1,"epoch":"{number}"}}}}}}',
            f'{{"push":{{"channel":"{number}","unsubscribe":{{"code":2500}}}}}}',
            f'{{"id":{number + 10_000},"error":{{"code":109}}}}',
            "{}",
            "x" * number,
            *(f'{{"id":{asked}}}' for asked in list(connection._asked)),
        ):
            connection.received(0, text.encode(), True)
        connection.actions()
        sizes.append(len(pickle.dumps({key: value for key, value in vars(connection).items() if key != "_shared"})))
    assert sizes[-1] <= sizes[0] + 8


def texts() -> list[str]:
    return [line["text"] for path in RECORDINGS for line in recorded(path) if line.get("event") in ("send", "recv")]


@given(st.binary(max_size=300) | st.sampled_from(texts()).map(str.encode), st.booleans(), st.integers(0, 300), st.booleans())
def test_any_input_of_a_peer_is_read_without_an_error(data: bytes, is_text: bool, cut: int, has_history: bool) -> None:
    """Random bytes, recorded frames, and recorded frames that are cut or have a damaged byte."""
    connection = joined(has_history)
    for after in (None, Position(3, "e"), Position("text", "e")):
        connection.send(Subscribe("s", {"ev:a": after}))
        connection.send(Renew("r", "t"))
        for each in (data, data[:cut], data[:cut] + b"\xff" + data[cut + 1 :], data[cut:] + b"\n" + data[:cut]):
            for event in connection.received(0, each, is_text):
                assert isinstance(event, Malformed) or written(event)


@given(st.lists(st.sampled_from(texts()), max_size=6))
def test_recorded_frames_in_any_order_are_read_without_an_error(frames: list[str]) -> None:
    connection = joined()
    for frame in frames:
        connection.send(Subscribe("s", {"ev:a": Position(4, "bcIdJylN"), "ev:b": None}))
        for event in connection.received(0, frame.encode(), True):
            assert written(event)


def test_every_close_code_has_a_consequence_by_its_range() -> None:
    steps = {}
    for code in (3000, 3499, 3500, 3999, 4000, 4499, 4500, 4999, 1000, 1001, 1011):
        connection = joined()
        (event,) = connection.closed(0, TransportEnd(code=code))
        assert isinstance(event, Closed)
        steps[code] = event.next.step.value
    assert [code for code, step in steps.items() if step == "terminal"] == [3500, 3999, 4500, 4999]
    (closed,) = joined().closed(0, TransportEnd(code=3503, reason="force disconnect"))
    assert isinstance(closed, Closed)
    assert closed.reason is DisconnectReason.FORBIDDEN


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (TransportEnd(), " refused network [], retry, closed"),
        (TransportEnd(is_broken=True), " refused protocol [], retry, closed"),
        (TransportEnd(status=404), " refused protocol [], terminal, closed"),
        (TransportEnd(status=502), " refused protocol [], retry, closed"),
        (TransportEnd(status=503, headers={"retry-after": "7"}), " refused rate_limited [], wait, closed"),
    ],
)
def test_other_refused_upgrades(end: TransportEnd, expected: str) -> None:
    assert [written(event) for event in Replay().connection.closed(0, end)] == [expected]
