"""Sweeps into their folder: what is missing is simulated, then everything is put together from what is there.

results/plans/<name>/
    sweep.toml       the file as it was
    rows/            one file for each run that is done (`sim.planning.store`)
    runs.parquet     a row for each measure of each run
    sweep.parquet    a row for each point and measure, with its interval: written last, when all runs are done
    SUMMARY.md, sweep.png
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from drills import CATALOG
from drills.planning_gates import Gates
from drills.report import number
from drills.request import SIMULATED as ENGINES_SAY
from drills.terminal import Progress, Several
from drills.verdicts import DrillVerdict
from sim.errors import StorageError, StormgateError, UsageError
from sim.ownership import Mark, remove_leftovers
from sim.planning import designs, runs, sweeps, tables
from sim.planning.designs import Point
from sim.planning.runs import Job
from sim.planning.store import Row, Store
from sim.planning.sweeps import Plan
from sim.pool import INTERRUPTED

EXAMPLES = Path(__file__).with_name("examples")
SWEEP_NAME, RUNS_NAME, TABLE_NAME, SUMMARY_NAME = "sweep.toml", "runs.parquet", "sweep.parquet", "SUMMARY.md"
HEADLINES = ("live_again_95_s", "peak_connects_per_s", "bootstrap_p95_ms")
"""The measures that a summary tells; the tables have all of them."""


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

    @property
    def table(self) -> pd.DataFrame:
        """As `sweep.parquet` has it."""
        return tables.tidy(self.points, self.rows)

    @property
    def runs(self) -> pd.DataFrame:
        """As `runs.parquet` has it."""
        return tables.runs_frame(self.points, self.rows)


Execute = Callable[[Sequence[Job], Store], str]
"""Runs what the store has not yet; returns why it ended early."""


def drills_by_name() -> dict[str, Path]:
    """The drills that a sweep file can name: the catalogue's and the examples."""
    return {path.stem: path for folder in (CATALOG, EXAMPLES) for path in sorted(folder.glob("*.toml"))}


def load(path: Path) -> Plan:
    """Read a sweep file. Raises `UsageError`."""
    return sweeps.load(path, drills_by_name())


def on_all_cores(name: str, workers: int | None = None) -> Execute:
    """Runs in processes of this machine, with progress."""

    def execute(jobs: Sequence[Job], store: Store) -> str:
        missing = [job for job in jobs if store.get(job.digest) is None]
        with Several(name, [job.name for job in missing]) as progress:
            return runs.run(missing, store, progress, workers)

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
    points = designs.points(plan)
    jobs = runs.jobs(plan.sweep.engine, points, seeds(plan), judge)
    folder = folder_of(out, plan)
    mark, store = open_folder(folder, plan)
    try:
        why = execute(jobs, store)
        rows = collect(plan, points, store, judge)
        if why or len(rows) < len(points):
            raise cut_short(folder, why, len([job for job in jobs if store.get(job.digest)]), len(jobs))
        swept = Swept(plan, folder, points, rows, _verdicts(points, rows, judge))
        _write(swept)
    finally:
        mark.remove()
    return swept


def folder_of(out: Path, plan: Plan) -> Path:
    """Where all lies that came of a sweep or a search."""
    return out / "plans" / plan.sweep.name


def seeds(plan: Plan, count: int | None = None) -> range:
    """The seeds of the replications, the same at every point."""
    return range(plan.sweep.seed, plan.sweep.seed + (count or plan.sweep.replications))


def open_folder(folder: Path, plan: Plan) -> tuple[Mark, Store]:
    """A plan's folder, taken for this process, without what killed ones left. Raises `StorageError`."""
    remove_leftovers(runs.WORK_PREFIX)
    store = Store(folder)
    try:
        mark = Mark(folder / "owner")
    except StorageError:
        raise StorageError(f"{folder}: another stormgate is at work here; wait for it, or give another --out.") from None
    if Path(plan.where).is_file():
        write(folder / SWEEP_NAME, lambda partial: partial.write_bytes(Path(plan.where).read_bytes()))
    (folder / TABLE_NAME).unlink(missing_ok=True)  # of an earlier sweep: until this one is complete there is no table
    return mark, store


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
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); free some space.") from None


def _write(swept: Swept) -> None:
    folder = swept.folder
    write(folder / RUNS_NAME, _one_type_a_column(swept.runs).to_parquet)
    write(folder / SUMMARY_NAME, lambda partial: partial.write_text(markdown(swept), encoding="utf-8"))
    write(folder / TABLE_NAME, _one_type_a_column(swept.table).to_parquet)


def _one_type_a_column(frame: pd.DataFrame) -> pd.DataFrame:
    """Parquet's columns have one type: values of several become words."""
    mixed = [name for name in frame.columns if frame[name].dtype == object and len({type(each) for each in frame[name]}) > 1]
    return frame.astype(dict.fromkeys(mixed, str))


def lines(swept: Swept) -> tuple[list[str], list[list[str]]]:
    """A table for people: the heads, and a line a point."""
    keys = list(swept.points[0].values)
    table = swept.table.set_index(["point", "measure"])
    known = [name for name in HEADLINES if name in set(table.index.get_level_values("measure"))]
    body = []
    for point in swept.points:
        told = [estimate(table.loc[[(point.number, name)]]) if (point.number, name) in table.index else "-" for name in known]
        body.append([*(str(point.values[key]) for key in keys), str(swept.verdicts[point.number].status), *told])
    return [*keys, "gates", *known], body


def estimate(found: pd.DataFrame) -> str:
    """A mean with its interval, and how many runs had no value, of a line of the table."""
    row = found.iloc[0]
    mean, lower, upper = (float(row[name]) for name in ("mean", "lower", "upper"))
    interval = f" ({number(lower)}..{number(upper)})" if math.isfinite(lower) else ""
    return f"{number(mean)}{interval}" + (f" without {int(row['missing'])} runs" if row["missing"] else "")


def markdown(swept: Swept) -> str:
    """`SUMMARY.md`."""
    sweep = swept.plan.sweep
    heads, body = lines(swept)
    said = [
        f"# {sweep.name}",
        sweep.question,
        f"Drill `{sweep.drill}` by the engine {sweep.engine}: {len(swept.points)} points ({sweep.design}), each under the "
        f"{sweep.replications} seeds from {sweep.seed} on. {ENGINES_SAY[sweep.engine]} "
        "Behind each mean stands its 95 % interval over replications (Student's t).",
        "\n".join(_row(cells) for cells in (heads, ["---"] * len(heads), *body)),
        *_troubles(swept),
    ]
    return "\n\n".join(said) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _troubles(swept: Swept) -> list[str]:
    """Points with runs that never ended, in sentences."""
    troubled = {number: [row.trouble for row in rows if row.trouble] for number, rows in swept.rows.items()}
    return [f"Point {number}: {len(why)} runs have no measures: {why[0]}" for number, why in troubled.items() if why]


def read_table(folder: Path) -> pd.DataFrame:
    """The table of a complete sweep. Raises `UsageError` where there is none."""
    path = folder / TABLE_NAME
    if not path.is_file():
        raise UsageError(f"{path}: there is none, so this is no complete sweep; run `stormgate plan sweep` on its file.")
    return pd.read_parquet(path)


def say(text: str) -> None:
    """A note that is no verdict."""
    print(f"note: {text}", file=sys.stderr)
