"""Execute a stage: the preflight from end to end, or the hold of another stage, new or resumed."""

import contextlib
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from drills.judging import gates
from drills.judging.checks.verdicts import State
from drills.rollout.hold import canary_checks, rollouts, stage_plan, times, unlock, watching
from drills.rollout.hold.hold import Evaluation, Hold, Judge
from drills.rollout.hold.progress import Progress
from drills.rollout.hold.rollouts import Say, StageRun
from drills.rollout.hold.stage_plan import Asked, Prepared
from drills.rollout.hold.watching import Watcher
from drills.rollout.preflight import drill_runs, preconditions
from drills.rollout.rollback import rehearsal
from drills.rollout.rollback.rehearsal_steps import LIMIT_S
from drills.rollout.servers import revisions, routing_checks
from drills.rollout.servers.sampler import Sampler, sources_of
from drills.rollout.setup import commands, evidence, records
from drills.rollout.setup.calendar import Calendar
from drills.rollout.setup.journal import Journal
from drills.rollout.setup.records import CommandDone, HoldEvent, HoldKind, Revisions, Rollback, StagePlan, StageReport
from drills.rollout.setup.stage_target import open_target
from drills.rollout.setup.stages import PREFLIGHT
from drills.rollout.verdict import armed, chain, judging, splits, window
from sim.base.clocks import Clock, iso
from sim.base.errors import StorageError, StormgateError, UsageError
from sim.drill import model as drill_file

if TYPE_CHECKING:
    from drills.exports.live import Live


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a stage, whose evidence so far is in `run_dir`."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.run_dir = run_dir


def run(asked: Asked, clock: Clock, say: Say, live: "Live | None" = None) -> tuple[Path, StageReport]:
    """Run the preflight, or hold another stage; returns the run's folder and its report.

    Invalid requests are refused before anything starts (`UsageError`, `TargetError`). After Ctrl-C, a preflight writes a report
    of what was done, and a hold can be resumed; both then raise `Interrupted`. `live` shows a stage to other tools.
    """
    stages, thresholds = stage_plan.read_files(asked)
    folder = rollouts.folder_of(asked.out, asked.rollout)
    with contextlib.ExitStack() as cleanup:
        logs = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="stormgate-log-")))
        target = cleanup.enter_context(open_target(asked.target, asked.targets, logs / "runtime.log"))
        watching.require_no_secrets(stages.notify, target)
        prepared = stage_plan.prepare(asked, stages, thresholds, target)
        journal = cleanup.enter_context(rollouts.journal_of(folder, clock))
        run = _resumed_or_new(prepared, folder, clock, journal, say)
        say(f"stage {asked.stage} ({run.plan.title}) on {run.plan.target}: {run.run_dir}")
        if splits.CANARY in splits.asked(run.plan) and run.control is None:
            say(f"[stages.{asked.stage}] names no control, so this stage will be no go; the stages file says what to write")
        if live is not None:
            live.changed(run_id=run.plan.run_id, target=run.plan.target)
        try:
            with watching.watching(run, live) as watcher:
                if asked.stage == PREFLIGHT:
                    _preflight(run, prepared.drills, watcher)
                else:
                    _hold(run, prepared.calendar, watcher)
                report = rollouts.conclude(run)
                watcher.reported(report)
        except KeyboardInterrupt:
            raise Interrupted(run.run_dir) from None
        return run.run_dir, report


def _resumed_or_new(prepared: Prepared, folder: Path, clock: Clock, journal: Journal, say: Say) -> StageRun:
    """Return the run whose hold was killed or interrupted, or a new run."""
    asked, target = prepared.asked, prepared.target
    assert target is not None
    left = rollouts.under_way(journal.entries, asked.stage)
    if left is not None:
        run_dir = rollouts.run_dir(folder, left.run_id)
        rollouts.require_plan(run_dir, left)
        rollouts.require_hold(run_dir, left, journal.entries)
        plan = evidence.read_plan(run_dir)
        if plan.target != target.endpoints.name:
            raise UsageError(
                f"the hold that is under way ({plan.run_id}) is on target '{plan.target}', not '{target.endpoints.name}'."
            )
        _require_unchanged(asked, plan, run_dir)
        _adopt(run_dir, plan, clock, journal, say)
    else:
        plan = stage_plan.plan_of(prepared, clock, journal)
        if asked.stage != PREFLIGHT:
            unlock.require_unlocked(folder, journal.entries, plan, clock.now(), prepared.stages)
        run_dir = rollouts.begin(folder, plan, asked.stages, asked.thresholds, journal, asked.options)
    files = asked.stages, asked.thresholds
    return StageRun(target, prepared.stages, *files, run_dir, plan, clock, journal, say, prepared.control)


def _require_unchanged(asked: Asked, plan: StagePlan, run_dir: Path) -> None:
    """Raise `UsageError` if a file that the hold goes by is not what it was when the hold began."""
    for name, path, copy, was in (
        ("stages", asked.stages, records.STAGES, plan.stages_sha256),
        ("thresholds", asked.thresholds, records.THRESHOLDS, plan.thresholds_sha256),
    ):
        if (now := rollouts.sha256(path)) != was:
            raise UsageError(
                f"{path}: the {name} file changed since the hold began (SHA-256 {was[:12]} then, {now[:12]} now); restore it "
                f"from {run_dir / copy}, then resume."
            )


def _adopt(run_dir: Path, plan: StagePlan, clock: Clock, journal: Journal, say: Say) -> None:
    """Record the canary check that was running when its stormgate process was killed."""
    for line in canary_checks.adopt(run_dir, clock):
        journal.append(rollouts.ADOPTED, run=plan.run_id, canary_check=line.run, status=line.status, reason=line.reason)
        say(f"{line.run} was under way when the hold was killed; it counts as {line.status} ({line.reason})")


# --- the preflight ----------------------------------------------------------------------------------


def _preflight(run: StageRun, drills: dict[str, Path], watcher: Watcher) -> None:
    """Run all of stage 0: what can say no first, the baseline last. A failed requirement is recorded, and the rest runs."""
    expected = times.preflight(
        run.stages, run.plan.target_kind, [drill_file.load(path) for path in drills.values()], run.target.is_embedded
    )
    try:
        with Progress(f"stage {run.plan.stage}", expected.parts) as progress:

            def begin(part: str) -> None:
                progress.begin(part)
                watcher.begin(part)

            begin("commands")
            _ask(run, progress.show, watcher)
            with contextlib.closing(_sampler(run)) as sampler:
                begin("drills")
                if not run.target.is_embedded:
                    sampler.poll("drills", fault=True)
                at_once = run.stages.stages[PREFLIGHT].side_by_side
                drill_runs.run_all(drills, run.run_dir, run.target, at_once, run.say, progress.show, watcher.drilled)
                begin("rollback")
                sampler.poll("rollback", fault=True)
                _rehearse(run, watcher)
                begin("baseline")
                _baseline(run, sampler, watcher)
    except KeyboardInterrupt:
        rollouts.conclude(run)
        raise


def _ask(run: StageRun, show: Say, watcher: Watcher) -> None:
    """Run the verification commands, then check the preconditions, two of which depend on the commands."""
    target, rules = run.target, run.stages
    setting = commands.Setting(
        target=target.given,
        targets=str(target.file.resolve()) if target.file else "",
        secrets=target.endpoints.secrets,
        is_mock=target.endpoints.is_mock,
    )
    done: dict[str, CommandDone] = {}
    for command in rules.commands:
        show(command.name)
        run.say(f"command {command.name}")
        done[command.name] = found = commands.run(command, run.run_dir, run.clock, setting)
        run.say(f"command {command.name}: {found.state} ({found.reason})")
        if found.required:
            watcher.found(f"command {command.name}", found.state, found.reason)
    good = armed.last_good(target.entry.rollback) if target.entry else None
    answers = preconditions.ask(target.endpoints, rules.client_builds, rules.commands, done, run.plan.revisions, good)
    for line in preconditions.keep(answers, run.run_dir, run.clock, target.endpoints.is_mock):
        run.say(f"precondition {line.name}: {line.state} ({line.reason})")
        if line.required:
            watcher.found(f"precondition {line.name}", line.state, line.reason)


def _sampler(run: StageRun) -> Sampler:
    return Sampler(run.run_dir, sources_of(run.target.endpoints, run.target.entry), run.clock)


def _canary_checks(run: StageRun) -> canary_checks.CanaryCheckRunner:
    rules, beside = run.stages.canary_checks(run.plan.target_kind), run.stages_path.parent
    builds = run.plan.client_builds
    return canary_checks.CanaryCheckRunner(rules, beside, run.run_dir, run.target, run.clock, builds, run.control)


def _baseline(run: StageRun, sampler: Sampler, watcher: Watcher) -> None:
    """Sample servers and run canary checks without a fault for the length of the baseline; recorded like a hold."""
    plan, clock, checks = run.plan, run.clock, _canary_checks(run)

    def record(kind: HoldKind, at: datetime | None = None) -> None:
        rollouts.record_hold(run, HoldEvent(at=iso(at or clock.now()), kind=kind))

    run.say(f"baseline: {plan.hold_required_s:g} s, a snapshot every {plan.snapshot_interval_s:g} s")
    began, interval = clock.now(), timedelta(seconds=plan.snapshot_interval_s)
    until = began + timedelta(seconds=plan.hold_required_s)
    last_check = max(until - checks.takes, began)
    record("started", began)
    try:
        turns = 0
        while clock.now() < until or checks.is_running:
            sampler.poll("baseline")
            if (done := checks.step("baseline", clock.now() <= last_check)) is not None:
                watcher.checked(done)
                watcher.found(f"canary check {done.drill}", done.status, done.reason)
            watcher.baseline((clock.now() - began).total_seconds())
            turns = max(turns + 1, (clock.now() - began) // interval + 1)
            clock.sleep_until(began + turns * interval)
    except KeyboardInterrupt:
        record("interrupted")
        raise
    finally:
        checks.close()
    sampler.poll("baseline")  # a window ends with an answer
    record("ended")


def _rehearse(run: StageRun, watcher: Watcher) -> None:
    """Rehearse the rollback. If it cannot begin, write a record with the reason."""
    run.say("rollback rehearsal")
    limit_s, target = run.stages.stages[PREFLIGHT].rehearsal_limit_s or LIMIT_S, run.target
    try:
        found = rehearsal.rehearse(target.endpoints, target.entry, run.run_dir, run.clock, dry_run=False, limit_s=limit_s)
    except StorageError:
        raise
    except StormgateError as error:
        found = _not_rehearsed(run, limit_s, str(error))
    run.say(f"rollback rehearsal: {found.state} ({found.reason})")
    watcher.found("rollback rehearsal", found.state, found.reason)


def _not_rehearsed(run: StageRun, limit_s: float, why: str) -> Rollback:
    plan, now = run.plan, iso(run.clock.now())
    found = Rollback(
        run_id=plan.run_id,
        target=plan.target,
        target_kind=plan.target_kind,
        began=now,
        ended=now,
        limit_s=limit_s,
        state="not_run",
        reason=why,
    )
    path = run.run_dir / records.ROLLBACK
    if not path.exists():
        evidence.write_json(path, found)
    return found


# --- a hold -----------------------------------------------------------------------------------------


def _hold(run: StageRun, calendar: Calendar | None, watcher: Watcher) -> None:
    target, plan = run.target, run.plan

    def check_routing() -> None:
        answers = routing_checks.ask(target.endpoints, run.stages.routing_check, run.run_dir, run.clock)
        found = routing_checks.judge(answers, plan.cohort_percent or 0.0)
        run.say(f"cohort: {found.state} ({found.reason})")

    def find() -> Revisions:
        return revisions.find(target.endpoints, target.entry)

    routing: Callable[[], None] | None = check_routing if plan.cohort_percent is not None else None
    arm = armed.Monitor(target, plan, run.run_dir, run.clock).check if "armed" in plan.required else None
    judge = judge_of(run)
    with contextlib.closing(_sampler(run)) as sampler, Progress(f"stage {plan.stage}", {}, is_silent=True) as progress:
        hold = Hold(
            run,
            sampler,
            _canary_checks(run),
            judge,
            calendar=calendar,
            check_routing=routing,
            find=find,
            arm=arm,
            show=progress.show if progress.is_live else None,
            watcher=watcher,
        )
        hold.run()


def judge_of(run: StageRun) -> Judge:
    """Return the judge of a running hold; it uses the code of the final verdict. Raises `EvidenceError` without a baseline."""
    run_dir, plan = run.run_dir, run.plan
    thresholds = gates.load_thresholds(run_dir / records.THRESHOLDS, is_record=True)
    preflight = chain.preflight(run_dir, plan)

    def judge(began: datetime, ended: datetime) -> Evaluation:
        found = window.load(run_dir, preflight.run_dir, iso(began), iso(ended))
        checks = tuple(check for check in window.judge(found, thresholds) if judging.counts(check.name, check.state, plan))
        checks += splits.of(found, thresholds, plan)
        covered = found.coverage
        return Evaluation(checks, State(covered.state), covered.reason, window.abort_reason(found, thresholds))

    return judge
