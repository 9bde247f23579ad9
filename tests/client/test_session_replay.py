"""A client session applies a replay and the live tail: order, duplicates, gaps and wrong hashes."""

import msgspec
import pytest

from sim.protocols.events import DisconnectReason
from sim.protocols.spacetime.frames import UpdateBatch
from tests.client.hand import RUN, WORKER, Hand, batch, heads, update


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
