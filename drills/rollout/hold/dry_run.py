"""What a stage is going to do, in words, before it does it; nothing is started, and nothing is asked of the target."""

import shlex
from typing import TYPE_CHECKING

from drills.judging import gates
from drills.rollout.hold import canary_checks
from drills.rollout.preflight import drill_runs
from drills.rollout.setup import stage_target
from drills.rollout.setup import stages as stage_file
from drills.rollout.setup.calendar import Calendar
from drills.rollout.setup.records import Stage
from drills.rollout.setup.stages import Stages
from drills.runs import targets
from sim.base.clocks import SystemClock
from sim.base.errors import UsageError
from sim.drill.model import expected_duration_s
from sim.drill.target_rules import TargetKind

if TYPE_CHECKING:
    from rich.console import Console

    from drills.rollout.hold.stage_run import Asked


def show(asked: "Asked", console: "Console") -> None:
    """A dry run. Raises `UsageError` for whatever the real one would be refused for, as far as files tell."""
    for line in lines(asked):
        console.print(line, markup=False, soft_wrap=True)
    console.print("dry run: nothing was done, and nothing can be concluded from it")


def lines(asked: "Asked") -> list[str]:
    """The same, a line each."""
    stage, stages = asked.stage, stage_file.load(asked.stages)
    stages.require(stage)
    thresholds = gates.load_thresholds(asked.thresholds)
    kind: TargetKind = "mock"
    where, control = "the embedded mock", None
    if asked.target != targets.EMBEDDED:
        target = stage_target.resolve(asked.target, asked.targets)
        endpoints, control = target.endpoints, stage_target.control_of(stages.stages[asked.stage].control, target)
        kind, where = endpoints.kind, f"{endpoints.name} ({endpoints.kind}): {endpoints.runtime_url}, {endpoints.control_url}"
    if kind == "mock" and stage != "0":
        raise UsageError(f"stage {stage} cannot begin: a mock opens no stage but 0.")
    told = [f"stage {stage}: {stages.stages[stage].title}, rollout {asked.rollout}", f"target {where}"]
    watching = stages.canary_checks(kind)
    watched = canary_checks.load(watching, asked.stages.parent, kind, stages.interval_s(kind), 2 if control else 1)
    told.append(
        f"a snapshot every {stages.interval_s(kind):g} s; a watch every {watching.every_s:g} s: {watched.name}, "
        f"{watched.fleet.clients} clients, {watched.load.events_per_s:g} events/s, about {expected_duration_s(watched):.0f} s"
    )
    told.append(f"watches take turns over the builds {', '.join(stages.client_builds)}")
    if control is not None:
        told.append(
            f"control {control.endpoints.name}: {control.endpoints.runtime_url}, {control.endpoints.control_url}, seen as often"
        )
    elif "canary_vs_control" in stages.stages[stage].required:
        told.append(f"control: none is named in [stages.{stage}], so the canary is held against nothing, which is no go")
    if stage != "0":
        return [*told, _hold(stages, stage)]
    for command in stages.commands:
        beside = f" (beside {command.stands_for})" if command.is_ours else ""
        told.append(f"command {command.name}{beside}: {shlex.join(command.argv)}")
    told.append(f"baseline: {stages.baseline_s(kind):g} s")
    rules = stages.stages["0"]
    assert rules.drills is not None
    drills = drill_runs.chosen(rules.drills.of(kind), asked.stages.parent, kind)
    drill_runs.require_judged(drills.values(), thresholds)
    told.append(f"{len(drills)} drills: {', '.join(drills)}")
    told.append(f"rollback rehearsal: at most {rules.rehearsal_limit_s:g} s to recover")
    return told


def _hold(stages: Stages, stage: Stage) -> str:
    rules = stages.stages[stage]
    if rules.business_day is None:
        return f"hold: {rules.hold_s:g} s, green throughout"
    calendar = Calendar(stages.calendar)
    hours = calendar.next_hours(SystemClock().now(), rules.business_day)
    return f"hold: a whole business day, the next from {calendar.local(hours.begin)} to {calendar.local(hours.end)}"
