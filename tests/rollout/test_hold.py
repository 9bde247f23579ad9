"""What ends a hold, and what restarts it, on a clock that steps."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from drills.rollout.hold.hold import MAX_RESTARTS
from drills.rollout.setup.records import Revisions
from drills.rollout.setup.stage_target import StageTarget
from sim.base.clocks import from_iso
from tests.rollout.hold_world import KNOWN, RULES, START, World, between, held_s

# --- to its end -------------------------------------------------------------------------------------


def test_green_hold_ends_after_its_hour(tmp_path: Path):
    world = World(tmp_path)
    events = world.held()
    assert world.kinds() == ["started", "ended"]
    assert held_s(events) == 3600.0
    assert len(world.polls) == 121
    assert len(world.judged) >= 60
    assert all(began == START for began, _ in world.judged)


def test_events_of_the_hold_are_in_the_journal(tmp_path: Path):
    world = World(tmp_path, red=between(600, 660))
    world.held()
    with world.stage_run() as run:
        kinds = [entry.kind for entry in run.journal.entries]
    assert kinds == ["stage_started", "hold_started", "hold_restarted", "hold_ended"]


def test_hold_with_too_few_samples_is_extended_until_there_are_enough(tmp_path: Path):
    world = World(tmp_path, short=between(0, 3600 + 1800))
    assert held_s(world.held()) == 3600 + 1800


def test_extension_is_bounded_and_names_what_is_missing(tmp_path: Path):
    world = World(tmp_path, short=between(0, 1e9))
    events = world.held()
    assert held_s(events) == 3600 + RULES.sampling.extend_up_to_s
    assert events[-1].kind == "ended"
    assert "replay.bootstrap_ms (inconclusive)" in events[-1].reason


# --- what restarts it -------------------------------------------------------------------------------


def test_red_minute_restarts_the_hold(tmp_path: Path):
    world = World(tmp_path, red=between(1800, 1860))
    events = world.held()
    assert world.kinds() == ["started", "restarted", "ended"]
    assert "replay.bootstrap_ms fail: so it is" in events[1].reason
    assert from_iso(events[1].at) == START + timedelta(seconds=1800)
    assert held_s(events) == 3600.0


def test_failed_canary_check_restarts_the_hold(tmp_path: Path):
    world = World(tmp_path, canary_check_fails=between(900, 930))
    events = world.held()
    assert "it lost events" in events[1].reason
    assert held_s(events) == 3600.0


def test_hold_restarts_once_another_revision_is_gone(tmp_path: Path):
    world = World(tmp_path, other=between(600, 900))
    events = world.held()
    assert world.kinds() == ["started", "restarted", "restarted", "ended"]
    assert "the revision of runtime is r-2, but this stage is for r-1" in events[1].reason
    assert from_iso(events[2].at) == START + timedelta(seconds=900)


def test_revision_that_stays_changed_aborts_the_hold(tmp_path: Path):
    world = World(tmp_path, other=between(600, 1e9))
    events = world.held()
    assert events[-1].kind == "aborted"
    assert "r-2" in events[-1].reason


def test_unknown_revisions_break_the_hold(tmp_path: Path):
    world = World(tmp_path)
    world.find = lambda: Revisions(control="c-1") if between(600, 700)(world.clock.now()) else KNOWN
    events = world.held()
    assert "cannot be found out" in events[1].reason
    assert events[-1].kind == "ended"


@pytest.mark.parametrize("name", ["the-thresholds.toml", "the-stages.toml"])
def test_hold_restarts_once_a_changed_file_is_restored(tmp_path: Path, name: str):
    world = World(tmp_path)
    as_it_was = (tmp_path / name).read_text()

    def edited(now: datetime) -> bool:
        (tmp_path / name).write_text("another" if between(600, 720)(now) else as_it_was)
        return False

    world.silent = edited
    events = world.held()
    assert "changed since this stage began" in events[1].reason
    assert from_iso(events[2].at) == START + timedelta(seconds=720)
    assert held_s(events) == 3600.0


def test_changed_target_configuration_breaks_the_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = World(tmp_path)
    plain = StageTarget.configuration_now
    monkeypatch.setattr(
        StageTarget, "configuration_now", lambda target: "another" if between(600, 720)(world.clock.now()) else plain(target)
    )
    assert "the configuration of the target changed" in world.held()[1].reason


def test_only_a_long_silence_is_a_hole(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    interval = RULES.sampling.interval_s
    short = World(tmp_path / "a", silent=between(600, 600 + 1.5 * interval))
    short.held()
    assert short.kinds() == ["started", "ended"]
    long = World(tmp_path / "b", silent=between(600, 600 + 5 * interval))
    events = long.held()
    assert long.kinds() == ["started", "restarted", "restarted", "ended"]
    assert "a hole" in events[1].reason
    assert from_iso(events[2].at) == START + timedelta(seconds=600 + 5 * interval)


def test_servers_that_stay_silent_abort_the_hold_early(tmp_path: Path):
    world = World(tmp_path, silent=between(600, 1e9))
    events = world.held()
    assert events[-1].kind == "aborted"
    assert "no usable snapshot for too long" in events[-1].reason
    assert (from_iso(events[-1].at) - START).total_seconds() < 1800


def test_rollback_trigger_aborts_the_hold_at_once(tmp_path: Path):
    world = World(tmp_path, abort=between(1200, 1e9))
    events = world.held()
    assert (events[-1].kind, events[-1].reason) == ("aborted", "replay diverged")
    assert from_iso(events[-1].at) == START + timedelta(seconds=1200)


def test_hold_that_restarts_too_often_is_aborted(tmp_path: Path):
    world = World(tmp_path, red=lambda now: now.minute == 50)
    events = world.held()
    assert events[-1].kind == "aborted"
    assert world.kinds().count("restarted") == MAX_RESTARTS + 1
