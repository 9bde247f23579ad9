"""Read a run's files, unchanged since the run wrote them. Raises `EvidenceError` for a damaged or changed file."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import msgspec

from drills.judging import gates
from drills.judging.checks.verdicts import DrillVerdict
from sim.analysis.invariants import registry
from sim.base import bounded_reads
from sim.base.atomic_files import read_struct
from sim.base.errors import EvidenceError, UsageError
from sim.drill.model import Drill
from sim.record import parquet, run_header
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.server.settings import Count

PLAN_NAME = "run-plan.json"
DRILL_NAME = "drill.json"
DRILLS = "drills"  # a run's folder with one folder per drill
SUMMARY_NAME, THRESHOLDS_NAME = "summary.json", "thresholds.toml"
_DRAWN = (".png", ".partial")


class PlannedDrill(msgspec.Struct, frozen=True):
    """One drill of a plan, by name and `Drill.digest`."""

    name: str
    sha256: str
    not_run: str = ""  # why the target cannot run it; empty: it can


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of a run: `run-plan.json`."""

    schema: int = run_header.SCHEMA_VERSION
    run_id: str
    engine: str
    target: str  # name or address, never a secret
    target_kind: str  # mock, staging or production
    seed: int
    created_at: str  # ISO 8601, UTC
    thresholds_sha256: str
    drills: list[PlannedDrill]
    replications: Count = 1  # per drill, with consecutive seeds starting at `seed`
    target_sha256: str = ""  # of the target's configuration, without secrets; empty for a mock of its own
    tool_version: str = ""  # of stormgate


def read_plan(run_dir: Path) -> RunPlan:
    """Read a run's plan. Raises `UsageError` if the folder is not a run's, `EvidenceError` for a damaged plan."""
    path = run_dir / PLAN_NAME
    try:
        plan = msgspec.json.decode(bounded_reads.file_bytes(path), type=RunPlan)
    except (FileNotFoundError, NotADirectoryError):
        if (run_dir / DRILLS).is_dir():
            raise EvidenceError(f"{path}: is missing, so the drills of this run are unknown.") from None
        raise UsageError(
            f"{run_dir}: is not a run's folder: {PLAN_NAME} is missing. Give a folder such as results/<run id>."
        ) from None
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    except msgspec.DecodeError as error:
        raise EvidenceError(f"{path}: is damaged ({error}).") from None
    if plan.schema != run_header.SCHEMA_VERSION:
        raise EvidenceError(f"{path}: has schema {plan.schema}, which this version cannot read.")
    return plan


def read_drill(folder: Path, planned: PlannedDrill) -> Drill:
    """Read the drill of a folder, which must be the planned one. Raises `EvidenceError`."""
    path = folder / DRILL_NAME
    drill = read_struct(path, Drill)
    if digest(path) != planned.sha256:
        raise EvidenceError(f"{path}: is not the drill that was planned (its digest differs from {PLAN_NAME}).")
    return drill


def digest(path: Path) -> str:
    """`Drill.digest` of the written file. A later version with more keys would compute another digest from the drill."""
    return hashlib.sha256(msgspec.json.format(bounded_reads.file_bytes(path), indent=-1)).hexdigest()


def digest_of(path: Path, drill: Drill) -> str:
    """The digest of a written drill, which must equal `drill`. Raises `EvidenceError`."""
    if read_struct(path, Drill) != drill:
        raise EvidenceError(f"{path}: is not the drill that should have run here.")
    return digest(path)


def recorded(folder: Path, of_drill: Path | None = None) -> tuple[Drill, History]:
    """Read the drill and the history of a folder; `of_drill` has the drill, if it is in another one.

    Raises `EvidenceError` unless they are complete and unchanged.
    """
    header, table = run_header.read_verified(folder)
    path = (of_drill or folder) / DRILL_NAME
    drill = read_struct(path, Drill)
    if header.drill_sha256 != digest(path):
        raise EvidenceError(f"{path}: is not the drill that was run (its digest differs from run.json).")
    return drill, History(header, table)


def recorded_of(folder: Path, plan: RunPlan, planned: PlannedDrill, seed: int, drill: Drill) -> History:
    """Read the history that an engine recorded. Raises `EvidenceError` unless it is complete, unchanged and of this run."""
    header, table = run_header.read_verified(folder)
    _require_same_run(header, plan, planned, seed, drill, folder)
    return History(header, table)


def _require_same_run(
    header: run_header.RunHeader, plan: RunPlan, planned: PlannedDrill, seed: int, drill: Drill, folder: Path
) -> None:
    """Raise `EvidenceError` for evidence of another run, drill, engine, target or seed."""
    claims = {
        "run_id": (header.run_id, plan.run_id),
        "drill": (header.drill, drill.name),
        "drill_sha256": (header.drill_sha256, planned.sha256),
        "clients": (header.clients, drill.fleet.clients if header.has_socket else 0),
        "policy": (header.policy, drill.fleet.policy),
        "engine": (header.engine, plan.engine),
        "target": (header.target, plan.target),
        "target_kind": (header.target_kind, plan.target_kind),
        "seed": (header.seed, seed),
    }
    for name, (found, wanted) in claims.items():
        if found != wanted:
            where = folder / run_header.HEADER_NAME
            raise EvidenceError(f"{where}: has {name} {found!r}, but this run's is {wanted!r}.")
    if not _is_after(header.started_at, plan.created_at):
        raise EvidenceError(
            f"{folder}: started at {header.started_at}, before this run was created ({plan.created_at}); it is of another run."
        )


def _is_after(moment: str, other: str) -> bool:
    try:
        return datetime.fromisoformat(moment) >= datetime.fromisoformat(other)
    except (ValueError, TypeError):  # not a time, or a time without a zone
        return False


def salvage(folder: Path, verdict: DrillVerdict) -> DrillVerdict:
    """Add the failures that an interrupted run already shows. The verdict stays an error or becomes a failure."""
    try:
        header = run_header.read_header(folder)
    except EvidenceError:
        return verdict
    if header.complete:
        return verdict  # its files are changed or damaged, so they prove nothing
    if header.stop_condition:
        met = gates.stopped(verdict.checks[0].evidence, header.stop_condition)
        verdict = replace(verdict, checks=(*verdict.checks, met), remarks=tuple(header.remarks))
    try:
        history = History(header, parquet.Recorded(folder))
        violated = tuple(registry.violations(history, Ledger(history), complete=False))
    except Exception:  # the verdict already says why it is unreadable
        return verdict
    return replace(verdict, clients=header.clients, duration_s=history.duration_s, policy=header.policy, violations=violated)


# --- the files of a report ---------------------------------------------------------------------------


class _Report(msgspec.Struct):
    """The part of `summary.json` that is read again."""

    files: dict[str, str] = {}


def judged_files(run_dir: Path) -> dict[str, str]:
    """Every file of a run's folder that its verdict may depend on: path relative to the folder -> hex SHA-256."""
    found = [run_dir / PLAN_NAME, run_dir / THRESHOLDS_NAME, *sorted((run_dir / DRILLS).rglob("*"))]
    return {path.relative_to(run_dir).as_posix(): bounded_reads.file_sha256(path) for path in found if _counts(path)}


def _counts(path: Path) -> bool:
    return path.is_file() and path.suffix not in _DRAWN and path.parent.name != parquet.CHUNK_FOLDER


def require_unchanged(run_dir: Path, now: Mapping[str, str]) -> dict[str, str]:
    """What differs from the files of the run's own report, as a sentence for each drill; empty without a report.

    Raises `EvidenceError` for a plan that was changed, and for a report that is damaged.
    """
    path = run_dir / SUMMARY_NAME
    then = read_struct(path, _Report).files if path.exists() else {}
    changed: dict[str, list[str]] = {}
    for name, what in _differences(then, now):
        if name == PLAN_NAME:
            raise EvidenceError(f"{run_dir / name}: {what} since the report of this run was written.")
        if name.startswith(f"{DRILLS}/"):
            changed.setdefault(name.split("/")[1], []).append(f"{name} {what}")
    return {drill: f"since the report of this run was written, {', '.join(whats)}." for drill, whats in changed.items()}


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if not then:
        return
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            yield name, "was added" if name not in then else "is missing" if name not in now else "was changed"
