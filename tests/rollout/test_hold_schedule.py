"""Holds of a whole business day, and the gates within the hold of a full rollout."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sim.base.clocks import SteppedClock, from_iso
from tests.rollout.hold_world import START, KilledError, World, between, held_s, never

# --- a business day ---------------------------------------------------------------------------------


def test_business_day_is_held_from_its_first_minute_to_its_last(tmp_path: Path):
    world = World(tmp_path, stage="2", clock=SteppedClock(START - timedelta(hours=2)))
    events = world.held()
    assert from_iso(events[0].at) == START
    assert held_s(events) == 8 * 3600
    assert world.polls[0] == START, "no poll before the day begins"
    assert world.routing_checks >= 8


@pytest.mark.parametrize(
    ("started", "opens"),
    [
        (START + timedelta(hours=1), START + timedelta(days=1)),  # in the middle of one
        (datetime(2026, 11, 27, 23, 30, tzinfo=UTC), datetime(2026, 11, 30, 15, tzinfo=UTC)),  # on a Friday evening
        (datetime(2026, 11, 26, 10, tzinfo=UTC), datetime(2026, 11, 27, 15, tzinfo=UTC)),  # on Thanksgiving
        (datetime(2026, 3, 7, 12, tzinfo=UTC), datetime(2026, 3, 9, 14, tzinfo=UTC)),  # before the clocks change
    ],
)
def test_hold_waits_for_a_whole_business_day(tmp_path: Path, started: datetime, opens: datetime):
    world = World(tmp_path, stage="2", clock=SteppedClock(started))
    events = world.held()
    assert from_iso(events[0].at) == opens
    assert events[-1].kind == "ended"


def test_red_minute_restarts_with_the_next_business_day(tmp_path: Path):
    world = World(tmp_path, stage="2", red=between(7200, 7260))
    events = world.held()
    assert world.kinds() == ["started", "restarted", "restarted", "ended"]
    assert from_iso(events[2].at) == START + timedelta(days=1)
    assert held_s(events) == 8 * 3600


def test_hole_after_a_kill_restarts_with_the_next_business_day(tmp_path: Path):
    world = World(tmp_path, stage="2", killed=between(7200, 7230))
    with pytest.raises(KilledError):
        world.held()
    world.clock.step(timedelta(hours=1))
    world.killed = never
    events = world.held()
    assert from_iso(events[-2].at) == START + timedelta(days=1)
    assert held_s(events) == 8 * 3600


def test_hold_that_starts_within_a_business_day_waits_for_the_next(tmp_path: Path):
    """Killed just after a red check, and started again at once."""

    class Killing(SteppedClock):
        def sleep_until(self, moment: datetime) -> None:
            if moment - self.now() > timedelta(hours=1):
                raise KilledError
            super().sleep_until(moment)

    world = World(tmp_path, stage="2", red=between(7200, 7230), clock=Killing(START))
    with pytest.raises(KilledError):
        world.held()
    assert world.kinds() == ["started", "restarted"]
    world.clock = SteppedClock(START + timedelta(seconds=7250))
    events = world.held()
    assert from_iso(events[-2].at) == START + timedelta(days=1)


# --- a full rollout's window ------------------------------------------------------------------------


def test_full_rollout_is_judged_at_its_gates_and_ends_after_a_day(tmp_path: Path):
    world = World(tmp_path, stage="4", short=between(0, 2 * 3600))
    events = world.held()
    gates = [(event.gate_h, (from_iso(event.at) - START).total_seconds() / 3600) for event in events if event.kind == "gate"]
    assert [hour for hour, _ in gates] == [0.0, 1.0, 6.0, 24.0]
    assert gates[0][1] < 0.1
    assert gates[1][1] == pytest.approx(2.0, abs=0.1), "the gate at one hour waits until there is enough to pass it"
    assert gates[2][1] == pytest.approx(6.0, abs=0.1)
    assert held_s(events) == 86400.0


def test_gates_that_passed_before_a_restart_are_judged_again(tmp_path: Path):
    world = World(tmp_path, stage="4", red=between(7 * 3600, 7 * 3600 + 60))
    events = world.held()
    after = [event.kind for event in events]
    last = len(after) - after[::-1].index("restarted")
    assert after[last:] == ["gate", "gate", "gate", "gate", "ended"]
