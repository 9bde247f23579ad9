"""The socketio adapter where the recordings are silent: an application's own names, refusals, and any bytes of a peer."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import UsageError
from sim.protocols import registry
from sim.protocols.adapter import Credentials, TransportEnd, Write
from sim.protocols.events import (
    Activity,
    Answer,
    Batch,
    Closed,
    DisconnectReason,
    Event,
    Joined,
    Malformed,
    Message,
    Position,
    Problem,
    Refused,
    Resumed,
    Step,
    StreamEnded,
)
from sim.protocols.intents import AskHead, Compatibility, Join, Leave, Subscribe, Unsubscribe
from sim.protocols.socketio.adapter import SocketIoConnection

OPENING = '0{"sid":"s","upgrades":[],"pingInterval":300,"pingTimeout":200,"maxPayload":1000000}'
RECORDED = [
    line["text"]
    for path in sorted((Path(__file__).parent.parent / "vectors" / "socketio").glob("*.jsonl"))
    for line in map(json.loads, path.read_text().splitlines())
    if "text" in line and line["event"] in ("recv", "send")
]


def connected(session: str | None = None, **options: object) -> SocketIoConnection:
    """A connection whose join was sent."""
    connection = SocketIoConnection("ws://host/socket.io/", options)
    connection.connect(Credentials("t"))
    connection.opened(0, 101, {})
    connection.received(0, OPENING.encode(), True)
    connection.send(Join("1", Compatibility(), "t", session))
    connection.actions()
    return connection


def subscribing() -> SocketIoConnection:
    connection = connected("P O")
    connection.send(Subscribe("2", {"a": None}))
    return connection


def told(connection: SocketIoConnection, text: str) -> Message:
    return connection.received(0, text.encode(), True)


def sent(connection: SocketIoConnection) -> list[str]:
    return [action.data.decode() for action in connection.actions() if isinstance(action, Write)]


def only(message: Message) -> Event:
    (event,) = message
    return event


def test_events_of_a_join_move_the_session_that_its_answer_names() -> None:
    connection = connected("P O")
    (batch,) = told(connection, '42["event",{"stream":"a"},"O2"]')
    assert isinstance(batch, Batch)
    assert (batch.session, batch.items[0].position) == ("P O2", Position("O2"))
    assert only(told(connection, '40{"sid":"s","pid":"P"}')) == Joined("1", "P O2", resumed=True, ping_s=0.5)


def test_another_session_in_the_answer_forgets_the_offset() -> None:
    connection = connected("P O")
    assert only(told(connection, '40{"sid":"s","pid":"Q"}')) == Joined("1", "Q ", ping_s=0.5)
    connection.send(Join("2", Compatibility(), "t", "Q "))  # as the official client does: no server resumes it
    assert sent(connection) == ['40{"token":"t","pid":"Q"}']


def test_names_and_refusals_of_an_application_are_in_the_target_file() -> None:
    connection = connected(
        namespace="/chat", event="said", stream_key="room", subscribe="enter", unsubscribe="exit", terminal_codes=("banned",)
    )
    told(connection, '40/chat,{"sid":"s","pid":"P"}')
    connection.send(Subscribe("2", {"a": None, "b": None}))
    connection.send(Unsubscribe("3", ("a",)))
    connection.send(Leave("4"))
    assert sent(connection) == ['42/chat,1["enter","a"]', '42/chat,2["enter","b"]', '42/chat,3["exit","a"]', "41/chat,"]
    assert told(connection, '43/chat,2[{"ok":true}]') == (Resumed("2", "b"),)
    refused = only(told(connection, '43/chat,1[{"ok":false,"code":"banned"}]'))
    assert isinstance(refused, Refused)
    assert (refused.ref, refused.streams, refused.next.step) == ("2", ("a",), Step.TERMINAL)
    assert told(connection, "43/chat,3[]") == (Answer("3", True),)
    batch = only(told(connection, '42/chat,["said",{"room":"b"},"O"]'))
    assert isinstance(batch, Batch)
    assert batch.stream == "b"
    assert told(connection, '42["said",{"room":"b"},"O"]') == (Activity(),), "another namespace"


def test_event_of_no_stream_moves_the_session_as_in_the_official_client() -> None:
    connection = connected("P O")
    assert told(connection, '42["hello",1,"O2"]') == (Batch("", (), session="P O2"),)
    assert told(connection, '42["hello",1]') == (Activity(),)


def test_text_at_the_end_is_an_argument_where_the_server_has_no_recovery() -> None:
    connection = connected()
    told(connection, '40{"sid":"s"}')
    batch = only(told(connection, '42["event",{"stream":"a"},"hello"]'))
    assert isinstance(batch, Batch)
    assert (batch.session, batch.items[0].position) == (None, None)


def test_equal_bytes_mean_another_stream_where_another_key_names_it() -> None:
    text = '42["event",{"stream":"a","room":"b"}]'
    found = []
    for key in ("stream", "room", "stream"):
        batch = only(told(connected(stream_key=key), text))
        assert isinstance(batch, Batch)
        found.append(batch.stream)
    assert found == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("data", "code", "step", "reason"),
    [
        ('{"message":"no","data":{"code":401}}', "401", Step.MINT, DisconnectReason.UNAUTHORIZED),
        ('{"message":"no","data":{"code":"forbidden"}}', "forbidden", Step.TERMINAL, DisconnectReason.FORBIDDEN),
        ('{"message":"busy"}', "busy", Step.RETRY, DisconnectReason.UNKNOWN),
        ('{"message":"Invalid namespace"}', "Invalid namespace", Step.TERMINAL, DisconnectReason.FORBIDDEN),
        ('{"message":"odd","data":{"code":[1]}}', "odd", Step.RETRY, DisconnectReason.UNKNOWN),
        ("", "", Step.RETRY, DisconnectReason.UNKNOWN),
    ],
)
def test_refused_join_says_what_comes_next(data: str, code: str, step: Step, reason: DisconnectReason) -> None:
    refused = only(told(connected(), f"44{data}"))
    assert isinstance(refused, Refused)
    assert (refused.ref, refused.code, refused.next.step, refused.reason) == ("1", code, step, reason)
    assert refused.is_open, "another join may follow on this connection"


@pytest.mark.parametrize(
    ("end", "code", "step"),
    [
        (TransportEnd(), "network", Step.RETRY),
        (TransportEnd(is_broken=True), "protocol", Step.RETRY),
        (TransportEnd(status=503), "protocol", Step.RETRY),
        (TransportEnd(status=400), "status_400", Step.TERMINAL),
    ],
)
def test_refused_upgrade_says_what_comes_next(end: TransportEnd, code: str, step: Step) -> None:
    connection = SocketIoConnection("ws://host/socket.io/", {})
    connection.connect(Credentials("t"))
    refused = only(connection.closed(0, end))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.next.step, refused.is_open) == (code, step, False)


def test_unknown_option_is_one_sentence_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"protocol_options.*'room'.*stream_key"):
        registry.get("socketio").new_connection(registry.ConnectionOptions("ws://host", {"room": "x"}))


def test_intent_that_the_protocol_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="AskHead"):
        connected().send(AskHead("1", "a"))


GOOD = '42["event",{"stream":"a"},"O2"]'
# Except "4" and "42", which no server sends, the official client closes after these packets, too.
MALFORMED = ["", "9", "4", "4x", "0", "42", "42{}", "42[]", "42[null]", '42["event"', "40[", "431{}", "44["]
OTHER_FORMS = ['42["event"]', '42["event",{}]', '42["event",1]', '42["event",{"stream":1},"O"]', '42["event",1e999]']


def assert_silent(connection: SocketIoConnection) -> None:
    """Nothing more comes from a connection that a malformed packet ended, except its only end."""
    connection.actions()
    for text in (GOOD, "2", "40{}", "44{}", "41", "43[]", "x"):
        assert told(connection, text) == ()
    assert connection.received(0, b"x", False) == ()
    assert connection.actions() == [], "it answers no ping"
    assert isinstance(only(connection.closed(0, TransportEnd(1005))), Closed)


def assert_ends(message: Message) -> None:
    malformed, problem = message
    assert isinstance(malformed, Malformed)
    assert isinstance(problem, Problem)
    assert (problem.code, problem.next.step, problem.reason) == (malformed.code, Step.RETRY, DisconnectReason.NETWORK)


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_packet_is_named_and_ends_the_connection(text: str) -> None:
    connection = subscribing()
    assert_ends(told(connection, text))
    assert_silent(connection)


@pytest.mark.parametrize("text", OTHER_FORMS)
def test_valid_packet_in_another_form_than_the_applications_is_named_and_ends_nothing(text: str) -> None:
    """The official client's decoder takes all of these; to close would be to reconnect after each such event."""
    connection = connected("P O")
    assert told(connection, text) == (Malformed("event_without_stream"),)
    assert isinstance(only(told(connection, GOOD)), Batch)


def test_name_of_an_event_may_be_a_number() -> None:
    assert told(connected(), '42[1,{"stream":"a"}]') == (Activity(),)
    assert isinstance(only(told(connected(event="1"), '42[1,{"stream":"a"}]')), Batch)


def test_connection_keeps_nothing_of_what_a_peer_sends_or_has_answered() -> None:
    connection = connected()
    sizes = []
    for number in range(1, 300):
        connection.send(Subscribe("2", {"a": None}))
        other_form = f'42["event","{"x" * number}",1]'
        for text in (f"43{number}[]", f'43{number + 5000}["x"]', '42["event",{"stream":"a"},"O"]', "2", other_form, "41"):
            assert not any(isinstance(event, Problem) for event in told(connection, text))
        connection.actions()
        sizes.append(len(pickle.dumps(vars(connection))))
    assert sizes[-1] <= sizes[0] + 8


def test_ended_connection_keeps_nothing_of_what_a_peer_sends() -> None:
    connection = connected()
    assert_ends(told(connection, "x" * 1000))
    before = pickle.dumps(vars(connection))
    for number in range(1, 300):
        for text in ("x" * number, f'42["event",{{"stream":"a"}},"{"O" * number}"]', f'40{{"pid":"{"P" * number}"}}', "2"):
            told(connection, text)
    assert pickle.dumps(vars(connection)) == before


@given(st.text(max_size=100) | st.sampled_from(RECORDED), st.booleans(), st.integers(0, 120), st.binary(max_size=3))
def test_any_input_of_a_peer_is_read_without_an_error(text: str, is_text: bool, cut: int, noise: bytes) -> None:
    """Random text, recorded packets, and recorded packets that are cut or have damaged bytes, in any order.

    A malformed packet ends the connection; the rest is read on the next one.
    """
    data = text.encode("utf-8", "surrogatepass")
    connection = subscribing()
    for each in (data, data[:cut], data[:cut] + noise + data[cut + 1 :], data[cut:] + data[:cut]):
        message = connection.received(0, each, is_text)
        if any(isinstance(event, Problem) for event in message):
            assert_ends(message)
            assert_silent(connection)
            connection = subscribing()
        else:
            assert isinstance(only(message), Activity | Answer | Batch | Joined | Malformed | Refused | Resumed | StreamEnded)
    assert isinstance(only(connection.closed(0, TransportEnd(1005))), Closed)


@given(st.binary(max_size=200), st.sampled_from(["40", "42", "43", "44", "0", "45", "40/a,"]))
def test_any_bytes_after_a_packets_digits_are_read_without_an_error(rest: bytes, head: str) -> None:
    connection = connected()
    message = connection.received(0, head.encode() + rest, True)
    if len(message) == 1:
        assert not isinstance(message[0], Problem)
    else:
        assert_ends(message)
        assert_silent(connection)
