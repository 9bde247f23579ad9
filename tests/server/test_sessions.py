"""Sessions that a join resumes: what a server keeps of a lost client, for how long, and how a resumed one can go deaf."""

import pytest

from sim.protocols.events import Batch, Event, Joined, Refused, Resumed, Step
from sim.protocols.intents import Beat, Compatibility, Join, Subscribe
from sim.server.closing import CloseOrder
from tests.server.test_stream_runtime import TTL_S, Driver, token

WINDOW_S = 120.0


@pytest.fixture
def driver() -> Driver:
    return Driver("socketio")


def session_in(events: list[Event]) -> str:
    """The session after the last batch, or of the answer to a join."""
    named = [event.session for event in events if isinstance(event, Batch | Joined) and event.session]
    return named[-1] or ""


def reading(driver: Driver, *streams: str) -> tuple[int, str]:
    """A connection that got one event, and its session."""
    number = driver.reading(*streams)
    driver.publish(streams[0])
    return number, session_in(driver.pull(number))


def payloads(events: list[Event]) -> list[bytes]:
    return [bytes(item.payload) for event in events if isinstance(event, Batch) for item in event.items]


def joined_again(driver: Driver, session: str) -> tuple[int, list[Event]]:
    number = driver.open()
    return number, driver.ask(number, driver.join(session))


def is_resumed(events: list[Event]) -> bool:
    (joined,) = [event for event in events if isinstance(event, Joined)]
    return joined.resumed


def test_a_room_starts_from_now_on(driver: Driver) -> None:
    driver.publish("a", 3)
    number = driver.joined()
    assert driver.ask(number, Subscribe("2", {"a": None})) == [Resumed("2", "a")]
    driver.publish("a")
    assert payloads(driver.pull(number)) == [b'{"n":4}']


def test_missed_events_of_all_streams_come_before_the_answer(driver: Driver) -> None:
    number, session = reading(driver, "a", "b")
    driver.runtime.close(number)
    driver.publish("a", 2)
    driver.publish("b")
    again, events = joined_again(driver, session)
    assert sorted(payloads(events)) == [b'{"n":1}', b'{"n":2}', b'{"n":3}']
    assert isinstance(events[-1], Joined)
    assert events[-1].resumed
    driver.publish("b")
    assert payloads(driver.pull(again)) == [b'{"n":2}']  # without another subscribe


def test_each_event_has_a_position_of_its_own(driver: Driver) -> None:
    number = driver.reading("a", "b")
    driver.publish("a", 2)
    driver.publish("b", 2)
    events = driver.pull(number)
    places = [item.position for event in events if isinstance(event, Batch) for item in event.items]
    assert len(set(places)) == 4
    assert None not in places


def test_a_client_that_got_no_event_is_not_resumed(driver: Driver) -> None:
    number = driver.open()
    session = session_in(driver.ask(number, driver.join()))
    driver.ask(number, Subscribe("2", {"a": None}))
    driver.runtime.close(number)
    assert not is_resumed(joined_again(driver, session)[1])


def test_a_session_is_not_resumed_before_its_old_socket_is_known_to_be_gone(driver: Driver) -> None:
    _, session = reading(driver, "a")
    again, events = joined_again(driver, session)
    assert not is_resumed(events)
    assert session_in(events).split(" ")[0] != session.split(" ")[0]
    driver.publish("a")
    assert driver.pull(again) == []  # it has no rooms


def test_a_session_is_forgotten_after_its_window(driver: Driver) -> None:
    number, session = reading(driver, "a")
    driver.runtime.close(number)
    driver.wait(WINDOW_S + 1)
    assert not is_resumed(joined_again(driver, session)[1])


def test_a_session_whose_last_event_is_old_is_not_resumed(driver: Driver) -> None:
    number, session = reading(driver, "a")
    for _ in range(13):
        driver.wait(10)
        driver.ask(number, Beat(""))
    driver.runtime.close(number)
    assert not is_resumed(joined_again(driver, session)[1])


def test_a_client_resumed_twice_goes_deaf_when_its_dead_socket_is_found(driver: Driver) -> None:
    first, session = reading(driver, "a")
    driver.runtime.close(first)
    ghost, events = joined_again(driver, session)  # it will never be heard again
    assert is_resumed(events)
    live, events = joined_again(driver, session)  # from the first cut's session, which is still kept
    assert is_resumed(events)
    driver.publish("a")
    assert payloads(driver.pull(live)) == [b'{"n":2}']
    driver.runtime.close(ghost)
    driver.publish("a")
    assert driver.pull(live) == []
    assert driver.ask(live, Subscribe("9", {"a": None})) == [Resumed("9", "a")]  # acknowledged all the same
    driver.publish("a")
    assert driver.pull(live) == []


def test_a_refused_token_leaves_the_socket_open(driver: Driver) -> None:
    number = driver.open()
    (refused,) = driver.ask(number, Join("1", Compatibility(), token(driver.now - TTL_S)))
    assert isinstance(refused, Refused)
    assert (refused.next.step, driver.runtime.is_closing(number)) == (Step.MINT, False)


def test_a_session_before_any_event_is_not_that_of_a_client_that_got_the_first(driver: Driver) -> None:
    other = driver.reading("a")
    driver.publish("a")
    driver.pull(other)
    number = driver.open()
    session = session_in(driver.ask(number, driver.join()))
    driver.ask(number, Subscribe("2", {"a": None}))
    driver.runtime.close(number)
    assert not is_resumed(joined_again(driver, session)[1])


def test_a_client_that_the_application_disconnected_cannot_resume(driver: Driver) -> None:
    """In contrast to one whose connection was lost."""
    lost, of_lost = reading(driver, "a")
    driver.runtime.close(lost)
    assert is_resumed(joined_again(driver, of_lost)[1])
    driver = Driver("socketio")
    closed, of_closed = reading(driver, "a")
    assert driver.runtime.closing.follow(CloseOrder(0, {"d": 4100})) == 1
    driver.runtime.close(closed)
    assert not is_resumed(joined_again(driver, of_closed)[1])


@pytest.mark.parametrize(("cause", "is_kept"), [("revoked", False), ("stopped", True), ("silent", True)])
def test_a_session_is_kept_unless_its_user_was_sent_away(driver: Driver, cause: str, is_kept: bool) -> None:
    number, session = reading(driver, "a")
    if cause == "revoked":
        assert driver.runtime.revoke(["session-u"]) == 1
    elif cause == "stopped":
        assert driver.runtime.hang_up({"d"}) == 1
    else:
        driver.wait(60)
    assert driver.runtime.is_closing(number)
    driver.runtime.close(number)
    driver.runtime._revoked.clear()
    assert is_resumed(joined_again(driver, session)[1]) == is_kept


def test_a_session_is_as_old_as_its_last_event(driver: Driver) -> None:
    number, _ = reading(driver, "a")
    for _ in range(10):
        driver.wait(10)
        driver.ask(number, Beat(""))
    driver.publish("a")
    session = session_in(driver.pull(number))
    driver.runtime.close(number)
    driver.wait(WINDOW_S - 20)
    assert is_resumed(joined_again(driver, session)[1])
    driver.wait(30)
    assert not is_resumed(joined_again(driver, session)[1])
