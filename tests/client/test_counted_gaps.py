"""Positions with lawful holes: gaps that a protocol shows by its own count, and runs that clients share nevertheless."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.client.cursor import OrderedCursor
from sim.protocols.events import Batch, CaughtUp, Message, Position, Resumed
from sim.protocols.nats_jetstream.adapter import CAPABILITIES as JETSTREAM
from tests.client.peer import Peer, applied, dense


@pytest.mark.parametrize("shown_by", [dense(7, epoch="e"), Batch("a", ())], ids=["event", "heartbeat"])
def test_gap_that_the_protocol_counts_is_closed_by_a_replay_before_anything_else_is_applied(shown_by: Batch):
    peer = Peer(JETSTREAM)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0, "e"), Position(1, "e")), dense(1, epoch="e"), CaughtUp("a"))
    peer.tell(msgspec.structs.replace(shown_by, is_after_gap=True))
    again = peer.subscribe()
    assert again.after == {"a": Position(1, "e")}
    peer.tell(Resumed(again.ref, "a", Position(1, "e"), Position(9, "e")), dense(4, 7, epoch="e"), CaughtUp("a"))
    peer.tell(dense(9, epoch="e"))
    assert applied(peer) == [1, 4, 7, 9]
    assert len(peer.of("gap")) == 1
    assert peer.session.is_live


def test_nothing_after_a_gap_is_applied_before_its_replay():
    peer = Peer(JETSTREAM)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0, "e"), Position(1, "e")), dense(1, epoch="e"), CaughtUp("a"))
    peer.tell(msgspec.structs.replace(dense(7, epoch="e"), is_after_gap=True), dense(8, epoch="e"))
    assert applied(peer) == [1]
    assert len(peer.of("gap")) == 2


def live_at(seq: int) -> Peer:
    peer = Peer(JETSTREAM)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0, "e"), Position(seq, "e")), dense(seq, epoch="e"), CaughtUp("a"))
    peer.of()
    return peer


EVENTS = st.tuples(st.integers(1, 30), st.booleans()).map(
    lambda drawn: (msgspec.structs.replace(dense(drawn[0], epoch="e"), is_after_gap=drawn[1]),)
)


@given(st.lists(EVENTS | st.integers(1, 30).map(lambda seq: (dense(seq, epoch="e"),)), max_size=12))
def test_client_that_shares_runs_over_holes_has_the_same_notices(messages: list[Message]) -> None:
    sharing, alone = live_at(5), live_at(5)
    for message in messages:
        run = sharing.session.settings.run_of(message)
        if run is None or not sharing.session.follow(run, sharing.now):
            sharing.tell(*message)
        else:
            sharing.seen += run.notices
        alone.tell(*message)
        for peer in (sharing, alone):
            peer.of()
    assert [repr(each) for each in sharing.seen] == [repr(each) for each in alone.seen]
    cursors = [peer.session.replica.cursors["a"] for peer in (sharing, alone)]
    assert repr(cursors[0]) == repr(cursors[1])


def test_run_over_a_hole_is_shared() -> None:
    peer = live_at(5)
    run = peer.session.settings.run_of((dense(9, epoch="e"),))
    assert run is not None
    assert peer.session.follow(run, peer.now)
    assert peer.session.replica.cursors["a"].stored == Position(9, "e")


def test_blocked_cursor_skips_nothing() -> None:
    cursor = OrderedCursor("a", "a", watermark=5)
    assert cursor.may_skip_to(8)
    cursor.reject()
    assert not cursor.may_skip_to(8)
