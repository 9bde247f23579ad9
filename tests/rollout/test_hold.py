"""The hold, on a clock that steps: what ends it, what restarts it, and what it survives."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from drills.judging.checks.verdicts import CheckResult, State
from drills.rollout.hold.hold import MAX_RESTARTS, Evaluation, Hold, rollouts
from drills.rollout.hold.rollouts import StageRun
from drills.rollout.setup import evidence, records, stages
from drills.rollout.setup.calendar import Calendar
from drills.rollout.setup.records import CanaryCheckDone, HoldEvent, Phase, Revisions, Snapshot, Stage, StagePlan
from drills.rollout.setup.stage_target import StageTarget
from sim.base.clocks import SteppedClock, from_iso, iso
from sim.base.errors import EvidenceError, UsageError
from sim.engines.shared.endpoints import Endpoints

START = datetime(2026, 11, 23, 15, tzinfo=UTC)  # a Monday, 09:00 in Chicago
KNOWN = Revisions(control="c-1", runtime="r-1")
RULES = stages.load(stages.DEFAULT_PATH)
At = Callable[[datetime], bool]


def never(_: datetime) -> bool:
    return False


def between(first_s: float, last_s: float, since: datetime = START) -> At:
    return lambda now: first_s <= (now - since).total_seconds() < last_s


@dataclass
class World:
    """A run, and what goes wrong on it when."""

    folder: Path
    stage: Stage = "1"
    clock: SteppedClock = field(default_factory=lambda: SteppedClock(START))
    silent: At = never  # the servers say nothing
    other: At = never  # another revision of the runtime
    red: At = never
    short: At = never  # too few samples
    abort: At = never
    watch_fails: At = never
    killed: At = never
    find: Callable[[], Revisions] | None = None
    said: list[str] = field(default_factory=list)
    routing_checks: int = 0
    judged: list[tuple[datetime, datetime]] = field(default_factory=list)
    polls: list[datetime] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("the-stages.toml", "the-thresholds.toml"):
            (self.folder / name).write_text(name)
        self.rollout = self.folder / "rollouts" / "r"
        self.plan = self._plan()

    def _plan(self) -> StagePlan:
        rules = RULES.stages[self.stage]
        calendar = Calendar(RULES.calendar)
        hold_s = rules.hold_s or calendar.next_hours(self.clock.now(), rules.business_day).length_s  # type: ignore[arg-type]
        return StagePlan(
            run_id="run",
            rollout="r",
            stage=self.stage,
            title=rules.title,
            cohort=rules.cohort,
            cohort_percent=rules.cohort_percent,
            target="there",
            target_kind="staging",
            revisions=KNOWN,
            began=iso(self.clock.now()),
            hold_required_s=hold_s,
            snapshot_interval_s=RULES.sampling.interval_s,
            thresholds_sha256=rollouts.sha256(self.folder / "the-thresholds.toml"),
            stages_sha256=rollouts.sha256(self.folder / "the-stages.toml"),
            configuration_sha256=self.target().configuration(),
            previous_run="",
            previous_report_sha256="",
            tool_version="",
            tool_commit="",
            required=rules.required,
            synthetic_load="",
            gates_at_h=rules.gates_at_h,
        )

    def target(self) -> StageTarget:
        return StageTarget("there", None, Endpoints("there", "staging", "http://a", "http://a", admin_token="t"), None)

    # --- what the hold asks for ---------------------------------------------------------------------

    def poll(self, phase: Phase, fault: bool = False) -> list[Snapshot]:
        now = self.clock.now()
        if self.killed(now):
            raise KilledError
        self.polls.append(now)
        revisions = Revisions(runtime="r-2" if self.other(now) else "r-1")
        outcome = "unreachable" if self.silent(now) else "ok"
        n = len(self.polls)
        found = Snapshot(
            n=n, at=iso(now), source="metrics", profile="full", phase=phase, url="", outcome=outcome, revisions=revisions
        )
        with (self.run_dir / records.SNAPSHOTS).open("ab") as file:
            file.write(msgspec.json.encode(found) + b"\n")
        return [found]

    is_running = False

    def step(self, phase: Phase, may_begin: bool = True) -> CanaryCheckDone | None:
        now = self.clock.now()
        status = "fail" if self.watch_fails(now) else "pass"
        return CanaryCheckDone(
            at=iso(now), ended=iso(now), run="w", drill="observation", phase=phase, status=status, reason="it lost"
        )

    def close(self) -> None:
        self.closed = True

    def judge(self, began: datetime, ended: datetime) -> Evaluation:
        self.judged.append((began, ended))
        now = self.clock.now()
        state = State.FAIL if self.red(now) else State.INCONCLUSIVE if self.short(now) else State.PASS
        return Evaluation((check(state),), State.PASS, "", "replay diverged" if self.abort(now) else "")

    def probe(self) -> None:
        self.routing_checks += 1

    # --- running it ---------------------------------------------------------------------------------

    @property
    def run_dir(self) -> Path:
        return rollouts.run_dir(self.rollout, "run")

    @contextlib.contextmanager
    def stage_run(self) -> Iterator[StageRun]:
        with rollouts.journal_of(self.rollout, self.clock) as journal:
            files = self.folder / "the-stages.toml", self.folder / "the-thresholds.toml"
            if not self.run_dir.exists():
                rollouts.begin(self.rollout, self.plan, *files, journal)
            yield StageRun(self.target(), RULES, *files, self.run_dir, self.plan, self.clock, journal, self.said.append)

    def held(self) -> list[HoldEvent]:
        with self.stage_run() as run:
            calendar = Calendar(RULES.calendar)
            Hold(run, self, self, self.judge, calendar=calendar, check_routing=self.probe, find=self.find).run()
        return self.events()

    def events(self) -> list[HoldEvent]:
        return evidence.read_lines(self.run_dir / records.HOLD, HoldEvent)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events()]


class KilledError(Exception):
    """As SIGKILL: nothing more is written."""


def check(state: State) -> CheckResult:
    return CheckResult(
        gate="replay",
        check="bootstrap_ms",
        state=state,
        value=1.0,
        unit="ms",
        n=60,
        interval=None,
        comparator="<=",
        threshold=600.0,
        source="",
        window="stage",
        method="",
        origin="client",
        reason="so it is",
        evidence="",
    )


def held_s(events: list[HoldEvent]) -> float:
    began = [event for event in events if event.kind in ("started", "restarted")][-1]
    return (from_iso(events[-1].at) - from_iso(began.at)).total_seconds()


# --- to its end -------------------------------------------------------------------------------------


def test_a_green_hour_ends_after_an_hour(tmp_path: Path):
    world = World(tmp_path)
    events = world.held()
    assert world.kinds() == ["started", "ended"]
    assert held_s(events) == 3600.0
    assert len(world.polls) == 121
    assert len(world.judged) >= 60
    assert all(began == START for began, _ in world.judged)


def test_what_happened_is_in_the_journal_too(tmp_path: Path):
    world = World(tmp_path, red=between(600, 660))
    world.held()
    with world.stage_run() as run:
        kinds = [entry.kind for entry in run.journal.entries]
    assert kinds == ["stage_started", "hold_started", "hold_restarted", "hold_ended"]


def test_too_few_samples_extend_a_hold_and_then_it_ends(tmp_path: Path):
    world = World(tmp_path, short=between(0, 3600 + 1800))
    assert held_s(world.held()) == 3600 + 1800


def test_an_extension_is_bounded_and_says_what_was_missing(tmp_path: Path):
    world = World(tmp_path, short=between(0, 1e9))
    events = world.held()
    assert held_s(events) == 3600 + RULES.sampling.extend_up_to_s
    assert events[-1].kind == "ended"
    assert "replay.bootstrap_ms (inconclusive)" in events[-1].reason


# --- what restarts it -------------------------------------------------------------------------------


def test_a_red_minute_restarts_it(tmp_path: Path):
    world = World(tmp_path, red=between(1800, 1860))
    events = world.held()
    assert world.kinds() == ["started", "restarted", "ended"]
    assert "replay.bootstrap_ms fail: so it is" in events[1].reason
    assert from_iso(events[1].at) == START + timedelta(seconds=1800)
    assert held_s(events) == 3600.0


def test_a_failed_canary_check_restarts_it(tmp_path: Path):
    world = World(tmp_path, watch_fails=between(900, 930))
    events = world.held()
    assert "it lost" in events[1].reason
    assert held_s(events) == 3600.0


def test_another_revision_breaks_it_for_as_long_as_it_is_there(tmp_path: Path):
    world = World(tmp_path, other=between(600, 900))
    events = world.held()
    assert world.kinds() == ["started", "restarted", "restarted", "ended"]
    assert "the revision of runtime is r-2, but this stage is for r-1" in events[1].reason
    assert from_iso(events[2].at) == START + timedelta(seconds=900)


def test_another_revision_for_good_ends_it(tmp_path: Path):
    world = World(tmp_path, other=between(600, 1e9))
    events = world.held()
    assert events[-1].kind == "aborted"
    assert "r-2" in events[-1].reason


def test_revisions_that_cannot_be_found_out_any_more_are_not_unchanged(tmp_path: Path):
    world = World(tmp_path)
    world.find = lambda: Revisions(control="c-1") if between(600, 700)(world.clock.now()) else KNOWN
    events = world.held()
    assert "cannot be found out" in events[1].reason
    assert events[-1].kind == "ended"


@pytest.mark.parametrize("name", ["the-thresholds.toml", "the-stages.toml"])
def test_a_changed_file_breaks_it_until_it_is_back(tmp_path: Path, name: str):
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


def test_a_changed_target_breaks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = World(tmp_path)
    plain = StageTarget.configuration_now
    monkeypatch.setattr(
        StageTarget, "configuration_now", lambda target: "another" if between(600, 720)(world.clock.now()) else plain(target)
    )
    assert "the configuration of the target changed" in world.held()[1].reason


def test_a_short_silence_is_no_hole_and_a_long_one_is(tmp_path: Path):
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


def test_servers_that_are_gone_end_it_early(tmp_path: Path):
    world = World(tmp_path, silent=between(600, 1e9))
    events = world.held()
    assert events[-1].kind == "aborted"
    assert "no usable snapshot for too long" in events[-1].reason
    assert (from_iso(events[-1].at) - START).total_seconds() < 1800


def test_a_rollback_trigger_ends_it_at_once(tmp_path: Path):
    world = World(tmp_path, abort=between(1200, 1e9))
    events = world.held()
    assert (events[-1].kind, events[-1].reason) == ("aborted", "replay diverged")
    assert from_iso(events[-1].at) == START + timedelta(seconds=1200)


def test_what_breaks_again_and_again_ends(tmp_path: Path):
    world = World(tmp_path, red=lambda now: now.minute == 50)
    events = world.held()
    assert events[-1].kind == "aborted"
    assert world.kinds().count("restarted") == MAX_RESTARTS + 1


# --- killed, interrupted, set back ------------------------------------------------------------------


def test_a_killed_hold_goes_on_where_it_was(tmp_path: Path):
    world = World(tmp_path, killed=between(1800, 1830))
    with pytest.raises(KilledError):
        world.held()
    world.clock.step(timedelta(seconds=45))
    world.killed = never
    events = world.held()
    assert world.kinds() == ["started", "resumed", "ended"]
    assert held_s(events) - 3600 < 30


def test_the_time_that_it_was_dead_is_a_hole(tmp_path: Path):
    world = World(tmp_path, killed=between(1800, 1830))
    with pytest.raises(KilledError):
        world.held()
    world.clock.step(timedelta(seconds=600))
    world.killed = never
    events = world.held()
    assert world.kinds() == ["started", "resumed", "restarted", "restarted", "ended"]
    assert "a hole" in events[2].reason
    assert held_s(events) == 3600.0


def test_an_interruption_is_told_and_gone_on_with(tmp_path: Path):
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


def test_a_hold_that_has_ended_is_over(tmp_path: Path):
    world = World(tmp_path)
    world.held()
    polls = len(world.polls)
    world.held()
    assert (world.kinds(), len(world.polls)) == (["started", "ended"], polls)


def test_a_clock_that_is_set_back_is_refused_and_nothing_held_is_believed(tmp_path: Path):
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


def test_a_suspended_machine_leaves_a_hole(tmp_path: Path):
    world = World(tmp_path)

    def suspended(now: datetime) -> bool:
        if between(900, 930)(now):
            world.clock.step(timedelta(minutes=20))
        return False

    world.silent = suspended
    events = world.held()
    assert any("a hole" in event.reason for event in events)
    assert held_s(events) == 3600.0


def test_two_tools_at_once_are_refused(tmp_path: Path):
    world = World(tmp_path)
    with world.stage_run(), pytest.raises(UsageError, match="another stormgate works on this rollout"):
        world.held()


# --- a business day ---------------------------------------------------------------------------------


def test_a_business_day_is_held_from_its_first_minute_to_its_last(tmp_path: Path):
    world = World(tmp_path, stage="2", clock=SteppedClock(START - timedelta(hours=2)))
    events = world.held()
    assert from_iso(events[0].at) == START
    assert held_s(events) == 8 * 3600
    assert world.polls[0] == START, "nothing is asked before"
    assert world.routing_checks >= 8


@pytest.mark.parametrize(
    ("begun", "opens"),
    [
        (START + timedelta(hours=1), START + timedelta(days=1)),  # in the middle of one
        (datetime(2026, 11, 27, 23, 30, tzinfo=UTC), datetime(2026, 11, 30, 15, tzinfo=UTC)),  # on a Friday evening
        (datetime(2026, 11, 26, 10, tzinfo=UTC), datetime(2026, 11, 27, 15, tzinfo=UTC)),  # on Thanksgiving
        (datetime(2026, 3, 7, 12, tzinfo=UTC), datetime(2026, 3, 9, 14, tzinfo=UTC)),  # before the clocks change
    ],
)
def test_it_waits_for_a_whole_business_day(tmp_path: Path, begun: datetime, opens: datetime):
    world = World(tmp_path, stage="2", clock=SteppedClock(begun))
    events = world.held()
    assert from_iso(events[0].at) == opens
    assert events[-1].kind == "ended"


def test_a_red_minute_costs_the_whole_day(tmp_path: Path):
    world = World(tmp_path, stage="2", red=between(7200, 7260))
    events = world.held()
    assert world.kinds() == ["started", "restarted", "restarted", "ended"]
    assert from_iso(events[2].at) == START + timedelta(days=1)
    assert held_s(events) == 8 * 3600


def test_a_hole_costs_the_whole_day_also_when_it_was_killed_in_the_wait(tmp_path: Path):
    world = World(tmp_path, stage="2", killed=between(7200, 7230))
    with pytest.raises(KilledError):
        world.held()
    world.clock.step(timedelta(hours=1))
    world.killed = never
    events = world.held()
    assert from_iso(events[-2].at) == START + timedelta(days=1)
    assert held_s(events) == 8 * 3600


def test_what_was_begun_within_a_day_is_no_whole_one(tmp_path: Path):
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


def test_the_last_stage_judges_at_its_gates_and_ends_after_a_day(tmp_path: Path):
    world = World(tmp_path, stage="4", short=between(0, 2 * 3600))
    events = world.held()
    gates = [(event.gate_h, (from_iso(event.at) - START).total_seconds() / 3600) for event in events if event.kind == "gate"]
    assert [hour for hour, _ in gates] == [0.0, 1.0, 6.0, 24.0]
    assert gates[0][1] < 0.1
    assert gates[1][1] == pytest.approx(2.0, abs=0.1), "the gate at one hour waits until there is enough to pass it"
    assert gates[2][1] == pytest.approx(6.0, abs=0.1)
    assert held_s(events) == 86400.0


def test_gates_that_passed_before_a_new_beginning_are_judged_again(tmp_path: Path):
    world = World(tmp_path, stage="4", red=between(7 * 3600, 7 * 3600 + 60))
    events = world.held()
    after = [event.kind for event in events]
    last = len(after) - after[::-1].index("restarted")
    assert after[last:] == ["gate", "gate", "gate", "gate", "ended"]
