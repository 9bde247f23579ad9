"""A client that sends what is no frame: each such thing by itself, and none of them granted."""

import pytest
from hand import Hand, batch
from lane import RUN, Lane

from sim.contract.codec import decode_client
from sim.contract.frames import Body, Garbage, Subscribe, SyncError
from sim.contract.malformed_probe import PATIENCE_S, MalformedFramesProbe, malformed
from sim.contract.probes import session_class
from sim.errors import MalformedFrameError

ALL = malformed(RUN, "7")


def live() -> Hand:
    """A probe that has just gone live."""
    hand = Hand(session=MalformedFramesProbe)
    ask = hand.begin()
    hand.receive(batch(1))
    hand.reply(ask.ref)
    return hand


def sent(hand: Hand) -> list[str | bytes]:
    return [frame.data for frame in hand.sent() if isinstance(frame, Garbage)]


def answers(hand: Hand) -> list[str]:
    return [notice.detail.partition(":")[2] for notice in hand.of("probed")]


@pytest.mark.parametrize("number", range(len(ALL)))
def test_none_of_it_is_a_frame_that_may_be_served(number: int):
    try:
        frame = decode_client(ALL[number])
    except MalformedFrameError:
        return
    assert isinstance(frame, Subscribe)
    assert frame.bad_cursor


def test_each_is_sent_once_the_one_before_is_answered():
    hand = live()
    assert sent(hand) == [ALL[0]]
    hand.receive(SyncError(Body(code="malformed_frame")))
    assert sent(hand) == [ALL[1]]
    assert answers(hand) == ["refused:malformed_frame"]
    assert session_class("malformed_frames") is MalformedFramesProbe


def test_an_ok_without_a_reference_grants_it():
    hand = live()
    hand.reply("", ok=True)
    assert answers(hand) == ["accepted"]


def test_a_heartbeats_answer_is_none():
    hand = live()
    hand.reply("4711", ok=True)
    assert answers(hand) == []


def test_what_is_not_answered_was_ignored_and_a_socket_that_ends_is_an_answer():
    hand = live()
    hand.wait(PATIENCE_S)
    assert answers(hand) == ["refused:ignored"]
    hand.session.disconnected("Connection reset by peer", hand.now)
    assert answers(hand) == ["refused:ignored", "refused:closed"]


@pytest.mark.parametrize("defects", [set(), {"accept_malformed"}])
def test_the_runtime_core_refuses_all_and_serves_on(defects: set[str]):
    lane = Lane(1, session=MalformedFramesProbe)
    lane.switch(defects=defects)
    lane.publish(RUN)
    lane.advance(1.0, carrying=True)
    lane.publish(RUN, 2)
    lane.settle()
    lane.check()
    found = [notice.detail.partition(":")[2] for notice in lane.of(0, "probed")]
    assert len(found) == len(ALL)
    assert ("accepted" in found) == bool(defects)
    assert set(found) - {"accepted"} <= {"refused:malformed_frame", "refused:unknown_topic", "refused:bad_subscription"}
