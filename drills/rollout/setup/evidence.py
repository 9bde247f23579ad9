"""Reading a stage's folder back: every file whole and of its own type, or one sentence about what is wrong with it."""

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec

from drills.rollout.setup import records
from drills.rollout.setup.records import Evidence, Signoff, StagePlan, StageReport
from sim.base.atomic_files import read_struct
from sim.base.errors import EvidenceError, UsageError
from sim.base.ownership import MARK_NAME

RENDERED = (records.GATE_RESULTS, records.REPORT_MD, records.REPORT_HTML, records.BLOCKERS, records.JUNIT)
NOT_EVIDENCE = frozenset({*RENDERED, records.REPORT, records.SIGNOFF, records.WAIVERS, MARK_NAME})

T = TypeVar("T", bound=msgspec.Struct)


def read_plan(run_dir: Path) -> StagePlan:
    """A stage's plan. Raises `UsageError` for a folder that is none of a stage, `EvidenceError` for a damaged plan."""
    path = run_dir / records.PLAN
    if not path.is_file():
        if (run_dir / records.REPORT).exists() or (run_dir / records.HOLD).exists():
            raise EvidenceError(f"{path}: is missing, so nothing says what this stage was going to do.")
        raise UsageError(f"{run_dir}: is not a stage's folder (it has no {records.PLAN}).")
    plan = read_struct(path, StagePlan)
    if plan.schema != records.SCHEMA:
        raise EvidenceError(f"{path}: is of schema {plan.schema}, which this version does not know.")
    return plan


def read_report(run_dir: Path) -> StageReport | None:
    """A stage's report, None when it has none. Raises `EvidenceError` for a damaged one."""
    path = run_dir / records.REPORT
    return read_struct(path, StageReport) if path.exists() else None


def read_signoff(run_dir: Path) -> Signoff | None:
    """A person's word on a stage, None when nobody has signed. Raises `EvidenceError` for a damaged one."""
    path = run_dir / records.SIGNOFF
    return read_struct(path, Signoff) if path.exists() else None


def read_lines(path: Path, kind: type[T]) -> list[T]:
    """A file of one JSON object a line; none of a file that is not there. Raises `EvidenceError`, naming the line.

    What follows the last line feed was being written when its writer was killed, and is no line.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(msgspec.json.decode(line, type=kind))
        except (msgspec.DecodeError, ValueError) as error:
            raise EvidenceError(f"{path}: line {number} is damaged ({error}).") from None
    return found


def files(run_dir: Path) -> tuple[Evidence, ...]:
    """Every file below a stage's folder that its report rests on, in the order of their names. Raises `EvidenceError`."""
    found = sorted(path for path in run_dir.rglob("*") if path.is_file() or path.is_symlink())
    return tuple(described(run_dir, path) for path in found if not _is_derived(run_dir, path))


def _is_derived(run_dir: Path, path: Path) -> bool:
    return path.name == MARK_NAME or (path.parent == run_dir and path.name in NOT_EVIDENCE)


def described(run_dir: Path, path: Path) -> Evidence:
    """One file's name, hash and size. Raises `EvidenceError`, also for a link, which may lead to something else tomorrow."""
    if path.is_symlink():
        raise EvidenceError(f"{path}: is a link; evidence lies in the stage's own folder.")
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        size = path.stat().st_size
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    return Evidence(path=path.relative_to(run_dir).as_posix(), sha256=digest.hexdigest(), size_bytes=size)


def sha256(path: Path) -> str:
    """Of one file. Raises `EvidenceError`."""
    return described(path.parent, path).sha256
