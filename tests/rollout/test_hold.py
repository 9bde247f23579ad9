"""What ends a hold, and what restarts it, on a clock that steps."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drills.rollout.hold.hold import MAX_RESTARTS
from drills.rollout.setup.records import Revisions
from drills.rollout.setup.stage_target import StageTarget
from sim.base.clocks import from_iso
from tests.rollout.hold_world import KNOWN, RULES, START, World, between, held_s

INTERVAL_S = RULES.sampling.interval_s

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


@pytest.mark.parametrize(
    ("wrong", "restarts", "words", "again_s"),
    [
        ({"red": between(1800, 1860)}, 1, "replay.bootstrap_ms fail: so it is", 1800),
        ({"canary_check_fails": between(900, 930)}, 1, "it lost events", 900),
        ({"other": between(600, 900)}, 2, "the revision of runtime is r-2, but this stage is for r-1", 900),
        ({"silent": between(600, 600 + 5 * INTERVAL_S)}, 2, "a hole", 600 + 5 * INTERVAL_S),
    ],
)
def test_hold_restarts_once_the_problem_is_over(
    tmp_path: Path, wrong: dict[str, Any], restarts: int, words: str, again_s: float
):
    world = World(tmp_path, **wrong)
    events = world.held()
    assert world.kinds() == ["started", *["restarted"] * restarts, "ended"]
    assert words in events[1].reason
    assert from_iso(events[-2].at) == START + timedelta(seconds=again_s)
    assert held_s(events) == 3600.0


def test_short_silence_is_not_a_hole(tmp_path: Path):
    world = World(tmp_path, silent=between(600, 600 + 1.5 * INTERVAL_S))
    world.held()
    assert world.kinds() == ["started", "ended"]


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
