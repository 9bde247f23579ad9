"""A scripted stage for the tests of the hold: a clock that steps, and what goes wrong on it when."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from drills.judging.checks.verdicts import State
from drills.rollout.hold.hold import Evaluation, Hold, rollouts
from drills.rollout.hold.rollouts import StageRun
from drills.rollout.setup import evidence, records, stages
from drills.rollout.setup.calendar import Calendar
from drills.rollout.setup.records import CanaryCheckDone, HoldEvent, Phase, Revisions, Snapshot, Stage, StagePlan
from drills.rollout.setup.stage_target import StageTarget
from sim.base.clocks import SteppedClock, from_iso, iso
from sim.engines.shared.endpoints import Endpoints
from tests.stage_folders import Folder, passing

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
    canary_check_fails: At = never
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
        return Folder(self.folder, self.stage, began=self.clock.now()).plan(
            run_id="run",
            rollout="r",
            cohort_percent=rules.cohort_percent,
            target="there",
            revisions=KNOWN,
            hold_required_s=hold_s,
            snapshot_interval_s=RULES.sampling.interval_s,
            thresholds_sha256=rollouts.sha256(self.folder / "the-thresholds.toml"),
            stages_sha256=rollouts.sha256(self.folder / "the-stages.toml"),
            configuration_sha256=self.target().configuration(),
            required=rules.required,
            gates_at_h=rules.gates_at_h,
            control=None,
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
        status = "fail" if self.canary_check_fails(now) else "pass"
        return CanaryCheckDone(
            at=iso(now), ended=iso(now), run="w", drill="observation", phase=phase, status=status, reason="it lost events"
        )

    def close(self) -> None:
        self.closed = True

    def judge(self, began: datetime, ended: datetime) -> Evaluation:
        self.judged.append((began, ended))
        now = self.clock.now()
        state = State.FAIL if self.red(now) else State.INCONCLUSIVE if self.short(now) else State.PASS
        return Evaluation(
            (passing("replay.bootstrap_ms", state=state, reason="so it is"),),
            State.PASS,
            "",
            "replay diverged" if self.abort(now) else "",
        )

    def check_routing(self) -> None:
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
                rollouts.begin(self.rollout, self.plan, *files, journal, {})
            yield StageRun(self.target(), RULES, *files, self.run_dir, self.plan, self.clock, journal, self.said.append)

    def held(self) -> list[HoldEvent]:
        with self.stage_run() as run:
            calendar = Calendar(RULES.calendar)
            Hold(run, self, self, self.judge, calendar=calendar, check_routing=self.check_routing, find=self.find).run()
        return self.events()

    def held_after_a_kill(self, away_s: float) -> list[HoldEvent]:
        """Hold until it is killed, and resume it after this time."""
        with pytest.raises(KilledError):
            self.held()
        self.clock.step(timedelta(seconds=away_s))
        self.killed = never
        return self.held()

    def events(self) -> list[HoldEvent]:
        return evidence.read_lines(self.run_dir / records.HOLD, HoldEvent)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events()]


class KilledError(Exception):
    """As SIGKILL: nothing more is written."""


def held_s(events: list[HoldEvent]) -> float:
    began = [event for event in events if event.kind in ("started", "restarted")][-1]
    return (from_iso(events[-1].at) - from_iso(began.at)).total_seconds()
