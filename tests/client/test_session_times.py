"""When a session wakes, and which times it notes: each deadline and each duration of a whole life, exactly."""

import math

import msgspec
import pytest

from sim.client.actions import Close, Connect, Mint, Send, Token
from sim.client.transitions import State
from sim.protocols.adapter import HeadSource, Liveness, Renewal
from sim.protocols.events import (
    CaughtUp,
    Closed,
    Head,
    Joined,
    Next,
    Opened,
    Position,
    Refused,
    Renewed,
    Resumed,
    Step,
    StreamEnded,
)
from sim.protocols.intents import AskHead, Beat, Join, Renew, Subscribe
from tests.client.peer import CENTRIFUGO, NATS, Peer, dense
from tests.client.test_capabilities import DENSE

REPLY_S, BEAT_S, SILENCE_S = 10.0, 15.0, 45.0
QUERIED = msgspec.structs.replace(DENSE, head=(HeadSource.QUERY,), liveness=Liveness.SERVER_PINGS)


def at(peer: Peer, seconds: float) -> Peer:
    """Go to a moment, in seconds since the start, without a wake."""
    peer.now = 1000.0 + seconds
    return peer


def wakes_in(peer: Peer) -> float:
    """Seconds until something is due; a session may ask to be woken earlier once."""
    peer.session.wake(peer.now)
    return round(peer.session.wake_at() - peer.now, 6)


def token(peer: Peer, refresh_s: float = 1e6) -> Token:
    return Token("t", peer.now + refresh_s, peer.now + 2e6, "k1")


def values(peer: Peer, kind: str) -> list[float]:
    return [round(value, 6) for _, _, value in peer.of(kind)]


def started(capabilities: object = DENSE, *, refresh_s: float = 1e6) -> tuple[Peer, Subscribe]:
    """A client that started at second 0, and subscribes at second 0.4."""
    peer = Peer(capabilities)  # type: ignore[arg-type]
    peer.session.start(peer.now)
    assert peer.actions() == [Mint()]
    at(peer, 0.1).session.minted(token(peer, refresh_s), peer.now)
    assert wakes_in(peer) == REPLY_S
    (connect,) = peer.actions()
    assert isinstance(connect, Connect)
    (join,) = at(peer, 0.3).tell(Opened()).sent()
    assert isinstance(join, Join)
    at(peer, 0.4).tell(Joined(join.ref))
    return peer, peer.subscribe()


def live(capabilities: object = DENSE, *, refresh_s: float = 1e6) -> Peer:
    """The same, live at second 0.6 and caught up at 0.7."""
    peer, subscribe = started(capabilities, refresh_s=refresh_s)
    at(peer, 0.6).tell(Resumed(subscribe.ref, "a"))
    at(peer, 0.7).tell(CaughtUp("a"))
    return peer


def test_durations_are_counted_from_when_each_attempt_was_due():
    peer = live()
    found = {kind: values(peer, kind) for kind in ("token_minted", "connect_done", "subscribed", "replay_completed")}
    assert found == {"token_minted": [100.0], "connect_done": [200.0], "subscribed": [500.0], "replay_completed": [600.0]}
    assert peer.details("token_minted") == ["k1"]
    assert len(peer.of("connect_attempted")) == len(peer.of("joined")) == 1
    assert peer.session.live_since == 1000.6
    at(peer, 2.0).tell(Closed())
    (delay_ms,) = values(peer, "backoff")
    due = peer.session.wake_at()
    assert due == pytest.approx(1002.0 + delay_ms / 1000)
    peer.now = due + 0.5  # it is woken late
    peer.session.wake(peer.now)
    assert [type(action) for action in peer.actions()] == [Connect]
    peer.tell(Opened())
    assert values(peer, "connect_done") == [200.0, 500.0]


def test_failed_attempts_have_durations_too():
    peer = Peer(DENSE)
    peer.session.start(peer.now)
    at(peer, 0.25).session.mint_failed("down", peer.now, 1000.0)
    assert (values(peer, "token_refused"), peer.details("token_refused")) == ([250.0], ["down"])
    peer.wait(peer.session.wake_at() - peer.now)
    begin = peer.now
    peer.mint().actions()
    peer.now = begin + 0.5
    peer.tell(Refused("", "network", is_open=False))
    assert (values(peer, "connect_failed"), peer.details("connect_failed")) == ([500.0], ["network"])
    assert peer.session.end_code == ""


def test_each_answer_has_its_own_time_out():
    peer = Peer(DENSE)
    peer.session.start(peer.now)
    peer.mint().actions()
    assert wakes_in(peer) == REPLY_S
    peer.wait(9.9)
    assert peer.actions() == []
    peer.tell(Opened())
    (join,) = peer.sent()
    assert wakes_in(peer) == REPLY_S
    peer.wait(9.9).tell(Joined(join.ref))  # type: ignore[union-attr]
    subscribe = peer.subscribe()
    assert wakes_in(peer) == round(BEAT_S - 9.9, 6)
    peer.wait(9.9)
    assert [type(action.intent) for action in peer.actions() if isinstance(action, Send)] == [Beat]
    peer.tell(Resumed(subscribe.ref, "a"))
    assert wakes_in(peer) == REPLY_S, "the replay, too, must end"
    peer.tell(CaughtUp("a"))
    assert wakes_in(peer) == round(2 * BEAT_S - 2 * 9.9, 6)


def test_time_out_of_a_connect_is_a_failed_connect_and_of_a_join_a_disconnect():
    peer = Peer(DENSE)
    peer.session.start(peer.now)
    peer.mint().actions()
    peer.wait(REPLY_S)
    assert (peer.actions(), peer.session.state) == ([Close()], State.BACKOFF)
    assert (values(peer, "connect_failed"), peer.details("connect_failed")) == ([10_000.0], ["timeout"])
    assert peer.details("ended") == ["network:timeout:retry"]
    peer.reconnect()
    peer.wait(REPLY_S)
    assert (peer.actions(), peer.details("disconnected")) == ([Close()], ["network"])
    assert peer.details("ended")[1:] == ["client:network:retry"]


def test_live_client_beats_and_leaves_a_silent_server():
    peer = live()
    assert wakes_in(peer) == round(0.3 + BEAT_S - 0.7, 6)
    at(peer, 15.3).session.wake(peer.now)
    assert [type(intent) for intent in peer.sent()] == [Beat]
    assert wakes_in(peer) == BEAT_S
    at(peer, 20.7).tell()
    for second in (30.3, 45.3, 60.3, 65.6):  # a message came at second 20.7
        at(peer, second).session.wake(peer.now)
        assert peer.session.is_live
    assert wakes_in(peer) == 0.1
    peer.actions()
    at(peer, 65.7).session.wake(peer.now)
    assert (peer.actions(), len(peer.of("heartbeat_timeout"))) == ([Close()], 1)


def test_server_says_how_often_it_pings():
    peer = Peer(DENSE)
    peer.session.start(peer.now)
    join = peer.connect()
    peer.tell(Joined(join.ref, ping_s=2.0))
    peer.tell(Resumed(peer.subscribe().ref, "a"), CaughtUp("a"))
    assert wakes_in(peer) == 12.0
    peer.tell(Closed())
    peer.reconnect()
    peer.tell(Joined("x"))
    assert wakes_in(peer) == REPLY_S


def test_policy_that_trusts_silence_never_leaves():
    peer = Peer(QUERIED, policy="wrong_trusts_silence")
    peer.tell(Resumed(peer.join().ref, "a"), CaughtUp("a"))
    assert wakes_in(peer) == BEAT_S
    peer.wait(200.0)
    assert peer.session.is_live


def test_heads_that_no_heartbeat_reports_are_asked_for_while_it_is_live():
    peer, subscribe = started(QUERIED)
    at(peer, 10.0).session.wake(peer.now)
    at(peer, 15.3)
    peer.session._reply_by = math.inf
    peer.session.wake(peer.now)
    assert peer.sent() == [], "it is not live yet, and the server pings"
    peer.tell(Resumed(subscribe.ref, "a"), CaughtUp("a"))
    at(peer, 30.3).session.wake(peer.now)
    (ask,) = peer.sent()
    assert isinstance(ask, AskHead)
    assert ask.stream == "a"
    both = msgspec.structs.replace(DENSE, head=(HeadSource.QUERY, HeadSource.HEARTBEATS))
    other = live(both)
    at(other, 15.3).session.wake(other.now)
    assert [type(intent) for intent in other.sent()] == [Beat]


def test_server_that_pings_gets_no_beats():
    peer = live(msgspec.structs.replace(DENSE, liveness=Liveness.SERVER_PINGS))
    assert wakes_in(peer) == SILENCE_S


# --- tokens ---------------------------------------------------------------------------------------------


def test_token_is_renewed_by_a_reconnect_when_it_is_due():
    peer = live(refresh_s=10.0)
    assert wakes_in(peer) == round(10.1 - 0.7, 6)
    at(peer, 10.0).session.wake(peer.now)
    assert peer.session.is_live
    at(peer, 10.1).session.wake(peer.now)
    assert (peer.actions(), peer.details("disconnected")) == ([Close()], ["token_refresh_due"])
    assert peer.session.renewing_since == peer.now
    none = live(msgspec.structs.replace(DENSE, renewal=Renewal.NONE), refresh_s=10.0)
    assert wakes_in(none) == round(BEAT_S - 0.4, 6)


def test_token_is_renewed_on_the_connection_in_time():
    peer = Peer(CENTRIFUGO, refresh_s=100.0)
    peer.session.start(peer.now)
    join = peer.connect()
    peer.tell(Joined(join.ref, token_ttl_s=20.0))
    peer.tell(Resumed(peer.subscribe().ref, "a", Position(0)))
    assert wakes_in(peer) == 18.0
    peer.wait(18.0)
    assert (peer.actions(), peer.session.awaits_token) == ([Mint()], True)
    (renew,) = peer.mint().sent()
    assert isinstance(renew, Renew)
    assert (renew.token, peer.session.awaits_token, wakes_in(peer)) == ("t2", False, REPLY_S)
    peer.tell(Renewed(renew.ref, token_ttl_s=10.0))
    assert wakes_in(peer) == 9.0
    peer.wait(9.0)
    (renew,) = peer.actions() and peer.mint().sent()
    peer.wait(REPLY_S - 0.1)
    assert peer.session.is_live
    peer.wait(0.1)
    assert (peer.actions(), peer.details("disconnected")) == ([Close()], ["token_refresh_due"])


@pytest.mark.parametrize("answer", ["refused", "no token"])
def test_renewal_that_fails_ends_the_connection(answer: str):
    peer = Peer(CENTRIFUGO, refresh_s=10.0)
    peer.tell(Resumed(peer.join().ref, "a", Position(0))).wait(10.0)
    assert peer.actions() == [Mint()]
    if answer == "refused":
        (renew,) = peer.mint().sent()
        peer.tell(Refused(renew.ref, "no"))  # type: ignore[union-attr]
    else:
        peer.session.mint_failed("down", peer.now)
    assert (peer.actions(), peer.details("disconnected")) == ([Close()], ["token_refresh_due"])


def test_token_that_is_due_is_replaced_before_the_next_connect():
    for refresh_s, actions in ((2.0, [Mint]), (3.0, [Connect])):
        peer = live(refresh_s=refresh_s)
        at(peer, 1.0).tell(Closed())
        peer.now = 1000.1 + 2.0
        peer.session.wake(peer.now)
        assert [type(action) for action in peer.actions()] == actions


# --- joining again, and replays without an end ----------------------------------------------------------


def test_joined_streams_that_ended_are_joined_again_until_that_does_not_help():
    peer, rejoins = live(), 0
    while peer.session.state is not State.BACKOFF:
        peer.tell(StreamEnded(None, "ended", Next(Step.RESUBSCRIBE)))
        if peer.session.state is State.BACKOFF:
            break
        rejoins += 1
        assert (peer.session.is_live, peer.session.is_caught_up, peer.session.live_since) == (False, False, math.inf)
        assert peer.session.wake_at() == pytest.approx(peer.now + values(peer, "backoff")[-1] / 1000)
        peer.wait(peer.session.wake_at() - peer.now)
        (join,) = peer.sent()
        assert isinstance(join, Join)
        assert wakes_in(peer) == REPLY_S
        peer.tell(Joined(join.ref)).tell(Resumed(peer.subscribe().ref, "a"))
    assert rejoins == peer.session.policy.fruitless_asks
    assert peer.actions() == [Close()]
    assert peer.details("ended")[0] == "server:ended:resubscribe"


def test_replay_without_an_end_ends_after_the_time_out():
    peer, subscribe = started()
    at(peer, 0.6).tell(Resumed(subscribe.ref, "a"))
    assert not peer.session.is_caught_up
    at(peer, 10.6).session.wake(peer.now)
    assert (peer.session.is_caught_up, peer.actions()) == (True, [])
    assert values(peer, "replay_completed") == [10_500.0]
    assert peer.session.follows_live


def test_hole_is_asked_for_again_after_longer_and_longer_waits():
    peer = live()
    peer.tell(dense(1, 3))
    asked = peer.subscribe()
    peer.tell(Resumed(asked.ref, "a"), dense(3), CaughtUp("a"))
    assert (peer.actions(), peer.session.is_live, peer.session.only_follows) == ([], True, False)
    first = peer.session._ask_at - peer.now
    assert 0.0 <= first <= 0.5
    peer.wait(first - 0.001)
    assert peer.actions() == []
    peer.wait(0.001)
    asked = peer.subscribe()
    assert asked.after == {"a": Position(1)}
    peer.tell(Resumed(asked.ref, "a"), dense(2, 3), CaughtUp("a"))
    assert peer.session.only_follows
    assert [seq for _, seq, _ in peer.of("applied")] == [1, 2, 3]


def test_wait_for_a_hole_ends_when_the_events_come_meanwhile():
    peer = live()
    peer.tell(dense(1, 3))
    peer.tell(Resumed(peer.subscribe().ref, "a"), dense(3), CaughtUp("a"))
    peer.tell(dense(2, 3))
    peer.wait(1.0)
    assert peer.actions() == []
    peer.tell(dense(5))
    assert peer.subscribe().after == {"a": Position(3)}, "the next hole is asked for at once"


def test_end_of_a_replay_by_a_head_needs_all_events_up_to_it():
    peer = Peer(NATS)
    subscribe = peer.join()
    peer.tell(Resumed(subscribe.ref, "a", Position(0, "e"), Position(2, "e")))
    assert (peer.session.is_live, peer.session.is_caught_up) == (True, False)
    peer.tell(dense(1, epoch="e"))
    assert not peer.session.is_caught_up
    peer.tell(dense(2, epoch="e"))
    assert peer.session.is_caught_up
    other = Peer(NATS)
    other.tell(Resumed(other.join().ref, "a", Position(0, "e")))
    (ask,) = other.sent()
    assert isinstance(ask, AskHead)
    assert not other.session.is_caught_up
    other.tell(Head("a", Position(0, "e")))
    assert other.session.is_caught_up
