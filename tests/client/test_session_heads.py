"""A client session answers stale cursors, and heads that are above or below its cursor."""

import msgspec
import pytest

from sim.protocols.adapter import CaughtUpSign
from sim.protocols.events import DisconnectReason, Head, Position, Resumed
from sim.protocols.spacetime.frames import SyncError
from tests.client.peer import Peer, dense
from tests.client.session_driver import RUN, WORKER, SessionDriver, as_both, as_push, as_reply, batch, heads, stale
from tests.client.test_capabilities import DENSE


@pytest.mark.parametrize("announce", [as_push, as_reply, as_both])
def test_stale_cursor_is_dropped_once_and_snapshot_is_taken(announce):
    driver = SessionDriver(checkpoints={RUN: 2})
    announce(driver, driver.begin().ref)
    (stale_notice,) = driver.of("stale")
    assert (stale_notice.seq, stale_notice.value, stale_notice.detail) == (2, 18.0, "retention_floor_breach")
    subscribe = driver.subscribe()
    assert subscribe.resume_after == {}
    driver.replay(subscribe, batch(*range(10, 23)))
    assert driver.seqs("applied") == [21, 22]
    assert driver.seqs("duplicate_dropped") == list(range(10, 21))
    snapshot, retained = driver.of("rebootstrapped")
    assert (snapshot.seq, snapshot.value, snapshot.detail) == (20, 2.0, "snapshot")
    assert (retained.seq, retained.value, retained.detail) == (20, 20.0, "retained")
    assert not driver.of("declared_loss")
    assert driver.session.is_live
    assert driver.actions() == []


def test_gap_below_retention_floor_is_declared_lost_without_snapshot():
    driver = SessionDriver(topics=(RUN, WORKER), checkpoints={RUN: 2, WORKER: 5})
    driver.reply(driver.begin().ref, ok=False, **msgspec.structs.asdict(stale(WORKER, after=5, floor=11, snapshot=None)))
    subscribe = driver.subscribe()
    assert subscribe.resume_after == {RUN: 2}
    driver.replay(subscribe, batch(12, 13, topic=WORKER))
    (loss,) = driver.of("declared_loss")
    assert (loss.stream, loss.seq, loss.value) == ("runtime.codex.worker.events", 11, 6.0)
    assert driver.seqs("applied") == [12, 13]


def test_everything_up_to_head_is_declared_lost_when_nothing_is_retained():
    driver = SessionDriver(topics=(WORKER,), checkpoints={WORKER: 5})
    driver.reply(driver.begin().ref, ok=False, **msgspec.structs.asdict(stale(WORKER, after=5, floor=20, snapshot=None)))
    driver.replay(driver.subscribe(), batch(topic=WORKER, head=20))
    assert [(n.seq, n.value) for n in driver.of("declared_loss")] == [(20, 15.0)]
    assert driver.seqs("checkpoint_written") == [20]
    driver.receive(batch(21, topic=WORKER))
    assert driver.seqs("applied") == [21]


def test_second_stale_answer_without_cursor_backs_off():
    driver = SessionDriver(checkpoints={RUN: 2})
    as_both(driver, driver.begin().ref)
    as_reply(driver, driver.subscribe().ref)
    driver.expect_close()
    assert driver.of("backoff")[-1].detail == DisconnectReason.STALE_CURSOR
    assert driver.reconnect().resume_after == {}


def test_stream_that_becomes_stale_while_live_restarts_on_new_connection():
    """Frames of the old subscription may be in flight and must not count for the new one."""
    driver = SessionDriver().go_live(1, 2)
    driver.receive(SyncError(stale()))
    driver.expect_close()
    subscribe = driver.reconnect()
    assert subscribe.resume_after == {}
    driver.replay(subscribe, batch(*range(10, 22)))
    assert driver.seqs("applied") == [1, 2, 21]


def test_older_snapshot_does_not_lower_watermark():
    driver = SessionDriver(checkpoints={RUN: 2})
    as_reply(driver, driver.begin().ref)
    driver.reply(driver.subscribe().ref, ok=False, **msgspec.structs.asdict(stale(snapshot=11)))
    driver.replay(driver.reconnect(), batch(*range(10, 22)))
    assert driver.seqs("applied") == [21]
    assert driver.seqs("checkpoint_written") == [20, 21]


def test_two_heartbeats_reveal_lost_last_event():
    driver = SessionDriver().go_live(1, 2)
    driver.receive(heads(3))
    assert driver.actions() == []  # the heartbeat may arrive before its update
    driver.receive(heads(3))
    driver.replay(driver.subscribe(), batch(3))
    driver.receive(heads(3))
    assert driver.seqs("applied") == [1, 2, 3]
    assert driver.actions() == []


def test_cursor_above_head_is_clamped_and_resubscribed():
    """The runtime lost events that this client applied; the client has everything up to the head."""
    driver = SessionDriver().go_live(*range(1, 91))
    driver.lose("network")
    driver.replay(driver.reconnect(), batch(head=3))
    assert [(n.seq, n.value) for n in driver.of("clamped")] == [(3, 90.0)]
    driver.wait(1.0)
    subscribe = driver.subscribe()
    assert subscribe.resume_after == {RUN: 3}
    driver.replay(subscribe, batch(4))
    assert driver.seqs("applied")[90:] == [4]
    assert driver.seqs("checkpoint_written")[-2:] == [3, 4]
    assert not driver.of("gap")


@pytest.mark.parametrize("news", [heads(3), batch(head=3)])
def test_lower_head_on_live_tail_clamps_and_resubscribes(news):
    driver = SessionDriver().go_live(*range(1, 91))
    driver.lose("network")
    driver.replay(driver.reconnect(), batch())
    driver.receive(news)
    assert [(n.seq, n.value) for n in driver.of("clamped")] == [(3, 90.0)]
    assert driver.seqs("checkpoint_written")[-1] == 3
    assert driver.subscribe().resume_after == {RUN: 3}


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("news", [heads(3), batch(head=3)])
def test_stored_checkpoint_above_head_is_clamped_and_discarded(news, is_live):
    """The checkpoint may be wrong, so events up to the head may be missing: everything is requested again."""
    driver = SessionDriver(checkpoints={RUN: 90})
    subscribe = driver.begin()
    assert subscribe.resume_after == {RUN: 90}
    if is_live:
        driver.replay(subscribe, batch())
    driver.receive(news)
    assert [(n.seq, n.value) for n in driver.of("clamped")] == [(3, 90.0)]
    driver.expect_close()
    assert not driver.of("checkpoint_written")  # a client that restarts now must not resume from the head
    subscribe = driver.reconnect()
    assert subscribe.resume_after == {}
    driver.replay(subscribe, batch(1, 2, 3))
    assert driver.seqs("applied") == [1, 2, 3]
    assert driver.watermark == driver.seqs("checkpoint_written")[-1] == 3


def test_stored_checkpoint_at_head_is_trusted():
    driver = SessionDriver(checkpoints={RUN: 3})
    driver.replay(driver.begin(), batch(head=3))
    driver.receive(batch(4))
    assert driver.seqs("applied") == [4]
    assert not driver.of("clamped", "rebootstrapped")


def test_late_heartbeat_does_not_clamp_events_of_this_connection():
    driver = SessionDriver().go_live(1, 2, 3)
    driver.receive(heads(2))
    driver.receive(batch(4))
    assert not driver.of("clamped")
    assert driver.seqs("applied") == [1, 2, 3, 4]


def test_a_head_in_the_message_of_an_answer_says_where_an_empty_replay_ends():
    peer = Peer(msgspec.structs.replace(DENSE, caught_up=CaughtUpSign.REPLY), "a", "b")
    subscribe = peer.join()
    peer.tell(dense(3, stream="b"))
    peer.tell(Resumed(subscribe.ref), Head("a", Position(7)), Head("b", Position(9)), Head("c", Position(5)))
    assert peer.session.is_live
    assert [(stream, seq) for stream, seq, _ in peer.of("rebootstrapped")] == [("b", 2), ("a", 7)]
    assert [(stream, seq) for stream, seq, _ in peer.of("checkpoint_written")] == [("b", 3), ("a", 7)]
    assert peer.session.replica.behind() == []
