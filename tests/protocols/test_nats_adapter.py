"""The nats_jetstream adapter on scripted bytes: what is held, gaps, flow control, endings, and any input of a peer."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import UsageError
from sim.protocols.adapter import MAX_HELD_BYTES, Credentials, TransportEnd, Write
from sim.protocols.events import (
    Activity,
    Batch,
    CaughtUp,
    Closed,
    DisconnectReason,
    Event,
    Head,
    Joined,
    Malformed,
    Message,
    Next,
    Position,
    PositionUnknown,
    Problem,
    Refused,
    Resumed,
    Step,
    StreamEnded,
)
from sim.protocols.intents import AskHead, Beat, Compatibility, Join, Leave, Read, Subscribe, Unsubscribe
from sim.protocols.nats_jetstream.adapter import JetStreamConnection
from sim.protocols.nats_jetstream.codec import Place, place_of
from sim.protocols.registry import ConnectionOptions
from tests.protocols.test_nats_recordings import RECORDINGS, recorded

INFO = b'INFO {"server_id":"S","client_id":7} \r\n'
OTHER_EPOCH, EPOCH = "2026-01-01T00:00:00Z", "2026-11-30T08:57:52Z"


def connected(**options: object) -> JetStreamConnection:
    """A joined connection."""
    connection = JetStreamConnection(ConnectionOptions("ws://host", options))
    connection.connect(Credentials("secret"))
    connection.opened(0, 101, {})
    connection.send(Join("j", Compatibility()))
    connection.received(0, INFO, False)
    assert connection.received(0, b"PONG\r\n", False) == (Joined("j", ping_s=5.0),)
    sent(connection)
    return connection


def sent(connection: JetStreamConnection) -> list[str]:
    data = b"".join(action.data for action in connection.actions() if isinstance(action, Write))
    return [line for line in data.decode().split("\r\n") if line.startswith(("PUB", "HPUB", "SUB", "UNSUB", "PONG", "CONNECT"))]


def answer(connection: JetStreamConnection, number: int, value: object) -> Message:
    payload = json.dumps(value)
    return connection.received(0, f"MSG _INBOX.S.7.{number} 1 {len(payload)}\r\n{payload}\r\n".encode(), False)


def created(start: int = 0, pending: int = 0, name: str = "c") -> object:
    return {"name": name, "delivered": {"consumer_seq": 0, "stream_seq": start}, "num_pending": pending}


def info(last: int, epoch: str = EPOCH) -> object:
    return {"created": epoch, "state": {"first_seq": 1, "last_seq": last}}


def unknown(asked: Position, reason: str) -> PositionUnknown:
    return PositionUnknown("s", asked, Position(9, EPOCH), reason, ref="r")


def event(seq: int, number: int, pending: int = 0, sid: int = 2, payload: str = "{}") -> bytes:
    return f"MSG s {sid} $JS.ACK.s.c.1.{seq}.{number}.1795994348275817544.{pending} {len(payload)}\r\n{payload}\r\n".encode()


def beat(last: int, sid: int = 2, more: str = "") -> bytes:
    header = f"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: {last}\r\nNats-Last-Stream: 9\r\n{more}\r\n"
    return f"HMSG d {sid} {len(header)} {len(header)}\r\n{header}\r\n".encode()


def live(last: int = 0, **options: object) -> JetStreamConnection:
    """A connection with one subscription to `s` that is caught up at `last`."""
    connection = connected(**options)
    connection.send(Subscribe("r", {"s": None}))
    answer(connection, 1, created(last))
    answer(connection, 2, info(last))
    sent(connection)
    return connection


def places(message: Message) -> list[int]:
    return [item.position.offset for each in message if isinstance(each, Batch) for item in each.items if item.position]  # type: ignore[misc]


def test_what_comes_before_the_log_is_known_is_held_and_then_delivered_after_the_answer() -> None:
    connection = connected()
    connection.send(Subscribe("r", {"s": Position(3, EPOCH)}))
    assert connection.received(0, event(4, 1, 1), False) == (Activity("s"),)
    assert answer(connection, 1, created(3, 2)) == (Activity("s"),)
    assert connection.received(0, event(5, 2, 0), False) == (Activity("s"),)
    message = answer(connection, 2, info(5))
    assert message[0] == Resumed("r", "s", Position(3, EPOCH), Position(5, EPOCH))
    assert places(message) == [4, 5]
    assert message[-1] == CaughtUp("s")


def test_more_than_can_be_held_ends_the_connection() -> None:
    connection = connected()
    connection.send(Subscribe("r", {"s": None}))
    payload = "x" * 1_000_000
    for number in range(1, MAX_HELD_BYTES // len(payload) + 1):
        assert connection.received(0, event(number, number, 9, payload=payload), False) == (Activity("s"),)
    (problem,) = connection.received(0, event(99, 99, 9, payload=payload), False)
    assert isinstance(problem, Problem)
    assert (problem.code, problem.next.step) == ("held_too_much", Step.RETRY)
    assert connection.received(0, event(100, 100, 9), False) == (Activity(),)


def test_flow_control_is_answered_only_when_nothing_needs_to_be_held() -> None:
    header = "NATS/1.0 100 FlowControl Request\r\n\r\n"
    request = f"HMSG d 2 $JS.FC.s.c.x {len(header)} {len(header)}\r\n{header}\r\n".encode()
    connection = connected()
    connection.send(Subscribe("r", {"s": None}))
    sent(connection)
    connection.received(0, request, False)
    assert sent(connection) == []
    answer(connection, 1, created())
    answer(connection, 2, info(0))
    assert sent(connection)[-1] == "PUB $JS.FC.s.c.x 0"
    connection.received(0, request, False)
    connection.received(0, beat(0, more="Nats-Consumer-Stalled: $JS.FC.s.c.y\r\n"), False)
    assert sent(connection) == ["PUB $JS.FC.s.c.x 0", "PUB $JS.FC.s.c.y 0"]


@pytest.mark.parametrize(
    ("asked", "told", "expected"),
    [
        (
            Position(3, OTHER_EPOCH),
            info(9),
            PositionUnknown("s", Position(3, OTHER_EPOCH), Position(9, EPOCH), "other_log", ref="r"),
        ),
        (Position(12, EPOCH), info(9), PositionUnknown("s", Position(12, EPOCH), Position(9, EPOCH), "above_head", ref="r")),
        (Position(3, EPOCH), info(9), Resumed("r", "s", Position(7, EPOCH), Position(9, EPOCH))),
        (Position(3), info(9), Resumed("r", "s", Position(7, EPOCH), Position(9, EPOCH))),
    ],
)
def test_position_is_compared_with_the_log(asked: Position, told: object, expected: Event) -> None:
    connection = connected()
    connection.send(Subscribe("r", {"s": asked}))
    answer(connection, 1, created(7, 2))
    sent(connection)
    assert answer(connection, 2, told) == (expected,)
    gone = isinstance(expected, PositionUnknown)
    assert sent(connection) == (["PUB $JS.API.CONSUMER.DELETE.s.c _INBOX.S.7.3 0", "UNSUB 2"] if gone else [])
    assert places(connection.received(0, event(8, 1, 1), False)) == ([] if gone else [8])


def test_hole_in_the_consumers_numbers_is_a_gap_but_one_in_the_positions_is_not() -> None:
    connection = live()
    for data, is_gap in ((event(1, 1), False), (event(7, 2), False), (event(8, 4), True), (event(9, 5), False)):
        (batch,) = connection.received(0, data, False)
        assert isinstance(batch, Batch)
        assert batch.is_after_gap is is_gap


def test_heartbeat_shows_that_the_last_message_is_missing() -> None:
    connection = live()
    connection.received(0, event(1, 1), False)
    assert connection.received(0, beat(1), False) == (Activity("s"),)
    assert connection.received(0, beat(2), False) == (Batch("s", (), is_after_gap=True),)
    assert connection.received(0, beat(2), False) == (Activity("s"),)


def test_heartbeat_ends_a_replay_whose_events_are_no_longer_retained() -> None:
    connection = connected()
    connection.send(Subscribe("r", {"s": None}))
    answer(connection, 1, created(0, 5))
    assert CaughtUp("s") not in answer(connection, 2, info(5))
    assert connection.received(0, beat(0, more="Nats-Consumer-Stalled: $JS.FC.s\r\n"), False) == (Activity("s"),)
    assert connection.received(0, beat(0), False) == (CaughtUp("s"),)


def test_same_live_event_is_one_object_for_all_clients() -> None:
    first, second = live(), live()
    assert first.received(0, event(5, 1), False) is second.received(0, event(5, 1), False)
    other = connected()
    other.send(Subscribe("r", {"s": None}))
    answer(other, 1, created())
    answer(other, 2, info(0, OTHER_EPOCH))
    assert other.received(0, event(5, 1), False) != first.received(0, event(5, 2), False)


def test_new_subscription_replaces_the_old_one_whose_late_messages_are_ignored() -> None:
    connection = live()
    connection.send(Subscribe("again", {"s": Position(4, EPOCH)}))
    lines = sent(connection)
    assert lines[:3] == ["PUB $JS.API.CONSUMER.DELETE.s.c _INBOX.S.7.3 0", "UNSUB 2", "SUB _INBOX.S.7.d.3 3"]
    assert connection.received(0, event(5, 1), False) == (Activity(),)
    answer(connection, 4, created(4, name="d"))
    assert places(answer(connection, 5, info(4)) + connection.received(0, event(5, 1, sid=3), False)) == [5]


def test_subject_of_a_shared_stream_is_filtered() -> None:
    connection = connected(stream="all")
    connection.send(Subscribe("r", {"all.one": Position(4, EPOCH)}))
    (create,) = [action.data for action in connection.actions() if isinstance(action, Write)]
    assert b"PUB $JS.API.CONSUMER.CREATE.all _INBOX" in create
    config = json.loads(create.split(b"\r\n")[2])["config"]
    assert (config["filter_subject"], config["opt_start_seq"]) == ("all.one", 5)


def test_consumer_that_is_gone_is_noticed_when_the_head_is_asked() -> None:
    connection = live(4)
    connection.send(AskHead("h", "s"))
    assert len(sent(connection)) == 2
    assert answer(connection, 3, info(6)) == (Head("s", Position(6, EPOCH)),)
    gone = {"error": {"code": 404, "err_code": 10014, "description": "consumer not found"}}
    assert answer(connection, 4, gone) == (StreamEnded("s", "consumer_not_found", Next(Step.RESUBSCRIBE)),)
    assert connection.received(0, event(5, 1), False) == (Activity(),)


def test_refused_stream_is_named_and_given_up() -> None:
    connection = connected()
    connection.send(Subscribe("r", {"s": None}))
    (refused,) = answer(connection, 1, {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}})
    assert refused == Refused("r", "stream_not_found", DisconnectReason.STREAM_CLOSED, streams=("s",))
    connection.send(Subscribe("r2", {"s": None}))
    header = "NATS/1.0 503\r\n\r\n"
    (refused,) = connection.received(0, f"HMSG _INBOX.S.7.2 1 {len(header)} {len(header)}\r\n{header}\r\n".encode(), False)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.next.step) == ("no_responders", Step.RETRY)


def test_permissions_violation_refuses_the_stream_that_was_asked_for() -> None:
    connection = connected()
    connection.send(Subscribe("r", {"s": None, "t": None}))
    text = "-ERR 'Permissions Violation for Publish to \"$JS.API.CONSUMER.CREATE.s\"'\r\n"
    problem, refused = connection.received(0, text.encode(), False)
    assert isinstance(problem, Problem)
    assert problem.next.step is Step.NOTHING
    assert isinstance(refused, Refused)
    assert refused.streams == ("s",)
    assert refused.next.step is Step.TERMINAL


@pytest.mark.parametrize(
    ("error", "code", "reason", "step"),
    [
        ("", 1000, DisconnectReason.NETWORK, Step.RETRY),  # a removed user: it looks normal
        ("", 1001, DisconnectReason.NETWORK, Step.RETRY),
        ("", None, DisconnectReason.NETWORK, Step.RETRY),
        ("", 1008, DisconnectReason.UNAUTHORIZED, Step.TERMINAL),
        ("", 1009, DisconnectReason.UNKNOWN, Step.TERMINAL),
        ("'User Authentication Expired'", 1008, DisconnectReason.UNAUTHORIZED, Step.MINT),
        ("'maximum connections exceeded'", 1008, DisconnectReason.NETWORK, Step.WAIT),
    ],
)
def test_end_says_what_comes_next(error: str, code: int | None, reason: DisconnectReason, step: Step) -> None:
    connection = connected()
    if error:
        connection.received(0, f"-ERR {error}\r\n".encode(), False)
    (closed,) = connection.closed(0, TransportEnd(code))
    assert isinstance(closed, Closed)
    assert (closed.code, closed.reason, closed.next.step) == (code, reason, step)


def test_connection_that_does_not_open_is_refused() -> None:
    for end, code, step in (
        (TransportEnd(status=403), "status_403", Step.TERMINAL),
        (TransportEnd(status=502), "protocol", Step.RETRY),
        (TransportEnd(is_broken=True), "protocol", Step.RETRY),
        (TransportEnd(), "network", Step.RETRY),
    ):
        (refused,) = JetStreamConnection(ConnectionOptions("ws://host")).closed(0, end)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.next.step, refused.is_open) == (code, step, False)


def test_leave_and_unsubscribe_delete_the_consumers() -> None:
    for intent in (Leave("l"), Unsubscribe("u", ("s",))):
        connection = live()
        connection.send(intent)
        assert [line.split()[:2] for line in sent(connection)] == [["PUB", "$JS.API.CONSUMER.DELETE.s.c"], ["UNSUB", "2"]]
        assert connection.received(0, event(1, 1), False) == (Activity(),)


def test_credentials_are_sent_in_the_form_of_the_option() -> None:
    for form, own in (
        ("none", {}),
        ("token", {"auth_token": "a:b"}),
        ("user", {"user": "a", "pass": "b"}),
        ("jwt", {"jwt": "a:b"}),
    ):
        connection = JetStreamConnection(ConnectionOptions("ws://host", {"credentials": form}))
        connection.connect(Credentials("a:b"))
        connection.received(0, INFO, False)
        assert sent(connection) == []  # the session has not yet joined
        connection.send(Join("j", Compatibility()))
        (line,) = sent(connection)
        said = json.loads(line.removeprefix("CONNECT "))
        assert {key: said[key] for key in ("auth_token", "user", "pass", "jwt", "sig") if key in said} == own


def test_unknown_option_and_unknown_intent_are_errors() -> None:
    with pytest.raises(UsageError, match=r"protocol_options.*idle_heartbeat_s"):
        JetStreamConnection(ConnectionOptions("ws://host", {"idle_heartbeats": 1}))
    with pytest.raises(TypeError, match="Read"):
        connected().send(Read("r", "s", None, 1))


def test_reply_subject_of_a_domain_has_two_more_fields() -> None:
    assert place_of("$JS.ACK.s.c.1.17.4.99.3") == Place(17, 4, 3)
    assert place_of("$JS.ACK.hub.ACCHASH.s.c.1.17.4.99.3.token") == Place(17, 4, 3)
    for wrong in ("", "$JS.ACK.s.c.1.17.4.99", "$JS.ACK.s.c.1.x.4.99.3", "$JS.FC.s.c.1.17.4.99.3"):
        assert place_of(wrong) is None


def test_connection_keeps_nothing_of_what_a_peer_sends_or_has_answered() -> None:
    connection = live()
    sizes = []
    for number in range(300):
        connection.send(Beat(f"{number}"))
        connection.send(AskHead(f"{number}", "s"))
        for data in (b"PONG\r\n", b"PING\r\n", INFO, event(number + 1, number + 1), beat(number + 1), b"-ERR 'odd'\r\n"):
            connection.received(0, data, False)
        answer(connection, 3 + 2 * number, info(number))
        answer(connection, 4 + 2 * number, created())
        connection.actions()
        kept = {key: value for key, value in vars(connection).items() if key not in ("_by_sid", "_by_stream")}
        sizes.append(len(pickle.dumps({**kept, "_subscriptions": repr(connection._by_sid)})))
    assert sizes[-1] <= sizes[0] + 40


# --- any input --------------------------------------------------------------------------------------------

_SAMPLES = [line["text"].encode() for path in RECORDINGS for line in recorded(path) if line.get("event") == "recv"]
_SAMPLES = [sample for sample in _SAMPLES if len(sample) < 5000]
_OURS = [event(1, 1), event(3, 3), beat(4), INFO, b"PONG\r\n", event(2, 2, 1, payload='{"n": 1}'), b"-ERR 'Parser Error'\r\n"]

_EVENTS = [*_OURS[:3], event(4, 4, 2), event(5, 5)]


@given(st.binary(max_size=300) | st.sampled_from([*_SAMPLES, *_OURS]), st.booleans(), st.integers(0, 300))
def test_any_input_of_a_peer_is_read_without_an_error(data: bytes, is_text: bool, cut: int) -> None:
    """Random bytes, recorded lines, and recorded lines that are cut or have a damaged byte."""
    for each in (data, data[:cut], data[:cut] + b"\xff" + data[cut + 1 :], data + data[cut:]):
        connection = live()
        for piece in (each, data):
            for found in connection.received(0, piece, is_text):
                assert isinstance(found, Event)
        assert len(connection._parser._rest) <= MAX_HELD_BYTES + 100_000


@given(st.lists(st.sampled_from(_EVENTS), max_size=12), st.lists(st.integers(1, 40), min_size=1))
def test_bytes_may_be_split_anywhere(lines: list[bytes], sizes: list[int]) -> None:
    data = b"".join(lines)
    whole, split, found = live(), live(), []
    at = number = 0
    while at < len(data):
        size = sizes[number % len(sizes)]
        found += split.received(0, data[at : at + size], False)
        at, number = at + size, number + 1
    together = whole.received(0, data, False) if data else ()
    assert [each for each in found if not isinstance(each, Activity)] == [
        each for each in together if not isinstance(each, Activity)
    ]


@given(st.permutations(range(1, 7)), st.sets(st.integers(1, 6)))
def test_lost_or_reordered_deliveries_are_never_silent(order: list[int], lost: set[int]) -> None:
    """Either all events come in order, or a gap is reported, at the latest by the next heartbeat."""
    connection, seen, gaps = live(), [], 0
    for number in [each for each in order if each not in lost]:
        for batch in connection.received(0, event(number, number), False):
            if isinstance(batch, Batch):
                seen += places((batch,))
                gaps += batch.is_after_gap
    gaps += sum(isinstance(each, Batch) for each in connection.received(0, beat(6), False))
    assert gaps or seen == sorted(seen) == list(range(1, 7))


def test_declared_length_beyond_the_limit_breaks_the_connection_at_once() -> None:
    connection = live()
    malformed, problem = connection.received(0, f"MSG s 2 $JS.ACK.s.c.1.1.1.1.0 {MAX_HELD_BYTES + 1}\r\n".encode(), False)
    assert malformed == Malformed("malformed_message")
    assert isinstance(problem, Problem)
    assert problem.next.step is Step.RETRY
