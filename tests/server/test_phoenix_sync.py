"""The simulated runtime with the habits of `phoenix_sync`: each row of what the operators' runtime did on the wire."""

import base64
import json

import pytest

from sim.base.errors import BrokenMessageError, MalformedFrameError
from sim.protocols.intents import Compatibility
from sim.protocols.payloads import canonical_json
from sim.protocols.phoenix_sync.server import SERVER, read, write
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS as TOPIC
from sim.server.runtime import Runtime
from sim.server.settings import RuntimeSettings, Switches
from sim.server.tokens import AUDIENCE, ISSUER, Claims, TokenRefusedError, mint
from tests.client.server_double import COMPATIBILITY, KEYRING, START


def token(at: float = START, ttl_s: float = 300.0, session: str = "s") -> str:
    times = at, at, at + ttl_s
    claims = Claims(ISSUER, AUDIENCE, "user:u", *times, "id", "u", "org", session, "d", SERVER.profile.topics.fixed)
    return mint(claims, KEYRING.primary)


class Wire:
    """A runtime on a virtual clock, and one socket that is joined and reads text."""

    def __init__(self, *defects: str, **settings: object) -> None:
        switches = Switches(defects=set(defects))  # type: ignore[arg-type]
        self.runtime = Runtime(RuntimeSettings(**settings), KEYRING, SERVER.profile, switches)  # type: ignore[arg-type]
        self.now = START
        self.number = self.open()

    def open(self, query: Compatibility = COMPATIBILITY, **more: object) -> int:
        return self.runtime.open(token(**more), query, self.now)  # type: ignore[arg-type]

    def publish(self, count: int = 1) -> None:
        for _ in range(count):
            log = self.runtime.streams.log(TOPIC)
            log.append(f"{log.next_seq}", canonical_json({"payload": {"n": log.next_seq}}), self.now)
            self.runtime.announce(TOPIC, self.now)

    def ask(self, *frame: object) -> list:
        """Send a frame, and read all answers: join reference, reference, event, payload."""
        self.runtime.received(self.number, read(json.dumps(frame).encode(), True, 1), self.now)
        return self.read()

    def read(self) -> list:
        found = []
        while (message := self.runtime.pull(self.number, self.now)) is not None:
            join_ref, ref, topic, event, payload = json.loads(write(message, self.runtime.channel(self.number)))
            assert topic in ("sync:v1", "phoenix")
            found.append((join_ref, ref, event, payload))
        return found

    def joined(self) -> "Wire":
        (answer,) = self.ask("1", "1", "sync:v1", "phx_join", {})
        assert answer[3]["status"] == "ok"
        assert answer[3]["response"]["allowed_topics"] == list(SERVER.profile.topics.fixed)
        return self

    def subscribe(self, after: object = None, ref: str = "2") -> list:
        cursors = {} if after is None else {"resume_after": {TOPIC: after}}
        return self.ask("1", ref, "sync:v1", "sync:subscribe", {"topics": [TOPIC], **cursors})

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.runtime.wake_at() <= until:
            self.now = max(self.now, self.runtime.wake_at())
            self.runtime.wake(self.now)
        self.now = until


def seqs(frames: list) -> list[int]:
    return [update["watermark"] for frame in frames if frame[2] == "sync:update_batch" for update in frame[3]["updates"]]


def marks(payload: dict) -> list[int]:
    return [mark["watermark"] for mark in payload.get("watermarks", payload.get("current_watermarks", ()))]


def test_each_batch_comes_again_as_a_frame_and_the_reply_ends_the_replay():
    wire = Wire().joined()
    wire.publish(3)
    batch, again, reply = wire.subscribe(1)
    assert [frame[2] for frame in (batch, again, reply)] == ["sync:update_batch", "sync:frame", "phx_reply"]
    assert seqs([batch]) == [2, 3]
    assert batch[3]["replay_complete"] is True
    assert again[3]["kind"] == "KHALA_FRAME_KIND_UPDATE_BATCH"
    assert json.loads(base64.b64decode(again[3]["payload_bytes"])) == batch[3]
    assert (again[3]["seq"], again[3]["topic"], again[3]["schema_version"]) == (3, TOPIC, 1)
    assert marks(reply[3]["response"]) == [3]


def test_a_replay_of_nothing_has_no_batch():
    wire = Wire().joined()
    wire.publish(3)
    (reply,) = wire.subscribe(3)
    assert marks(reply[3]["response"]) == [3]


def test_a_cursor_above_the_head_resumes_at_the_head_and_is_not_echoed():
    wire = Wire().joined()
    wire.publish(3)
    (reply,) = wire.subscribe(1_000_000)
    assert marks(reply[3]["response"]) == [3]
    wire.publish()
    assert seqs(wire.read()) == [4]


def test_echo_cursor_above_head_confirms_it_and_loses_everything_below():
    wire = Wire("echo_cursor_above_head").joined()
    wire.publish(3)
    (reply,) = wire.subscribe(1_000_000)
    assert marks(reply[3]["response"]) == [1_000_000]
    wire.publish(5)
    assert seqs(wire.read()) == []
    heartbeat = wire.ask("1", "9", "sync:v1", "sync:heartbeat", {})
    assert [marks(heartbeat[0][3]), marks(heartbeat[1][3]["response"])] == [[1_000_000]] * 2


def test_heartbeats_state_what_this_socket_was_sent():
    wire = Wire().joined()
    wire.publish(3)
    wire.subscribe()
    wire.publish()
    wire.wait(15.0)  # it has not read the fourth event yet
    frames = wire.read()
    assert [marks(frame[3]) for frame in frames if frame[2] == "sync:heartbeat"] == [[3]]


def test_only_beats_on_the_channel_keep_a_client_and_a_silent_one_keeps_its_socket():
    wire = Wire().joined()
    got = []
    for _ in range(3):
        wire.wait(20.0)
        got += wire.ask(None, "9", "phoenix", "heartbeat", {})
    assert ("1", "1", "phx_close", {}) in got
    assert not wire.runtime.is_closing(wire.number)
    unmatched = {"response": {"reason": "unmatched topic"}, "status": "error"}
    assert wire.ask("1", "5", "sync:v1", "sync:heartbeat", {}) == [(None, "5", "phx_reply", unmatched)]
    wire.joined()
    for _ in range(8):
        wire.wait(20.0)
        wire.ask("1", "9", "sync:v1", "sync:heartbeat", {})
    assert wire.runtime.counters.silent_clients == 1


def test_an_unknown_event_crashes_the_channel_and_another_channel_is_only_refused():
    wire = Wire().joined()
    unmatched = {"response": {"reason": "unmatched topic"}, "status": "error"}
    assert wire.ask("1", "4", "zzz", "x", {}) == [(None, "4", "phx_reply", unmatched)]
    assert wire.ask("1", "5", "sync:v1", "run:start", {"x": 1}) == [("1", "1", "phx_error", {})]
    assert wire.ask("1", "6", "sync:v1", "sync:heartbeat", {}) == [(None, "6", "phx_reply", unmatched)]
    wire.joined()


def test_a_leave_is_answered_and_then_closes_the_channel():
    frames = Wire().joined().ask("1", "9", "sync:v1", "phx_leave", {})
    assert frames == [("1", "9", "phx_reply", {"response": {}, "status": "ok"}), ("1", "1", "phx_close", {})]


def test_malformed_frames_close_the_socket_with_1011():
    wire = Wire().joined()
    for data, is_text in ((b"{", True), (b"[]", True), (b'["1","2","sync:v1"]', True), (b"\x00", False)):
        with pytest.raises(MalformedFrameError):
            read(data, is_text, 1)
    with pytest.raises(BrokenMessageError) as broken:
        read(b"\xff", True, 1)
    assert broken.value.status == 1007
    wire.runtime.malformed(wire.number, "malformed_frame", wire.now)
    assert wire.runtime.is_closing(wire.number)
    assert SERVER.profile.close_code == 1011
    assert read(b'["1","2","sync:v1","sync:heartbeat",{"x":"%s"}]' % (b"x" * 300_000), True, 1), "there is no limit"


def test_metadata_is_read_from_the_upgrade_and_ignored_in_the_join():
    wire = Wire()
    wire.number = wire.open(Compatibility("c", "20000101T000000Z", "spacetime.sync.v1", 1))
    (answer,) = wire.ask("1", "1", "sync:v1", "phx_join", {"client_build_id": "20260601T000000Z"})
    assert answer[3] == {"response": {"code": "upgrade_required"}, "status": "error"}


def test_a_revoked_session_is_refused_at_the_join_and_its_sockets_close_without_a_word():
    wire = Wire().joined()
    assert wire.runtime.revoke(["s"]) == 1
    assert wire.read() == []
    assert wire.runtime.is_closing(wire.number)
    wire.number = wire.open()
    (answer,) = wire.ask("1", "1", "sync:v1", "phx_join", {})
    assert answer[3]["status"] == "error"
    assert answer[3]["response"]["code"] == "reauth_required"
    assert answer[3]["response"]["reauth_required"] is True


def test_tokens_have_no_leeway_at_their_end_and_no_age():
    wire = Wire()
    with pytest.raises(TokenRefusedError):
        wire.open(at=START - 301.0)
    assert wire.open(at=START - 900.0, ttl_s=1000.0)
    assert wire.open(at=START + 20.0), "30 s of leeway at their begin"


def test_a_stale_cursor_has_the_runtimes_reason_and_no_snapshot():
    wire = Wire(window_events=4).joined()
    wire.publish(10)
    push, reply = wire.subscribe(2)
    assert push[2] == "sync:error"
    assert push[3]["reason_codes"] == ["retention_floor_breach"]
    assert reply[3]["response"]["stale_topics"][0]["retention_floor"] == 6
    assert reply[3]["response"]["snapshot_plan"]["topics"][0]["snapshot"] is None


def test_only_the_four_topics_exist():
    (answer,) = Wire().joined().ask("1", "7", "sync:v1", "sync:subscribe", {"topics": ["run:abc:events"]})
    assert answer[3] == {
        "response": {"code": "forbidden_topic", "forbidden_topics": ["run:abc:events"]},
        "status": "error",
    }
