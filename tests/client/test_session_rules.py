"""What a session does about refusals, problems, ended streams and stale cursors, by what it is and what the server asks."""

import math

import msgspec
import pytest

from sim.client.actions import Action, Close, Send
from sim.client.transitions import State
from sim.protocols.adapter import Capabilities
from sim.protocols.events import (
    CaughtUp,
    Closed,
    DisconnectReason,
    Event,
    Head,
    Joined,
    Next,
    Position,
    PositionUnknown,
    Problem,
    Refused,
    Resumed,
    Stale,
    Step,
    StreamEnded,
)
from sim.protocols.intents import Subscribe
from tests.client.peer import CENTRIFUGO, DURABLE, NATS, Peer, dense
from tests.client.test_capabilities import DENSE

FIXED = msgspec.structs.replace(DENSE, can_resubscribe=False)
TERMINAL, WAIT, NOTHING = Next(Step.TERMINAL), Next(Step.WAIT, 50.0), Next(Step.NOTHING)


def live(capabilities: Capabilities = DENSE, *topics: str) -> Peer:
    peer = Peer(capabilities, *topics)
    subscribe = peer.join()
    for topic in subscribe.after:
        peer.tell(Resumed(subscribe.ref, topic, Position(0) if capabilities is not DURABLE else None), CaughtUp(topic))
        peer.tell(Head(topic, Position(0)))
    peer.actions()
    assert peer.session.is_live
    return peer


def kinds(actions: list[Action]) -> list[str]:
    return [type(each.intent).__name__ if isinstance(each, Send) else type(each).__name__ for each in actions]


@pytest.mark.parametrize(
    ("capabilities", "event", "actions", "reasons"),
    [
        (DENSE, Problem("x", next=NOTHING), [], []),
        (DENSE, Problem("x", next=WAIT), ["Close"], ["unknown"]),
        (DENSE, Problem("slow_consumer", next=NOTHING), [], []),
        (DENSE, Refused("", "x", is_open=False), ["Close"], ["unknown"]),
        (DENSE, Refused("other", "x"), [], []),
        (DENSE, StreamEnded(None, "x"), ["Close"], ["unknown"]),
        (FIXED, StreamEnded(None, "x", Next(Step.RESUBSCRIBE)), ["Close"], ["unknown"]),
        (DENSE, StreamEnded("a", "x", NOTHING), [], []),
        (DENSE, StreamEnded("other", "x"), [], []),
        (DENSE, StreamEnded("a", "x", Next(Step.MINT)), ["Close"], ["stream_closed"]),
        (FIXED, StreamEnded("a", "x"), ["Close"], ["stream_closed"]),
        (DENSE, StreamEnded("a", "x"), [], ["stream_closed"]),
        (DENSE, StreamEnded("a", "x", TERMINAL), ["Close"], ["stream_closed"]),
        (CENTRIFUGO, Refused("other", "x", streams=("a",), next=WAIT), [], ["stream_closed"]),
        (CENTRIFUGO, Refused("other", "x", streams=("other",), next=WAIT), [], []),
        (DENSE, Stale("a"), ["Close"], ["stale_cursor"]),
        (DENSE, Stale("a", ref="other"), [], []),
        (DENSE, Stale("a", subscribed_at=Position(9)), [], []),
        (DENSE, PositionUnknown("a"), ["Close"], ["stale_cursor"]),
        (DENSE, PositionUnknown("a", subscribed_at=Position(9)), [], []),
        (DURABLE, PositionUnknown("a"), ["Close"], ["stale_cursor"]),
        (DENSE, Closed(DisconnectReason.NETWORK), [], ["network"]),
    ],
)
def test_live_session(capabilities: Capabilities, event: Event, actions: list[str], reasons: list[str]):
    peer = live(capabilities)
    peer.tell(event)
    assert (kinds(peer.actions()), peer.details("disconnected")) == (actions, reasons)
    assert len(peer.of("evicted")) == 0


def test_eviction_is_noted_with_the_end():
    peer = live().tell(Problem("slow_consumer", next=WAIT))
    assert (peer.actions(), peer.details("evicted"), peer.details("ended")) == (
        *([Close()], ["disconnect"], ["server:slow_consumer:wait"]),
    )


def test_why_it_waits():
    peer = Peer(CENTRIFUGO, "a", "b")
    assert peer.session.why_pending() == "idle"
    subscribe = peer.join()
    peer.tell(Resumed(subscribe.ref, "a", Position(0)))
    assert (peer.session.why_pending(), peer.session.is_live) == ("subscribing", False)
    peer.tell(Resumed(subscribe.ref, "b", Position(0)))
    assert (peer.session.why_pending(), peer.session.follows_live, peer.session.only_follows) == ("behind", True, True)
    peer.tell(StreamEnded("a", "x", WAIT))
    assert (peer.session.why_pending(), peer.session.is_live) == ("resubscribing", False)
    peer.tell(StreamEnded("b", "gone", TERMINAL))
    assert peer.session.why_pending() == "ended:gone"
    peer.tell(StreamEnded("a", "gone", TERMINAL))
    assert peer.actions() == [Close()], "both ended"


def test_stale_cursor_of_a_new_connection_is_asked_for_again_once():
    peer = live().tell(dense(1), Closed())
    join = peer.reconnect()
    peer.tell(Joined(join.ref))
    asked = peer.subscribe()
    assert asked.after == {"a": Position(1)}
    peer.tell(Stale("a", ref=asked.ref))
    again = peer.subscribe()
    assert (again.after, again.ref != asked.ref) == ({"a": None}, True)
    peer.tell(Stale("a"))
    assert peer.actions() == [], "the push is about the earlier request"
    peer.tell(Stale("a", ref=again.ref))
    assert (peer.actions(), peer.session.state) == ([Close()], State.BACKOFF)


@pytest.mark.parametrize("message", [(Head("a", Position(1)),), (dense(), Head("a", Position(1)))])
def test_head_below_a_restored_position_ends_the_connection(message: tuple[Event, ...]):
    peer = live().tell(dense(1, 2))
    peer.session.replica.cursors["a"].restored = 2
    peer.tell(*message)
    assert peer.actions() == [], "it came on this connection, so the head is outdated"
    peer.session.replica.cursors["a"].seen = 0
    peer.tell(*message)
    assert (peer.actions(), peer.details("disconnected")) == ([Close()], ["unknown"])


def test_heartbeats_show_a_last_event_that_never_came():
    peer = live().tell(dense(1))
    peer.tell(Head("a", Position(2)))
    assert peer.actions() == [], "it may be on its way"
    peer.tell(Head("a", Position(2)))
    assert [type(action.intent) for action in peer.actions() if isinstance(action, Send)] == [Subscribe]
    desktop = Peer(DENSE, policy="desktop")
    desktop.tell(Resumed(desktop.join().ref, "a"), CaughtUp("a")).tell(Head("a", Position(2))).tell(Head("a", Position(2)))
    assert (desktop.actions(), desktop.session.only_follows) == ([], False)


def test_events_after_an_end_in_one_message_are_ignored():
    peer = live()
    peer.tell(Problem("x", next=Next()), dense(1), Problem("y", next=Next()))
    assert (peer.actions(), peer.of("applied"), peer.details("ended")) == ([Close()], [], ["server:x:retry"])


def test_stream_that_must_be_read_again_drops_its_position():
    peer = live(NATS).tell(dense(1, 2))
    peer.tell(StreamEnded("a", "x", Next(Step.REFETCH)))
    peer.wait(peer.session.wake_at() - peer.now)
    assert peer.subscribe().after == {"a": None}
    assert (peer.session.replica.cursors["a"].start, peer.session.live_since < math.inf) == (2, True)
