"""A client session answers stale cursors, and heads that are above or below its cursor."""

import msgspec
import pytest

from sim.protocols.events import DisconnectReason
from sim.protocols.spacetime.frames import SyncError
from tests.client.hand import RUN, WORKER, Hand, as_both, as_push, as_reply, batch, heads, stale


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


def test_an_old_heartbeat_takes_back_nothing_that_came_over_this_connection():
    hand = Hand().go_live(1, 2, 3)
    hand.receive(heads(2))
    hand.receive(batch(4))
    assert not hand.of("clamped")
    assert hand.seqs("applied") == [1, 2, 3, 4]
