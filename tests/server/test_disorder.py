"""Faults of live updates: what is sent instead, and to which clients. Replays stay correct."""

import msgspec
import pytest

from sim.base.errors import MalformedFrameError
from sim.protocols.events import Item
from sim.protocols.spacetime.codec import decode_server, encode_server
from sim.protocols.spacetime.frames import Malformed, Subscribe, UpdateBatch
from sim.server.delivery.disorder import LIVE_FAULTS, as_batches, client_key, concerns
from sim.server.settings import LiveFault, Switches
from tests.server.runtime_driver import A as TOPIC
from tests.server.runtime_driver import RuntimeDriver, is_intact, seqs

ALWAYS = LiveFault(1.0, 1.0, 200.0)


def faulty_driver(kind: str, fault: LiveFault = ALWAYS) -> tuple[RuntimeDriver, int]:
    """A runtime with one fault, and a live connection that has received two events."""
    driver = RuntimeDriver()
    number = driver.live(TOPIC)
    driver.publish(TOPIC, 2)
    driver.pull(number)
    driver.runtime.set_switches(Switches(**{kind: fault}))
    return driver, number


def after(driver: RuntimeDriver, number: int, count: int = 1) -> list:
    """The frames sent while `count` events are published one by one."""
    frames = []
    for _ in range(count):
        driver.publish(TOPIC)
        frames += driver.pull(number)
    return frames


def test_duplicated_event_is_sent_twice():
    driver, number = faulty_driver("duplicate_deliveries")
    assert seqs(after(driver, number, 2)) == [3, 3, 4, 4]
    assert driver.runtime.counters.acted == {"duplicate_deliveries": 2}


def test_corrupted_payload_does_not_match_its_hash():
    driver, number = faulty_driver("jumble_deliveries")
    (frame,) = after(driver, number)
    assert [(update.watermark, is_intact(update)) for update in frame.updates] == [(3, False)]
    log = driver.runtime.streams.log(TOPIC)
    assert frame.updates[0].payload_hash == log.after(2, 1)[0].payload_hash


def test_malformed_frame_cannot_be_decoded():
    driver, number = faulty_driver("malform_frames")
    (frame,) = after(driver, number)
    assert isinstance(frame, Malformed)
    with pytest.raises(MalformedFrameError) as error:
        decode_server(encode_server(frame, "1").encode())
    assert error.value.code == "malformed_frame"


def test_reordered_event_follows_the_next_event():
    driver, number = faulty_driver("reorder_deliveries")
    assert after(driver, number) == []
    driver.runtime.set_switches(Switches())  # pending events are still sent
    assert seqs(after(driver, number, 2)) == [4, 3, 5]


def test_reordering_also_happens_within_one_frame():
    driver, number = faulty_driver("reorder_deliveries", LiveFault(1.0, 0.5))
    driver.publish(TOPIC, 40)
    got = seqs(driver.pull(number))
    driver.runtime.set_switches(Switches())
    got += seqs(after(driver, number))
    assert got != sorted(got)
    assert sorted(got) == list(range(3, 44))


def test_delayed_event_is_sent_after_its_delay():
    driver, number = faulty_driver("delay_deliveries")
    assert after(driver, number, 2) == []
    driver.runtime.set_switches(Switches())
    assert seqs(after(driver, number)) == [5]
    driver.wait(0.19)
    assert seqs(driver.pull(number)) == []
    driver.wait(0.02)
    assert seqs(driver.pull(number)) == [3, 4]


def test_pending_events_of_closed_connection_are_dropped():
    for kind in ("reorder_deliveries", "delay_deliveries"):
        driver, number = faulty_driver(kind)
        after(driver, number)
        driver.runtime.close(number)
        driver.runtime.set_switches(Switches())
        other = driver.live(TOPIC, **{TOPIC: 3})
        driver.wait(0.5)
        assert seqs(after(driver, other)) == [4]


@pytest.mark.parametrize("kind", LIVE_FAULTS)
def test_replay_is_never_disordered(kind: str):
    driver, number = faulty_driver(kind)
    after(driver, number, 3)
    frames = driver.ask(number, Subscribe("9", (TOPIC,), {TOPIC: 0}))
    assert seqs(frames) == [1, 2, 3, 4, 5]
    assert all(is_intact(update) for frame in frames if isinstance(frame, UpdateBatch) for update in frame.updates)


@pytest.mark.parametrize("kind", LIVE_FAULTS)
def test_fault_affects_only_selected_clients(kind: str):
    fault = LiveFault(0.5, 1.0, 200.0)
    driver = RuntimeDriver(Switches(**{kind: fault}, seed=4))
    numbers = {f"client-{n}": driver.live(TOPIC, device=f"client-{n}") for n in range(30)}
    driver.publish(TOPIC)
    usual = {device for device, number in numbers.items() if [type(f) for f in driver.pull(number)] == [UpdateBatch]}
    if kind in ("duplicate_deliveries", "jumble_deliveries"):
        return  # their frames look normal; only the counters differ
    assert usual == {device for device in numbers if not concerns(4, kind, client_key(device), 0.5)}
    assert 5 < driver.runtime.counters.acted[kind] == 30 - len(usual) < 25


def test_live_fault_survives_json_round_trip():
    switches = Switches(delay_deliveries=LiveFault(0.5, 0.25, 100.0))
    assert msgspec.json.decode(msgspec.json.encode(switches), type=Switches) == switches


def test_events_of_one_stream_in_a_row_are_one_batch():
    items = [(stream, Item(None, payload)) for stream, payload in (("a", b"1"), ("a", b"2"), ("b", b"3"), ("a", b"4"))]
    found = [(event.stream, [bytes(item.payload) for item in event.items]) for event in as_batches(items)]
    assert found == [("a", [b"1", b"2"]), ("b", [b"3"]), ("a", [b"4"])]


@pytest.mark.parametrize(("share", "least", "most"), [(0.5, 10, 30), (1.0, 40, 40)])
def test_fault_affects_its_share_of_events(share: float, least: int, most: int):
    driver, number = faulty_driver("duplicate_deliveries", LiveFault(1.0, share))
    sent = seqs(after(driver, number, 40))
    assert sorted(set(sent)) == list(range(3, 43))
    assert least <= len(sent) - 40 <= most


def test_late_event_is_sent_when_it_is_due_and_not_before():
    driver, number = faulty_driver("delay_deliveries")
    assert seqs(after(driver, number)) == []
    driver.now += 0.1
    assert seqs(after(driver, number)) == []
    disorder = driver.runtime._disorder
    due_at = disorder.due_at()
    assert due_at == pytest.approx(driver.now + 0.1)
    assert list(disorder.due(due_at - 0.001)) == []
    ((connection, (batch, _)),) = disorder.due(due_at)
    assert (connection, batch.stream, len(batch.items)) == (number, TOPIC, 1)
    assert disorder.due_at() == pytest.approx(due_at + 0.1), "the second one is not due"


def test_fault_that_affects_nobody_leaves_the_others_at_work():
    driver, number = faulty_driver("jumble_deliveries")
    driver.runtime.set_switches(Switches(duplicate_deliveries=LiveFault(1e-12, 1.0), jumble_deliveries=ALWAYS))
    (frame,) = after(driver, number)
    assert [(update.watermark, is_intact(update)) for update in frame.updates] == [(3, False)]
    assert driver.runtime.counters.acted == {"jumble_deliveries": 1}
