"""A client that ignores epochs, and one that heeds them, in a log that is created again while they are away."""

import pytest

from sim.analysis.invariants.registry import violations
from sim.protocols.events import Closed, Joined, Position, PositionUnknown, Resumed
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from tests.client.peer import CENTRIFUGO, NATS, Peer, dense
from tests.histories import Story


def peer_on_centrifugo(policy: str) -> Peer:
    peer = Peer(CENTRIFUGO, policy=policy)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0, "e1")), dense(1, 2, 3, epoch="e1"), Closed())
    again = peer.tell(Joined(peer.reconnect().ref)).subscribe()
    at = Position(5, "e2")
    return peer.tell(PositionUnknown("a", again.after["a"], at, "", at, again.ref), dense(6, 7, epoch="e2"))


def peer_on_nats(policy: str) -> Peer:
    peer = Peer(NATS, policy=policy)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0, "e1"), Position(3, "e1")), dense(1, 2, 3, epoch="e1"), Closed())
    again = peer.tell(Joined(peer.reconnect().ref)).subscribe()
    peer.tell(PositionUnknown("a", again.after["a"], Position(7, "e2"), "other_log", ref=again.ref))
    again = peer.subscribe()
    asked = again.after["a"]
    first = int(asked.offset) if asked else 0
    at, head = Position(first, "e2"), Position(7, "e2")
    return peer.tell(Resumed(again.ref, "a", at, head), dense(*range(first + 1, 8), epoch="e2"))


def recorded(peer: Peer) -> History:
    """What the client observed, on a stream without markers."""
    story = Story(1, header={"capabilities": {"positions": "dense", "has_epochs": True}})
    peer.of("applied")  # which takes all notices
    for number, (kind, stream, seq, attempt, value, detail, marker) in enumerate(peer.seen):
        story.tell(0.001 * number, Kind(kind), 0, stream, seq, attempt=attempt, value=value, detail=detail, marker=marker)
    return story.history()


@pytest.mark.parametrize("server", [peer_on_centrifugo, peer_on_nats])
@pytest.mark.parametrize(("policy", "is_named"), [("reference", False), ("wrong_ignores_epochs", True)])
def test_going_on_in_another_log_is_named(server: object, policy: str, is_named: bool) -> None:
    assert callable(server)
    history = recorded(server(policy))
    found = {each.invariant for each in violations(history, Ledger(history), complete=False)}
    assert ("resumed_in_new_log" in found) == is_named


@pytest.mark.parametrize(("at", "is_asked_again"), [(0, False), (4, False), (5, True)])
def test_client_goes_on_in_a_new_log_only_at_a_position_that_it_has(at: int, is_asked_again: bool) -> None:
    peer = Peer(NATS)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0, "e1"), Position(3, "e1")), dense(1, 2, 3, epoch="e1"), Closed())
    again = peer.tell(Joined(peer.reconnect().ref)).subscribe()
    peer.tell(Resumed(again.ref, "a", Position(at, "e2"), Position(4, "e2")))
    assert peer.details("epoch_learned") == (["e1"] if is_asked_again else ["e1", "e2"])
    assert [sent.after for sent in peer.sent()] == ([{"a": None}] if is_asked_again else [])


def test_unknown_position_is_of_another_log_if_the_server_goes_on_in_one() -> None:
    peer = Peer(CENTRIFUGO)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0, "e1")), dense(1, 2, 3, epoch="e1"), Closed())
    again = peer.tell(Joined(peer.reconnect().ref)).subscribe()
    peer.tell(PositionUnknown("a", again.after["a"], subscribed_at=Position(5, "e2"), ref=again.ref))
    assert peer.details("stale") == ["other_log"]
