"""A client that sends malformed frames one at a time; a healthy runtime accepts none of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import BrokenMessageError, MalformedFrameError
from sim.client.negative.malformed import _MAX_CLOSES, GAP_S, MalformedFrames
from sim.client.negative.registry import session_class
from sim.protocols.events import Closed
from sim.protocols.intents import Raw
from sim.protocols.spacetime.codec import decode_message
from sim.protocols.spacetime.frames import Body, Request, Subscribe, SyncBeat, SyncError, TransportBeat
from sim.protocols.spacetime.negative import KINDS, malformed
from tests.client.server_double import RUN, InMemoryService
from tests.client.session_driver import SessionDriver, batch

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


def live(asks: bool = False) -> SessionDriver:
    """A negative client that has just gone live; with `asks`, it has sent its first malformed frame."""
    driver = SessionDriver(session=MalformedFrames)
    driver.replay(driver.begin(), batch(1))
    if asks:
        asked(driver)
    return driver


def asked(driver: SessionDriver) -> tuple[Raw, str]:
    """The malformed frame sent now, and the reference of the heartbeat after it."""
    raw, beat = driver.sent()
    assert isinstance(raw, Raw)
    assert isinstance(beat, TransportBeat)
    return raw, beat.ref


def answers(driver: SessionDriver) -> list[str]:
    return [notice.detail.removeprefix("malformed_frames:") for notice in driver.of("probed")]


@pytest.mark.parametrize("what", [what for what in KINDS if what != "null_reference"])
def test_no_malformed_kind_decodes_to_a_servable_frame(what: str):
    raw = ALL[what]
    try:
        frame = decode_message(raw.data, raw.is_text, MAX_BYTES)
    except (BrokenMessageError, MalformedFrameError):
        return
    assert isinstance(frame, Request) or (isinstance(frame, Subscribe) and frame.bad_cursor)


def test_only_two_kinds_break_the_connection():
    broken: dict[str, int] = {}
    for what, raw in ALL.items():
        try:
            decode_message(raw.data, raw.is_text, MAX_BYTES)
        except BrokenMessageError as error:
            broken[what] = error.status
        except MalformedFrameError:
            pass
    assert broken == {"not_utf8": 1007, "huge": 1009}
    with pytest.raises(MalformedFrameError):  # the length is its only fault
        decode_message(ALL["huge"].data, True, 2 * MAX_BYTES)


@given(st.binary(), st.booleans())
def test_any_message_decodes_or_is_malformed_or_breaks_connection(data: bytes, is_text: bool):
    status = 0
    try:
        decode_message(data, is_text, 64)
    except BrokenMessageError as error:
        status = error.status
    except MalformedFrameError:
        pass
    no_text = is_text and data.decode(errors="replace").encode() != data
    assert status == (1009 if len(data) > 64 else 1007 if no_text else 0)


def test_next_malformed_frame_waits_for_heartbeat_reply():
    driver = live()
    first, fence = asked(driver)
    assert first == ALL[KINDS[0]]
    driver.receive(SyncError(Body(code="malformed_frame")))
    driver.wait(1.0)
    assert answers(driver) == driver.sent() == []
    driver.reply(fence)
    assert answers(driver) == [f"{KINDS[0]}:refused:malformed_frame"]
    driver.wait(GAP_S)
    assert asked(driver)[0] == ALL[KINDS[1]]
    assert session_class("malformed_frames") is MalformedFrames


@pytest.mark.parametrize(("closes", "asks_again"), [(_MAX_CLOSES, True), (_MAX_CLOSES + 1, False)])
def test_one_round_is_enough_where_forms_close_the_connection(closes: int, asks_again: bool):
    driver = live()
    for number in range(len(KINDS)):
        _, fence = asked(driver)
        if number < closes:
            driver.session.received((Closed(code=1007),), driver.now)
            driver.replay(driver.reconnect(), batch(1))
        else:
            driver.reply(fence)
            driver.wait(GAP_S)
    assert len(answers(driver)) == len(KINDS)
    driver.lose("network")
    driver.replay(driver.reconnect(), batch(1))
    assert bool(driver.sent()) == asks_again


def test_frame_answered_only_by_heartbeat_counts_as_ignored():
    driver = live()
    _, fence = asked(driver)
    driver.error("slow_consumer", action="throttle")
    driver.reply("4711", ok=True)
    driver.reply(fence)
    assert answers(driver) == [f"{KINDS[0]}:ignored"]


@pytest.mark.parametrize("by_reference", [True, False])
def test_ok_reply_counts_as_accepted_despite_error(by_reference: bool):
    driver = live()
    _, fence = asked(driver)
    driver.error("malformed_frame")
    driver.reply(str(int(fence) - 1) if by_reference else "")
    driver.reply(fence)
    assert answers(driver) == [f"{KINDS[0]}:accepted"]


def test_unanswered_heartbeat_counts_as_silence():
    driver = live(asks=True)
    driver.wait(driver.session.settings.reply_timeout_s)
    assert answers(driver) == [f"{KINDS[0]}:silence"]


def test_close_code_is_recorded_and_rest_is_sent_after_reconnect():
    driver = live(asks=True)
    driver.session.received((Closed(code=1009),), driver.now)
    assert answers(driver) == [f"{KINDS[0]}:refused:closed_1009"]
    driver.reply(driver.reconnect().ref)
    assert asked(driver)[0] == ALL[KINDS[1]]


@pytest.mark.parametrize("text", ["spacetime websocket closed", "Connection reset by peer"])
def test_second_close_without_code_counts_as_refused(text: str):
    driver = live(asks=True)
    driver.lose(text)
    assert answers(driver) == []
    driver.reply(driver.reconnect().ref)
    assert asked(driver)[0] == ALL[KINDS[0]]
    driver.lose(text)
    assert answers(driver) == [f"{KINDS[0]}:refused:closed"]


def test_reauth_is_no_answer_but_rate_limit_is():
    driver = live(asks=True)
    driver.error("reauth_required")
    assert answers(driver) == []
    driver = live(asks=True)
    driver.error("rate_limited", retry_after_ms=1.0)
    assert answers(driver) == [f"{KINDS[0]}:refused:rate_limited"]


@pytest.mark.parametrize("defects", [set(), {"accept_malformed"}])
def test_runtime_refuses_all_malformed_frames_on_every_connection(defects: set[str]):
    service = InMemoryService(1, session=MalformedFrames)
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
    service.settle_and_check()
    assert service.runtime.mutations == []


def test_payload_must_be_an_object():
    for event in ("sync:heartbeat", "phx_leave", "phx_join", "sync:unsubscribe"):
        with pytest.raises(MalformedFrameError):
            decode_message(b'["1","2","sync:v1","%s",[]]' % event.encode(), True, MAX_BYTES)
    beat = decode_message(b'["1","2","sync:v1","sync:heartbeat", {"x":[1]}]', True, MAX_BYTES)
    assert isinstance(beat, SyncBeat)
    assert bytes(beat.payload) == b'{"x":[1]}'
