"""The files that a verdict is based on, by their SHA-256, and what has changed since the report of a run was written."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from drills.runs.run_files import DRILLS, PLAN_NAME
from sim.base.atomic_files import read_struct
from sim.base.errors import EvidenceError
from sim.record.parquet import CHUNK_FOLDER, file_sha256

SUMMARY_NAME, THRESHOLDS_NAME = "summary.json", "thresholds.toml"
_DRAWN = (".png", ".partial")


class _Report(msgspec.Struct):
    """The part of `summary.json` that is read again."""

    files: dict[str, str] = {}


def judged_files(run_dir: Path) -> dict[str, str]:
    """Every file of a run's folder that its verdict may depend on: path relative to the folder -> hex SHA-256."""
    found = [run_dir / PLAN_NAME, run_dir / THRESHOLDS_NAME, *sorted((run_dir / DRILLS).rglob("*"))]
    return {path.relative_to(run_dir).as_posix(): file_sha256(path) for path in found if _counts(path)}


def _counts(path: Path) -> bool:
    return path.is_file() and path.suffix not in _DRAWN and path.parent.name != CHUNK_FOLDER


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
