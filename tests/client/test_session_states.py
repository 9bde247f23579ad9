"""The session's transition table, and what it reports in each state."""

import math

import msgspec
import pytest

from sim.base.errors import IllegalMoveError
from sim.client.actions import Close, Connect, Send
from sim.client.transitions import CONNECTED, TRANSITIONS, State, Trigger
from sim.protocols.events import Batch, CaughtUp, Closed, Malformed, Next, Opened, Position, Resumed, Step
from sim.protocols.intents import Subscribe
from sim.protocols.spacetime.codes import connect_refused
from tests.client.peer import CENTRIFUGO, Peer, dense
from tests.client.session_driver import RUN, SessionDriver, batch
from tests.client.test_capabilities import DENSE

_MOVES = {
    Trigger.START: lambda session: session.start(0.0),
    Trigger.MINTED: lambda session: session.minted(None, 0.0),
    Trigger.MINT_FAILED: lambda session: session.mint_failed("x", 0.0),
    Trigger.CONNECTED: lambda session: session.received((Opened(),), 0.0),
    Trigger.CONNECT_FAILED: lambda session: session.connect_failed(connect_refused("x"), 0.0),
    Trigger.RECEIVED: lambda session: session.received((Batch(RUN, ()),), 0.0),
    Trigger.DISCONNECTED: lambda session: session.disconnected(Closed(), 0.0),
}


@pytest.mark.parametrize("trigger", Trigger)
@pytest.mark.parametrize("state", State)
def test_trigger_is_legal_only_where_table_lists_it(driver, trigger, state):
    driver.session.state = state
    following = TRANSITIONS[trigger].get(state)
    if following is not None:
        driver.session._move(trigger)
        assert driver.session.state is following
        return
    with pytest.raises(IllegalMoveError, match=f"in state {state.name}"):
        _MOVES.get(trigger, lambda session: session._move(trigger))(driver.session)
    assert driver.session.state is state
    assert driver.actions() == []


def test_every_state_is_reachable_and_only_stopped_is_final():
    reached, before = {State.IDLE}, set()
    while reached != before:
        before = set(reached)
        reached |= {row[state] for row in TRANSITIONS.values() for state in before if state in row}
    assert reached == set(State)
    assert set(TRANSITIONS) == set(Trigger)
    assert {row.get(State.STOPPED) for row in TRANSITIONS.values()} == {None, State.STOPPED}


def test_stopped_session_closes_and_never_wakes(live):
    live.session.stop(live.now)
    live.expect_close()
    assert live.session.wake_at() == math.inf
    live.session.wake(live.now + 1e6)
    assert live.actions() == []


def test_early_wake_does_nothing(driver):
    driver.session.wake(driver.now)
    assert driver.actions() == []
    driver.start()
    (connect,) = driver.actions()
    assert isinstance(connect, Connect)
    driver.session.wake(driver.now)
    assert driver.actions() == []


def test_malformed_frame_is_reported_and_ignored(live):
    live.session.received((Malformed("malformed_frame"),), live.now)
    assert live.of("malformed")[0].detail == "malformed_frame"
    assert live.actions() == []


def test_why_pending_returns_current_phase(driver):
    assert driver.session.why_pending() == "idle"
    subscribe = driver.begin()
    assert driver.session.why_pending() == "subscribing"
    driver.reply(subscribe.ref)
    assert driver.session.why_pending() == "replaying"
    driver.receive(batch())
    assert driver.session.why_pending() == "behind"


def test_client_resumes_no_session_where_the_server_names_none():
    peer = Peer(CENTRIFUGO)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0)), Closed())
    assert peer.reconnect().session is None


@pytest.mark.parametrize("state", State)
def test_stopped_client_closes_the_connection_that_it_has(driver, state):
    driver.session.state = state
    driver.session.stop(driver.now)
    assert driver.actions() == ([Close()] if state in CONNECTED or state is State.CONNECTING else [])
    assert driver.session.wake_at() == math.inf


def test_client_awaits_a_token_only_while_it_mints_or_renews():
    peer = Peer(CENTRIFUGO, refresh_s=10.0)
    assert not peer.session.awaits_token
    peer.session.start(peer.now)
    assert peer.session.awaits_token
    peer.tell(Resumed(peer.join().ref, "a", Position(0)))
    assert not peer.session.awaits_token
    assert peer.wait(10.0).session.awaits_token
    peer.tell(Closed())
    assert not peer.session.awaits_token


@pytest.mark.parametrize("can_resubscribe", [True, False])
def test_hole_is_closed_by_a_subscribe_or_else_by_a_reconnect(can_resubscribe):
    peer = Peer(msgspec.structs.replace(DENSE, can_resubscribe=can_resubscribe))
    peer.tell(Resumed(peer.join().ref, "a"), CaughtUp("a")).tell(dense(1, 3))
    assert [type(action) for action in peer.actions()] == [Send if can_resubscribe else Close]


def test_client_that_closes_no_hole_reconnects_after_the_same_number_of_tries_on_each_connection(driver):
    subscribe, tries = driver.begin(), []
    for _ in range(2):
        tries.append(1)
        driver.replay(subscribe, batch(1, 3))
        while driver.session.state in CONNECTED:
            for asked in [each.intent for each in driver.actions() if isinstance(each.intent, Subscribe)]:
                tries[-1] += 1
                driver.replay(asked, batch(3))
            if driver.session.state in CONNECTED:
                driver.now = driver.session.wake_at()
                driver.session.wake(driver.now)
        subscribe = driver.reconnect()
    assert tries == [driver.session.policy.fruitless_asks] * 2


def test_client_that_will_retry_has_not_ended(driver):
    driver.start()
    driver.fail_connect("network")
    assert (driver.session.end_code, driver.session.why_pending()) == ("", "backoff")


def test_client_gives_up_with_the_reason_of_an_end_without_a_code():
    peer = Peer(CENTRIFUGO)
    peer.tell(Resumed(peer.join().ref, "a", Position(0)), Closed(next=Next(Step.TERMINAL)))
    peer.reconnect()
    peer.tell(Closed(next=Next(Step.TERMINAL)))
    assert peer.session.state is State.ENDED
    assert peer.details("gave_up") == [str(Closed().reason)]


def test_session_reports_since_when_it_is_live():
    driver = SessionDriver()
    assert driver.session.live_since == math.inf
    driver.go_live(1)
    assert driver.session.live_since == driver.now
    driver.lose("network")
    assert driver.session.live_since == math.inf
