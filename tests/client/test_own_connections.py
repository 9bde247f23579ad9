"""Streams that each have a connection of their own: what a client notes of its requests, and when it is live again."""

import math

import msgspec
import pytest

from sim.client import policies
from sim.client.actions import ClientSettings
from sim.client.notices import Notice
from sim.client.replica import Replica
from sim.protocols.durable_streams.adapter import CAPABILITIES
from sim.protocols.events import Batch, CaughtUp, Item, Next, Position, PositionUnknown, Resumed, Step, StreamEnded
from sim.protocols.intents import Compatibility, Subscribe
from sim.protocols.markers import marked
from sim.protocols.payloads import canonical_json
from tests.client.peer import DURABLE, Peer

MARKER_RUN = "5f0c9b1a77d2"


def test_each_request_is_a_connect_and_the_last_lost_stream_makes_the_client_live_again():
    peer = Peer(DURABLE, "a", "b")
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a"), Resumed(fresh.ref, "b"))
    assert [stream for stream, _, _ in peer.of("connect_attempted")] == ["a", "b"]
    assert len(peer.of("subscribed")) == 1
    peer.tell(StreamEnded("a", "network"), StreamEnded("b", "network"))
    assert [stream for stream, _, _ in peer.of("disconnected")] == ["a", "b"]
    again = {stream: each.ref for each in peer.wait(0.3).sent() if isinstance(each, Subscribe) for stream in each.after}
    peer.tell(Resumed(again["a"], "a"))
    assert not peer.session.is_live
    assert len(peer.of("subscribed")) == 1
    peer.tell(Resumed(again["b"], "b"))
    assert peer.session.is_live
    assert len(peer.of("subscribed")) == 2


def test_a_client_is_caught_up_only_with_its_last_stream():
    """One stream may return while another one still waits: its replay says nothing of the whole client."""
    peer = Peer(DURABLE, "a", "b")
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a"), Resumed(fresh.ref, "b"), CaughtUp("a"), CaughtUp("b"))
    peer.tell(StreamEnded("a", "network"), StreamEnded("b", "network", Next(Step.WAIT, 5000.0)))
    again = peer.wait(2.0).subscribe()
    assert list(again.after) == ["a"]
    peer.tell(Resumed(again.ref, "a"), CaughtUp("a"))
    assert not peer.session.is_caught_up
    last = peer.wait(10.0).subscribe()
    assert list(last.after) == ["b"]
    peer.tell(Resumed(last.ref, "b"), CaughtUp("b"))
    assert peer.session.is_caught_up
    times = [value for *_, value in peer.of("replay_completed")]
    assert [math.isnan(value) for value in times] == [False, True, False]
    assert min(value for value in times if not math.isnan(value)) >= 0


def test_request_that_brought_no_answer_is_a_failed_connect_and_no_disconnect():
    peer = Peer(DURABLE)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a"), StreamEnded("a", "network"))
    peer.wait(0.3).tell(StreamEnded("a", "refused"))
    assert len(peer.of("disconnected")) == 1
    assert peer.details("connect_failed") == ["refused"]
    assert len(peer.of("connect_attempted")) == 2


def test_poll_may_be_answered_late():
    """A poll waits for events at the server, which is no missing reply."""
    peer = Peer(DURABLE)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a"), StreamEnded("a", "poll", Next(Step.RESUBSCRIBE)))
    peer.wait(2.0)
    assert len(peer.sent()) == 1
    peer.wait(30.0)
    assert peer.of("heartbeat_timeout", "disconnected") == []
    peer.wait(30.0)
    assert peer.of("heartbeat_timeout") != []


def test_unknown_position_in_a_live_stream_is_asked_again_without_one():
    peer = Peer(DURABLE, "a", "b")
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a"), Resumed(fresh.ref, "b"))
    peer.tell(Batch("a", (), Position("0_9")))
    peer.tell(PositionUnknown("a", Position("0_9"), Position("0_3"), "above_head"))
    assert peer.subscribe().after == {"a": None}
    assert peer.of("disconnected") == []


@pytest.mark.parametrize(("again", "new"), [((1, 4, 3, 2), [4]), ((1, 3, 2), [])])
def test_client_that_reads_a_log_again_still_has_what_it_had(again: tuple[int, ...], new: list[int]):
    """Overlapping publishes are not in the order of their numbers: 3 came before 2, and only 4 is new."""
    notes: list[Notice] = []
    settings = ClientSettings(
        1, Compatibility(), CAPABILITIES, protocol="durable_streams", marker_run=MARKER_RUN, payload_pointer=""
    )
    replica = Replica(["a"], policies.get("reference"), lambda *args, **kw: notes.append(Notice(*args, **kw)), {}, settings)

    def read(*numbers: int) -> None:
        payloads = [canonical_json(marked({}, MARKER_RUN, "a", number)) for number in numbers]
        items = tuple(Item(None, msgspec.Raw(payload)) for payload in payloads)
        replica.take_batches((Batch("a", items, Position(f"{numbers[-1]}")),), (), True)

    read(1, 3, 2)
    replica.take_unknown(PositionUnknown("a", Position("3"), Position("2"), "above_head"))
    read(*again)
    assert [note.marker for note in notes if note.kind == "applied"] == [1, 3, 2, *new]
    assert [note.marker for note in notes if note.kind == "duplicate_dropped"] == [1, 3, 2]
    assert (replica.cursors["a"].marks.high, replica.cursors["a"].marks.missing) == (max(again), set())


def test_server_that_goes_on_at_the_clients_own_position_has_lost_nothing():
    for offset, losses in (("0_9", 0), ("0_12", 1)):
        peer = Peer(DURABLE)
        peer.tell(Resumed(peer.join().ref, "a"), Batch("a", (Item(None, msgspec.Raw(b"{}")),), Position("0_9")))
        peer.tell(StreamEnded("a", "network"))
        again = peer.wait(0.3).subscribe()
        peer.tell(PositionUnknown("a", again.after["a"], subscribed_at=Position(offset), ref=again.ref))
        assert len(peer.of("declared_loss")) == losses


def test_position_that_moved_is_written_as_a_checkpoint_once():
    peer = Peer(DURABLE)
    peer.tell(Resumed(peer.join().ref, "a"), Batch("a", (), Position("0_9")), Batch("a", (), Position("0_9")))
    assert len(peer.of("checkpoint_written")) == 1
    peer.tell(Batch("a", (), Position("0_12")))
    assert len(peer.of("checkpoint_written")) == 2


def test_requests_that_fail_again_and_again_wait_longer_until_a_stream_was_live_for_long():
    peer = Peer(DURABLE)
    peer.tell(Resumed(peer.join().ref, "a"), StreamEnded("a", "network"))
    for _ in range(3):
        peer.wait(peer.session.wake_at() - peer.now).subscribe()
        peer.tell(StreamEnded("a", "refused"))

    def attempts() -> list[int]:
        peer.of()
        return [notice.attempt for notice in peer.seen if notice.kind == "backoff"]

    assert attempts() == [1, 2, 3, 4]
    again = peer.wait(peer.session.wake_at() - peer.now).subscribe()
    peer.tell(Resumed(again.ref, "a"), CaughtUp("a")).wait(20.0).tell(StreamEnded("a", "network"))
    assert attempts() == [1, 2, 3, 4, 1]
