"""Clients that read by long polls: when a request is answered, with what, and how long a connection stays without one."""

import math

import pytest

from sim.protocols.events import Batch, CaughtUp, Event, Position, PositionUnknown, Refused, Resumed
from sim.protocols.intents import Poll
from sim.server.settings import LiveFault, Switches
from tests.server.test_stream_runtime import Driver, offset

BEAT_S = 15.0


@pytest.fixture
def driver() -> Driver:
    found = Driver("durable_streams", heartbeat_interval_s=BEAT_S)
    found.publish("a", 3)
    return found


def poll(driver: Driver, number: int, after: Position | None, *, waits: bool = True) -> list[Event]:
    return driver.ask(number, Poll("1", {"a": after}, waits=waits))


def whole(count: int, after: int) -> list[Event]:
    """An answer's shape: how many events, and the position after them."""
    return [count, offset(after)]  # type: ignore[list-item]


def shape(events: list[Event]) -> list[object]:
    assert events[0] == Resumed("1", "a"), events
    (batch, caught_up) = events[1:]
    assert isinstance(batch, Batch)
    assert all(item.position is None for item in batch.items)
    assert caught_up == CaughtUp("a")
    return [len(batch.items), batch.after]


def test_a_poll_is_answered_at_once_with_all_events_after_its_position(driver: Driver) -> None:
    number = driver.open()
    assert shape(poll(driver, number, offset(1))) == whole(2, 3)
    assert driver.runtime.counters.served == 2
    driver.publish("a", 2)
    assert driver.pull(number) == [], "nothing is sent without a request"
    assert shape(poll(driver, number, offset(3))) == whole(2, 5)
    assert shape(poll(driver, number, None)) == whole(5, 5)


def test_a_poll_at_the_head_waits_for_the_next_event(driver: Driver) -> None:
    number = driver.open()
    assert poll(driver, number, offset(3)) == []
    driver.wait(BEAT_S - 0.1)
    assert driver.pull(number) == []
    driver.publish("a")
    assert shape(driver.pull(number)) == whole(1, 4)


def test_a_poll_without_an_event_is_answered_when_its_time_is_over(driver: Driver) -> None:
    number = driver.open()
    assert poll(driver, number, offset(3)) == []
    driver.runtime.ready()
    driver.wait(BEAT_S - 0.1)
    assert number not in driver.runtime.ready()
    driver.wait(0.1)
    assert number in driver.runtime.ready()
    assert shape(driver.pull(number)) == whole(0, 3)


def test_a_request_that_does_not_wait_is_answered_at_once(driver: Driver) -> None:
    assert shape(poll(driver, driver.open(), offset(3), waits=False)) == whole(0, 3)


def test_an_unknown_position_is_answered_at_once_or_with_where_it_goes_on(driver: Driver) -> None:
    number = driver.open()
    first, second = poll(driver, number, offset(9), waits=False)
    assert (first, type(second)) == (Resumed("1", "a"), PositionUnknown)
    assert driver.runtime.counters.stale_cursors == 1


def test_a_connection_without_a_request_is_closed_after_a_while(driver: Driver) -> None:
    number, habits = driver.open(), driver.runtime.profile.streams
    assert habits is not None
    assert habits.polls is not None
    poll(driver, number, offset(1))
    begin = driver.now
    driver.wait(habits.polls.idle_s - 0.1)
    assert not driver.runtime.is_closing(number)
    shape(poll(driver, number, offset(2)))
    driver.wait(habits.polls.idle_s - 0.1)
    assert not driver.runtime.is_closing(number), "it asked again meanwhile"
    driver.wait(0.1)
    assert driver.runtime.is_closing(number)
    assert driver.now - begin == pytest.approx(2 * habits.polls.idle_s - 0.1)


def test_a_deleted_log_ends_a_waiting_poll(driver: Driver) -> None:
    number = driver.open()
    assert poll(driver, number, offset(3)) == []
    driver.runtime.recreate_log("a")
    (gone,) = driver.pull(number)
    assert isinstance(gone, Refused)
    assert (gone.code, gone.streams) == ("status_404", ("a",))
    driver.publish("a")
    assert driver.pull(number) == []
    assert not driver.runtime.is_closing(number)


def test_a_fault_disturbs_the_answer_to_a_poll(driver: Driver) -> None:
    number = driver.open()
    driver.runtime.set_switches(Switches(duplicate_deliveries=LiveFault(1.0, 1.0)))
    assert shape(poll(driver, number, offset(1))) == whole(4, 3)
    assert driver.runtime.counters.served == 4
    driver.runtime.set_switches(Switches(delay_deliveries=LiveFault(1.0, 1.0, 200.0)))
    assert shape(poll(driver, number, offset(1))) == whole(0, 3)
    assert driver.runtime.counters.served == 4


def test_runtime_wakes_for_its_next_poll(driver: Driver) -> None:
    number = driver.open()
    assert driver.runtime._polls_due == []  # type: ignore[attr-defined]
    at = driver.now
    poll(driver, number, offset(3))
    assert driver.runtime.wake_at() == at + BEAT_S
    driver.runtime.close(number)
    driver.wait(100.0)
    assert driver.runtime.wake_at() == math.inf
