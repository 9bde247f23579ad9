"""A client that sends what is no frame: each such thing by itself, and none of them granted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import BrokenMessageError, MalformedFrameError
from sim.client.negative.malformed import GAP_S, MalformedFrames
from sim.client.negative.registry import session_class
from sim.protocols.events import Closed
from sim.protocols.intents import Raw
from sim.protocols.spacetime.codec import decode_message
from sim.protocols.spacetime.frames import Body, Request, Subscribe, SyncBeat, SyncError, TransportBeat
from sim.protocols.spacetime.negative import KINDS, malformed
from tests.client.hand import Hand, batch
from tests.client.server_double import RUN, Endpoints

MAX_BYTES = 256 * 1024
ALL = malformed(RUN, "7", MAX_BYTES)
CODES = {
    **dict.fromkeys(KINDS, "refused:malformed_frame"),
    **dict.fromkeys(("array_as_payload", "numbers_as_topics"), "refused:bad_subscription"),
    **dict.fromkeys(("text_as_cursors", "negative_cursor", "endless_cursor"), "refused:bad_subscription"),
    "unknown_channel": "refused:unknown_topic",
    "unknown_event": "refused:mutation_refused",
    "not_utf8": "refused:closed_1007",
    "huge": "refused:closed_1009",
    "null_reference": "served",
}


def live() -> Hand:
    """A probe that has just gone live."""
    hand = Hand(session=MalformedFrames)
    ask = hand.begin()
    hand.receive(batch(1))
    hand.reply(ask.ref)
    return hand


def asked(hand: Hand) -> tuple[Raw, str]:
    """What is no frame, as it is sent now, and the reference of the heartbeat behind it."""
    raw, beat = hand.sent()
    assert isinstance(raw, Raw)
    assert isinstance(beat, TransportBeat)
    return raw, beat.ref


def answers(hand: Hand) -> list[str]:
    return [notice.detail.removeprefix("malformed_frames:") for notice in hand.of("probed")]


@pytest.mark.parametrize("what", [what for what in KINDS if what != "null_reference"])
def test_none_of_it_is_a_frame_that_may_be_served(what: str):
    raw = ALL[what]
    try:
        frame = decode_message(raw.data, raw.is_text, MAX_BYTES)
    except (BrokenMessageError, MalformedFrameError):
        return
    assert isinstance(frame, Request) or (isinstance(frame, Subscribe) and frame.bad_cursor)


def test_only_what_is_meant_to_be_is_too_long_and_no_text():
    broken: dict[str, int] = {}
    for what, raw in ALL.items():
        try:
            decode_message(raw.data, raw.is_text, MAX_BYTES)
        except BrokenMessageError as error:
            broken[what] = error.status
        except MalformedFrameError:
            pass
    assert broken == {"not_utf8": 1007, "huge": 1009}
    with pytest.raises(MalformedFrameError):  # but for its length it could be read
        decode_message(ALL["huge"].data, True, 2 * MAX_BYTES)


@given(st.binary(), st.booleans())
def test_any_message_is_a_frame_or_malformed_or_ends_the_connection(data: bytes, is_text: bool):
    status = 0
    try:
        decode_message(data, is_text, 64)
    except BrokenMessageError as error:
        status = error.status
    except MalformedFrameError:
        pass
    no_text = is_text and data.decode(errors="replace").encode() != data
    assert status == (1009 if len(data) > 64 else 1007 if no_text else 0)


def test_each_is_sent_once_the_heartbeat_behind_the_one_before_is_answered():
    hand = live()
    first, fence = asked(hand)
    assert first == ALL[KINDS[0]]
    hand.receive(SyncError(Body(code="malformed_frame")))
    hand.wait(1.0)
    assert answers(hand) == hand.sent() == []
    hand.reply(fence)
    assert answers(hand) == [f"{KINDS[0]}:refused:malformed_frame"]
    hand.wait(GAP_S)
    assert asked(hand)[0] == ALL[KINDS[1]]
    assert session_class("malformed_frames") is MalformedFrames


def test_what_only_the_heartbeat_answers_was_ignored():
    hand = live()
    _, fence = asked(hand)
    hand.error("slow_consumer", action="throttle")
    hand.reply("4711", ok=True)
    hand.reply(fence)
    assert answers(hand) == [f"{KINDS[0]}:ignored"]


@pytest.mark.parametrize("by_reference", [True, False])
def test_an_ok_grants_it_whatever_else_is_said(by_reference: bool):
    hand = live()
    _, fence = asked(hand)
    hand.error("malformed_frame")
    hand.reply(str(int(fence) - 1) if by_reference else "")
    hand.reply(fence)
    assert answers(hand) == [f"{KINDS[0]}:accepted"]


def test_who_does_not_even_answer_the_heartbeat_is_silent():
    hand = live()
    asked(hand)
    hand.wait(hand.session.settings.reply_timeout_s)
    assert answers(hand) == [f"{KINDS[0]}:silence"]


def test_a_socket_that_is_closed_says_why_and_the_rest_is_sent_over_the_next():
    hand = live()
    asked(hand)
    hand.session.received((Closed(code=1009),), hand.now)
    assert answers(hand) == [f"{KINDS[0]}:refused:closed_1009"]
    hand.reply(hand.come_back().ref)
    assert asked(hand)[0] == ALL[KINDS[1]]


@pytest.mark.parametrize("text", ["spacetime websocket closed", "Connection reset by peer"])
def test_a_socket_that_ends_without_a_word_is_no_answer_until_it_does_so_again(text: str):
    hand = live()
    asked(hand)
    hand.lose(text)
    assert answers(hand) == []
    hand.reply(hand.come_back().ref)
    assert asked(hand)[0] == ALL[KINDS[0]]
    hand.lose(text)
    assert answers(hand) == [f"{KINDS[0]}:refused:closed"]


def test_to_be_sent_away_for_something_else_is_no_answer_and_to_be_throttled_is_one():
    hand = live()
    asked(hand)
    hand.error("reauth_required")
    assert answers(hand) == []
    hand = live()
    asked(hand)
    hand.error("rate_limited", retry_after_ms=1.0)
    assert answers(hand) == [f"{KINDS[0]}:refused:rate_limited"]


@pytest.mark.parametrize("defects", [set(), {"accept_malformed"}])
def test_the_runtime_core_refuses_all_and_serves_on_and_each_new_connection_begins_anew(defects: set[str]):
    service = Endpoints(1, session=MalformedFrames)
    service.switch(defects=defects)
    service.publish(RUN)
    service.advance(20.0, carrying=True)
    accepted = {what: "accepted" for what, code in CODES.items() if defects and code.endswith(("_frame", "_topic"))}
    expected = [f"malformed_frames:{what}:{code}" for what, code in (CODES | accepted).items()]
    assert [notice.detail for notice in service.of(0, "probed")] == expected
    service.publish(RUN, 2)
    service.cut(0)
    service.advance(20.0, carrying=True)
    assert [notice.detail for notice in service.of(0, "probed")] == 2 * expected
    service.settle()
    service.check()
    assert service.runtime.mutations == []


def test_a_payload_that_must_be_an_object_is_one():
    for event in ("sync:heartbeat", "phx_leave", "phx_join", "sync:unsubscribe"):
        with pytest.raises(MalformedFrameError):
            decode_message(b'["1","2","sync:v1","%s",[]]' % event.encode(), True, MAX_BYTES)
    beat = decode_message(b'["1","2","sync:v1","sync:heartbeat", {"x":[1]}]', True, MAX_BYTES)
    assert isinstance(beat, SyncBeat)
    assert bytes(beat.payload) == b'{"x":[1]}'
