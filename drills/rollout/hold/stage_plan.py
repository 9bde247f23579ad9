"""Prepare a stage: read and check its inputs before anything starts, write its plan, and show it as a dry run."""

import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from drills import DATA
from drills.judging import gates
from drills.judging.checks.thresholds import Thresholds
from drills.rollout.hold import canary_checks, rollouts
from drills.rollout.preflight import drill_runs
from drills.rollout.servers import revisions
from drills.rollout.setup import stage_target
from drills.rollout.setup import stages as stage_file
from drills.rollout.setup.calendar import Calendar
from drills.rollout.setup.journal import Journal
from drills.rollout.setup.records import Control, StagePlan
from drills.rollout.setup.stage_target import StageTarget
from drills.rollout.setup.stages import PREFLIGHT, StageRules, Stages
from drills.runs import targets
from sim.base.clocks import Clock, SystemClock, iso
from sim.base.errors import UsageError
from sim.drill.model import Drill, expected_duration_s
from sim.drill.target_rules import TargetKind
from sim.engines.shared import permission

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Asked:
    """The request of the user."""

    stage: str
    target: str
    targets: Path | None
    rollout: str
    stages: Path
    thresholds: Path
    out: Path
    options: Mapping[str, str] = field(default_factory=dict)  # of the command line, for the journal


@dataclass(frozen=True)
class Prepared:
    """The checked inputs of a stage. `target` is None only in a dry run on the embedded mock."""

    asked: Asked
    stages: Stages
    kind: TargetKind
    target: StageTarget | None
    control: StageTarget | None  # the target that the canary is compared with
    canary_check: Drill
    drills: dict[str, Path]  # of the preflight
    calendar: Calendar | None  # for a stage that is held for a business day

    @property
    def rules(self) -> StageRules:
        """The stage's own rules."""
        return self.stages.stages[self.asked.stage]


def read_files(asked: Asked) -> tuple[Stages, Thresholds]:
    """Read the stages file and the thresholds. Raises `UsageError` for an invalid file or an unknown stage."""
    stages = stage_file.load(asked.stages)
    stages.require(asked.stage)
    return stages, gates.load_thresholds(asked.thresholds)


def kind_of(asked: Asked) -> TargetKind:
    """The kind of the target, for which no secret is needed. Raises `UsageError`."""
    if asked.target == targets.EMBEDDED or "://" in asked.target:
        return "mock"
    return targets.kind_of(asked.targets or targets.DEFAULT_FILE, asked.target)


def prepare(asked: Asked, stages: Stages, thresholds: Thresholds, target: StageTarget | None) -> Prepared:
    """Check everything that can be checked before the stage starts. Raises `UsageError`."""
    rules, beside = stages.require(asked.stage), asked.stages.parent
    kind = target.endpoints.kind if target else "mock"
    control = stage_target.control_of(rules.control, target) if target else None
    checks = stages.canary_checks(kind)
    drill = canary_checks.load(checks, beside, kind, stages.interval_s(kind), 2 if control else 1)
    if target:
        permission.require_allowed(drill, target.endpoints)
    drills = drill_runs.chosen(rules.drills.of(kind), beside, kind) if rules.drills else {}
    drill_runs.require_judged(drills.values(), thresholds)
    calendar = Calendar(stages.calendar) if rules.business_day else None
    return Prepared(asked, stages, kind, target, control, drill, drills, calendar)


def plan_of(prepared: Prepared, clock: Clock, journal: Journal) -> StagePlan:
    """Make the plan of a run that starts now."""
    asked, stages, rules, target = prepared.asked, prepared.stages, prepared.rules, prepared.target
    assert target is not None
    is_preflight = asked.stage == PREFLIGHT
    previous = stages.before(asked.stage)
    before = rollouts.latest(journal.entries, previous) if previous else None
    drill, every_s = prepared.canary_check, stages.canary_checks(prepared.kind).every_s
    return StagePlan(
        run_id=rollouts.new_run_id(asked.stage, clock),
        rollout=asked.rollout,
        stage=asked.stage,
        title=rules.title,
        cohort=rules.cohort,
        cohort_percent=rules.cohort_percent,
        target=target.endpoints.name,
        target_kind=prepared.kind,
        targets_file=str((target.file or targets.DEFAULT_FILE).resolve()) if target.entry else "",
        revisions=revisions.find(target.endpoints, target.entry),
        began=iso(clock.now()),
        hold_required_s=_hold_s(prepared, clock),
        snapshot_interval_s=stages.interval_s(prepared.kind),
        thresholds_sha256=rollouts.sha256(asked.thresholds),
        stages_sha256=rollouts.sha256(asked.stages),
        configuration_sha256=target.configuration(),
        previous_run=before.run_id if before else "",
        previous_report_sha256=str(before.reported.body["report_sha256"]) if before and before.reported else "",
        tool_version=rollouts.version(),
        tool_commit=_commit(),
        required=rules.required,
        synthetic_load=(
            f"every {every_s:g} s '{drill.name}' ran for about {expected_duration_s(drill):.0f} s, "
            f"{drill.fleet.clients} clients with {drill.load.events_per_s:g} events/s"
        ),
        commands=tuple(command.name for command in stages.commands) if is_preflight else (),
        drills=tuple(prepared.drills),
        left_out=drill_runs.left_out(prepared.drills) if is_preflight else (),
        gates_at_h=rules.gates_at_h,
        client_builds=stages.client_builds,
        control=_control(prepared.control) if prepared.control else None,
    )


def _control(target: StageTarget) -> Control:
    return Control(
        target=target.endpoints.name,
        revisions=revisions.find(target.endpoints, target.entry),
        configuration_sha256=target.configuration(),
    )


def _hold_s(prepared: Prepared, clock: Clock) -> float:
    rules = prepared.rules
    if prepared.asked.stage == PREFLIGHT:
        return prepared.stages.baseline_s(prepared.kind)
    if rules.business_day is not None and prepared.calendar is not None:
        return prepared.calendar.next_hours(clock.now(), rules.business_day).length_s
    return rules.hold_s or 0.0


def _commit() -> str:
    """The Git commit of a working copy of stormgate; empty for an installed package."""
    here = DATA.parent
    if not (here / ".git").exists():
        return ""
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# --- dry run ----------------------------------------------------------------------------------------


def show(asked: Asked, console: "Console") -> None:
    """Print what the stage would do; start nothing and send nothing. Raises `UsageError` as the real run would."""
    from drills.reports.terminal import say

    for line in lines(asked):
        say(console, line)


def lines(asked: Asked) -> list[str]:
    """The dry run, one sentence per line. Raises `UsageError`."""
    stages, thresholds = read_files(asked)
    target = None if asked.target == targets.EMBEDDED else stage_target.resolve(asked.target, asked.targets)
    if (target is None or target.endpoints.is_mock) and asked.stage != PREFLIGHT:
        raise UsageError(f"stage {asked.stage} cannot begin: a mock unlocks no stage but 0.")
    return list(_lines(prepare(asked, stages, thresholds, target)))


def _lines(prepared: Prepared) -> Iterator[str]:
    asked, stages, rules, kind = prepared.asked, prepared.stages, prepared.rules, prepared.kind
    drill, interval_s = prepared.canary_check, stages.interval_s(kind)
    yield f"stage {asked.stage}: {rules.title}, rollout {asked.rollout}"
    yield f"target {_where(prepared.target, f' ({kind})')}"
    yield (
        f"a snapshot every {interval_s:g} s; a canary check every {stages.canary_checks(kind).every_s:g} s: {drill.name}, "
        f"{drill.fleet.clients} clients, {drill.load.events_per_s:g} events/s, about {expected_duration_s(drill):.0f} s"
    )
    yield f"canary checks rotate through the builds {', '.join(stages.client_builds)}"
    if prepared.control is not None:
        yield f"control {_where(prepared.control)}, checked as often"
    elif "canary_vs_control" in rules.required:
        yield f"control: [stages.{asked.stage}] names none, so the canary cannot be compared, which is no go"
    if asked.stage != PREFLIGHT:
        yield _hold_words(prepared)
        return
    for command in stages.commands:
        beside = f" (beside {command.stands_for})" if command.is_ours else ""
        yield f"command {command.name}{beside}: `{shlex.join(command.argv)}`"
    yield f"{len(prepared.drills)} drills: {', '.join(prepared.drills)}"
    yield f"rollback rehearsal: at most {rules.rehearsal_limit_s:g} s to recover"
    yield f"baseline: {stages.baseline_s(kind):g} s"


def _where(target: StageTarget | None, kind: str = "") -> str:
    if target is None:
        return "the embedded mock"
    return f"{target.endpoints.name}{kind}: {target.endpoints.runtime_url}, {target.endpoints.control_url}"


def _hold_words(prepared: Prepared) -> str:
    rules, calendar = prepared.rules, prepared.calendar
    if rules.business_day is None or calendar is None:
        return f"hold: {rules.hold_s:g} s, green throughout"
    hours = calendar.next_hours(SystemClock().now(), rules.business_day)
    return f"hold: a whole business day, the next from {calendar.local(hours.begin)} to {calendar.local(hours.end)}"
