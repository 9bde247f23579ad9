"""A sweep in one call, for notebooks: what varies, how often, and a table of what came of it.

Runs are kept in a folder, so that a cell that is run again, or with one more value, only simulates what is new.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sim.base.errors import EvidenceError
from sim.planning import designs, runs, sizes, sweeps, tables
from sim.planning.curves import Curves
from sim.planning.designs import Point
from sim.planning.runs import Job
from sim.planning.store import Row, Store
from sim.planning.sweeps import DesignName, EngineName, Parameter, Sweep, Value
from sim.plots import planning
from sim.plots.style import ShownMetric
from sim.record.history import Floats

KEPT = Path("../results/plans/notebooks")  # as seen from the notebooks' folder
_CURVE_S = 20.0


@dataclass(frozen=True)
class Study:
    """A sweep that is done."""

    points: tuple[Point, ...]
    rows: Mapping[int, Sequence[Row]]
    curves: Curves

    @property
    def table(self) -> pd.DataFrame:
        """A row for each point and measure; see `tables.tidy`."""
        return tables.tidy(self.points, self.rows)

    @property
    def runs(self) -> pd.DataFrame:
        """A row for each measure of each run; see `tables.runs_frame`."""
        return tables.runs_frame(self.points, self.rows)

    def curve(self, **values: Value) -> tuple[Floats, Floats]:
        """The recovery curves at the one point that has these values, by the last part of their keys (`clients=300`)."""
        found = [point for point in self.points if all(_value(point, name) == value for name, value in values.items())]
        if len(found) != 1:
            raise ValueError(f"{len(found)} points have {values}; name one")
        return self.curves.read(self.rows[found[0].number])


def study(
    drill: Path,
    over: Mapping[str, Sequence[Value]],
    *,
    fixed: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    replications: int = 5,
    engine: EngineName = "virtual",
    design: DesignName = "grid",
    curve_s: float = _CURVE_S,
    folder: Path = KEPT,
) -> Study:
    """Run a drill at all combinations of the values in `over`, or at those of another design.

    `fixed` has keys of the drill that are the same everywhere, `model` is as a model file has it. Raises as sweeps do.
    """
    sweep = Sweep(
        name="study",
        question="?",
        drill=str(drill),
        engine=engine,
        design=design,
        replications=replications,
        set=dict(fixed or {}),
        model=dict(model or {}),
        parameters=tuple(Parameter(key=key, values=tuple(values)) for key, values in over.items()),
    )
    plan = sweeps.plan(sweep, str(drill), {})
    points = designs.points(plan)
    curves, store = Curves(curve_s), Store(folder)
    seeds = range(1, replications + 1)
    jobs = runs.jobs(engine, points, seeds, curves)
    if why := runs.run(jobs, store, workers=1 if sizes.is_little(_missing(jobs, store)) else None):
        raise EvidenceError(f"the study was cut short: {why}; run the cell again to go on.")
    return Study(points, {point.number: _rows(engine, point, seeds, curves, store) for point in points}, curves)


def recovery_of(
    clients: int,
    drill: Path,
    key: str,
    values: Sequence[Value],
    *,
    fixed: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    replications: int = 3,
    engine: EngineName = "fleet",
    curve_s: float = _CURVE_S,
    folder: Path = KEPT,
) -> ShownMetric:
    """How one size of fleet comes back, as a figure with a curve for each value of a key; as `study` otherwise."""
    found = study(
        drill,
        {"fleet.clients": (clients,), key: values},
        fixed=fixed,
        model=model,
        replications=replications,
        engine=engine,
        curve_s=curve_s,
        folder=folder,
    )
    curves = {f"{key} = {point.values[key]}": found.curves.read(found.rows[point.number]) for point in found.points}
    return planning.recovery(curves, f"Recovery of {clients:,} clients")


def _rows(engine: str, point: Point, seeds: range, curves: Curves, store: Store) -> list[Row]:
    found = [store.get(runs.job(engine, point, seed, curves).digest) for seed in seeds]
    return [row for row in found if row is not None]


def _missing(jobs: Sequence[Job], store: Store) -> list[Job]:
    return [job for job in jobs if store.get(job.digest) is None]


def _value(point: Point, name: str) -> Value | None:
    return next((value for key, value in point.values.items() if key == name or key.rpartition(".")[2] == name), None)
