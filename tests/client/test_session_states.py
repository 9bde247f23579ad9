"""The session's transition table, and what it reports in each state."""

import math

import pytest

from sim.base.errors import IllegalMoveError
from sim.client.actions import Connect
from sim.client.transitions import TRANSITIONS, State, Trigger
from sim.protocols.events import Batch, Closed, Malformed, Opened
from sim.protocols.spacetime.codes import connect_refused
from tests.client.hand import RUN, Hand, batch

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
