"""Streams that end one by one on an open connection, and answers after which a client must reconnect."""

import msgspec
import pytest

from sim.client import policies
from sim.client.actions import Close
from sim.client.session import Session
from sim.client.transitions import State
from sim.protocols.events import Closed, DisconnectReason, Joined, Next, Position, PositionUnknown, Resumed, Step, StreamEnded
from sim.protocols.intents import AskHead
from tests.client.peer import CENTRIFUGO, DURABLE, NATS, Peer, applied, dense


def live(*streams: str) -> Peer:
    """A live client that has the event 1 of each stream."""
    peer = Peer(CENTRIFUGO, *streams)
    ref = peer.join().ref
    peer.tell(*(Resumed(ref, stream, Position(0)) for stream in streams))
    peer.tell(*(dense(1, stream=stream) for stream in streams))
    assert peer.session.is_live
    assert peer.actions() == []
    return peer


@pytest.mark.parametrize("end", [StreamEnded("a", "x", Next(Step.NOTHING)), StreamEnded("b", "x", Next(Step.RESUBSCRIBE))])
def test_end_that_asks_for_nothing_or_is_of_another_stream_changes_nothing(end: StreamEnded):
    peer = live("a").tell(end)
    assert peer.session.is_live
    assert peer.wait(1.0).actions() == []


@pytest.mark.parametrize(("step", "after"), [(Step.RESUBSCRIBE, Position(1)), (Step.REFETCH, None)])
def test_ended_stream_is_read_again_from_its_position_or_from_its_start(step: Step, after: Position | None):
    peer = live("a", "b").tell(StreamEnded("a", "x", Next(step)))
    assert peer.wait(1.0).subscribe().after == {"a": after}


def test_stream_that_needs_another_token_ends_the_connection():
    peer = live("a", "b").tell(StreamEnded("a", "expired", Next(Step.MINT)))
    assert peer.actions() == [Close()]
    assert peer.details("subscribe_refused") == [], "the connection failed, not the stream"
    peer.reconnect()
    assert peer.tokens == 2


def test_stream_with_its_own_connection_that_needs_another_token_was_refused():
    peer = Peer(DURABLE)
    peer.tell(Resumed(peer.join().ref, "a")).tell(StreamEnded("a", "expired", Next(Step.MINT)))
    assert peer.actions() == [Close()]
    assert peer.details("subscribe_refused") == ["expired"]


def test_client_leaves_when_its_last_stream_has_ended_for_good():
    peer = live("a", "b").tell(StreamEnded("a", "gone", Next(Step.TERMINAL)))
    assert peer.actions() == []
    assert not peer.session.is_live
    peer.tell(StreamEnded("b", "gone", Next(Step.TERMINAL)))
    assert peer.actions() == [Close()]
    assert peer.details("subscribe_refused") == ["gone", "gone"]


def test_what_follows_the_end_of_a_connection_in_its_message_is_ignored():
    peer = live("a").tell(Closed(), Closed(), dense(2))
    assert peer.session.state is State.BACKOFF
    assert applied(peer) == [1]
    assert len(peer.of("disconnected")) == 1


def test_stored_position_above_the_head_in_an_answer_is_not_resumed_again():
    peer = Peer(NATS)
    stored = {"a": Position(9, "c1")}
    peer.session = Session(0, ("a",), policies.get("reference"), peer.session.settings, stored)
    first = peer.join()
    assert first.after == stored
    peer.tell(Resumed(first.ref, "a", Position(9, "c1"), Position(3, "c1")))
    assert peer.actions() == [Close()]
    assert peer.tell(Joined(peer.reconnect().ref)).subscribe().after == {"a": None}


@pytest.mark.parametrize("can_resubscribe", [True, False])
def test_events_that_an_answer_shows_to_be_missing_are_asked_for_on_a_connection_that_can(can_resubscribe: bool):
    peer = Peer(msgspec.structs.replace(NATS, can_resubscribe=can_resubscribe))
    fresh = peer.join()
    peer.tell(dense(1, 2, 3, epoch="c1"), Resumed(fresh.ref, "a", Position(0, "c1"), Position(3, "c1")), Closed())
    again = peer.tell(Joined(peer.reconnect().ref)).subscribe()
    peer.tell(Resumed(again.ref, "a", Position(3, "c1"), Position(1, "c1")))
    if can_resubscribe:
        assert peer.subscribe().after == {"a": Position(1, "c1")}
    else:
        assert peer.actions() == [Close()]
        assert peer.details("disconnected")[-1] == DisconnectReason.STALE_CURSOR


def test_client_without_a_position_leaves_a_server_that_does_not_know_it():
    peer = Peer(NATS)
    peer.tell(PositionUnknown("a", None, Position(3, "c1"), "above_head", ref=peer.join().ref))
    assert peer.actions() == [Close()]
    assert peer.details("disconnected") == [DisconnectReason.STALE_CURSOR]


def test_client_asks_for_heads_only_once_it_is_live():
    peer = Peer(NATS)
    ref, interval_s = peer.join().ref, int(peer.session.settings.heartbeat_interval_s)
    for number in range(1, 2 * interval_s):
        peer.wait(1.0).tell(dense(number, epoch="c1"))
        assert peer.actions() == []
    peer.tell(Resumed(ref, "a", Position(0, "c1"), Position(2 * interval_s - 1, "c1")))
    assert peer.session.is_live
    asked = [sent for _ in range(interval_s + 1) for sent in peer.wait(1.0).sent()]
    assert {type(sent) for sent in asked} == {AskHead}
