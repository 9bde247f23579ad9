"""The wire form of every frame in both directions, and malformed input."""

import base64
import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import MalformedFrameError
from sim.protocols.spacetime.codec import decode_client, decode_server, encode_client, encode_server, push_parts, wrap_push
from sim.protocols.spacetime.frames import (
    Body,
    ChannelClosed,
    Compatibility,
    Envelope,
    HeartbeatPush,
    Join,
    Leave,
    Other,
    Reply,
    Request,
    SnapshotPlan,
    SnapshotTopic,
    StaleTopic,
    Subscribe,
    SyncBeat,
    SyncError,
    TransportBeat,
    Unsubscribe,
    Update,
    UpdateBatch,
    Watermark,
)

COMPATIBILITY = Compatibility("drill", "20260201T000000Z", "spacetime.sync.v1", 1)
UPDATE = Update("run:1:events", msgspec.Raw('{"n":[1,"é"]}'.encode()), 7, "sha256:ab", "run:1:events", 7)
STALE = Body(
    code="stale_cursor",
    message="m",
    full_resync_required=True,
    reason_codes=("retention_floor_breach",),
    stale_topics=(StaleTopic("run:1:events", "retention_floor_breach", "warm", 0, 3, 9, 9, 20_000),),
    snapshot_plan=SnapshotPlan((SnapshotTopic("run:1:events", 9, {"watermark": 9}),)),
)


def sent(ref, event, payload):
    return ["1", ref, "sync:v1", event, payload]


def push(event, payload):
    return sent(None, event, payload)


# A frame of each kind, and its exact form on the wire.
CLIENT_FRAMES = [
    (
        Join("1", COMPATIBILITY),
        sent(
            "1",
            "phx_join",
            {
                "client": "drill",
                "client_build_id": "20260201T000000Z",
                "protocol_version": "spacetime.sync.v1",
                "schema_version": 1,
            },
        ),
    ),
    (
        Subscribe("2", ("a", "b"), {"a": 4}, 200),
        sent("2", "sync:subscribe", {"topics": ["a", "b"], "resume_after": {"a": 4}, "replay_batch_size": 200}),
    ),
    (Subscribe("2", ("a",), {}), sent("2", "sync:subscribe", {"topics": ["a"], "resume_after": {}})),
    (Unsubscribe("3", ("a",)), sent("3", "sync:unsubscribe", {"topics": ["a"]})),
    (SyncBeat("4"), sent("4", "sync:heartbeat", {})),
    (TransportBeat("5"), [None, "5", "phoenix", "heartbeat", {}]),
    (Leave("6"), sent("6", "phx_leave", {})),
    (Request("7", "sync:publish", msgspec.Raw(b'{"x":1}')), sent("7", "sync:publish", {"x": 1})),
]
WIRE_UPDATE = {
    "topic": "run:1:events",
    "payload": {"n": [1, "é"]},
    "payload_hash": "sha256:ab",
    "watermark": 7,
    "doc_key": "run:1:events",
    "doc_version": 7,
    "hydration_required": False,
}
WIRE_STALE = {
    "code": "stale_cursor",
    "message": "m",
    "full_resync_required": True,
    "reason_codes": ["retention_floor_breach"],
    "stale_topics": [
        {
            "topic": "run:1:events",
            "reason": "retention_floor_breach",
            "qos_tier": "warm",
            "resume_after": 0,
            "retention_floor": 3,
            "head_watermark": 9,
            "replay_lag": 9,
            "replay_budget_events": 20_000,
        }
    ],
    "snapshot_plan": {
        "topics": [{"topic": "run:1:events", "head_watermark": 9, "snapshot": {"watermark": 9}}],
        "format": "openagents.sync.snapshot.v1",
    },
}
WIRE_SLOW = {
    "code": "slow_consumer",
    "message": "m",
    "full_resync_required": False,
    "action": "throttle",
    "topic": "a",
    "queue_depth": 65,
    "queue_limit": 64,
    "reconnect_after_ms": 2000.0,
}
SLOW = Body(**WIRE_SLOW)

SERVER_FRAMES = [
    (
        Reply("1", True, Body(subscription_id="sub-1", allowed_topics=("a",), current_watermarks=())),
        sent(
            "1",
            "phx_reply",
            {"status": "ok", "response": {"subscription_id": "sub-1", "allowed_topics": ["a"], "current_watermarks": []}},
        ),
    ),
    (Reply("9", True), sent("9", "phx_reply", {"status": "ok", "response": {}})),
    (Reply("2", False, STALE), sent("2", "phx_reply", {"status": "error", "response": WIRE_STALE})),
    (
        UpdateBatch((UPDATE,), True, (Watermark("run:1:events", 7),)),
        push(
            "sync:update_batch",
            {
                "updates": [WIRE_UPDATE],
                "replay_complete": True,
                "head_watermarks": [{"topic": "run:1:events", "watermark": 7}],
            },
        ),
    ),
    (HeartbeatPush((Watermark("a", 3),)), push("sync:heartbeat", {"watermarks": [{"topic": "a", "watermark": 3}]})),
    (SyncError(STALE), push("sync:error", WIRE_STALE)),
    (SyncError(SLOW), push("sync:error", WIRE_SLOW)),
    (
        SyncError(Body(code="rate_limited", retry_after_ms=250.0)),
        push("sync:error", {"code": "rate_limited", "retry_after_ms": 250.0}),
    ),
    (ChannelClosed("phx_error"), push("phx_error", {})),
    (ChannelClosed("phx_close"), push("phx_close", {})),
    (Other("presence_state"), push("presence_state", {})),
]


@pytest.mark.parametrize(("frame", "wire"), CLIENT_FRAMES)
def test_client_frames_round_trip_in_wire_form(frame, wire):
    text = encode_client(frame)
    assert json.loads(text) == wire
    assert decode_client(text) == decode_client(text.encode()) == frame


def test_reply_uses_channel_of_request():
    ok = {"status": "ok", "response": {}}
    assert json.loads(encode_server(Reply("9", True, join_ref="7"), "8")) == ["7", "9", "sync:v1", "phx_reply", ok]
    assert json.loads(encode_server(Reply("9", True, channel="phoenix"), "8")) == [None, "9", "phoenix", "phx_reply", ok]


@pytest.mark.parametrize(("frame", "wire"), SERVER_FRAMES)
def test_server_frames_round_trip_in_wire_form(frame, wire):
    text = encode_server(frame, "1")
    assert json.loads(text) == wire
    assert decode_server(text) == decode_server(text.encode()) == frame


def test_cursors_are_read_from_map_or_list():
    def decoded(cursors):
        return decode_client(json.dumps(sent("2", "sync:subscribe", {"topics": ["a", "b"], "resume_after": cursors})))

    expected = Subscribe("2", ("a", "b"), {"a": 4, "b": 0})
    assert decoded({"a": 4, "b": 0}) == expected
    assert decoded([{"topic": "a", "watermark": 4}, {"topic": "b", "watermark": 0}]) == expected


@pytest.mark.parametrize("cursors", [{"a": -1}, {"a": "x"}, {"a": 1.5}, {"a": 2**63}, [1], [{"topic": "a"}], 3, "x", None])
def test_malformed_cursor_is_marked_as_bad(cursors):
    """The runtime can then answer `bad_subscription` instead of dropping the frame."""
    text = json.dumps(sent("2", "sync:subscribe", {"topics": ["a"], "resume_after": cursors}))
    assert decode_client(text) == Subscribe("2", ("a",), {}, bad_cursor=True)


def test_envelope_is_canonical_and_carries_same_update():
    event, payload = push_parts(Envelope(UPDATE))
    envelope = json.loads(payload)
    assert event == "sync:frame"
    assert {name: envelope[name] for name in ("topic", "seq", "kind", "schema_version")} == {
        "topic": "run:1:events",
        "seq": 7,
        "kind": "update",
        "schema_version": 1,
    }
    content = json.loads(base64.b64decode(envelope["payload_bytes"], validate=True))
    assert content["payload"] == WIRE_UPDATE["payload"]
    assert content["payload_hash"] == "sha256:ab"
    assert decode_server(wrap_push("1", event, payload)) == Envelope(UPDATE)


def test_join_reference_is_quoted():
    text = encode_server(HeartbeatPush(), 'a"\\\n')
    assert json.loads(text)[0] == 'a"\\\n'


def test_unknown_fields_are_ignored():
    update = {**WIRE_UPDATE, "org_id": "o", "ts": 1.5}
    batch = push("sync:update_batch", {"updates": [update], "replay_complete": False, "cursor_mode": "x"})
    assert decode_server(msgspec.json.encode(batch)) == UpdateBatch((UPDATE,))
    reply = ["1", "1", "sync:v1", "phx_reply", {"status": "ok", "response": {"subscription_id": "s", "region": "eu"}}]
    assert decode_server(json.dumps(reply)) == Reply("1", True, Body(subscription_id="s"))


@pytest.mark.parametrize("response", [{}, {"code": 3}, [], "text", None, 7])
def test_ok_reply_accepts_any_response(response):
    text = json.dumps(sent("8", "phx_reply", {"status": "ok", "response": response}))
    assert decode_server(text) == Reply("8", True, Body())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "[1,2,3,4,5]",
        '["1","2","sync:v1","sync:update_batch"]',
        '["1","2","sync:v1","sync:update_batch",{},{}]',
        '["1",null,"sync:v1","sync:update_batch",{"updates":[{}]}]',
        '["1",null,"sync:v1","sync:update_batch",{"updates":[{"topic":"a","payload":{},"payload_hash":"x","watermark":-1}]}]',
        '["1",null,"sync:v1","sync:frame",{"topic":"a","seq":1,"payload_bytes":"!"}]',
        '["1",null,"sync:v1","sync:frame",{"topic":"a","seq":1,"payload_bytes":"e30="}]',
        '["1","2","sync:v1","phx_reply",{}]',
        '["1","2","sync:v1","phx_reply",{"status":"error","response":[]}]',
        b"\xff\xfe",
        '["\ud800",null,"sync:v1","x",{}]',
        "[" * 100_000,
    ],
)
def test_invalid_frame_is_refused(text):
    with pytest.raises(MalformedFrameError):
        decode_server(text)


def test_frame_for_unknown_channel_has_its_own_code():
    with pytest.raises(MalformedFrameError) as caught:
        decode_client('["1","1","rooms:1","phx_join",{}]')
    assert caught.value.code == "unknown_topic"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
_EVENTS = st.sampled_from(
    [
        *("phx_join", "phx_reply", "phx_leave", "heartbeat", "sync:subscribe", "sync:unsubscribe", "sync:update_batch"),
        *("sync:frame", "sync:error", "sync:heartbeat"),
    ]
)
_FIELDS = st.sampled_from(
    [
        *("status", "response", "updates", "topics", "topic", "seq", "resume_after", "watermarks", "head_watermarks", "code"),
        *("stale_topics", "payload_bytes", "snapshot_plan", "replay_complete", "replay_batch_size"),
    ]
)
_ALMOST_FRAMES = st.tuples(
    st.sampled_from(["1", None]),
    st.sampled_from(["1", None]),
    st.sampled_from(["sync:v1", "phoenix"]),
    _EVENTS,
    _JSON | st.dictionaries(_FIELDS, _JSON, max_size=4),
).map(json.dumps)


@given(st.binary() | st.text() | _JSON.map(json.dumps) | _ALMOST_FRAMES)
def test_any_input_decodes_or_is_malformed(text):
    for decode in (decode_client, decode_server):
        with contextlib.suppress(MalformedFrameError):
            decode(text)


_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
_SEQ = st.integers(0, 2**63 - 1)
_MARKS = st.lists(st.builds(Watermark, _TEXT, _SEQ), max_size=3).map(tuple)
_UPDATES = st.builds(
    Update,
    _TEXT,
    st.sampled_from([b"{}", b"null", b'{"a":[1,2.5,"x"]}']).map(msgspec.Raw),
    _SEQ,
    st.none() | _TEXT,
    _TEXT,
    st.none() | _SEQ | _TEXT,
    st.booleans(),
)


@given(st.builds(UpdateBatch, st.lists(_UPDATES, max_size=3).map(tuple), st.booleans(), _MARKS), _TEXT)
def test_batches_survive_round_trip(batch, join_ref):
    assert decode_server(encode_server(batch, join_ref)) == batch


@given(_UPDATES)
def test_envelopes_survive_round_trip(update):
    assert decode_server(encode_server(Envelope(update), "1")) == Envelope(update)


@given(st.lists(_TEXT, max_size=3).map(tuple), st.dictionaries(_TEXT, _SEQ, max_size=3), st.integers(0, 500))
def test_subscribes_survive_round_trip(topics, cursors, batch_size):
    frame = Subscribe("2", topics, cursors, batch_size)
    assert decode_client(encode_client(frame)) == frame
