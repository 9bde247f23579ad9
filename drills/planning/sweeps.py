"""Run sweeps in a result folder: simulate the missing runs, then write the tables from the stored rows.

results/plans/<name>/
    sweep.toml       a copy of the sweep file
    plan.json        the resolved sweep with drill and model, and a digest of the code
    thresholds.toml  the thresholds
    rows/            one file per completed run (`sim.planning.store`)
    runs.parquet     a row per run and metric
    sweep.parquet    a row per point and metric with its interval; written last, when all runs are done
    stations.parquet a row per point, queue of the service and bin of time: how busy it was, how many waited
    SUMMARY.md       the report, with figures in the same folder (`drills.planning.report`)
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.judging.checks.verdicts import DrillVerdict
from drills.planning.gates import Gates, judging_code
from drills.reports.terminal import Progress, Several, time_left
from drills.runs import catalog
from sim.base import bounded_reads
from sim.base.atomic_files import write_whole
from sim.base.errors import EvidenceError, StorageError, StormgateError, UsageError
from sim.base.ownership import Mark, is_left_over, remove_leftovers
from sim.base.process_pool import INTERRUPTED
from sim.planning import bottlenecks, designs, runs, sweep_file
from sim.planning.designs import Point
from sim.planning.runs import Job
from sim.planning.store import Row, Store, code_digest
from sim.planning.sweep_file import Plan
from sim.planning.tables import Results

SWEEP_NAME, RUNS_NAME, TABLE_NAME, STATIONS_NAME = "sweep.toml", "runs.parquet", "sweep.parquet", "stations.parquet"
PLAN_NAME, THRESHOLDS_NAME, FOUND_NAME = "plan.json", "thresholds.toml", "found.json"
_RUN_AGAIN = "Run the plan again; it simulates only the missing runs."


class CutShortError(StormgateError):
    """A sweep or search ended before all runs were complete; complete runs are kept."""


@dataclass(frozen=True)
class Swept(Results):
    """A complete sweep, with the verdicts by the number of the point."""

    plan: Plan
    folder: Path
    verdicts: Mapping[int, DrillVerdict]


Execute = Callable[[Sequence[Job], Store], str]
"""Simulates the runs that the store lacks; returns the reason if it ended early, else an empty text."""


class Kept(msgspec.Struct, frozen=True):
    """`plan.json`: the data that is needed to read the folder without the original files."""

    plan: Plan
    code: str  # digest of the simulating and judging code; rows with another digest are not used


def load(path: Path) -> Plan:
    """Read a sweep file, which may name drills of the catalogue and the examples. Raises `UsageError`."""
    return sweep_file.load(path, catalog.by_name())


def on_all_cores(name: str, workers: int | None = None) -> Execute:
    """Simulate on this machine, with progress."""

    def execute(jobs: Sequence[Job], store: Store) -> str:
        missing = runs.in_order(store.missing(jobs))
        with Several(name, [job.name for job in missing]) as progress:
            return runs.run(missing, store, progress, workers)

    return execute


def on_cluster(name: str, address: str) -> Execute:
    """Simulate on a dask cluster, with progress."""
    from sim.planning import cluster

    def execute(jobs: Sequence[Job], store: Store) -> str:
        began_at = time.monotonic()

        def told(done: int, count: int) -> str:
            return f"{done} of {count} runs done{time_left(done, count, time.monotonic() - began_at)}"

        with Progress(name) as progress:
            return cluster.run(jobs, store, address, lambda done, count: progress("sweep", told(done, count), done))

    return execute


def sweep(plan: Plan, out: Path, execute: Execute, judge: Gates | None = None) -> Swept:
    """Simulate the missing runs of a sweep and write its tables.

    Raises `UsageError` before the first run, `StorageError`, and `CutShortError` if not all runs were completed.
    """
    judge = judge or Gates()
    folder = folder_of(out, plan)
    points = designs.points(plan)
    jobs = runs.jobs(plan.sweep.engine, points, seeds(plan), judge)
    mark, store = open_folder(folder, plan, judge)
    try:
        complete(folder, jobs, store, execute)
        swept = _swept(plan, folder, points, store, judge)
        write_tables(swept)
    finally:
        mark.remove()
    return swept


def read(folder: Path) -> Swept:
    """A complete sweep from its folder. Raises `UsageError`, and `EvidenceError` for missing or damaged files."""
    plan, judge = read_kept(folder)
    points = designs.points(plan)
    store = Store(folder)
    only_stored(folder)(runs.jobs(plan.sweep.engine, points, seeds(plan), judge), store)
    return _swept(plan, folder, points, store, judge)


def _swept(plan: Plan, folder: Path, points: tuple[Point, ...], store: Store, judge: Gates) -> Swept:
    def of(point: Point) -> list[Row]:
        return store.rows(runs.job(plan.sweep.engine, point, seed, judge) for seed in seeds(plan))

    rows = {point.number: of(point) for point in points}
    verdicts = {point.number: judge.together(point.drill, rows[point.number]) for point in points}
    return Swept(points, rows, plan, folder, verdicts)


def complete(folder: Path, jobs: Sequence[Job], store: Store, execute: Execute) -> None:
    """Simulate the runs that the store lacks. Raises `CutShortError` if some are still missing."""
    why = execute(jobs, store)
    missing = store.missing(jobs)
    if why or missing:
        reason = "interrupted" if why == INTERRUPTED else why or "not all runs were completed"
        done = f"{len(jobs) - len(missing)} of {len(jobs)} runs done"
        raise CutShortError(f"{folder}: {reason}, with {done}. Run the same command again to resume.")


def folder_of(out: Path, plan: Plan) -> Path:
    """The result folder of a sweep or a search."""
    return out / "plans" / plan.sweep.name


def seeds(plan: Plan, count: int | None = None) -> range:
    """The seeds of the replications, the same at every point."""
    return range(plan.sweep.seed, plan.sweep.seed + (count or plan.sweep.replications))


def open_folder(folder: Path, plan: Plan, judge: Gates) -> tuple[Mark, Store]:
    """Lock a plan's folder for this process and clean up after killed ones. Raises `StorageError`."""
    remove_leftovers(runs.WORK_PREFIX)
    store = Store(folder)
    mark = lock(folder)
    for name in (TABLE_NAME, FOUND_NAME):  # from an earlier run of the plan: only a complete result has these files
        (folder / name).unlink(missing_ok=True)
    if Path(plan.where).is_file():
        _copy(Path(plan.where), folder / SWEEP_NAME)
    _copy(judge.thresholds or DEFAULT_PATH, folder / THRESHOLDS_NAME)
    write_whole(folder / PLAN_NAME, msgspec.json.format(msgspec.json.encode(Kept(plan, code()))) + b"\n")
    return mark, store


def lock(folder: Path) -> Mark:
    """Lock a folder for this process. Raises `StorageError` if another process uses it, or it cannot be written."""
    try:
        return Mark(folder / "owner")
    except StorageError:
        if not (folder / "owner").exists() or is_left_over(folder / "owner"):
            raise
        raise StorageError(f"{folder}: another stormgate is using this folder. Wait for it, or give another --out.") from None


def _copy(source: Path, to: Path) -> None:
    if source.resolve() != to.resolve():
        write_whole(to, bounded_reads.file_bytes(source))


def code() -> str:
    """A digest of all code that the content of a row depends on."""
    return f"{code_digest()} {judging_code()}"


def read_kept(folder: Path) -> tuple[Plan, Gates]:
    """Read the plan and the gates of a folder. Raises `UsageError` if it is no plan's, `EvidenceError` if it is damaged."""
    path = folder / PLAN_NAME
    if not path.is_file():
        raise UsageError(f"{folder}: is not the folder of a sweep or search (it has no {PLAN_NAME}). See results/plans/.")
    try:
        kept = msgspec.json.decode(bounded_reads.file_bytes(path), type=Kept)
    except (OSError, msgspec.DecodeError) as error:
        raise EvidenceError(f"{path}: is damaged ({error}). {_RUN_AGAIN}") from None
    if kept.code != code():
        raise EvidenceError(f"{folder}: another version of stormgate made its rows. Run the plan again to simulate them again.")
    if not (folder / THRESHOLDS_NAME).is_file():
        raise EvidenceError(f"{folder / THRESHOLDS_NAME}: is missing, so nothing can be judged. Run the plan again.")
    return kept.plan, Gates(folder / THRESHOLDS_NAME)


def only_stored(folder: Path) -> Execute:
    """Use stored rows only; raises `EvidenceError` for a missing or damaged row."""

    def execute(jobs: Sequence[Job], store: Store) -> str:
        missing = store.missing(jobs)
        if damaged := [job for job in missing if store.path(job.digest).exists()]:
            first = store.path(damaged[0].digest)
            more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            raise EvidenceError(f"{first}: is damaged{more}. {_RUN_AGAIN}")
        if missing:
            done = f"{len(jobs) - len(missing)} of {len(jobs)} runs with these thresholds"
            raise EvidenceError(f"{folder}: is not complete, it has {done}. Run the plan again to resume.")
        return ""

    return execute


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Write a file atomically: `fill` writes a temporary file, which then gets the name. Raises `StorageError`."""
    partial = path.with_name(path.name + ".partial")
    try:
        fill(partial)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}). Free some space.") from None


def write_tables(swept: Swept) -> None:
    """Write the Parquet files of a sweep. Raises `StorageError`."""
    folder = swept.folder
    write(folder / RUNS_NAME, _one_type_a_column(swept.runs).to_parquet)
    write(folder / TABLE_NAME, _one_type_a_column(swept.table).to_parquet)
    write_stations(folder, swept.points, swept.rows)


def write_stations(folder: Path, points: Sequence[Point], rows: Mapping[int, Sequence[Row]]) -> None:
    """Write how busy each queue of the service was over time, at each point. Raises `StorageError`."""
    write(folder / STATIONS_NAME, _one_type_a_column(bottlenecks.over_time(points, rows)).to_parquet)


def _one_type_a_column(frame: pd.DataFrame) -> pd.DataFrame:
    """Convert columns of mixed types to text, because a Parquet column has one type."""
    mixed = [name for name in frame.columns if frame[name].dtype == object and len({type(each) for each in frame[name]}) > 1]
    return frame.astype(dict.fromkeys(mixed, str))
