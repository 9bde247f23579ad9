"""Read a run's files back. Each is what the run wrote, or an `EvidenceError` says what is wrong with it."""

import hashlib
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import msgspec

from drills.judging import gates
from drills.judging.checks.verdicts import DrillVerdict
from sim.analysis import invariants
from sim.base.atomic_files import read_struct
from sim.base.errors import EvidenceError, UsageError
from sim.drill.model import Drill
from sim.record import parquet, run_header
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.server.settings import Count

PLAN_NAME = "run-plan.json"
DRILL_NAME = "drill.json"
DRILLS = "drills"  # the folder of a run that has one for each of them


class PlannedDrill(msgspec.Struct, frozen=True):
    """One drill of a plan, by name and `Drill.digest`."""

    name: str
    sha256: str


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was going to do: `run-plan.json`."""

    schema: int = run_header.SCHEMA_VERSION
    run_id: str
    engine: str
    target: str  # name or address, never a secret
    target_kind: str  # mock, staging or production
    seed: int
    created_at: str  # ISO 8601, UTC
    thresholds_sha256: str
    drills: list[PlannedDrill]
    replications: Count = 1  # of each drill, under the seeds from `seed` on


def read_plan(run_dir: Path) -> RunPlan:
    """A run's plan. Raises `UsageError` for a folder that is no run, `EvidenceError` for a missing or damaged plan."""
    path = run_dir / PLAN_NAME
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=RunPlan)
    except (FileNotFoundError, NotADirectoryError):
        if (run_dir / DRILLS).is_dir():
            raise EvidenceError(f"{path}: is missing, so nothing says which drills this run should have.") from None
        raise UsageError(f"{run_dir}: is not a run's folder (it has no {PLAN_NAME}).") from None
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    except msgspec.DecodeError as error:
        raise EvidenceError(f"{path}: is damaged ({error}).") from None
    if plan.schema != run_header.SCHEMA_VERSION:
        raise EvidenceError(f"{path}: is of schema {plan.schema}, which this version does not know.")
    return plan


def read_drill(folder: Path, planned: PlannedDrill) -> Drill:
    """The drill of a folder, which must be the planned one. Raises `EvidenceError`."""
    path = folder / DRILL_NAME
    drill = read_struct(path, Drill)
    if digest(path) != planned.sha256:
        raise EvidenceError(f"{path}: is not the drill that was planned (its digest differs from {PLAN_NAME}).")
    return drill


def digest(path: Path) -> str:
    """`Drill.digest` of a drill as it was written: a later version, with keys of its own, would have it otherwise."""
    return hashlib.sha256(msgspec.json.format(path.read_bytes(), indent=-1)).hexdigest()


def digest_of(path: Path, drill: Drill) -> str:
    """The digest of a drill as it was written, which must be this one. Raises `EvidenceError`."""
    if read_struct(path, Drill) != drill:
        raise EvidenceError(f"{path}: is not the drill as it should have run here.")
    return digest(path)


def recorded(folder: Path) -> tuple[Drill, History]:
    """The drill of a folder and what was observed, once it is sure that this is all of it and just as it was recorded.

    Raises `EvidenceError`.
    """
    header, table = run_header.read_verified(folder)
    drill = read_struct(folder / DRILL_NAME, Drill)
    if header.drill_sha256 != digest(folder / DRILL_NAME):
        raise EvidenceError(f"{folder / DRILL_NAME}: is not the drill that was run (its digest differs from run.json).")
    return drill, History(header, table)


def recorded_of(folder: Path, plan: RunPlan, planned: PlannedDrill, seed: int, drill: Drill) -> History:
    """What an engine recorded, once it is sure that it did so for this run. Raises `EvidenceError`."""
    header, table = run_header.read_verified(folder)
    _require_same_run(header, plan, planned, seed, drill, folder)
    return History(header, table)


def _require_same_run(
    header: run_header.RunHeader, plan: RunPlan, planned: PlannedDrill, seed: int, drill: Drill, folder: Path
) -> None:
    """Evidence of another run, drill, engine, target or seed proves nothing about this run."""
    claims = {
        "run_id": (header.run_id, plan.run_id),
        "drill": (header.drill, drill.name),
        "drill_sha256": (header.drill_sha256, planned.sha256),
        "clients": (header.clients, drill.fleet.clients),
        "policy": (header.policy, drill.fleet.policy),
        "engine": (header.engine, plan.engine),
        "target": (header.target, plan.target),
        "target_kind": (header.target_kind, plan.target_kind),
        "seed": (header.seed, seed),
    }
    for name, (found, wanted) in claims.items():
        if found != wanted:
            where = folder / run_header.HEADER_NAME
            raise EvidenceError(f"{where}: says {name} {found!r}, but this run's is {wanted!r}.")
    if not _is_after(header.started_at, plan.created_at):
        raise EvidenceError(
            f"{folder}: this began before this run did ({header.started_at}, {plan.created_at}); it is another's."
        )


def _is_after(moment: str, other: str) -> bool:
    try:
        return datetime.fromisoformat(moment) >= datetime.fromisoformat(other)
    except (ValueError, TypeError):  # no moment at all, or one without its time zone
        return False


def salvage(folder: Path, verdict: DrillVerdict) -> DrillVerdict:
    """Add what a run that was cut short already shows to have gone wrong; it stays an error or becomes a failure."""
    try:
        header = run_header.read_header(folder)
    except EvidenceError:
        return verdict
    if header.complete:
        return verdict  # its files were changed or damaged: nothing in them can be believed
    if header.stop_condition:
        met = gates.stopped(verdict.checks[0].evidence, header.stop_condition)
        verdict = replace(verdict, checks=(*verdict.checks, met), remarks=tuple(header.remarks))
    try:
        history = History(header, parquet.read(folder))
        broken = tuple(invariants.violations(history, Ledger(history), complete=False))
    except Exception:  # it was unreadable anyway, and the verdict says why
        return verdict
    return replace(verdict, clients=header.clients, duration_s=history.duration_s, policy=header.policy, violations=broken)
