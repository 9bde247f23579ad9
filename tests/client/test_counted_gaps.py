"""Gaps that a protocol shows by its own count of deliveries, where positions have lawful holes."""

import msgspec
import pytest

from sim.protocols.events import Batch, CaughtUp, Position, Resumed
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
