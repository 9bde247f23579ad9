"""Unusual and faulty servers: the session keeps its rules with both."""

import math
from itertools import pairwise

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.client.actions import Close, Connect, Mint, Send
from sim.client.transitions import State
from sim.protocols.events import DisconnectReason
from sim.protocols.spacetime.adapter import frame_of
from sim.protocols.spacetime.frames import (
    Body,
    ChannelClosed,
    Envelope,
    HeartbeatPush,
    Other,
    Reply,
    SnapshotPlan,
    SnapshotTopic,
    StaleTopic,
    SyncError,
    TransportBeat,
    UpdateBatch,
    Watermark,
)
from tests.client.session_driver import RUN, WORKER, SessionDriver, batch, stale, update


def test_reply_before_replay_is_accepted():
    driver = SessionDriver(checkpoints={RUN: 1})
    driver.reply(driver.begin().ref)
    assert driver.session.is_live
    driver.receive(batch(2, complete=False, head=3))
    assert not driver.session.is_caught_up
    driver.receive(batch(3))
    assert driver.session.is_caught_up
    assert driver.seqs("applied") == [2, 3]


def test_live_tail_between_reply_and_replay_is_accepted():
    driver = SessionDriver().go_live(1, 2)
    driver.receive(batch(4))
    subscribe = driver.subscribe()
    driver.reply(subscribe.ref)
    driver.receive(batch(5))  # a live event, although its batch is marked complete
    driver.receive(batch(3, 4, 5))
    assert driver.seqs("applied") == [1, 2, 3, 4, 5]
    assert not [notice for notice in driver.of("gap") if notice.detail == "replay"]
    driver.wait(10.0)
    assert not driver.sent()  # the gap is closed, so there is no further subscribe


def test_replay_without_complete_flag_ends_by_timeout():
    driver = SessionDriver(checkpoints={RUN: 1})
    driver.replay(driver.begin(), batch(2, complete=False))
    driver.receive(batch(4, complete=False))
    driver.wait(10.0)
    assert driver.session.is_caught_up
    driver.wait(1.0)
    assert driver.subscribe().resume_after == {RUN: 2}


def test_empty_replay_without_batch_ends_by_timeout():
    driver = SessionDriver(checkpoints={RUN: 1})
    driver.reply(driver.begin().ref)
    driver.wait(10.0)
    assert driver.session.is_caught_up
    assert driver.of("disconnected") == []


def test_unanswered_second_subscribe_causes_reconnect(live):
    live.receive(batch(3))
    live.subscribe()
    for seq in range(4, 15):
        live.wait(1.0)
        if live.session.state is State.BACKOFF:
            break
        live.receive(batch(seq))
    assert live.session.state is State.BACKOFF


def test_replay_of_envelopes_is_applied(driver):
    subscribe = driver.begin()
    driver.receive(Envelope(update(1)))
    driver.receive(Envelope(update(2)))
    driver.replay(subscribe, UpdateBatch((), True))
    assert driver.seqs("applied") == [1, 2]
    assert driver.session.is_caught_up


def test_server_without_heartbeats_is_kept_while_it_replies(live):
    for _ in range(10):
        live.wait(15.0)
        (beat,) = live.sent()
        assert isinstance(beat, TransportBeat)
        live.reply(beat.ref)
    assert live.session.is_live


def test_replies_without_request_are_ignored(driver):
    driver.start()
    driver.connect()
    for ref in ("", "0", "999", "null"):
        driver.reply(ref)
        driver.reply(ref, ok=False, code="forbidden_topic")
    assert driver.session.state is State.JOINING
    subscribe = driver.join()
    driver.reply("1")  # the reply to the join, repeated
    driver.reply("", ok=False, code="stale_cursor")
    assert driver.session.state is State.SUBSCRIBING
    driver.replay(subscribe, batch(1))
    driver.reply(subscribe.ref)
    driver.reply(subscribe.ref, ok=False, code="bad_subscription")
    assert driver.session.is_live
    assert driver.actions() == []


def test_reply_without_reference_does_not_stop_join_timeout(driver):
    driver.start()
    driver.connect()
    driver.reply("")
    driver.wait(10.0)
    assert driver.session.state is State.BACKOFF


def test_unknown_pushes_and_unknown_error_codes_change_nothing(live):
    live.receive(Other("presence_diff"))
    live.error("code_from_the_future", message="?")
    live.error("")
    assert live.session.is_live
    assert live.actions() == []


def test_stale_stream_causes_one_disconnect_for_all_topics():
    driver = SessionDriver(topics=(RUN, WORKER)).go_live(1)
    driver.receive(SyncError(stale(RUN)))
    driver.expect_close()
    assert len(driver.of("disconnected")) == 1


def test_late_stale_push_for_dropped_cursor_is_ignored():
    driver = SessionDriver(checkpoints={RUN: 2})
    driver.reply(driver.begin().ref, ok=False, **msgspec.structs.asdict(stale()))
    subscribe = driver.subscribe()
    driver.receive(SyncError(stale()))  # this server pushes after it replied
    assert driver.actions() == []
    assert len(driver.of("stale")) == 1
    driver.replay(subscribe, batch(21))
    assert driver.session.is_live


def test_stale_reply_without_topics_drops_every_cursor():
    driver = SessionDriver(topics=(RUN, WORKER), checkpoints={RUN: 2, WORKER: 3})
    driver.reply(driver.begin().ref, ok=False, code="stale_cursor", reason_codes=("retention_floor_breach",))
    assert [(notice.stream, notice.detail) for notice in driver.of("stale")] == [("", "retention_floor_breach")]
    assert driver.subscribe().resume_after == {}


def test_stale_reply_for_unknown_topic_backs_off():
    driver = SessionDriver(checkpoints={RUN: 2})
    driver.reply(driver.begin().ref, ok=False, **msgspec.structs.asdict(stale("run:other:events")))
    driver.expect_close()


def attempts_within(seconds: float, answer) -> int:
    """Number of connects within `seconds` to a server that answers every subscribe with `answer`."""
    driver = SessionDriver(checkpoints={RUN: 2})
    subscribe, connects, until = driver.begin(), 1, driver.now + seconds
    while driver.now < until:
        for _ in range(5):  # a client that never leaves a connection would loop without pause
            answer(driver, subscribe)
            actions = driver.actions()
            if actions[:1] == [Close()]:
                break
            subscribe = frame_of(actions[0].intent)
        else:
            raise AssertionError("the client subscribes repeatedly without a pause")
        connects += 1
        subscribe = driver.reconnect()
    return connects


def test_client_backs_off_from_server_that_always_replies_stale():
    def reply(driver: SessionDriver, subscribe) -> None:
        driver.reply(subscribe.ref, ok=False, **msgspec.structs.asdict(stale()))

    def push_and_reply(driver: SessionDriver, subscribe) -> None:
        driver.receive(SyncError(stale()))
        reply(driver, subscribe)

    assert attempts_within(600.0, reply) < 200
    assert attempts_within(600.0, push_and_reply) < 200


def test_server_that_only_pushes_stale_is_left_after_timeout():
    driver = SessionDriver(checkpoints={RUN: 2})
    driver.begin()
    driver.receive(SyncError(stale()))
    driver.subscribe()
    driver.receive(SyncError(stale()))
    assert driver.actions() == []
    driver.wait(10.0)
    assert driver.actions()[-1] == Close()
    assert driver.of("disconnected")[-1].detail == DisconnectReason.NETWORK


def test_client_backs_off_from_server_that_turns_stale_after_replay():
    def answer(driver: SessionDriver, subscribe) -> None:
        driver.replay(subscribe, batch(21))
        driver.receive(SyncError(stale(after=21, floor=30, head=40, snapshot=None)))

    assert attempts_within(600.0, answer) < 200


# --- arbitrary server input -----------------------------------------------------------------------------

_SEQ = st.integers(0, 12)
_REF = st.sampled_from(["", "1", "2", "3", "4", "5", "9"])
_TOPIC = st.sampled_from([RUN, WORKER, "run:other:events"])
_UPDATE = st.builds(update, _SEQ, _TOPIC) | st.builds(
    lambda seq, topic: msgspec.structs.replace(update(seq, topic), payload_hash="sha256:0"), _SEQ, _TOPIC
)
_MARKS = st.lists(st.builds(Watermark, _TOPIC, _SEQ), max_size=2).map(tuple)
_CODES = st.sampled_from(
    ["stale_cursor", "slow_consumer", "reauth_required", "rate_limited", "forbidden_topic", "bad_subscription", "x", ""]
)
_SNAPSHOT = st.none() | st.fixed_dictionaries({"watermark": st.integers(-1, 12) | st.just("x")})
_BODY = st.builds(
    Body,
    code=_CODES,
    action=st.sampled_from(["", "throttle", "disconnect"]),
    stale_topics=st.lists(st.builds(StaleTopic, _TOPIC, resume_after=_SEQ, head_watermark=_SEQ), max_size=2).map(tuple),
    snapshot_plan=st.none()
    | st.builds(SnapshotPlan, st.lists(st.builds(SnapshotTopic, _TOPIC, _SEQ, _SNAPSHOT), max_size=2).map(tuple)),
    reconnect_after_ms=st.none() | st.floats(-1e9, 1e9),
    retry_after_ms=st.none() | st.floats(-1e9, 1e9),
)
_FRAME = st.one_of(
    st.builds(UpdateBatch, st.lists(_UPDATE, max_size=4).map(tuple), st.booleans(), _MARKS),
    st.builds(Envelope, _UPDATE),
    st.builds(Reply, _REF, st.booleans(), _BODY),
    st.builds(HeartbeatPush, _MARKS),
    st.builds(SyncError, _BODY),
    st.just(ChannelClosed("phx_error")),
    st.just(Other("x")),
)
_ANSWER = st.just("reply")  # an ok reply to the last request, so that histories make progress
_EVENT = _FRAME | _ANSWER | st.sampled_from([0.0, 0.5, 4.0, 20.0])


class AutomaticDriver(SessionDriver):
    """Mints and connects at once when the session asks, and remembers the last request."""

    ref, acted, wakes = "", 0, 0

    def obey(self) -> None:
        while actions := self.actions():
            self.acted += len(actions)
            for action in actions:
                if isinstance(action, Mint):
                    self.mint_now()
                elif isinstance(action, Connect):
                    self.open()
                elif isinstance(action, Send):
                    self.ref = action.intent.ref

    def handle(self, event) -> None:
        if isinstance(event, float):
            self.wait(event)
        elif self.session.state in (State.JOINING, State.SUBSCRIBING, State.LIVE):
            self.receive(Reply(self.ref, True) if event == "reply" else event)
        self.obey()

    def woken(self) -> None:
        self.obey()
        self.wakes += 1


@settings(max_examples=400, deadline=None)
@given(st.lists(_EVENT, max_size=60), st.sampled_from(["reference", "desktop"]), st.booleans())
def test_session_keeps_its_rules_for_any_server_input(events, policy, known):
    driver = AutomaticDriver(policy, topics=(RUN, WORKER), checkpoints={RUN: 4} if known else None, refresh_s=100.0)
    driver.session.start(driver.now)
    driver.obey()
    for event in events:
        driver.handle(event)
        assert driver.session.wake_at() < math.inf, "the session would hang forever"
    seconds = sum(event for event in events if isinstance(event, float))
    assert driver.acted + driver.wakes <= 4 * len(events) + 3 * seconds + 10, "too many actions for these events"
    check(driver, policy)


def check(driver: SessionDriver, policy: str) -> None:
    became = driver.of("applied", "duplicate_dropped", "hash_mismatch", "ungranted", "gap")
    received = sum(int(notice.value) for notice in driver.of("received"))
    assert received == len([notice for notice in became if notice.detail != "replay"])
    if policy == "desktop":
        return
    for cursor in driver.session.replica.cursors.values():
        walk = [n for n in driver.of("applied", "rebootstrapped", "clamped") if n.stream == cursor.stream]
        for before, after in pairwise(walk):
            if after.kind == "applied":
                assert after.seq == before.seq + 1
            elif after.kind == "rebootstrapped":
                # A stored checkpoint above the head is discarded, and everything is requested again.
                assert after.seq >= before.seq or (before.kind, after.detail) == ("clamped", "fresh")
            else:
                assert after.seq < before.seq
        written = [n for n in driver.of("checkpoint_written", "clamped") if n.stream == cursor.stream]
        assert all(a.seq < b.seq or b.kind == "clamped" or a.kind == "clamped" for a, b in pairwise(written))
