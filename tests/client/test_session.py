"""The client session, driven by hand: what it does on each thing that may come."""

import math
from pathlib import Path

import msgspec
import pytest

from sim.base.errors import IllegalMoveError
from sim.client.actions import Close, Connect, Mint
from sim.client.notices import short_hash
from sim.client.transitions import TRANSITIONS, State, Trigger
from sim.protocols.events import Batch, Closed, DisconnectReason, Malformed, Opened
from sim.protocols.payloads import payload_hash
from sim.protocols.spacetime.codes import connect_refused
from sim.protocols.spacetime.frames import ChannelClosed, HeartbeatPush, SyncError, TransportBeat, UpdateBatch, Watermark
from tests.client.hand import RUN, WORKER, Hand, batch, stale, update

ROOT = Path(__file__).parents[2]


def heads(head: int, topic: str = RUN) -> HeartbeatPush:
    return HeartbeatPush((Watermark(topic, head),))


# --- the usual course -----------------------------------------------------------------------------------


def test_the_usual_course():
    hand = Hand()
    ask = hand.begin()
    assert (ask.topics, ask.resume_after, ask.replay_batch_size) == ((RUN,), {}, 200)
    hand.receive(batch(1, 2, complete=False, head=3))
    assert not hand.session.is_live
    hand.receive(batch(3))
    assert not hand.session.is_caught_up
    hand.reply(ask.ref)
    assert hand.session.is_live
    assert hand.session.is_caught_up
    hand.receive(batch(4))
    assert hand.seqs("applied") == [1, 2, 3, 4]
    assert [notice.kind for notice in hand.notices if notice.kind not in ("applied", "received")] == [
        *("token_minted", "connect_attempted", "connect_done", "joined", "replay_started", "rebootstrapped"),
        *("checkpoint_written", "checkpoint_written", "subscribed", "replayed", "replay_completed", "checkpoint_written"),
    ]
    assert hand.seqs("checkpoint_written") == [2, 3, 4]


def test_durations_are_from_the_moment_an_attempt_was_due():
    hand = Hand()
    hand.session.start(hand.now)
    hand.now += 0.5
    hand.mint()
    hand.now += 0.2
    hand.connect()
    hand.now += 0.1
    ask = hand.join()
    hand.receive(batch())
    hand.reply(ask.ref)
    value = {notice.kind: notice.value for notice in hand.notices + hand.of("replay_completed")}
    assert value["token_minted"] == pytest.approx(500)
    assert value["connect_done"] == pytest.approx(200)
    assert value["subscribed"] == value["replay_completed"] == pytest.approx(300)


def test_a_client_resumes_after_its_checkpoint():
    hand = Hand(checkpoints={RUN: 5}, topics=(RUN, WORKER))
    ask = hand.begin()
    assert ask.resume_after == {RUN: 5}
    hand.receive(batch(6, 7))
    hand.reply(ask.ref)
    assert hand.seqs("applied") == [6, 7]


def test_after_a_cut_it_resumes_from_what_it_applied_with_the_same_token():
    hand = Hand().go_live(1, 2, 3)
    hand.lose("connection reset by peer")
    assert hand.of("disconnected")[-1].detail == DisconnectReason.NETWORK
    assert hand.come_back().resume_after == {RUN: 3}
    assert hand.tokens == 1


def test_batches_may_carry_several_topics_and_no_flag_on_the_live_tail():
    hand = Hand(topics=(RUN, WORKER)).go_live(1)
    hand.receive(UpdateBatch((update(2), update(1, WORKER), update(3), update(2, WORKER))))
    assert hand.seqs("applied") == [1, 2, 1, 3, 2]
    assert not hand.of("gap")


# --- the apply rule -------------------------------------------------------------------------------------


def test_a_duplicate_is_dropped():
    hand = Hand().go_live(1, 2)
    hand.receive(batch(2, 3, 3))
    assert hand.seqs("applied") == [1, 2, 3]
    assert hand.seqs("duplicate_dropped") == [2, 3]
    assert hand.actions() == []


def test_after_a_gap_nothing_is_applied_and_it_asks_again_from_the_watermark():
    hand = Hand().go_live(1, 2)
    hand.receive(batch(4, 5))
    assert hand.watermark == 2
    ask = hand.subscribe()
    assert ask.resume_after == {RUN: 2}
    hand.receive(batch(6))  # the live tail goes on between the question and its replay
    assert hand.actions() == []
    hand.receive(batch(3, 4, 5, 6))
    hand.reply(ask.ref)
    assert hand.seqs("applied") == [1, 2, 3, 4, 5, 6]
    assert [(n.seq, n.value, n.detail) for n in hand.of("gap")] == [(4, 2.0, "live"), (5, 2.0, "live"), (6, 2.0, "live")]
    assert hand.actions() == []


def test_a_jumbled_payload_is_not_applied_and_asked_for_again():
    hand = Hand().go_live(1)
    false = msgspec.structs.replace(update(2), payload=msgspec.Raw(b'{"n":3}'))
    hand.receive(UpdateBatch((false,)))
    assert hand.seqs("hash_mismatch") == [2]
    ask = hand.subscribe()
    hand.receive(batch(2))
    hand.reply(ask.ref)
    assert hand.seqs("applied") == [1, 2]


def test_a_topic_never_subscribed_to_is_reported_and_changes_nothing():
    hand = Hand().go_live(1)
    hand.receive(batch(9, topic=WORKER))
    assert [(n.stream, n.seq) for n in hand.of("ungranted")] == [("runtime.codex.worker.events", 9)]
    assert hand.actions() == []


def test_a_hole_that_replays_do_not_close_is_asked_for_ever_more_slowly_and_then_it_reconnects():
    hand = Hand().go_live(1)
    hand.receive(batch(3))
    asked_at = []
    for _ in range(3):
        hand.wait(hand.session.wake_at() - hand.now if asked_at else 0.0)
        asked_at.append(hand.now)
        ask = hand.subscribe()
        hand.receive(batch(3))
        hand.reply(ask.ref)
    hand.closes()
    assert asked_at[0] < asked_at[1] < asked_at[2]
    assert [n.detail for n in hand.of("gap") if n.detail == "replay"] == ["replay", "replay"]
    assert hand.come_back().resume_after == {RUN: 1}


def test_a_replay_with_a_hole_is_the_replays_fault():
    hand = Hand(checkpoints={RUN: 1})
    ask = hand.begin()
    hand.receive(batch(2, 4))
    hand.reply(ask.ref)
    assert [(n.seq, n.value) for n in hand.of("gap") if n.detail == "replay"] == [(4, 2.0)]
    hand.wait(1.0)
    assert hand.subscribe().resume_after == {RUN: 2}


def test_a_replay_below_the_cursor_is_reported_but_a_late_duplicate_is_not():
    hand = Hand(checkpoints={RUN: 3})
    ask = hand.begin()
    hand.receive(batch(2, 3, 4))
    hand.reply(ask.ref)
    assert [(n.seq, n.value) for n in hand.of("replay_below_cursor")] == [(2, 3.0), (3, 3.0)]
    hand.receive(batch(6))
    hand.subscribe()
    hand.receive(batch(4))
    assert len(hand.of("replay_below_cursor")) == 2


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("upgrade_required", "unknown"),
        ("unsupported_protocol_version", "unknown"),
        ("unsupported_schema_version", "unknown"),
        ("invalid_client_build", "unknown"),
        ("unsupported_client_build", "unknown"),
        ("reauth_required", "unauthorized"),
        ("a_code_from_the_future", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_refused_join_is_reported_and_tried_again_later(code, reason):
    hand = Hand()
    hand.session.start(hand.now)
    hand.mint()
    hand.connect()
    (join,) = hand.sent()
    hand.reply(join.ref, ok=False, code=code)
    hand.closes()
    assert hand.of("subscribe_refused")[0].detail == code
    assert hand.of("disconnected")[0].detail == reason
    hand.come_back()
    assert hand.tokens == (2 if reason == "unauthorized" else 1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [("bad_subscription", "unknown"), ("forbidden_topic", "forbidden"), ("rate_limited", "unknown"), ("new_code", "unknown")],
)
def test_a_refused_subscribe_is_reported_and_tried_again_later(code, reason):
    hand = Hand()
    ask = hand.begin()
    hand.reply(ask.ref, ok=False, code=code)
    hand.closes()
    assert hand.of("subscribe_refused")[0].detail == code
    assert hand.of("disconnected")[0].detail == reason
    assert hand.session.state is State.BACKOFF


@pytest.mark.parametrize(("code", "mints"), [("network", False), ("timeout", False), ("token_expired", True)])
def test_a_failed_connect_mints_only_when_the_token_was_refused(code, mints):
    hand = Hand()
    hand.session.start(hand.now)
    hand.mint()
    hand.actions()
    hand.fail_connect(code)
    assert hand.of("connect_failed")[0].detail == code
    hand.come_back()
    assert hand.tokens == 1 + mints


def test_a_refused_token_request_is_repeated_with_backoff():
    hand = Hand()
    hand.session.start(hand.now)
    hand.actions()
    hand.session.mint_failed("minting_disabled", hand.now, hint_ms=5000.0)
    assert hand.of("token_refused")[0].detail == "minting_disabled"
    assert hand.delay_ms() >= 5000.0
    hand.come_back()


# --- stale cursors --------------------------------------------------------------------------------------


def as_push(hand: Hand, ref: str) -> None:
    hand.receive(SyncError(stale()))


def as_reply(hand: Hand, ref: str) -> None:
    hand.reply(ref, ok=False, **msgspec.structs.asdict(stale()))


def as_both(hand: Hand, ref: str) -> None:
    as_push(hand, ref)
    as_reply(hand, ref)


@pytest.mark.parametrize("tell", [as_push, as_reply, as_both])
def test_a_stale_cursor_is_dropped_once_and_the_snapshot_taken(tell):
    hand = Hand(checkpoints={RUN: 2})
    tell(hand, hand.begin().ref)
    (noted,) = hand.of("stale")
    assert (noted.seq, noted.value, noted.detail) == (2, 18.0, "retention_floor_breach")
    ask = hand.subscribe()
    assert ask.resume_after == {}
    hand.receive(batch(*range(10, 23)))
    hand.reply(ask.ref)
    assert hand.seqs("applied") == [21, 22]
    assert hand.seqs("duplicate_dropped") == list(range(10, 21))
    snapshot, retained = hand.of("rebootstrapped")
    assert (snapshot.seq, snapshot.value, snapshot.detail) == (20, 2.0, "snapshot")
    assert (retained.seq, retained.value, retained.detail) == (20, 20.0, "retained")
    assert not hand.of("declared_loss")
    assert hand.session.is_live
    assert hand.actions() == []


def test_without_a_snapshot_exactly_what_lies_between_is_declared_lost():
    hand = Hand(topics=(RUN, WORKER), checkpoints={RUN: 2, WORKER: 5})
    ask = hand.begin()
    hand.reply(ask.ref, ok=False, **msgspec.structs.asdict(stale(WORKER, after=5, floor=11, snapshot=None)))
    ask = hand.subscribe()
    assert ask.resume_after == {RUN: 2}
    hand.receive(batch(12, 13, topic=WORKER))
    hand.reply(ask.ref)
    (loss,) = hand.of("declared_loss")
    assert (loss.stream, loss.seq, loss.value) == ("runtime.codex.worker.events", 11, 6.0)
    assert hand.seqs("applied") == [12, 13]


def test_when_nothing_is_retained_all_up_to_the_head_is_declared_lost_and_the_checkpoint_written():
    hand = Hand(topics=(WORKER,), checkpoints={WORKER: 5})
    ask = hand.begin()
    hand.reply(ask.ref, ok=False, **msgspec.structs.asdict(stale(WORKER, after=5, floor=20, snapshot=None)))
    ask = hand.subscribe()
    hand.receive(batch(topic=WORKER, head=20))
    hand.reply(ask.ref)
    assert [(n.seq, n.value) for n in hand.of("declared_loss")] == [(20, 15.0)]
    assert hand.seqs("checkpoint_written") == [20]
    hand.receive(batch(21, topic=WORKER))
    assert hand.seqs("applied") == [21]


def test_a_second_stale_answer_without_a_cursor_backs_off():
    hand = Hand(checkpoints={RUN: 2})
    as_both(hand, hand.begin().ref)
    as_reply(hand, hand.subscribe().ref)
    hand.closes()
    assert hand.of("backoff")[-1].detail == DisconnectReason.STALE_CURSOR
    assert hand.come_back().resume_after == {}


def test_a_stream_that_falls_off_the_window_while_live_is_taken_up_anew_on_a_new_connection():
    """Frames of the old subscription may still be under way, and would be taken for the first of the new one."""
    hand = Hand().go_live(1, 2)
    hand.receive(SyncError(stale()))
    hand.closes()
    ask = hand.come_back()
    assert ask.resume_after == {}
    hand.receive(batch(*range(10, 22)))
    hand.reply(ask.ref)
    assert hand.seqs("applied") == [1, 2, 21]


def test_a_snapshot_older_than_what_is_known_takes_nothing_back():
    hand = Hand(checkpoints={RUN: 2})
    as_reply(hand, hand.begin().ref)
    hand.reply(hand.subscribe().ref, ok=False, **msgspec.structs.asdict(stale(snapshot=11)))
    ask = hand.come_back()
    hand.receive(batch(*range(10, 22)))
    hand.reply(ask.ref)
    assert hand.seqs("applied") == [21]
    assert hand.seqs("checkpoint_written") == [20, 21]


# --- heads and heartbeats -------------------------------------------------------------------------------


def test_two_heartbeats_reveal_a_lost_last_event():
    hand = Hand().go_live(1, 2)
    hand.receive(heads(3))
    assert hand.actions() == []  # the heartbeat may have overtaken its update
    hand.receive(heads(3))
    ask = hand.subscribe()
    hand.receive(batch(3))
    hand.reply(ask.ref)
    hand.receive(heads(3))
    assert hand.seqs("applied") == [1, 2, 3]
    assert hand.actions() == []


def test_a_cursor_above_the_head_is_clamped_and_asked_from_again():
    """The runtime lost what this client has applied itself: up to the head it has everything."""
    hand = Hand().go_live(*range(1, 91))
    hand.lose("network")
    ask = hand.come_back()
    hand.receive(batch(head=3))
    hand.reply(ask.ref)
    assert [(n.seq, n.value) for n in hand.of("clamped")] == [(3, 90.0)]
    hand.wait(1.0)
    ask = hand.subscribe()
    assert ask.resume_after == {RUN: 3}
    hand.receive(batch(4))
    hand.reply(ask.ref)
    assert hand.seqs("applied")[90:] == [4]
    assert hand.seqs("checkpoint_written")[-2:] == [3, 4]
    assert not hand.of("gap")


@pytest.mark.parametrize("news", [heads(3), batch(head=3)])
def test_a_lower_head_on_the_live_tail_clamps_and_asks_from_there(news):
    hand = Hand().go_live(*range(1, 91))
    hand.lose("network")
    ask = hand.come_back()
    hand.receive(batch())
    hand.reply(ask.ref)
    hand.receive(news)
    assert [(n.seq, n.value) for n in hand.of("clamped")] == [(3, 90.0)]
    assert hand.seqs("checkpoint_written")[-1] == 3
    assert hand.subscribe().resume_after == {RUN: 3}


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("news", [heads(3), batch(head=3)])
def test_an_earlier_lifes_checkpoint_above_the_head_is_clamped_and_not_believed(news, is_live):
    """It may never have been true, so the head may hold events that nobody applied: everything is asked for again."""
    hand = Hand(checkpoints={RUN: 90})
    ask = hand.begin()
    assert ask.resume_after == {RUN: 90}
    if is_live:
        hand.receive(batch())
        hand.reply(ask.ref)
    hand.receive(news)
    assert [(n.seq, n.value) for n in hand.of("clamped")] == [(3, 90.0)]
    hand.closes()
    assert not hand.of("checkpoint_written")  # whoever dies now must not take the head for what it has
    ask = hand.come_back()
    assert ask.resume_after == {}
    hand.receive(batch(1, 2, 3))
    hand.reply(ask.ref)
    assert hand.seqs("applied") == [1, 2, 3]
    assert hand.watermark == hand.seqs("checkpoint_written")[-1] == 3


def test_an_earlier_lifes_checkpoint_at_the_head_is_believed():
    hand = Hand(checkpoints={RUN: 3})
    ask = hand.begin()
    hand.receive(batch(head=3))
    hand.reply(ask.ref)
    hand.receive(batch(4))
    assert hand.seqs("applied") == [4]
    assert not hand.of("clamped", "rebootstrapped")


# --- policies that are wrong on purpose -----------------------------------------------------------------


def test_one_wrong_client_applies_duplicates():
    hand = Hand("wrong_applies_duplicates").go_live(1, 2)
    hand.receive(batch(2, 3))
    assert hand.seqs("applied") == [1, 2, 2, 3]
    assert hand.watermark == 3


def test_one_wrong_client_applies_whatever_the_hash_says():
    hand = Hand("wrong_ignores_hashes").go_live(1)
    jumbled = msgspec.structs.replace(update(2), payload=msgspec.Raw(b'{"n":3}'))
    hand.receive(UpdateBatch((jumbled,), True))
    applied = hand.of("applied")[-1]
    assert applied.seq == 2
    assert applied.detail == short_hash(payload_hash(b'{"n":3}')) != short_hash(jumbled.payload_hash)
    assert not hand.of("hash_mismatch")


def test_one_wrong_client_takes_any_checkpoint_for_its_own():
    hand = Hand("wrong_trusts_future_checkpoints", checkpoints={RUN: 90})
    ask = hand.begin()
    hand.receive(batch(head=3))
    hand.reply(ask.ref)
    hand.receive(heads(4))
    hand.receive(batch(4))
    assert hand.watermark == 90
    assert not hand.of("clamped", "applied")


def test_no_drill_of_the_catalogue_asks_for_a_wrong_client():
    paths = [path for folder in ("catalog", "examples") for path in (ROOT / "drills" / folder).glob("*.toml")]
    assert paths
    assert not [path.name for path in paths if "wrong_" in path.read_text()]


def test_what_an_earlier_connection_brought_is_no_reason_to_ask_again():
    hand = Hand().go_live(1)
    hand.receive(batch(9))
    hand.lose("network")
    ask = hand.come_back()
    hand.receive(batch(2))
    hand.reply(ask.ref)
    hand.receive(heads(2))
    hand.receive(heads(2))
    hand.wait(1.0)
    assert hand.actions() == []


def test_there_is_no_event_zero():
    hand = Hand().go_live(0, 1)
    assert hand.seqs("applied") == [1]
    assert hand.watermark == 1


def test_an_old_heartbeat_takes_back_nothing_that_came_over_this_connection():
    hand = Hand().go_live(1, 2, 3)
    hand.receive(heads(2))
    hand.receive(batch(4))
    assert not hand.of("clamped")
    assert hand.seqs("applied") == [1, 2, 3, 4]


def test_it_beats_in_time_and_gives_up_a_silent_server():
    hand = Hand().go_live(1)
    hand.wait(15.0)
    (beat,) = hand.sent()
    assert isinstance(beat, TransportBeat)
    hand.reply(beat.ref)
    hand.wait(30.0)
    assert len(hand.sent()) == 2
    hand.wait(15.0)
    assert hand.actions()[-1] == Close()
    assert len(hand.of("heartbeat_timeout")) == 1
    assert hand.of("disconnected")[-1].detail == DisconnectReason.NETWORK


def test_a_client_that_trusts_silence_believes_a_silent_server_for_ever():
    hand = Hand(policy="wrong_trusts_silence").go_live(1)
    hand.wait(600.0)
    assert Close() not in hand.actions()
    assert hand.session.is_live


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_unanswered_connect_join_or_subscribe_times_out(steps):
    hand = Hand()
    hand.session.start(hand.now)
    hand.mint()
    if steps > 1:
        hand.connect()
    if steps > 2:
        hand.join()
    hand.wait(10.0)
    assert hand.actions()[-1] == Close()
    assert hand.session.state is State.BACKOFF


def test_a_long_replay_is_not_taken_for_silence():
    hand = Hand()
    ask = hand.begin()
    for seq in range(1, 10):
        hand.wait(9.0)
        hand.receive(batch(seq, complete=False, head=10))
    hand.receive(batch(10))
    hand.reply(ask.ref)
    assert hand.session.is_caught_up
    assert not hand.of("disconnected")


# --- tokens ---------------------------------------------------------------------------------------------


def test_a_token_is_refreshed_before_it_expires():
    hand = Hand(refresh_s=270.0, expires_s=300.0).go_live(1)
    for _ in range(27):
        hand.wait(9.999)
        hand.receive(heads(1))
    hand.actions()
    hand.wait(0.1)
    hand.closes()
    assert hand.of("disconnected")[-1].detail == DisconnectReason.TOKEN_REFRESH_DUE
    hand.come_back()
    assert hand.tokens == 2


def test_a_token_due_for_refresh_by_the_time_of_the_reconnect_is_not_used():
    hand = Hand(refresh_s=2.0, expires_s=300.0).go_live(1)
    hand.now += 1.999999
    hand.lose("network")
    hand.come_back()
    assert hand.tokens == 2


def test_revocation_mints_first():
    hand = Hand().go_live(1)
    hand.error("reauth_required")
    hand.closes()
    assert hand.of("backoff")[-1].detail == DisconnectReason.UNAUTHORIZED
    hand.wait(hand.session.wake_at() - hand.now)
    assert hand.actions() == [Mint()]


# --- delays ---------------------------------------------------------------------------------------------


def test_an_evicted_client_stays_away_as_long_as_it_was_told():
    hand = Hand().go_live(1)
    hand.error("slow_consumer", action="throttle", reconnect_after_ms=2000.0)
    assert hand.actions() == []
    hand.error("slow_consumer", action="disconnect", reconnect_after_ms=2000.0)
    hand.closes()
    assert hand.of("evicted")[0].detail == "disconnect"
    assert hand.of("backoff")[0].detail == "unknown:hint"
    assert 2000.0 <= hand.delay_ms() < 2250.0


@pytest.mark.parametrize(("hint_ms", "at_most_ms"), [(-5.0, 250.0), (1e300, 300_250.0)])
def test_an_absurd_hint_is_bounded(hint_ms, at_most_ms):
    hand = Hand().go_live(1)
    hand.error("rate_limited", retry_after_ms=hint_ms)
    assert 0.0 <= hand.delay_ms() <= at_most_ms


def attempts(policy: str, live_s: float) -> list[int]:
    hand = Hand(policy).go_live(1)
    for _ in range(4):
        hand.wait(live_s)
        hand.lose("network")
        ask = hand.come_back()
        hand.receive(batch(head=1))
        hand.reply(ask.ref)
    return [notice.attempt for notice in hand.of("backoff")]


def test_the_reference_counts_from_one_after_a_live_period_and_the_desktop_never_does():
    assert attempts("reference", 6.0) == [1, 1, 1, 1]
    assert attempts("reference", 1.0) == [1, 2, 3, 4]
    assert attempts("desktop", 6.0) == [1, 2, 3, 4]


def delays(seed: int, client: int) -> list[float]:
    hand = Hand(client=client, seed=seed)
    hand.session.start(hand.now)
    for _ in range(6):
        hand.actions()
        hand.session.mint_failed("x", hand.now)
        hand.wait(hand.session.wake_at() - hand.now)
    return [notice.value for notice in hand.of("backoff")]


def test_delays_are_a_function_of_seed_and_client():
    assert delays(1, 0) == delays(1, 0)
    assert delays(1, 0) != delays(2, 0)
    assert delays(1, 0) != delays(1, 1)
    assert all(0 <= delay < 250 * 2**n for n, delay in enumerate(delays(1, 0)))


# --- legality -------------------------------------------------------------------------------------------

_MOVES = {
    Trigger.START: lambda session: session.start(0.0),
    Trigger.MINTED: lambda session: session.minted(None, 0.0),
    Trigger.MINT_FAILED: lambda session: session.mint_failed("x", 0.0),
    Trigger.CONNECTED: lambda session: session.received((Opened(),), 0.0),
    Trigger.CONNECT_FAILED: lambda session: session.received((connect_refused("x"),), 0.0),
    Trigger.RECEIVED: lambda session: session.received((Batch(RUN, ()),), 0.0),
    Trigger.DISCONNECTED: lambda session: session.disconnected(Closed(), 0.0),
}


@pytest.mark.parametrize("trigger", Trigger)
@pytest.mark.parametrize("state", State)
def test_a_trigger_is_legal_where_the_table_has_it(trigger, state):
    hand = Hand()
    hand.session.state = state
    following = TRANSITIONS[trigger].get(state)
    if following is not None:
        hand.session._move(trigger)
        assert hand.session.state is following
        return
    with pytest.raises(IllegalMoveError, match=f"in state {state.name}"):
        _MOVES.get(trigger, lambda session: session._move(trigger))(hand.session)
    assert hand.session.state is state
    assert hand.actions() == []


def test_every_state_is_reached_from_idle_and_only_stopped_is_final():
    reached, before = {State.IDLE}, set()
    while reached != before:
        before = set(reached)
        reached |= {row[state] for row in TRANSITIONS.values() for state in before if state in row}
    assert reached == set(State)
    assert set(TRANSITIONS) == set(Trigger)
    assert {row.get(State.STOPPED) for row in TRANSITIONS.values()} == {None, State.STOPPED}


def test_a_stopped_session_closes_and_never_wakes():
    hand = Hand().go_live(1)
    hand.session.stop(hand.now)
    hand.closes()
    assert hand.session.wake_at() == math.inf
    hand.session.wake(hand.now + 1e6)
    assert hand.actions() == []


def test_waking_early_does_nothing():
    hand = Hand()
    hand.session.wake(hand.now)
    assert hand.actions() == []
    hand.session.start(hand.now)
    hand.mint()
    (connect,) = hand.actions()
    assert isinstance(connect, Connect)
    hand.session.wake(hand.now)
    assert hand.actions() == []


@pytest.mark.parametrize("event", ["phx_error", "phx_close"])
def test_a_channel_that_ends_is_left_and_joined_again(event):
    hand = Hand().go_live(1)
    hand.receive(ChannelClosed(event))
    hand.closes()
    assert hand.come_back().resume_after == {RUN: 1}


def test_what_is_no_frame_is_noted_and_otherwise_ignored():
    hand = Hand().go_live(1)
    hand.session.received((Malformed("malformed_frame"),), hand.now)
    assert hand.of("malformed")[0].detail == "malformed_frame"
    assert hand.actions() == []


def test_why_pending_tells_where_a_client_is():
    hand = Hand()
    assert hand.session.why_pending() == "idle"
    ask = hand.begin()
    assert hand.session.why_pending() == "subscribing"
    hand.reply(ask.ref)
    assert hand.session.why_pending() == "replaying"
    hand.receive(batch())
    assert hand.session.why_pending() == "behind"
