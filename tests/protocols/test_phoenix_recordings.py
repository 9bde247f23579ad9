"""The phoenix_sync adapter on recordings of the operators' runtime, against a reader that knows only the recorded JSON."""

import base64
import json
import pickle
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.adapter import Credentials, Open, TransportEnd, Write
from sim.protocols.events import (
    Activity,
    Answer,
    Batch,
    CaughtUp,
    Closed,
    DisconnectReason,
    Event,
    Hash,
    Head,
    Joined,
    Malformed,
    Message,
    Position,
    Refused,
    Repeated,
    Resumed,
    Stale,
    StreamEnded,
    Whose,
)
from sim.protocols.intents import Beat, Compatibility, Join, Subscribe, Unsubscribe
from sim.protocols.phoenix_sync.adapter import PhoenixSyncConnection
from sim.protocols.phoenix_sync.payloads import check, payload_hash
from sim.protocols.spacetime.adapter import SpacetimeConnection

FOLDER = Path(__file__).parent.parent / "vectors" / "phoenix_runtime"
RECORDINGS = sorted(FOLDER.glob("*.jsonl"))
TOPIC = "runtime.codex_worker_events"


@cache
def recorded(path: Path) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in path.read_text().splitlines())


# --- the events of a message, in a notation of one line each --------------------------------------------


def written(event: Event) -> str:
    match event:
        case Batch(stream, items):
            return f"batch {stream} {[item.position.offset for item in items if item.position]}"
        case Head(stream, position, whose):
            return f"head {stream} {position.offset} {whose}"
        case Joined(ref):
            return f"joined {ref}, granted {list(event.streams or ())}"
        case Resumed(ref):
            return f"resumed {ref}"
        case Refused(ref, code):
            return f"refused {ref}: {code} {list(event.streams)}"
        case Stale(stream, asked, floor, head, reasons):
            places = [place.offset for place in (asked, floor, head) if place]
            return f"stale {event.ref or 'pushed'} {stream} {places} {'+'.join(reasons)}, {event.lag} of {event.budget}"
        case Answer(ref, ok, code):
            return f"answer {ref}: {ok} {code}"
        case StreamEnded(stream, code, following):
            return f"ended {stream} {code}, {following.step}"
        case CaughtUp():
            return "caught up"
        case Repeated():
            return "the same again"
        case Activity():
            return "alive"
    return str(event)


class Reader:
    """Writes down what a recorded frame says. It knows what was asked under each reference, as a person who reads along."""

    def __init__(self) -> None:
        self.asked: dict[str, str] = {}

    def read(self, text: str) -> list[str]:
        _, ref, _, name, payload = json.loads(text)
        if name == "phx_reply":
            return self.reply(ref, payload["status"] == "ok", payload["response"])
        if name == "sync:update_batch":
            batches = [
                f"batch {topic} {marks(updates)}" for topic, updates in groupby(payload["updates"], lambda u: u["topic"])
            ]
            heads = [f"head {mark['topic']} {mark['watermark']} authority" for mark in payload["head_watermarks"]]
            return [*batches, *heads, *(["caught up"] if payload["replay_complete"] else [])]
        if name == "sync:heartbeat":
            return socket_heads(payload["watermarks"]) or ["alive"]
        if name == "sync:error":
            return stale("pushed", payload)
        return ["the same again"] if name == "sync:frame" else [f"ended None {name}, resubscribe"]

    def reply(self, ref: str, ok: bool, response: dict[str, Any]) -> list[str]:
        asked = "" if response.get("reason") == "unmatched topic" else self.asked.pop(ref, "")
        if ok and asked == "phx_join":
            return [f"joined {ref}, granted {response['allowed_topics']}"]
        if ok and asked == "sync:subscribe":
            return [f"resumed {ref}", *socket_heads(response["current_watermarks"])]
        if asked in ("phx_join", "sync:subscribe"):
            if response["code"] == "stale_cursor":
                return stale(ref, response)
            return [f"refused {ref}: {response['code']} {response.get('forbidden_topics', [])}"]
        return [f"answer {ref}: {ok} {'' if ok else response.get('code') or response['reason']}"]


def marks(updates: Iterator[dict[str, Any]]) -> list[int]:
    return [update["watermark"] for update in updates]


def socket_heads(watermarks: list[dict[str, Any]]) -> list[str]:
    return [f"head {mark['topic']} {mark['watermark']} socket" for mark in watermarks]


def stale(ref: str, answer: dict[str, Any]) -> list[str]:
    return [
        f"stale {ref} {each['topic']} {[each['resume_after'], each['retention_floor'], each['head_watermark']]} "
        f"{each['reason']}, {each['replay_lag']} of {each['replay_budget_events']}"
        for each in answer["stale_topics"]
    ]


# --- replaying a recording ------------------------------------------------------------------------------


class Replay:
    """One recorded connection: what its client sent goes in as intents, what the runtime sent as bytes."""

    def __init__(self) -> None:
        self.connection = PhoenixSyncConnection("ws://host/socket/websocket")
        self.connection.connect(Credentials("t"))
        self.reader = Reader()

    def sent(self, text: str) -> None:
        try:
            _, ref, channel, name, _ = json.loads(text)
        except ValueError:
            return  # a malformed frame; the adapter never sends one
        if channel not in ("sync:v1", "phoenix") or not isinstance(ref, str):
            return
        intents = {
            "phx_join": Join(ref, Compatibility()),
            "sync:subscribe": Subscribe(ref, {TOPIC: None}),
            "sync:heartbeat": Beat(ref, on_channel=True),
            "sync:unsubscribe": Unsubscribe(ref, (TOPIC,)),
        }
        if name in intents:
            self.connection.send(intents[name])
            self.reader.asked[ref] = name

    def received(self, text: str) -> tuple[list[str], Message]:
        events = self.connection.received(0, text.encode(), True)
        return [written(event) for event in events], events


def replays(path: Path) -> Iterator[tuple[str, Replay]]:
    """Each frame that the runtime sent, with its connection at that moment."""
    open_: dict[int, Replay] = {}
    for line in recorded(path):
        if line.get("event") == "upgrade" and line["status"] == 101:
            open_[line["conn"]] = Replay()
            open_[line["conn"]].connection.opened(0, 101, {})
        elif line.get("dir") == "c2s" and line.get("opcode") == 1:
            open_[line["conn"]].sent(line["text"])
        elif line.get("dir") == "s2c" and line["kind"] == "TEXT":
            yield line["text"], open_[line["conn"]]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_each_recorded_frame_gives_the_events_that_a_reader_writes_down(path: Path) -> None:
    frames = 0
    for text, replay in replays(path):
        expected = replay.reader.read(text)
        assert replay.received(text)[0] == expected, text
        frames += 1
    assert frames > 5, "the recording was read"


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_each_second_form_holds_the_batch_that_came_before_it(path: Path) -> None:
    """The adapter takes the second form for a repetition without reading it; this shows that it is one."""
    before: dict[int, str] = {}
    for text, replay in replays(path):
        _, _, _, name, payload = json.loads(text)
        if name == "sync:frame" and payload["kind"] == "KHALA_FRAME_KIND_UPDATE_BATCH":
            again = json.loads(base64.b64decode(payload["payload_bytes"]))
            assert again == json.loads(before[id(replay)])[4]
        before[id(replay)] = text


def test_recorded_hashes_are_right_and_none_is_called_wrong_for_its_numbers() -> None:
    items = [
        item
        for path in RECORDINGS
        for text, replay in replays(path)
        for event in replay.received(text)[1]
        if isinstance(event, Batch)
        for item in event.items
    ]
    assert {item.check for item in items} <= {Hash.OK, Hash.NONE}
    assert all(item.check is Hash.OK for item in items if b"." not in bytes(item.payload) and b"e" not in numbers(item.payload))


def numbers(payload: bytes) -> bytes:
    """The numbers of a payload, as it writes them."""
    found: list[str] = []
    json.loads(bytes(payload), parse_float=lambda text: found.append(text) or 0.0)
    return " ".join(found).encode()


@pytest.mark.parametrize(
    ("payload", "result"),
    [
        (b'{"n":1}', Hash.BAD),
        (b'{"text":"1e22"}', Hash.BAD),
        (b'{"deep":[{"n":1e22}]}', Hash.NONE),  # the runtime writes it as 1.0e22
        (b'{"n":-0.0}', Hash.NONE),
        (b'{"text":"\\u001b"}', Hash.NONE),  # the runtime writes it as \u001B
        (b'{"\\u000b":1}', Hash.NONE),
        (b'{"text":"\\n"}', Hash.BAD),
        (b"{", Hash.BAD),
    ],
)
def test_wrong_hash_is_certain_only_for_what_the_runtime_writes_as_we_do(payload: bytes, result: Hash) -> None:
    assert check(payload, payload_hash(b"of another payload")) is result
    assert check(payload, "in another form") is Hash.NONE


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (403, "forbidden", DisconnectReason.FORBIDDEN),  # an empty body: the runtime says no more
        (414, "forbidden", DisconnectReason.FORBIDDEN),
        (503, "protocol", DisconnectReason.NETWORK),
    ],
)
def test_refused_upgrade_has_no_code_of_its_own(status: int, code: str, reason: DisconnectReason) -> None:
    connection = PhoenixSyncConnection("ws://host/socket/websocket")
    connection.connect(Credentials("t"))
    (refused,) = connection.closed(0, TransportEnd(status=status, body=b'{"error":{"code":"token_expired"}}'))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.reason, refused.is_open) == (code, reason, False)


def test_all_recorded_closes_end_the_connection_with_their_code() -> None:
    closes = {line["how"][0] for path in RECORDINGS for line in recorded(path) if line.get("event") == "closed"}
    assert {1011, 1007, 1002, "EOF"} <= closes
    for how in closes:
        replay = Replay()
        replay.connection.opened(0, 101, {})
        code = how if isinstance(how, int) else None
        assert replay.connection.closed(0, TransportEnd(code=code)) == (Closed(DisconnectReason.NETWORK, code),)


def test_metadata_is_in_the_url_and_beats_are_on_the_channel() -> None:
    connection = PhoenixSyncConnection("ws://host/socket/websocket")
    connection.connect(Credentials("a token", Compatibility("stormgate", "20260101T000000Z", "v1", 1)))
    (opened,) = connection.actions()
    assert isinstance(opened, Open)
    for part in ("token=a+token", "client_build_id=20260101T000000Z", "schema_version=1"):
        assert part in opened.url
    connection.send(Beat("4"))
    (write,) = connection.actions()
    assert isinstance(write, Write)
    assert json.loads(write.data)[2:4] == ["sync:v1", "sync:heartbeat"]


def test_equal_bytes_mean_the_authoritys_head_to_one_protocol_and_the_sockets_to_the_other() -> None:
    data = b'["1",null,"sync:v1","sync:heartbeat",{"watermarks":[{"topic":"a","watermark":7}]}]'
    for whose, kind in ((Whose.AUTHORITY, SpacetimeConnection), (Whose.SOCKET, PhoenixSyncConnection)) * 2:
        assert kind("ws://host").received(0, data, True) == (Head("a", Position(7), whose),)


def test_connection_keeps_nothing_of_what_a_peer_sends_or_has_answered() -> None:
    """Requests are answered by `unmatched topic`, pushes come in both forms; nothing may grow with their number."""
    replay = Replay()
    replay.connection.opened(0, 101, {})
    texts = [text for text, _ in replays(FOLDER / "subscribe_replay_live.jsonl")]
    batch, second = (next(text for text in texts if name in text) for name in ('"sync:update_batch"', '"sync:frame"'))
    sizes = []
    for number in range(300):
        replay.connection.send(Beat(f"{number}"))
        replay.connection.actions()
        unmatched = [None, f"{number}", "sync:v1", "phx_reply", {"status": "error", "response": {"reason": "unmatched topic"}}]
        for text in (json.dumps(unmatched), batch, second, '["1",null,"sync:v1","phx_close",{}]', "x" * number):
            replay.connection.received(0, text.encode(), True)
        sizes.append(len(pickle.dumps(vars(replay.connection) | {"_shared": None})))
    assert sizes[-1] <= sizes[0] + 8


@given(
    st.binary(max_size=300)
    | st.sampled_from([line["text"] for path in RECORDINGS for line in recorded(path) if "text" in line]).map(str.encode),
    st.booleans(),
    st.integers(0, 300),
)
def test_any_input_of_a_peer_is_read_without_an_error(data: bytes, is_text: bool, cut: int) -> None:
    """Random bytes, recorded frames, and recorded frames that are cut or have a damaged byte."""
    replay = Replay()
    replay.connection.opened(0, 101, {})
    for each in (data, data[:cut], data[:cut] + b"\xff" + data[cut + 1 :]):
        for event in replay.connection.received(0, each, is_text):
            assert isinstance(event, Malformed) or written(event)
