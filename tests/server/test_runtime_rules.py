"""What a runtime's calls return and change: closing by whom, beats, channels, mutations and limits."""

import math

import msgspec
import pytest

from sim.protocols.events import Answer, Joined
from sim.protocols.intents import Beat, Join, Leave, Request, Subscribe, Unsubscribe
from sim.server.runtime import DeliveryDownError
from sim.server.settings import Switches
from tests.client.server_double import COMPATIBILITY, START
from tests.server.runtime_driver import A, B, RuntimeDriver

NOTHING, COMMAND = msgspec.Raw(b"{}"), msgspec.Raw(b'{"a":1}')


def told(driver: RuntimeDriver, number: int) -> list[object]:
    messages = iter(lambda: driver.runtime.pull(number, driver.now), None)
    return [event for message in messages for event in message]


def test_sockets_are_numbered_and_closed_by_whose_they_are(driver: RuntimeDriver):
    numbers = [driver.joined(device) for device in ("d1", "d2", "d3")]
    assert (numbers, driver.runtime.consumers) == ([1, 2, 3], 3)
    assert driver.runtime.hang_up(["d1", "absent"]) == 1
    assert driver.runtime.hang_up(["d1"]) == 0, "it is closing"
    assert driver.runtime.revoke(["session-d2"]) == 1
    assert [driver.runtime.is_closing(number) for number in numbers] == [True, True, False]
    assert driver.runtime.set_switches(Switches(tokens_void_before=START)) == 0
    assert driver.runtime.set_switches(Switches(tokens_void_before=START + 1)) == 1
    assert "stop_delivery" not in driver.runtime.counters.acted


def test_stopped_delivery_counts_the_sockets_that_it_closed(driver: RuntimeDriver):
    driver.runtime.set_switches(Switches(delivery_down=True))
    assert driver.runtime.counters.acted == {}
    driver.runtime.set_switches(Switches())
    for device in ("d1", "d2"):
        driver.open(device)
    driver.runtime.set_switches(Switches(delivery_down=True))
    assert driver.runtime.counters.acted == {"stop_delivery": 2}
    with pytest.raises(DeliveryDownError):
        driver.open()
    assert driver.runtime.counters.acted == {"stop_delivery": 3}


def test_beat_of_the_transport_is_answered_and_keeps_the_client(driver: RuntimeDriver):
    number = driver.open()
    driver.now += 10.0
    driver.runtime.received(number, Beat("7"), driver.now)
    assert told(driver, number) == [Answer("7", True, is_beat=True)]
    assert driver.runtime._connections[number].last_heard == driver.now
    driver.now += 10.0
    driver.runtime.malformed(number, "x", driver.now)
    assert driver.runtime._connections[number].last_heard == driver.now


def test_join_names_the_channel_and_a_second_one_ends_what_was_read(driver: RuntimeDriver):
    number = driver.open()
    driver.runtime.received(number, Join("3", COMPATIBILITY, channel="9"), driver.now)
    (joined,) = told(driver, number)
    assert isinstance(joined, Joined)
    assert (joined.ref, joined.session, driver.runtime.channel(number)) == ("3", "sub-1", "9")
    driver.runtime.received(number, Subscribe("4", {A: None}), driver.now)
    told(driver, number)
    driver.runtime.received(number, Leave("5"), driver.now)
    answer, *_ = told(driver, number)
    assert answer == Answer("5", True, channel="9")
    driver.publish(A)
    assert (told(driver, number), driver.runtime._connections[number].joined) == ([], False)


def test_unsubscribe_ends_these_streams_alone(driver: RuntimeDriver):
    number = driver.live(A, B)
    driver.runtime.received(number, Unsubscribe("5", (A,)), driver.now)
    assert told(driver, number) == [Answer("5", True)]
    assert list(driver.runtime._connections[number].positions) == [B]


@pytest.mark.parametrize(
    ("defects", "payload", "ok", "carried_out"),
    [
        (set(), COMMAND, False, 0),
        ({"accept_mutation"}, COMMAND, True, 1),
        ({"accept_mutation"}, NOTHING, False, 0),
        ({"accept_hidden_mutation"}, COMMAND, False, 0),
    ],
)
def test_request_is_refused_unless_a_defect_carries_it_out(
    driver: RuntimeDriver, defects: set[str], payload: msgspec.Raw, ok: bool, carried_out: int
):
    number = driver.joined()
    driver.runtime.set_switches(Switches(defects=defects))
    driver.runtime.received(number, Request("5", "sync:publish", payload), driver.now)
    (answer,) = told(driver, number)
    assert (answer.ok, len(driver.runtime.mutations)) == (ok, carried_out)  # type: ignore[attr-defined]


def test_closed_socket_hears_and_does_nothing(driver: RuntimeDriver):
    number = driver.joined()
    driver.runtime.hang_up(["d"])
    told(driver, number)
    driver.runtime.received(number, Beat("7"), driver.now)
    driver.runtime.malformed(number, "x", driver.now)
    assert told(driver, number) == []
    driver.wait(200.0)
    assert (told(driver, number), driver.runtime.counters.silent_clients) == ([], 0)
    driver.runtime.close(number)
    driver.wait(200.0)
    assert driver.runtime.wake_at() == math.inf


def test_size_of_a_replay_batch_is_the_smaller_of_both():
    for asked, setting, sizes in ((2, 3, [2, 2, 1]), (0, 3, [3, 2]), (9, 3, [3, 2])):
        driver = RuntimeDriver(replay_batch_size=setting)
        driver.publish(A, 5)
        number = driver.joined()
        driver.runtime.received(number, Subscribe("2", {A: None}, asked), driver.now)
        found = [len(event.items) for event in told(driver, number) if hasattr(event, "items")]
        assert [size for size in found if size] == sizes
