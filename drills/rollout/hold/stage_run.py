"""Running a stage: stage 0 from end to end, and the hold of any other, begun or gone on with."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec

from drills.judging import gates
from drills.rollout.hold import canary_checks, hold_judge, rollouts, unlock
from drills.rollout.hold.hold import Hold
from drills.rollout.hold.rollouts import Say, StageRun
from drills.rollout.preflight import drill_runs, preconditions
from drills.rollout.rollback import rehearsal
from drills.rollout.rollback.rehearsal_steps import LIMIT_S
from drills.rollout.servers import revisions, routing_checks
from drills.rollout.servers.sampler import Sampler, sources_of
from drills.rollout.setup import commands, evidence, records, stage_target
from drills.rollout.setup import stages as stage_file
from drills.rollout.setup.calendar import Calendar
from drills.rollout.setup.journal import Journal
from drills.rollout.setup.records import CommandDone, Control, HoldEvent, Revisions, Rollback, Stage, StagePlan, StageReport
from drills.rollout.setup.stage_target import StageTarget
from drills.rollout.setup.stages import Stages
from drills.rollout.verdict import armed, splits
from sim.base.clocks import Clock, iso
from sim.base.errors import StorageError, StormgateError, UsageError
from sim.drill.model import Drill, expected_duration_s
from sim.drill.target_rules import TargetKind


@dataclass(frozen=True)
class Asked:
    """What the user asked for."""

    stage: str
    target: str
    targets: Path | None
    rollout: str
    stages: Path
    thresholds: Path
    out: Path


def run(asked: Asked, clock: Clock, say: Say) -> tuple[Path, StageReport]:
    """Run stage 0, or hold another; returns the run's folder and its report.

    Everything that can be known to be wrong is refused before anything begins (`UsageError`, `TargetError`). Ctrl-C ends
    stage 0 with a report of what there was, and leaves a hold to be gone on with; it is passed on.
    """
    stage, stages = asked.stage, stage_file.load(asked.stages)
    stages.require(stage)
    thresholds = gates.load_thresholds(asked.thresholds)
    folder = rollouts.folder_of(asked.out, asked.rollout)
    with contextlib.ExitStack() as cleanup:
        log = cleanup.enter_context(_scratch())
        target = cleanup.enter_context(stage_target.open_target(asked.target, asked.targets, log / "runtime.log"))
        kind = target.endpoints.kind
        control = stage_target.control_of(stages.stages[stage].control, target)
        sides = 2 if control else 1
        watched = canary_checks.load(stages.canary_checks(kind), asked.stages.parent, kind, stages.interval_s(kind), sides)
        canary_checks.require_allowed(watched, target)
        drills = _drills(stages, asked.stages.parent, kind) if stage == "0" else {}
        drill_runs.require_judged([*drills.values()], thresholds)
        calendar = Calendar(stages.calendar) if stages.stages[stage].business_day else None
        journal = cleanup.enter_context(rollouts.journal_of(folder, clock))
        run = _resumed_or_new(asked, stage, target, control, stages, watched, drills, calendar, clock, journal, say)
        say(f"stage {stage} ({run.plan.title}) on {run.plan.target}: {run.run_dir}")
        if splits.CANARY in splits.asked(run.plan) and control is None:
            say(f"no control is named in [stages.{stage}], so this stage will be no go; its file says what to write")
        if stage == "0":
            _preflight(run, drills)
        else:
            _hold(run, calendar)
        report = rollouts.conclude(run)
        return run.run_dir, report


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="stormgate-log-") as folder:
        yield Path(folder)


def _drills(stages: Stages, beside: Path, kind: TargetKind) -> dict[str, Path]:
    rules = stages.stages["0"].drills
    assert rules is not None
    return drill_runs.chosen(rules.of(kind), beside, kind)


# --- beginning --------------------------------------------------------------------------------------


def _resumed_or_new(
    asked: Asked,
    stage: Stage,
    target: StageTarget,
    control: StageTarget | None,
    stages: Stages,
    watched: Drill,
    drills: dict[str, Path],
    calendar: Calendar | None,
    clock: Clock,
    journal: Journal,
    say: Say,
) -> StageRun:
    """A new run, or the hold that a killed or interrupted one left."""
    folder = rollouts.folder_of(asked.out, asked.rollout)
    left = rollouts.latest(journal.entries, stage)
    if stage != "0" and left is not None and not left.is_finished:
        run_dir = rollouts.run_dir(folder, left.run_id)
        rollouts.require_plan(run_dir, left)
        rollouts.require_hold(run_dir, left, journal.entries)
        plan = evidence.read_plan(run_dir)
        if plan.target != target.endpoints.name:
            raise UsageError(
                f"the hold that is under way ({plan.run_id}) is on target '{plan.target}', not '{target.endpoints.name}'."
            )
        _adopt(run_dir, plan, clock, journal, say)
        return StageRun(target, stages, asked.stages, asked.thresholds, run_dir, plan, clock, journal, say, control)
    plan = _plan(asked, stage, target, control, stages, watched, drills, calendar, clock, journal)
    if stage != "0":
        unlock.require_unlocked(folder, journal.entries, plan, clock.now(), stages)
    run_dir = rollouts.begin(folder, plan, asked.stages, asked.thresholds, journal)
    return StageRun(target, stages, asked.stages, asked.thresholds, run_dir, plan, clock, journal, say, control)


def _adopt(run_dir: Path, plan: StagePlan, clock: Clock, journal: Journal, say: Say) -> None:
    """A watch that nobody told of, as the stormgate that began it was killed, is told of now."""
    for line in canary_checks.adopt(run_dir, clock):
        journal.append(rollouts.ADOPTED, run=plan.run_id, watch=line.run, status=line.status, reason=line.reason)
        say(f"{line.run} was under way when the hold was killed; it counts as {line.status} ({line.reason})")


def _plan(
    asked: Asked,
    stage: Stage,
    target: StageTarget,
    control: StageTarget | None,
    stages: Stages,
    watched: Drill,
    drills: dict[str, Path],
    calendar: Calendar | None,
    clock: Clock,
    journal: Journal,
) -> StagePlan:
    rules, kind = stages.stages[stage], target.endpoints.kind
    previous = stages.before(stage)
    before = rollouts.latest(journal.entries, previous) if previous else None
    every_s = stages.canary_checks(kind).every_s
    return StagePlan(
        run_id=rollouts.new_run_id(stage, clock),
        rollout=asked.rollout,
        stage=stage,
        title=rules.title,
        cohort=rules.cohort,
        cohort_percent=rules.cohort_percent,
        target=target.endpoints.name,
        target_kind=kind,
        revisions=revisions.find(target.endpoints, target.entry),
        began=iso(clock.now()),
        hold_required_s=_hold_s(stages, stage, kind, calendar, clock),
        snapshot_interval_s=stages.interval_s(kind),
        thresholds_sha256=rollouts.sha256(asked.thresholds),
        stages_sha256=rollouts.sha256(asked.stages),
        configuration_sha256=target.configuration(),
        previous_run=before.run_id if before else "",
        previous_report_sha256=str(before.reported.body["report_sha256"]) if before and before.reported else "",
        tool_version=rollouts.version(),
        tool_commit=rollouts.commit(),
        required=rules.required,
        synthetic_load=(
            f"every {every_s:g} s '{watched.name}' ran for about {expected_duration_s(watched):.0f} s, "
            f"{watched.fleet.clients} clients with {watched.load.events_per_s:g} events/s"
        ),
        commands=tuple(command.name for command in stages.commands) if stage == "0" else (),
        drills=tuple(drills),
        left_out=drill_runs.left_out(drills) if stage == "0" else (),
        gates_at_h=rules.gates_at_h,
        client_builds=stages.client_builds,
        control=_control(control) if control else None,
    )


def _control(target: StageTarget) -> Control:
    return Control(
        target=target.endpoints.name,
        revisions=revisions.find(target.endpoints, target.entry),
        configuration_sha256=target.configuration(),
    )


def _hold_s(stages: Stages, stage: Stage, kind: TargetKind, calendar: Calendar | None, clock: Clock) -> float:
    rules = stages.stages[stage]
    if stage == "0":
        return stages.baseline_s(kind)
    if rules.business_day is not None and calendar is not None:
        return calendar.next_hours(clock.now(), rules.business_day).length_s
    return rules.hold_s or 0.0


# --- stage 0 ----------------------------------------------------------------------------------------


def _preflight(run: StageRun, drills: dict[str, Path]) -> None:
    """All of stage 0, one after the other; a part that cannot be done is told, and the others are done all the same."""
    try:
        _ask(run)
        with contextlib.closing(_sampler(run)) as sampler:
            _baseline(run, sampler)
            if not run.target.is_embedded:
                sampler.poll("drills", fault=True)
            rules = run.stages.stages["0"]
            drill_runs.run_all(drills, run.run_dir, run.target, rules.side_by_side, run.say)
            sampler.poll("rollback", fault=True)
            _rehearse(run)
            sampler.poll("other")
    except KeyboardInterrupt:
        rollouts.conclude(run)
        raise


def _ask(run: StageRun) -> None:
    """The verification commands, then the preconditions, two of which rest on them."""
    target, rules = run.target, run.stages
    setting = commands.Setting(
        target=target.given,
        targets=str(target.file.resolve()) if target.file else "",
        secrets=target.endpoints.secrets,
        is_mock=target.endpoints.is_mock,
    )
    done: dict[str, CommandDone] = {}
    for command in rules.commands:
        run.say(f"command {command.name}")
        done[command.name] = found = commands.run(command, run.run_dir, run.clock, setting)
        run.say(f"command {command.name}: {found.state} ({found.reason})")
    answers = preconditions.ask(target.endpoints, rules.stages["0"].client_builds, rules.commands, done, run.plan.revisions)
    for line in preconditions.keep(answers, run.run_dir, run.clock, target.endpoints.is_mock):
        run.say(f"precondition {line.name}: {line.state} ({line.reason})")


def _sampler(run: StageRun) -> Sampler:
    return Sampler(run.run_dir, sources_of(run.target.endpoints, run.target.entry), run.clock)


def _watcher(run: StageRun) -> canary_checks.Watcher:
    watching = run.stages.canary_checks(run.plan.target_kind)
    beside, builds = run.stages_path.parent, run.plan.client_builds
    return canary_checks.Watcher(watching, beside, run.run_dir, run.target, run.clock, builds, run.control)


def _baseline(run: StageRun, sampler: Sampler) -> None:
    """Watch servers and clients for a while, with nothing being broken; the window is told as a hold is."""
    plan, clock, watcher = run.plan, run.clock, _watcher(run)
    run.say(f"baseline: {plan.hold_required_s:g} s, a snapshot every {plan.snapshot_interval_s:g} s")
    began = clock.now()
    until = began + timedelta(seconds=plan.hold_required_s)
    last_watch = max(until - watcher.takes, began)
    rollouts.record_hold(run, HoldEvent(at=iso(began), kind="started"))
    try:
        turns = 0
        while clock.now() < until or watcher.is_running:
            sampler.poll("baseline")
            watcher.step("baseline", clock.now() <= last_watch)
            turns = max(turns + 1, int((clock.now() - began).total_seconds() // plan.snapshot_interval_s) + 1)
            clock.sleep_until(began + turns * timedelta(seconds=plan.snapshot_interval_s))
    except KeyboardInterrupt:
        rollouts.record_hold(run, HoldEvent(at=iso(clock.now()), kind="interrupted"))
        raise
    finally:
        watcher.close()
    rollouts.record_hold(run, HoldEvent(at=iso(clock.now()), kind="ended"))


def _rehearse(run: StageRun) -> None:
    """The rollback; one that cannot even begin leaves a record that says why."""
    run.say("rollback rehearsal")
    limit_s = run.stages.stages["0"].rehearsal_limit_s or LIMIT_S
    try:
        found = rehearsal.rehearse(
            run.target.endpoints, run.target.entry, run.run_dir, run.clock, dry_run=False, limit_s=limit_s
        )
    except StorageError:
        raise
    except StormgateError as error:
        found = _not_rehearsed(run, limit_s, str(error))
    run.say(f"rollback rehearsal: {found.state} ({found.reason})")


def _not_rehearsed(run: StageRun, limit_s: float, why: str) -> Rollback:
    plan, now = run.plan, iso(run.clock.now())
    found = Rollback(
        run_id=plan.run_id,
        target=plan.target,
        target_kind=plan.target_kind,
        dry_run=False,
        began=now,
        ended=now,
        seconds=None,
        limit_s=limit_s,
        state="not_run",
        reason=why,
        steps=(),
    )
    path = run.run_dir / records.ROLLBACK
    if not path.exists():
        try:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror}).") from None
    return found


# --- a hold -----------------------------------------------------------------------------------------


def _hold(run: StageRun, calendar: Calendar | None) -> None:
    target = run.target

    def probe() -> None:
        found = routing_checks.ask(target.endpoints, run.stages.routing_check, run.run_dir, run.clock)
        part = routing_checks.judge(found, run.plan.cohort_percent or 0.0)
        run.say(f"cohort: {part.state} ({part.reason})")

    def find() -> Revisions:
        return revisions.find(target.endpoints, target.entry)

    asks: Callable[[], None] | None = probe if run.plan.cohort_percent is not None else None
    arm = armed.Monitor(target, run.plan, run.run_dir, run.clock).look if "armed" in run.plan.required else None
    judge = hold_judge.judge_of(run)
    with contextlib.closing(_sampler(run)) as sampler:
        Hold(run, sampler, _watcher(run), judge, calendar=calendar, probe=asks, find=find, arm=arm).run()
