"""The Spacetime adapter: connects, messages and ends; no other package knows wire names."""

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.adapter import Credentials, Open, TransportEnd, Write
from sim.protocols.events import (
    Answer,
    Batch,
    CaughtUp,
    Closed,
    DisconnectReason,
    Hash,
    Head,
    Item,
    Joined,
    Malformed,
    Message,
    Opened,
    Position,
    Problem,
    Refused,
    Resumed,
    Snapshot,
    Stale,
    Step,
)
from sim.protocols.intents import Beat, Compatibility, Intent, Join, Leave, Subscribe, Unsubscribe
from sim.protocols.payloads import payload_hash
from sim.protocols.spacetime import codes, server
from sim.protocols.spacetime.adapter import CAPABILITIES, SpacetimeConnection
from sim.protocols.spacetime.negative import KINDS, SpacetimeForms

ROOT = Path(__file__).parents[2]
TOPIC = "run:7:events"
MAX_BYTES = 2**18


def connected() -> SpacetimeConnection:
    connection = SpacetimeConnection("ws://host/path")
    connection.connect(Credentials("a b"))
    (action,) = connection.actions()
    assert isinstance(action, Open)
    assert action.url == "ws://host/path?token=a%20b&vsn=2.0.0"
    assert connection.opened(0, 101, {}) == (Opened(),)
    return connection


def item(seq: int, check: Hash = Hash.OK) -> Item:
    return Item(Position(seq), msgspec.Raw(b"{}"), payload_hash(b"{}" if check is Hash.OK else b"[]"), check)


def plain(something: object) -> object:
    """The value as plain data, because raw payloads compare by identity."""
    return msgspec.json.decode(msgspec.json.encode(something))


@pytest.mark.parametrize(
    "intent",
    [
        Join("1", Compatibility("drill", "b", "p", 1)),
        Subscribe("2", {TOPIC: Position(4), "other": None}, 200),
        Unsubscribe("3", (TOPIC,)),
        Beat("4"),
        Beat("5", on_channel=True),
        Leave("6"),
    ],
)
def test_server_reads_the_intent_a_client_sends(intent: Intent):
    connection = connected()
    connection.send(intent)
    (write,) = connection.actions()
    assert isinstance(write, Write)
    read = server.read(write.data, write.is_text, MAX_BYTES)
    assert type(read) is type(intent)
    assert plain(read) == plain(intent)


SNAPSHOT = Snapshot(Position(9), {"watermark": 9})


@pytest.mark.parametrize(
    "message",
    [
        (Batch(TOPIC, (item(5), item(6, Hash.BAD))), Head(TOPIC, Position(6)), CaughtUp()),
        (Batch(TOPIC, (item(5),)), Batch("other", (item(1),)), Batch(TOPIC, (item(6),))),
        (Batch(TOPIC, ()), Head(TOPIC, Position(0)), CaughtUp()),
        (Batch(TOPIC, (item(5),), is_single=True),),
        (Head(TOPIC, Position(6)), Head("other", Position(0))),
        (Stale(TOPIC, Position(1), Position(3), Position(9), ("retention_floor_breach",), 8, 20_000),),
        (Stale(TOPIC, Position(1), Position(3), Position(9), ("r",), 8, 9, SNAPSHOT, ref="2"),),
        (Joined("1", "sub-1", (TOPIC,)),),
        (Resumed("2", subscription="sub-1"),),
        (codes.refused("2", "forbidden_topic", "no", (TOPIC,)),),
        (Answer("3", True, is_beat=True),),
        (Answer("9", False, "mutation_refused", "no"),),
        (codes.reauth_required("again"),),
        (Problem("client_timeout", message="silent"),),
    ],
)
def test_client_reads_the_events_a_server_writes(message: Message):
    connection = connected()
    connection.send(Join("1", Compatibility()))
    connection.send(Subscribe("2", {TOPIC: None}))
    connection.send(Beat("3"))
    taken = connection.received(0, server.write(message, "1").encode(), True)
    assert [type(event) for event in taken] == [type(event) for event in message]
    assert plain(taken) == plain(message)


@given(st.binary() | st.text().map(str.encode), st.booleans())
def test_adapter_accepts_any_input(data: bytes, is_text: bool):
    message = connected().received(0, data, is_text)
    assert len(message) <= max(len(data), 1)


def test_invalid_frame_becomes_malformed_event():
    assert connected().received(0, b"{", True) == (Malformed("malformed_frame"),)


@pytest.mark.parametrize(
    ("end", "code", "reason", "step"),
    [
        (TransportEnd(status=403, body=b'{"error":{"code":"token_expired"}}'), "token_expired", "forbidden", Step.MINT),
        (TransportEnd(status=401), "unauthorized", "unauthorized", Step.MINT),
        (TransportEnd(status=403), "forbidden", "forbidden", Step.MINT),
        (TransportEnd(status=429, body=b'{"error":{"code":"rate_limited"}}'), "rate_limited", "network", Step.RETRY),
        (TransportEnd(status=500, body=b"\xff"), "protocol", "network", Step.RETRY),
        (TransportEnd(is_broken=True), "protocol", "network", Step.RETRY),
        (TransportEnd(), "network", "network", Step.RETRY),
    ],
)
def test_refused_upgrade_carries_next_step(end: TransportEnd, code: str, reason: str, step: Step):
    (refused,) = SpacetimeConnection("ws://host").closed(0, end)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.reason, refused.next.step, refused.is_open) == (code, reason, step, False)


def test_ended_connection_is_closed_with_its_code():
    assert connected().closed(0, TransportEnd(code=1009)) == (Closed(DisconnectReason.NETWORK, 1009),)


def test_position_is_never_negative():
    with pytest.raises(ValueError, match="expected 0 or more"):
        Position(-1)
    assert Position("opaque").offset == "opaque"


def test_the_forms_of_negative_clients_are_named_in_order():
    assert SpacetimeForms.kinds == KINDS == tuple(SpacetimeForms().malformed(TOPIC, "1", 10))
    assert CAPABILITIES.can_resubscribe


def test_only_protocols_know_wire_names():
    paths = [path for folder in ("sim", "drills", "locustfiles") for path in (ROOT / folder).rglob("*.py")]
    outside = {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths if "protocols" not in path.parts}
    assert len(outside) > 100
    assert not [name for name, text in outside.items() if re.search(r"phx_|sync:(?!\s)", text)]
    assert not [name for name, text in outside.items() if name.startswith("sim/client/") and "protocols.spacetime" in text]


@pytest.mark.parametrize(
    ("said", "code"),
    [(["client_timeout"], "client_timeout"), ([], 1000), (["client_timeout", "other"], 1000), (["other"], 1000)],
)
def test_a_close_has_the_code_of_silence_only_right_after_the_server_said_so(said: list[str], code: int | str) -> None:
    connection = connected()
    for each in said:
        frame = [None, None, "sync:main", "sync:error", {"code": each, "message": "nothing heard"}]
        assert connection.received(0, msgspec.json.encode(frame), True) == (Problem(each, message="nothing heard"),)
    assert connection.closed(0, TransportEnd(1000)) == (Closed(code=code),)
