"""What ends a hold, what restarts it and how it resumes, on a clock that steps."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.rollout.hold.hold import MAX_RESTARTS
from drills.rollout.setup import records
from drills.rollout.setup.records import Revisions
from drills.rollout.setup.stage_target import StageTarget
from sim.base.clocks import SteppedClock, from_iso
from sim.base.errors import EvidenceError, UsageError
from tests.rollout.hold_world import KNOWN, RULES, START, KilledError, World, between, held_s, never
from tests.stage_folders import dump

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


def test_each_evaluation_says_how_the_hold_stands(tmp_path: Path) -> None:
    world = World(tmp_path, red=between(600, 660), short=between(0, 1800))
    world.held()
    first, late = (next(line for line in world.said if line.startswith(start)) for start in ("held 0:00:", "held 0:50:"))
    assert "coverage " in first
    assert "worst check: replay.bootstrap_ms inconclusive" in first
    assert "next evaluation 15:0" in first
    assert "restarted" not in first
    assert "restarted 1 times, the last because " in late
    assert "every check passes" in late


def test_broken_hold_says_every_minute_what_it_waits_for(tmp_path: Path) -> None:
    world = World(tmp_path, silent=between(600, 1200))
    world.held()
    waiting = [line for line in world.said if line.startswith("waiting to restart since")]
    assert 5 <= len(waiting) <= 10
    assert "a hole: no usable snapshot" in waiting[0]


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


# --- killed, interrupted, suspended -------------------------------------------------------------------


def test_killed_hold_resumes_where_it_was(tmp_path: Path):
    world = World(tmp_path, killed=between(1800, 1830))
    events = world.held_after_a_kill(45)
    assert world.kinds() == ["started", "resumed", "ended"]
    assert held_s(events) - 3600 < 30


def test_long_time_between_kill_and_resume_is_a_hole(tmp_path: Path):
    world = World(tmp_path, killed=between(1800, 1830))
    events = world.held_after_a_kill(600)
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
            world.clock.set(timedelta(seconds=-1200))
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


def killed_for_a_moment(folder: Path) -> World:
    """A hold that was killed after 1200 s, so short ago that there is no hole yet."""
    world = World(folder, killed=between(1200, 1230))
    with pytest.raises(KilledError):
        world.held()
    world.killed = never
    world.clock.step(timedelta(seconds=20))
    return world


@pytest.mark.parametrize("boots", [("stepped", "another"), ("stepped", ""), ("", "")], ids=["reboot", "unknown now", "unknown"])
def test_hold_restarts_if_the_machine_was_or_may_have_been_started_again(tmp_path: Path, boots: tuple[str, str]):
    world = killed_for_a_moment(tmp_path)
    dump(world.run_dir / records.HOLD, *(msgspec.structs.replace(event, boot=boots[0]) for event in world.events()))
    world.clock.boot = boots[1]
    events = world.held()
    assert world.kinds() == ["started", "resumed", "restarted", "ended"]
    assert "the machine was started again, or may have been" in events[2].reason
    assert (from_iso(events[-1].at) - START).total_seconds() >= 1200 + 3600


@pytest.mark.parametrize("by_s", [-1000.0, 30.0])
def test_hold_restarts_if_the_clock_was_set_while_nobody_ran(tmp_path: Path, by_s: float):
    """Set back by as long as nobody held, it would look as if there had been no hole."""
    world = killed_for_a_moment(tmp_path)
    world.clock.step(timedelta(seconds=max(-by_s, 0.0)))
    world.clock.set(timedelta(seconds=by_s))
    events = world.held()
    assert "the clock was set by" in events[2].reason
    assert held_s(events) == 3600.0


def test_hold_resumes_in_the_same_boot(tmp_path: Path):
    world = killed_for_a_moment(tmp_path)
    world.held()
    assert world.kinds() == ["started", "resumed", "ended"]


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
    events = world.held_after_a_kill(3600)
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
