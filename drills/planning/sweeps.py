"""Sweeps into their folder: what is missing is simulated, then everything is put together from what is there.

results/plans/<name>/
    sweep.toml       the file as it was
    plan.json        the same with drill and model written out, and by which code it was run
    thresholds.toml  what it was judged by
    rows/            one file for each run that is done (`sim.planning.store`)
    runs.parquet     a row for each measure of each run
    sweep.parquet    a row for each point and measure, with its interval: written last, when all runs are done
    SUMMARY.md       for people, with figures beside it (`drills.planning.report`)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.judging.checks.verdicts import DrillVerdict
from drills.planning.gates import Gates, judging_code
from drills.reports.terminal import Progress, Several
from drills.runs import catalog
from sim.base.errors import EvidenceError, StorageError, StormgateError, UsageError
from sim.base.ownership import Mark, is_left_over, remove_leftovers
from sim.base.process_pool import INTERRUPTED
from sim.planning import designs, runs, sizes, sweeps, tables
from sim.planning.designs import Point
from sim.planning.runs import Job
from sim.planning.store import Row, Store, code_digest
from sim.planning.sweeps import Plan

SWEEP_NAME, RUNS_NAME, TABLE_NAME = "sweep.toml", "runs.parquet", "sweep.parquet"
PLAN_NAME, THRESHOLDS_NAME, FOUND_NAME = "plan.json", "thresholds.toml", "found.json"


class CutShortError(StormgateError):
    """Not all runs were done; those that were are kept."""


@dataclass(frozen=True)
class Swept:
    """A sweep that is complete: its points, their runs by the point's number, and what the gates say of each point."""

    plan: Plan
    folder: Path
    points: tuple[Point, ...]
    rows: Mapping[int, Sequence[Row]]
    verdicts: Mapping[int, DrillVerdict]

    @cached_property
    def table(self) -> pd.DataFrame:
        """As `sweep.parquet` has it."""
        return tables.tidy(self.points, self.rows)

    @property
    def runs(self) -> pd.DataFrame:
        """As `runs.parquet` has it."""
        return tables.runs_frame(self.points, self.rows)


Execute = Callable[[Sequence[Job], Store], str]
"""Runs what the store has not yet; returns why it ended early."""


class Kept(msgspec.Struct, frozen=True):
    """`plan.json`: what a folder's rows are of, so that it can be read without the files that it was made from."""

    plan: Plan
    code: str  # a digest of what simulates and judges: rows of other code are not believed


def load(path: Path) -> Plan:
    """Read a sweep file. Raises `UsageError`."""
    return sweeps.load(path, catalog.by_name())


def on_all_cores(name: str, workers: int | None = None) -> Execute:
    """Runs in processes of this machine, with progress; what is done sooner than processes start is done in this one."""

    def execute(jobs: Sequence[Job], store: Store) -> str:
        missing = [job for job in jobs if store.get(job.digest) is None]
        with Several(name, [job.name for job in missing]) as progress:
            return runs.run(missing, store, progress, workers or (1 if sizes.is_little(missing) else None))

    return execute


def on_cluster(name: str, address: str) -> Execute:
    """Runs on a dask cluster, with progress."""
    from sim.planning import cluster

    def execute(jobs: Sequence[Job], store: Store) -> str:
        with Progress(name) as progress:
            return cluster.run(
                jobs, store, address, lambda done, count: progress("sweep", f"{done} of {count} runs are done", done)
            )

    return execute


def sweep(plan: Plan, out: Path, execute: Execute, judge: Gates | None = None) -> Swept:
    """Simulate what is missing of a sweep and put it all together.

    Raises `UsageError` before anything begins, `StorageError`, and `CutShortError` when not all runs were done.
    """
    judge = judge or Gates()
    folder = folder_of(out, plan)
    points = designs.points(plan)
    jobs = runs.jobs(plan.sweep.engine, points, seeds(plan), judge)
    mark, store = open_folder(folder, plan, judge)
    try:
        why = execute(jobs, store)
        rows = collect(plan, points, store, judge)
        if why or len(rows) < len(points):
            raise cut_short(folder, why, len([job for job in jobs if store.get(job.digest)]), len(jobs))
        swept = Swept(plan, folder, points, rows, _verdicts(points, rows, judge))
        write_tables(swept)
    finally:
        mark.remove()
    return swept


def read(folder: Path) -> Swept:
    """A sweep that is complete, from what its folder kept. Raises `UsageError`, and `EvidenceError` for what is not whole."""
    plan, judge = read_kept(folder)
    points = designs.points(plan)
    store = Store(folder)
    nothing(folder)(runs.jobs(plan.sweep.engine, points, seeds(plan), judge), store)
    rows = collect(plan, points, store, judge)
    return Swept(plan, folder, points, rows, _verdicts(points, rows, judge))


def folder_of(out: Path, plan: Plan) -> Path:
    """Where all lies that came of a sweep or a search."""
    return out / "plans" / plan.sweep.name


def seeds(plan: Plan, count: int | None = None) -> range:
    """The seeds of the replications, the same at every point."""
    return range(plan.sweep.seed, plan.sweep.seed + (count or plan.sweep.replications))


def open_folder(folder: Path, plan: Plan, judge: Gates) -> tuple[Mark, Store]:
    """A plan's folder, taken for this process, without what killed ones left. Raises `StorageError`."""
    remove_leftovers(runs.WORK_PREFIX)
    store = Store(folder)
    mark = take(folder)
    for name in (TABLE_NAME, FOUND_NAME):  # of an earlier one: until this one is complete there is nothing that looks so
        (folder / name).unlink(missing_ok=True)
    if Path(plan.where).is_file():
        _copy(Path(plan.where), folder / SWEEP_NAME)
    _copy(judge.thresholds or DEFAULT_PATH, folder / THRESHOLDS_NAME)
    kept = msgspec.json.format(msgspec.json.encode(Kept(plan, code()))) + b"\n"
    write(folder / PLAN_NAME, lambda partial: partial.write_bytes(kept))
    return mark, store


def take(folder: Path) -> Mark:
    """Take a folder for this process. Raises `StorageError` where another is at work, or nothing can be written."""
    try:
        return Mark(folder / "owner")
    except StorageError:
        if not (folder / "owner").exists() or is_left_over(folder / "owner"):
            raise
        raise StorageError(f"{folder}: another stormgate is at work here; wait for it, or give another --out.") from None


def _copy(source: Path, to: Path) -> None:
    if source.resolve() != to.resolve():
        write(to, lambda partial: partial.write_bytes(source.read_bytes()))


# --- what a folder keeps ----------------------------------------------------------------------------


def code() -> str:
    """A digest of all code that decides what a row has in it."""
    return f"{code_digest()} {judging_code()}"


def read_kept(folder: Path) -> tuple[Plan, Gates]:
    """The plan that a folder is of, and its gates. Raises `UsageError` for no such folder, `EvidenceError` for damage."""
    path = folder / PLAN_NAME
    if not path.is_file():
        raise UsageError(f"{folder}: is not the folder of a sweep or search (it has no {PLAN_NAME}); see results/plans/.")
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.DecodeError) as error:
        raise EvidenceError(
            f"{path}: is damaged ({error}); run its plan again, which simulates only what is not there."
        ) from None
    if kept.code != code():
        raise EvidenceError(f"{folder}: its rows are of other code than this stormgate; run its plan again to have them anew.")
    if not (folder / THRESHOLDS_NAME).is_file():
        raise EvidenceError(f"{folder / THRESHOLDS_NAME}: is not there, so nothing can be judged; run its plan again.")
    return kept.plan, Gates(folder / THRESHOLDS_NAME)


def nothing(folder: Path) -> Execute:
    """Runs nothing: what is missing or damaged is an `EvidenceError`."""

    def execute(jobs: Sequence[Job], store: Store) -> str:
        missing = [job for job in jobs if store.get(job.digest) is None]
        if damaged := [job for job in missing if store.path(job.digest).exists()]:
            first = store.path(damaged[0].digest)
            more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            raise EvidenceError(f"{first}: is damaged{more}; run its plan again, which simulates only what is not there.")
        if missing:
            raise EvidenceError(
                f"{folder}: is not complete, it has {len(jobs) - len(missing)} of {len(jobs)} runs of the same thresholds; "
                "run its plan again, which goes on from there."
            )
        return ""

    return execute


def collect(plan: Plan, points: Sequence[Point], store: Store, judge: Gates) -> dict[int, list[Row]]:
    """The rows of all points that have all of theirs."""
    found: dict[int, list[Row]] = {}
    for point in points:
        wanted = [store.get(runs.job(plan.sweep.engine, point, seed, judge).digest) for seed in seeds(plan)]
        there = [row for row in wanted if row is not None]
        if len(there) == len(wanted):
            found[point.number] = there
    return found


def cut_short(folder: Path, why: str, done: int, count: int) -> CutShortError:
    """What to say when not all runs were done."""
    reason = "interrupted" if why == INTERRUPTED else why or "not all runs were done"
    return CutShortError(f"{folder}: {reason}, with {done} of {count} runs done; the same command goes on from there.")


def _verdicts(points: Sequence[Point], rows: Mapping[int, Sequence[Row]], judge: Gates) -> dict[int, DrillVerdict]:
    return {point.number: judge.together(point.drill, rows[point.number]) for point in points}


# --- files ------------------------------------------------------------------------------------------


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Write a file under another name and put it in place at once. Raises `StorageError`."""
    partial = path.with_name(path.name + ".partial")
    try:
        fill(partial)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); free some space.") from None


def write_tables(swept: Swept) -> None:
    """All that programs read of a sweep. Raises `StorageError`."""
    folder = swept.folder
    write(folder / RUNS_NAME, _one_type_a_column(swept.runs).to_parquet)
    write(folder / TABLE_NAME, _one_type_a_column(swept.table).to_parquet)


def _one_type_a_column(frame: pd.DataFrame) -> pd.DataFrame:
    """Parquet's columns have one type: values of several become words."""
    mixed = [name for name in frame.columns if frame[name].dtype == object and len({type(each) for each in frame[name]}) > 1]
    return frame.astype(dict.fromkeys(mixed, str))
