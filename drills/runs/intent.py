"""What a run was going to do: its plan, and its drills as they were written; read back, each is what it was or an error."""

import hashlib
from pathlib import Path

import msgspec

from sim.base.atomic_files import read_struct
from sim.base.errors import EvidenceError, UsageError
from sim.drill.model import Drill
from sim.record import run_header
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
