"""Sessions against what real servers were recorded to do: each test is one situation of `vectors/<server>`, as events."""

import math

import pytest

from sim.client.actions import Close, Mint
from sim.client.transitions import State
from sim.drill.fault_kinds import RestartClients
from sim.engines.shared import client_setup
from sim.protocols.events import (
    Activity,
    Batch,
    Closed,
    DisconnectReason,
    Hash,
    Head,
    Joined,
    Next,
    Position,
    PositionUnknown,
    Refused,
    Renewed,
    Repeated,
    Resumed,
    Stale,
    Step,
    StreamEnded,
    Whose,
)
from sim.protocols.intents import AskHead, Beat, Join, Renew, Subscribe, Unsubscribe
from sim.protocols.phoenix_sync.adapter import CAPABILITIES as PHOENIX
from tests.client.peer import CENTRIFUGO, DURABLE, NATS, SOCKETIO, Peer, applied, dense, item

# --- Centrifugo -----------------------------------------------------------------------------------------


def in_small_channel() -> tuple[Peer, Subscribe]:
    """A client of `small:a` that has the publication 1, and resumes after a cut."""
    peer = Peer(CENTRIFUGO, "small:a")
    fresh = peer.join(session="ad98f640", ping_s=25.0)
    assert fresh.after == {"small:a": None}
    peer.tell(Resumed(fresh.ref, "small:a", Position(0, "tVmrrNaV")))
    peer.tell(dense(1, stream="small:a", epoch="tVmrrNaV"), Closed())
    return peer, _resubscribe(peer)


def _resubscribe(peer: Peer) -> Subscribe:
    join = peer.reconnect()
    return peer.tell(Joined(join.ref)).subscribe()


def test_unrecovered_subscription_goes_on_at_head_and_declares_gap():
    peer, subscribe = in_small_channel()
    assert subscribe.after == {"small:a": Position(1, "tVmrrNaV")}
    at = Position(10, "tVmrrNaV")
    peer.tell(PositionUnknown("small:a", subscribe.after["small:a"], at, "not_recovered", at, subscribe.ref))
    assert peer.session.is_live
    assert peer.session.is_caught_up
    assert peer.of("declared_loss") == [("small:a", 10, 9.0)]
    peer.tell(dense(11, stream="small:a", epoch="tVmrrNaV"))
    assert applied(peer) == [1, 11]


def test_unrecovered_subscription_of_another_epoch_loses_the_whole_new_log():
    peer, subscribe = in_small_channel()
    at = Position(4, "other")
    peer.tell(PositionUnknown("small:a", subscribe.after["small:a"], at, "not_recovered", at, subscribe.ref))
    ((_, last, lost),) = peer.of("declared_loss")
    assert last == 4
    assert math.isnan(lost), "nobody knows how many events of the old log are lost"
    assert peer.details("epoch_learned") == ["tVmrrNaV", "other"]
    peer.tell(dense(5, stream="small:a", epoch="other"))
    assert applied(peer) == [1, 5]
    assert peer.session.replica.cursors["small:a"].stored == Position(5, "other")


def test_ended_subscription_is_asked_again_on_the_open_connection():
    peer = Peer(CENTRIFUGO, "a", "b")
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0, "e")), Resumed(fresh.ref, "b", Position(0, "e")))
    peer.tell(dense(1, epoch="e"), StreamEnded("a", "2500", Next(Step.RESUBSCRIBE)))
    assert not peer.session.is_live
    assert peer.session.why_pending() == "resubscribing"
    again = peer.wait(0.0).subscribe()
    assert again.after == {"a": Position(1, "e")}
    peer.tell(dense(1, stream="b", epoch="e"), Resumed(again.ref, "a", Position(1, "e")))
    assert peer.session.is_live
    assert peer.of("disconnected") == [("a", -1, pytest.approx(float("nan"), nan_ok=True))]
    assert len(peer.of("subscribed")) == 2, "it is live again"
    assert applied(peer) == [1, 1]


def test_token_is_renewed_on_the_connection():
    peer = Peer(CENTRIFUGO, refresh_s=100.0)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0, "e")))
    for _ in range(9):
        peer.wait(10.0).tell(Activity())
    assert peer.actions() == []
    assert peer.wait(10.0).actions() == [Mint()]
    assert peer.session.is_live
    (renew,) = peer.mint().sent()
    assert isinstance(renew, Renew)
    assert renew.token == "t2"
    peer.tell(Renewed(renew.ref, token_ttl_s=50.0))
    for _ in range(4):
        peer.wait(10.0).tell(Activity())
    assert peer.wait(10.0).actions() == [Mint()], "the shorter lifetime that the server stated"
    assert peer.of("disconnected") == []


@pytest.mark.parametrize("failure", ["refused", "silent", "no_token"])
def test_failed_renewal_becomes_a_reconnect(failure: str):
    peer = Peer(CENTRIFUGO, refresh_s=15.0)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0, "e"))).wait(15.0)
    assert peer.actions() == [Mint()]
    if failure == "no_token":
        peer.session.mint_failed("unavailable", peer.now)
    else:
        (renew,) = peer.mint().sent()
        assert isinstance(renew, Renew)
        if failure == "refused":
            peer.tell(Refused(renew.ref, "109"))
        else:
            peer.wait(10.0)
    assert peer.actions()[:1] == [Close()]
    assert peer.details("disconnected") == [DisconnectReason.TOKEN_REFRESH_DUE]


# --- Socket.IO ------------------------------------------------------------------------------------------


def test_missed_events_come_before_the_answer_that_resumes_the_session():
    peer = Peer(SOCKETIO, "a", "b")
    fresh = peer.join(session="FDBj/")
    assert fresh.after == {"a": None, "b": None}
    peer.tell(Resumed(fresh.ref))
    peer.tell(Batch("a", (item(1, Position("Q8fcgLe")),), session="FDBj/Q8fcgLe"), Closed())
    join = peer.reconnect()
    assert join.session == "FDBj/Q8fcgLe"
    peer.tell(Batch("b", (item(2, Position("Q8fcgMx")),), session="FDBj/Q8fcgMx"))
    assert peer.session.state is State.JOINING
    peer.tell(Joined(join.ref, "FDBj/Q8fcgMx", resumed=True))
    assert peer.session.is_live
    assert peer.session.is_caught_up
    assert peer.sent() == [], "the server still has the subscriptions"
    assert applied(peer) == [1, 2]
    assert peer.of("declared_loss") == []


def test_unknown_session_subscribes_again_and_declares_unknown_loss():
    peer = Peer(SOCKETIO)
    fresh = peer.join(session="FDBj/")
    peer.tell(Resumed(fresh.ref)).tell(Batch("a", (item(1, Position("Q8")),), session="FDBj/Q8"), Closed())
    join = peer.reconnect()
    peer.tell(Joined(join.ref, "RZxM/"))
    again = peer.subscribe()
    assert again.after == {"a": None}
    peer.tell(Resumed(again.ref))
    assert peer.session.is_live
    ((stream, seq, value),) = peer.of("declared_loss")
    assert (stream, seq) == ("a", -1)
    assert value != value, "the number is unknown"
    peer.tell(Batch("a", (item(1, Position("Q8")), item(3, Position("Q9")))))
    assert applied(peer) == [1, 3], "an event with the position of an applied one is a duplicate"


def test_join_without_a_session_declares_what_the_cut_lost():
    """A server without recovery names no session, so a client that returns knows that it may lack events."""
    peer = Peer(SOCKETIO)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref)).tell(Batch("a", (item(1, None),)), Closed())
    assert peer.of("declared_loss") == []
    join = peer.reconnect()
    assert join.session is None
    peer.tell(Joined(join.ref))
    peer.tell(Resumed(peer.subscribe().ref))
    assert [(stream, seq) for stream, seq, _ in peer.of("declared_loss")] == [("a", -1)]


def test_session_that_lacks_a_stream_is_not_resumed():
    """The server would bring back the streams that it knew, and the client would never get the other one."""
    peer = Peer(SOCKETIO, "a", "b")
    fresh = peer.join(session="FDBj/")
    peer.tell(Resumed(fresh.ref, "a"), Batch("a", (item(1, Position("Q8")),), session="FDBj/Q8"), Closed())
    assert peer.reconnect().session is None


def test_session_is_resumed_after_the_events_that_came_while_it_subscribed():
    peer = Peer(SOCKETIO, "a", "b")
    fresh = peer.join(session="FDBj/")
    peer.tell(Resumed(fresh.ref, "a"), Batch("a", (item(1, Position("Q8")),), session="FDBj/Q8"))
    peer.tell(Resumed(fresh.ref, "b"), Closed())
    assert peer.reconnect().session == "FDBj/Q8"


def test_session_is_resumed_before_an_event_whose_hash_was_wrong():
    peer = Peer(SOCKETIO)
    fresh = peer.join(session="FDBj/")
    peer.tell(Resumed(fresh.ref)).tell(Batch("a", (item(1, Position("Q8")),), session="FDBj/Q8"))
    peer.tell(Batch("a", (item(2, Position("Q9"), Hash.BAD),), session="FDBj/Q9"))
    assert peer.reconnect().session == "FDBj/Q8", "a subscribe would start from now on"


def test_restarted_process_resumes_its_stored_session():
    peer = Peer(SOCKETIO)
    fresh = peer.join(session="FDBj/")
    peer.tell(Resumed(fresh.ref)).tell(Batch("a", (item(1, Position("Q8")),), session="FDBj/Q8"))
    fault = RestartClients(at_s=0.0, checkpoint="kept")
    peer.session, rows = client_setup.restart(peer.session, fault)
    assert [row[:3] for row in rows] == [("disconnected", "", -1), ("ended", "", -1), ("restarted", "a", -1)]
    peer.session.start(peer.now)
    assert peer.connect().session == "FDBj/Q8"


def test_silence_is_judged_by_the_pings_that_the_server_promised():
    peer = Peer(SOCKETIO)
    fresh = peer.join(session="s", ping_s=45.0)
    peer.tell(Resumed(fresh.ref)).wait(54.0)
    assert peer.actions() == [], "it sends no beats, and waits"
    peer.wait(2.0)
    assert peer.actions()[:1] == [Close()]
    assert len(peer.of("heartbeat_timeout")) == 1


def test_kicked_client_returns_once_with_a_new_token_and_then_gives_up():
    peer = Peer(SOCKETIO)
    fresh = peer.join(session="s")
    peer.tell(Resumed(fresh.ref))
    peer.tell(StreamEnded(None, "41", Next(Step.TERMINAL)))
    join = peer.reconnect()
    assert peer.tokens == 2
    peer.tell(Refused(join.ref, "banned", next=Next(Step.TERMINAL)))
    assert peer.session.state is State.ENDED
    assert peer.details("gave_up") == ["banned"]
    assert peer.session.why_pending() == "ended:banned"
    assert peer.session.wake_at() == float("inf")


# --- NATS JetStream -------------------------------------------------------------------------------------


def at_three() -> tuple[Peer, Subscribe]:
    """A client that has the messages 1 to 3 of a stream, and asks for the rest after a cut."""
    peer = Peer(NATS)
    fresh = peer.join()
    peer.tell(dense(1, 2, 3, epoch="c1"), Resumed(fresh.ref, "a", Position(0, "c1"), Position(3, "c1")), Closed())
    return peer, _resubscribe(peer)


def test_silently_stale_consumer_declares_what_lies_between():
    peer, again = at_three()
    assert again.after == {"a": Position(3, "c1")}
    peer.tell(dense(7, epoch="c1"), Resumed(again.ref, "a", Position(6, "c1"), Position(7, "c1")))
    assert peer.session.is_caught_up
    assert peer.details("stale") == ["silent"]
    assert peer.of("declared_loss") == [("a", 6, 3.0)]
    assert applied(peer) == [1, 2, 3, 7]


def test_holes_of_other_subjects_are_no_gap():
    peer, again = at_three()
    peer.tell(Resumed(again.ref, "a", Position(3, "c1"), Position(3, "c1"))).tell(dense(9, 12, epoch="c1"))
    assert applied(peer) == [1, 2, 3, 9, 12]
    assert peer.of("gap") == []
    for _ in range(3):
        peer.tell(Head("a", Position(40, "c1")))
    assert peer.sent() == [], "the head may be another subject's event"


def test_replay_is_complete_when_the_head_is_reached():
    peer, again = at_three()
    peer.tell(Resumed(again.ref, "a", Position(3, "c1"), Position(6, "c1")))
    assert peer.session.is_live
    assert not peer.session.is_caught_up
    peer.tell(dense(5, epoch="c1"))
    assert not peer.session.is_caught_up
    peer.tell(dense(6, epoch="c1"))
    assert peer.session.is_caught_up


def test_recreated_stream_is_read_from_its_start():
    peer, again = at_three()
    peer.tell(Resumed(again.ref, "a", Position(3, "c2"), Position(2, "c2")))
    fresh = peer.subscribe()
    assert fresh.after == {"a": None}
    peer.tell(dense(1, 2, epoch="c2"), Resumed(fresh.ref, "a", Position(0, "c2"), Position(2, "c2")))
    assert applied(peer) == [1, 2, 3, 1, 2]
    assert peer.details("rebootstrapped")[-1] == "other_log"
    ((_, last, lost),) = peer.of("declared_loss")
    assert (last, math.isnan(lost)) == (0, True), "what the old log had besides"


def test_position_above_the_head_is_lowered_and_asked_again():
    peer, again = at_three()
    peer.tell(Resumed(again.ref, "a", Position(3, "c1"), Position(1, "c1")))
    assert peer.of("clamped") == [("a", 1, 3.0)]
    assert peer.subscribe().after == {"a": Position(1, "c1")}


def test_heads_are_asked_for_and_pings_are_left_to_the_server():
    peer, again = at_three()
    peer.tell(Resumed(again.ref, "a", Position(3, "c1"), Position(3, "c1")))
    peer.wait(peer.session.settings.heartbeat_interval_s)
    (ask,) = peer.sent()
    assert isinstance(ask, AskHead)
    assert ask.stream == "a"


def test_event_with_wrong_hash_blocks_the_stream_until_it_comes_again():
    peer, again = at_three()
    peer.tell(Resumed(again.ref, "a", Position(3, "c1"), Position(3, "c1")))
    bad = item(5, Position(5, "c1"), Hash.BAD)
    peer.tell(Batch("a", (bad, item(8, Position(8, "c1")))))
    assert peer.subscribe().after == {"a": Position(3, "c1")}
    assert applied(peer) == [1, 2, 3]
    assert peer.of("hash_mismatch", "gap") == [("a", 5, pytest.approx(float("nan"), nan_ok=True)), ("a", 8, 3.0)]


# --- Durable Streams ------------------------------------------------------------------------------------


def control(*numbers: int, after: str, stream: str = "a") -> Batch:
    return Batch(stream, tuple(item(number, None) for number in numbers), Position(after))


def test_only_a_batch_has_a_position():
    peer = Peer(DURABLE)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a"), control(0, 1, 2, after="0_34"), StreamEnded("a", "network"))
    assert peer.session.replica.cursors["a"].stored == Position("0_34")
    again = peer.wait(10.0).subscribe()
    assert again.after == {"a": Position("0_34")}
    peer.tell(Resumed(again.ref, "a"), control(2, 3, after="0_51"))
    assert applied(peer) == [0, 1, 2, 3], "an event with the payload of an applied one is a duplicate"


def test_ended_poll_is_asked_again_but_not_more_than_once_a_second():
    peer = Peer(DURABLE)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a"), control(0, after="0_9"), StreamEnded("a", "turn", Next(Step.RESUBSCRIBE)))
    assert peer.session.is_live
    assert peer.wait(0.9).sent() == []
    again = peer.wait(0.2).subscribe()
    assert again.after == {"a": Position("0_9")}
    peer.wait(5.0).tell(Resumed(again.ref, "a"), StreamEnded("a", "turn", Next(Step.RESUBSCRIBE)))
    assert peer.wait(0.0).subscribe().after == {"a": Position("0_9")}, "it lived for longer than a second"
    assert peer.of("disconnected", "backoff") == []
    assert len(peer.of("replay_started")) == 1


def test_streams_with_own_connections_fail_alone():
    peer = Peer(DURABLE, "a", "b")
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a")).tell(Resumed(fresh.ref, "b"))
    for _ in range(11):
        peer.wait(10.0).tell(Activity("b"))
        if not peer.session.is_live:
            break
    (left, again, *_) = peer.sent()
    assert isinstance(left, Unsubscribe)
    assert left.streams == ("a",)
    assert isinstance(again, Subscribe)
    assert set(again.after) == {"a"}
    assert [stream for stream, _, _ in peer.of("heartbeat_timeout")] == ["a"] * len(peer.of("heartbeat_timeout"))
    peer.tell(Resumed(again.ref, "a"))
    assert peer.session.is_live


def test_deleted_stream_ends_alone():
    peer = Peer(DURABLE, "a", "b")
    fresh = peer.join()
    peer.tell(Refused(fresh.ref, "not_found", next=Next(Step.TERMINAL), is_open=False, streams=("a",)))
    peer.tell(Resumed(fresh.ref, "b"), control(1, after="0_9", stream="b"))
    assert applied(peer) == [1]
    assert not peer.session.is_live
    assert peer.session.why_pending() == "ended:not_found"


# --- the operators' Phoenix runtime ---------------------------------------------------------------------


def on_phoenix() -> Peer:
    """A live client with the events 1 and 2 of a shared stream."""
    peer = Peer(PHOENIX)
    fresh = peer.join()
    peer.tell(dense(1, 2)).tell(Resumed(fresh.ref, "a", head=Position(2)))
    assert peer.session.is_live
    assert peer.session.is_caught_up
    return peer


def test_second_form_of_a_batch_is_no_duplicate():
    peer = on_phoenix()
    first = dense(3, 4)
    peer.tell(first).tell(Repeated((first,)))
    assert applied(peer) == [1, 2, 3, 4]
    assert peer.of("duplicate_dropped") == []
    assert sum(value for _, _, value in peer.of("received")) == 4
    peer.tell(first)
    assert [seq for _, seq, _ in peer.of("duplicate_dropped")] == [3, 4]


def test_new_client_of_a_trimmed_stream_starts_at_the_position_in_the_reply():
    peer = Peer(PHOENIX)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref), Head("a", Position(50), Whose.SOCKET)).tell(dense(51))
    assert applied(peer) == [51]
    assert peer.of("rebootstrapped") == [("a", 50, pytest.approx(float("nan"), nan_ok=True))]
    assert peer.of("gap") == []


@pytest.mark.parametrize("position", [0, 1, 90])
def test_position_of_the_socket_proves_nothing(position: int):
    peer = on_phoenix()
    for _ in range(3):
        peer.tell(Head("a", Position(position), Whose.SOCKET))
    assert peer.of("clamped") == []
    assert peer.sent() == []
    assert peer.session.replica.cursors["a"].watermark == 2


def test_position_of_a_new_socket_does_not_lower_the_cursor():
    peer = on_phoenix()
    peer.tell(Closed())
    again = _resubscribe(peer)
    peer.tell(Resumed(again.ref), Head("a", Position(1), Whose.SOCKET)).tell(Head("a", Position(1), Whose.SOCKET))
    assert peer.of("clamped") == []
    assert peer.session.replica.cursors["a"].watermark == 2


def test_stream_that_the_whole_set_brought_back_is_not_asked_again():
    peer = Peer(PHOENIX, "a", "b")
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref))
    peer.tell(StreamEnded("a", "x", Next(Step.RESUBSCRIBE))).tell(StreamEnded("b", "x", Next(Step.WAIT, 5000.0)))
    again = peer.wait(0.0).subscribe()
    assert set(again.after) == {"a", "b"}
    peer.tell(Resumed(again.ref))
    assert peer.session.is_live
    assert [type(sent) for sent in peer.wait(9.0).sent()] == []


def test_closed_channel_is_joined_again_on_the_open_socket():
    peer = on_phoenix()
    peer.tell(StreamEnded(None, "phx_close", Next(Step.RESUBSCRIBE)))
    assert peer.session.state is State.JOINING
    assert peer.actions() == []
    (join,) = peer.wait(2.0).sent()
    assert isinstance(join, Join)
    again = peer.tell(Joined(join.ref)).subscribe()
    assert again.after == {"a": Position(2)}
    peer.tell(Resumed(again.ref, "a", head=Position(2)))
    assert peer.session.is_live
    assert peer.details("disconnected") == [DisconnectReason.STREAM_CLOSED]


def test_channel_that_never_stays_open_leads_to_a_reconnect():
    peer = on_phoenix()
    for _ in range(peer.session.policy.fruitless_asks):
        peer.tell(StreamEnded(None, "phx_error", Next(Step.RESUBSCRIBE)))
        assert peer.actions() == []
        assert Join in [type(sent) for sent in peer.wait(9.0).sent()]
    peer.tell(StreamEnded(None, "phx_error", Next(Step.RESUBSCRIBE)))
    assert peer.actions() == [Close()]


def test_beats_go_on_the_channel():
    peer = on_phoenix()
    peer.wait(peer.session.settings.heartbeat_interval_s)
    (beat,) = peer.sent()
    assert isinstance(beat, Beat)
    assert beat.on_channel


def test_stale_stream_that_the_server_subscribed_nevertheless_goes_on():
    peer = on_phoenix()
    peer.tell(Closed())
    again = _resubscribe(peer)
    peer.tell(Stale("a", Position(2), Position(7), Position(9), subscribed_at=Position(7), ref=again.ref), dense(8, 9))
    assert peer.session.is_live
    assert peer.of("declared_loss") == [("a", 7, 5.0)]
    assert applied(peer) == [1, 2, 8, 9]
