"""Live updates that go wrong by a fault: what goes out instead, to whom, and that a replay is as it was."""

import msgspec
import pytest

from sim.base.errors import MalformedFrameError
from sim.protocols.spacetime.codec import decode_server, encode_server
from sim.protocols.spacetime.frames import Malformed, Subscribe, UpdateBatch
from sim.server.disorder import LIVE_FAULTS, client_key, concerns
from sim.server.settings import LiveFault, Switches
from tests.server.runtime_driver import A as TOPIC
from tests.server.runtime_driver import Desk, is_intact, seqs

ALWAYS = LiveFault(1.0, 1.0, 200.0)


def desk(kind: str, fault: LiveFault = ALWAYS) -> tuple[Desk, int]:
    """A runtime under one fault, and a live connection with two events behind it."""
    made = Desk()
    number = made.live(TOPIC)
    made.publish(TOPIC, 2)
    made.pull(number)
    made.runtime.set_switches(Switches(**{kind: fault}))
    return made, number


def after(made: Desk, number: int, count: int = 1) -> list:
    """What goes out when so many events are published, each at once."""
    frames = []
    for _ in range(count):
        made.publish(TOPIC)
        frames += made.pull(number)
    return frames


def test_a_duplicate_goes_out_twice():
    made, number = desk("duplicate_deliveries")
    assert seqs(after(made, number, 2)) == [3, 3, 4, 4]
    assert made.runtime.counters.acted == {"duplicate_deliveries": 2}


def test_a_jumbled_payload_is_not_its_hash():
    made, number = desk("jumble_deliveries")
    (frame,) = after(made, number)
    assert [(update.watermark, is_intact(update)) for update in frame.updates] == [(3, False)]
    log = made.runtime.streams.log(TOPIC)
    assert frame.updates[0].payload_hash == log.after(2, 1)[0].payload_hash


def test_a_malformed_frame_is_none_on_the_wire_either():
    made, number = desk("malform_frames")
    (frame,) = after(made, number)
    assert isinstance(frame, Malformed)
    with pytest.raises(MalformedFrameError) as error:
        decode_server(encode_server(frame, "1").encode())
    assert error.value.code == "malformed_frame"


def test_an_event_out_of_order_follows_the_next_one():
    made, number = desk("reorder_deliveries")
    assert after(made, number) == []
    made.runtime.set_switches(Switches())  # what waits goes out all the same
    assert seqs(after(made, number, 2)) == [4, 3, 5]


def test_within_one_frame_too():
    made, number = desk("reorder_deliveries", LiveFault(1.0, 0.5))
    made.publish(TOPIC, 40)
    got = seqs(made.pull(number))
    made.runtime.set_switches(Switches())
    got += seqs(after(made, number))
    assert got != sorted(got)
    assert sorted(got) == list(range(3, 44))


def test_an_event_that_is_late_comes_in_its_time():
    made, number = desk("delay_deliveries")
    assert after(made, number, 2) == []
    made.runtime.set_switches(Switches())
    assert seqs(after(made, number)) == [5]
    made.wait(0.19)
    assert seqs(made.pull(number)) == []
    made.wait(0.02)
    assert seqs(made.pull(number)) == [3, 4]


def test_what_a_closed_connection_was_owed_is_forgotten():
    for kind in ("reorder_deliveries", "delay_deliveries"):
        made, number = desk(kind)
        after(made, number)
        made.runtime.close(number)
        made.runtime.set_switches(Switches())
        other = made.live(TOPIC, **{TOPIC: 3})
        made.wait(0.5)
        assert seqs(after(made, other)) == [4]


@pytest.mark.parametrize("kind", LIVE_FAULTS)
def test_a_replay_is_never_touched(kind: str):
    made, number = desk(kind)
    after(made, number, 3)
    frames = made.tell(number, Subscribe("9", (TOPIC,), {TOPIC: 0}))
    assert seqs(frames) == [1, 2, 3, 4, 5]
    assert all(is_intact(update) for frame in frames if isinstance(frame, UpdateBatch) for update in frame.updates)


@pytest.mark.parametrize("kind", LIVE_FAULTS)
def test_it_concerns_just_those_it_says(kind: str):
    fault = LiveFault(0.5, 1.0, 200.0)
    made = Desk(Switches(**{kind: fault}, seed=4))
    numbers = {f"client-{n}": made.live(TOPIC, device=f"client-{n}") for n in range(30)}
    made.publish(TOPIC)
    usual = {device for device, number in numbers.items() if [type(f) for f in made.pull(number)] == [UpdateBatch]}
    if kind in ("duplicate_deliveries", "jumble_deliveries"):
        return  # their frames look alike; the counters tell
    assert usual == {device for device in numbers if not concerns(4, kind, client_key(device), 0.5)}
    assert 5 < made.runtime.counters.acted[kind] == 30 - len(usual) < 25


def test_switches_with_such_a_fault_can_be_sent():
    switches = Switches(delay_deliveries=LiveFault(0.5, 0.25, 100.0))
    assert msgspec.json.decode(msgspec.json.encode(switches), type=Switches) == switches
