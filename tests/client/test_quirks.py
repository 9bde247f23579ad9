"""Servers that keep the contract's letter in their own way, and servers that do not: the session survives both."""

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
from tests.client.hand import RUN, WORKER, Hand, batch, stale, update


def test_the_reply_may_come_before_the_replay():
    hand = Hand(checkpoints={RUN: 1})
    ask = hand.begin()
    hand.reply(ask.ref)
    assert hand.session.is_live
    hand.receive(batch(2, complete=False, head=3))
    assert not hand.session.is_caught_up
    hand.receive(batch(3))
    assert hand.session.is_caught_up
    assert hand.seqs("applied") == [2, 3]


def test_the_reply_may_come_before_the_replay_and_the_live_tail_between():
    hand = Hand().go_live(1, 2)
    hand.receive(batch(4))
    ask = hand.subscribe()
    hand.reply(ask.ref)
    hand.receive(batch(5))  # of the tail, though it says that the replay is complete
    hand.receive(batch(3, 4, 5))
    assert hand.seqs("applied") == [1, 2, 3, 4, 5]
    assert not [notice for notice in hand.of("gap") if notice.detail == "replay"]
    hand.wait(10.0)
    assert not hand.sent()  # the hole is closed, so it does not ask once more


def test_a_replay_may_end_without_saying_so():
    hand = Hand(checkpoints={RUN: 1})
    ask = hand.begin()
    hand.receive(batch(2, complete=False))
    hand.reply(ask.ref)
    hand.receive(batch(4, complete=False))
    hand.wait(10.0)
    assert hand.session.is_caught_up
    hand.wait(1.0)
    assert hand.subscribe().resume_after == {RUN: 2}


def test_an_empty_replay_may_bring_no_batch_at_all():
    hand = Hand(checkpoints={RUN: 1})
    hand.reply(hand.begin().ref)
    hand.wait(10.0)
    assert hand.session.is_caught_up
    assert hand.of("disconnected") == []


def test_a_server_that_never_answers_a_second_subscribe_is_left():
    hand = Hand().go_live(1)
    hand.receive(batch(3))
    hand.subscribe()
    for seq in range(4, 15):
        hand.wait(1.0)
        if hand.session.state is State.BACKOFF:
            break
        hand.receive(batch(seq))
    assert hand.session.state is State.BACKOFF


def test_a_replay_may_come_as_envelopes():
    hand = Hand()
    ask = hand.begin()
    hand.receive(Envelope(update(1)))
    hand.receive(Envelope(update(2)))
    hand.receive(UpdateBatch((), True))
    hand.reply(ask.ref)
    assert hand.seqs("applied") == [1, 2]
    assert hand.session.is_caught_up


def test_a_server_without_heartbeats_is_kept_while_it_answers_ours():
    hand = Hand().go_live(1)
    for _ in range(10):
        hand.wait(15.0)
        (beat,) = hand.sent()
        assert isinstance(beat, TransportBeat)
        hand.reply(beat.ref)
    assert hand.session.is_live


def test_replies_to_what_was_never_asked_are_ignored():
    hand = Hand()
    hand.session.start(hand.now)
    hand.mint()
    hand.connect()
    for ref in ("", "0", "999", "null"):
        hand.reply(ref)
        hand.reply(ref, ok=False, code="forbidden_topic")
    assert hand.session.state is State.JOINING
    ask = hand.join()
    hand.reply("1")  # the join's once more
    hand.reply("", ok=False, code="stale_cursor")
    assert hand.session.state is State.SUBSCRIBING
    hand.receive(batch(1))
    hand.reply(ask.ref)
    hand.reply(ask.ref)
    hand.reply(ask.ref, ok=False, code="bad_subscription")
    assert hand.session.is_live
    assert hand.actions() == []


def test_a_reply_without_reference_does_not_stop_the_clock_of_a_join():
    hand = Hand()
    hand.session.start(hand.now)
    hand.mint()
    hand.connect()
    hand.reply("")
    hand.wait(10.0)
    assert hand.session.state is State.BACKOFF


def test_unknown_pushes_and_unknown_error_codes_change_nothing():
    hand = Hand().go_live(1)
    hand.receive(Other("presence_diff"))
    hand.error("code_from_the_future", message="?")
    hand.error("")
    assert hand.session.is_live
    assert hand.actions() == []


def test_two_streams_that_fall_off_at_once_are_one_disconnect():
    hand = Hand(topics=(RUN, WORKER)).go_live(1)
    hand.receive(SyncError(stale(RUN)))
    hand.closes()
    assert len(hand.of("disconnected")) == 1


def test_a_late_push_about_a_cursor_already_dropped_is_old_news():
    hand = Hand(checkpoints={RUN: 2})
    ask = hand.begin()
    hand.reply(ask.ref, ok=False, **msgspec.structs.asdict(stale()))
    ask = hand.subscribe()
    hand.receive(SyncError(stale()))  # this server pushes after it replied
    assert hand.actions() == []
    assert len(hand.of("stale")) == 1
    hand.receive(batch(21))
    hand.reply(ask.ref)
    assert hand.session.is_live


def test_a_stale_signal_may_name_no_topic():
    hand = Hand(topics=(RUN, WORKER), checkpoints={RUN: 2, WORKER: 3})
    ask = hand.begin()
    hand.reply(ask.ref, ok=False, code="stale_cursor", reason_codes=("retention_floor_breach",))
    assert [(notice.stream, notice.detail) for notice in hand.of("stale")] == [("", "retention_floor_breach")]
    assert hand.subscribe().resume_after == {}


def test_stale_about_topics_we_do_not_have_backs_off():
    hand = Hand(checkpoints={RUN: 2})
    hand.reply(hand.begin().ref, ok=False, **msgspec.structs.asdict(stale("run:other:events")))
    hand.closes()


def attempts_within(seconds: float, answer) -> int:
    """How often a client connects to a server that always answers its subscribes so."""
    hand = Hand(checkpoints={RUN: 2})
    ask, connects, until = hand.begin(), 1, hand.now + seconds
    while hand.now < until:
        for _ in range(5):  # a client that never gives up on one connection would loop hot
            answer(hand, ask)
            actions = hand.actions()
            if actions[:1] == [Close()]:
                break
            ask = frame_of(actions[0].intent)
        else:
            raise AssertionError("it asks again and again without a pause")
        connects += 1
        ask = hand.come_back()
    return connects


def test_a_server_that_calls_everything_stale_is_asked_ever_more_slowly():
    def reply(hand: Hand, ask) -> None:
        hand.reply(ask.ref, ok=False, **msgspec.structs.asdict(stale()))

    def push_and_reply(hand: Hand, ask) -> None:
        hand.receive(SyncError(stale()))
        reply(hand, ask)

    assert attempts_within(600.0, reply) < 200
    assert attempts_within(600.0, push_and_reply) < 200


def test_a_server_that_says_stale_only_by_push_and_always_is_given_up_by_time():
    hand = Hand(checkpoints={RUN: 2})
    hand.begin()
    hand.receive(SyncError(stale()))
    hand.subscribe()
    hand.receive(SyncError(stale()))
    assert hand.actions() == []
    hand.wait(10.0)
    assert hand.actions()[-1] == Close()
    assert hand.of("disconnected")[-1].detail == DisconnectReason.NETWORK


def test_a_server_that_lets_in_and_then_calls_stale_is_asked_ever_more_slowly():
    def answer(hand: Hand, ask) -> None:
        hand.receive(batch(21))
        hand.reply(ask.ref)
        hand.receive(SyncError(stale(after=21, floor=30, head=40, snapshot=None)))

    assert attempts_within(600.0, answer) < 200


# --- anything at all ------------------------------------------------------------------------------------

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
_ANSWER = st.just("reply")  # an ok reply to whatever was asked last, so that histories get somewhere
_EVENT = _FRAME | _ANSWER | st.sampled_from([0.0, 0.5, 4.0, 20.0])


class Obedient(Hand):
    """Mints and connects as soon as it is asked to, and remembers what was asked last."""

    ref, acted = "", 0

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

    def meet(self, event) -> None:
        if isinstance(event, float):
            self.let_pass(event)
        elif self.session.state in (State.JOINING, State.SUBSCRIBING, State.LIVE):
            self.receive(Reply(self.ref, True) if event == "reply" else event)
        self.obey()

    def let_pass(self, seconds: float) -> None:
        until = self.now + seconds
        while self.session.wake_at() <= until:
            self.now = max(self.now, self.session.wake_at())
            self.session.wake(self.now)
            self.obey()
            self.wakes += 1
        self.now = until

    wakes = 0


@settings(max_examples=400, deadline=None)
@given(st.lists(_EVENT, max_size=60), st.sampled_from(["reference", "desktop"]), st.booleans())
def test_whatever_a_server_sends_the_session_keeps_its_rules(events, policy, known):
    hand = Obedient(policy, topics=(RUN, WORKER), checkpoints={RUN: 4} if known else None, refresh_s=100.0)
    hand.session.start(hand.now)
    hand.obey()
    for event in events:
        hand.meet(event)
        assert hand.session.wake_at() < math.inf, "it would hang for ever"
    seconds = sum(event for event in events if isinstance(event, float))
    assert hand.acted + hand.wakes <= 4 * len(events) + 3 * seconds + 10, "it does much about little"
    check(hand, policy)


def check(hand: Hand, policy: str) -> None:
    became = hand.of("applied", "duplicate_dropped", "hash_mismatch", "ungranted", "gap")
    received = sum(int(notice.value) for notice in hand.of("received"))
    assert received == len([notice for notice in became if notice.detail != "replay"])
    if policy == "desktop":
        return
    for cursor in hand.session.replica.cursors.values():
        walk = [n for n in hand.of("applied", "rebootstrapped", "clamped") if n.stream == cursor.stream]
        for before, after in pairwise(walk):
            if after.kind == "applied":
                assert after.seq == before.seq + 1
            elif after.kind == "rebootstrapped":
                # A checkpoint of an earlier life that was above the head is not believed, and all is asked for anew.
                assert after.seq >= before.seq or (before.kind, after.detail) == ("clamped", "fresh")
            else:
                assert after.seq < before.seq
        written = [n for n in hand.of("checkpoint_written", "clamped") if n.stream == cursor.stream]
        assert all(a.seq < b.seq or b.kind == "clamped" or a.kind == "clamped" for a, b in pairwise(written))
