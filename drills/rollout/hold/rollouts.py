"""One rollout: the stage runs that its journal records, and the files of a run in progress."""

import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from importlib import metadata
from pathlib import Path

import msgspec

from drills.rollout.setup import evidence, records
from drills.rollout.setup.journal import NAME, Entry, Journal
from drills.rollout.setup.records import HoldEvent, Stage, StagePlan, StageReport
from drills.rollout.setup.stage_target import StageTarget
from drills.rollout.setup.stages import PREFLIGHT, Stages
from drills.runs import results
from sim.base import bounded_reads
from sim.base.clocks import Clock, from_iso
from sim.base.errors import EvidenceError, StorageError, UsageError

STARTED, REPORTED, SIGNED, WAIVED = "stage_started", "reported", "signed", "waived"
ADOPTED = "canary_check_adopted"
HOLD_PREFIX = "hold_"
_RECORDED_WITHIN_S = 60.0  # [ours] from a hold's event to its line in the journal
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Say = Callable[[str], None]


@dataclass(frozen=True)
class RunRecord:
    """One run of a stage, as the journal records it. The last entry of each kind counts."""

    run_id: str
    stage: Stage
    started: Entry
    reported: Entry | None = None
    signed: Entry | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has a report."""
        return self.reported is not None


@dataclass(frozen=True)
class StageRun:
    """A run in progress, with its plan, files, target and clock."""

    target: StageTarget
    stages: Stages
    stages_path: Path
    thresholds_path: Path
    run_dir: Path
    plan: StagePlan
    clock: Clock
    journal: Journal
    say: Say
    control: StageTarget | None = None  # the target that the canary is compared with


def folder_of(out: Path, name: str) -> Path:
    """A rollout's folder. Raises `UsageError` for a name that could lead to another folder."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"--rollout {name}: expected letters, digits, dots, dashes and underscores, such as 2026-11-sync.")
    return results.rollout_folder(out, name)


def journal_of(folder: Path, clock: Clock) -> Journal:
    """The rollout's journal, open for writing."""
    return Journal(folder / NAME, clock)


def runs(entries: Sequence[Entry]) -> list[RunRecord]:
    """Every run, in the order in which they started."""
    found: dict[str, RunRecord] = {}
    for entry in entries:
        run_id = str(entry.body.get("run", ""))
        if entry.kind == STARTED:
            found[run_id] = RunRecord(run_id, entry.body["stage"], entry)
        elif run_id in found and entry.kind == REPORTED:
            found[run_id] = replace(found[run_id], reported=entry)
        elif run_id in found and entry.kind == SIGNED:
            found[run_id] = replace(found[run_id], signed=entry)
    return list(found.values())


def latest(entries: Sequence[Entry], stage: Stage) -> RunRecord | None:
    """The latest run of a stage."""
    return next((run for run in reversed(runs(entries)) if run.stage == stage), None)


def under_way(entries: Sequence[Entry], stage: Stage) -> RunRecord | None:
    """The hold of a stage that has no report yet, which the next one resumes; None without one."""
    run = latest(entries, stage) if stage != PREFLIGHT else None
    return run if run is not None and not run.is_finished else None


def require_plan(where: Path, run: RunRecord) -> None:
    """Raise `EvidenceError` if a run's plan changed since it started."""
    path = where / records.PLAN
    if evidence.sha256(path) != run.started.body.get("plan_sha256"):
        raise EvidenceError(
            f"{path}: is not the plan that this stage started with (its SHA-256 differs); it was changed by hand."
        )


def require_hold(where: Path, run: RunRecord, entries: Sequence[Entry]) -> None:
    """Raise `EvidenceError` if the run's file lacks an event of its hold that the journal has, or has it at another time."""
    path = where / records.HOLD
    there = iter(evidence.read_lines(path, HoldEvent))
    recorded = [entry for entry in entries if entry.body.get("run") == run.run_id and entry.kind.startswith(HOLD_PREFIX)]
    for entry in recorded:  # in order: a later search does not find a skipped event
        if not any(_is_of(event, entry) for event in there):
            raise EvidenceError(f"{path}: lacks '{entry.kind}' of {entry.at}, which the journal has; it was changed by hand.")


def _is_of(event: HoldEvent, entry: Entry) -> bool:
    apart_s = (from_iso(entry.at) - from_iso(event.at)).total_seconds()
    same = (f"{HOLD_PREFIX}{event.kind}", event.reason) == (entry.kind, entry.body.get("reason"))
    return same and abs(apart_s) <= _RECORDED_WITHIN_S


def unrecorded(folder: Path, entries: Sequence[Entry]) -> list[str]:
    """Runs with results that are missing from the journal: its end was cut off, or it is an older copy."""
    known = {run.run_id for run in runs(entries)}
    left = (records.HOLD, records.REPORT)
    there = sorted(path.parent for path in run_dir(folder, "").glob(f"*/{records.PLAN}"))
    return [where.name for where in there if where.name not in known and any((where / name).exists() for name in left)]


def run_dir(folder: Path, run_id: str) -> Path:
    """The folder of a run's files."""
    return results.stage_folder(folder, run_id)


def new_run_id(stage: Stage, clock: Clock) -> str:
    """A name for a run that starts now."""
    return f"{clock.now().astimezone(UTC):%Y%m%dT%H%M%SZ}-stage-{stage}-{secrets.token_hex(2)}"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file that operators provide. Raises `UsageError`."""
    try:
        return bounded_reads.file_sha256(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None


def begin(folder: Path, plan: StagePlan, stages: Path, thresholds: Path, journal: Journal, options: Mapping[str, str]) -> Path:
    """Make a run's folder, with its plan and copies of its stages file and thresholds. Raises `StorageError`.

    The journal keeps `options`, by name: those of the command line.
    """
    where = run_dir(folder, plan.run_id)
    try:
        where.mkdir(parents=True)
        shutil.copyfile(stages, where / records.STAGES)
        shutil.copyfile(thresholds, where / records.THRESHOLDS)
    except OSError as error:
        raise StorageError(f"{where}: cannot be written ({error.strerror}); free some space or give another --out.") from None
    evidence.write_json(where / records.PLAN, plan)
    digest = sha256(where / records.PLAN)
    journal.append(STARTED, run=plan.run_id, stage=plan.stage, target=plan.target, plan_sha256=digest, options=dict(options))
    return where


def version() -> str:
    """The installed version of stormgate; empty for a working copy that is not installed."""
    try:
        return metadata.version("stormgate")
    except metadata.PackageNotFoundError:
        return ""


def timed(event: HoldEvent, clock: Clock) -> HoldEvent:
    """The event with the time of the clock that nobody can set."""
    return msgspec.structs.replace(event, boot=clock.boot, elapsed_s=round(clock.elapsed_s(), 3))


def record_hold(run: StageRun, event: HoldEvent) -> None:
    """Record an event of a hold in the run's own file and in the journal. Raises `StorageError`."""
    evidence.append(run.run_dir / records.HOLD, timed(event, run.clock))
    run.journal.append(f"{HOLD_PREFIX}{event.kind}", run=run.plan.run_id, reason=event.reason)


def conclude(run: StageRun) -> StageReport:
    """Judge the run from its files, write its report, and record it in the journal."""
    from drills.rollout.report import stage_files

    record = next(each for each in runs(run.journal.entries) if each.run_id == run.plan.run_id)
    require_plan(run.run_dir, record)
    require_hold(run.run_dir, record, run.journal.entries)
    evidence.seal(run.run_dir)
    report = stage_files.conclude(run.run_dir)
    digest = evidence.sha256(run.run_dir / records.REPORT)
    run.journal.append(REPORTED, run=run.plan.run_id, decision=report.decision, reason=report.reason, report_sha256=digest)
    return report
