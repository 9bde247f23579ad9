"""A hold that was killed, interrupted or suspended resumes; a clock that was set back is refused."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from sim.base.errors import EvidenceError, UsageError
from tests.rollout.hold_world import KilledError, World, between, held_s, never


def test_killed_hold_resumes_where_it_was(tmp_path: Path):
    world = World(tmp_path, killed=between(1800, 1830))
    with pytest.raises(KilledError):
        world.held()
    world.clock.step(timedelta(seconds=45))
    world.killed = never
    events = world.held()
    assert world.kinds() == ["started", "resumed", "ended"]
    assert held_s(events) - 3600 < 30


def test_long_time_between_kill_and_resume_is_a_hole(tmp_path: Path):
    world = World(tmp_path, killed=between(1800, 1830))
    with pytest.raises(KilledError):
        world.held()
    world.clock.step(timedelta(seconds=600))
    world.killed = never
    events = world.held()
    assert world.kinds() == ["started", "resumed", "restarted", "restarted", "ended"]
    assert "a hole" in events[2].reason
    assert held_s(events) == 3600.0


def test_interruption_is_recorded_and_the_hold_resumes(tmp_path: Path):
    world = World(tmp_path)

    def interrupted(now: datetime) -> bool:
        if between(900, 930)(now):
            raise KeyboardInterrupt
        return False

    world.silent = interrupted
    with pytest.raises(KeyboardInterrupt):
        world.held()
    assert world.kinds() == ["started", "interrupted"]
    assert world.closed
    world.silent = never
    world.clock.step(timedelta(seconds=40))
    world.held()
    assert world.kinds() == ["started", "interrupted", "resumed", "ended"]


def test_ended_hold_does_not_run_again(tmp_path: Path):
    world = World(tmp_path)
    world.held()
    polls = len(world.polls)
    world.held()
    assert (world.kinds(), len(world.polls)) == (["started", "ended"], polls)


def test_clock_that_was_set_back_is_refused_and_restarts_the_hold(tmp_path: Path):
    world = World(tmp_path)

    def set_back(now: datetime) -> bool:
        if between(1800, 1830)(now):
            world.clock.step(timedelta(seconds=-1200))
        return False

    world.silent = set_back
    with pytest.raises(EvidenceError, match="set back"):
        world.held()
    world.silent = never
    with pytest.raises(EvidenceError, match="set back"):
        world.held()
    world.clock.step(timedelta(seconds=1230))
    assert held_s(world.held()) == 3600.0
    assert any("set back" in event.reason for event in world.events())


def test_suspended_machine_leaves_a_hole(tmp_path: Path):
    world = World(tmp_path)

    def suspended(now: datetime) -> bool:
        if between(900, 930)(now):
            world.clock.step(timedelta(minutes=20))
        return False

    world.silent = suspended
    events = world.held()
    assert any("a hole" in event.reason for event in events)
    assert held_s(events) == 3600.0


def test_second_process_on_the_same_rollout_is_refused(tmp_path: Path):
    world = World(tmp_path)
    with world.stage_run(), pytest.raises(UsageError, match="another stormgate works on this rollout"):
        world.held()
