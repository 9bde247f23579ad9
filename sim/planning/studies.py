"""A sweep in one call, for notebooks: parameters, replications, and a table of the results.

Results are kept in a folder, so a repeated cell simulates only what is new.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.analysis import metrics
from sim.analysis.metrics import Metric
from sim.base.config import read_toml
from sim.base.errors import EvidenceError, UsageError
from sim.drill.model import Drill
from sim.planning import bottlenecks, designs, runs, sweep_file, tables
from sim.planning.designs import Point
from sim.planning.store import Row, Store
from sim.planning.sweep_file import DesignName, EngineName, Parameter, Sweep, Value
from sim.plots.series import clients_live
from sim.record.history import Floats, History
from sim.record.ledger import Ledger

STORE = Path("../results/plans/notebooks")  # relative to the notebooks' folder
CURVE_STEPS = 240  # [ours] more than the pixels of a figure can show
_CURVE_S = 20.0


@dataclass(frozen=True)
class Curves:
    """Evaluates the metrics and the share of live clients over `until_s` seconds from the first fault."""

    until_s: float

    @property
    def key(self) -> str:
        """See `Evaluator`."""
        return f"curves for {self.until_s:g} s"

    def evaluate(self, drill: Drill, history: History) -> tuple[tuple[Metric, ...], bytes]:
        """The metrics, and the curve at `times`; without a curve if no fault was injected."""
        found = (*metrics.run_metrics(history, Ledger(history)), bottlenecks.peak_reached(history))
        t, live = clients_live(history)
        if not math.isfinite(history.first_fault_t) or not len(t):
            return found, b""
        places = np.searchsorted(t, history.first_fault_t + self.times, side="right") - 1
        shares = np.where(places >= 0, live[np.maximum(places, 0)], 0.0) / history.header.clients
        return found, shares.astype(np.float64).tobytes()

    @property
    def times(self) -> Floats:
        """Seconds since the first fault."""
        return np.linspace(0.0, self.until_s, CURVE_STEPS)

    def read(self, rows: Sequence[Row]) -> tuple[Floats, Floats]:
        """The times, and an array with one curve per run that has a fault."""
        return self.times, np.array([np.frombuffer(row.judgement) for row in rows if row.judgement]).reshape(-1, CURVE_STEPS)


@dataclass(frozen=True)
class Study(tables.Results):
    """The results of a sweep, with the curves of its runs."""

    curves: Curves

    def curve(self, **values: Value) -> tuple[Floats, Floats]:
        """The recovery curves at one point, given by values with the last part of their keys (`clients=300`)."""
        found = [point for point in self.points if all(_value(point, name) == value for name, value in values.items())]
        if len(found) != 1:
            raise ValueError(f"{len(found)} points have {values}; give values that only one point has")
        return self.curves.read(self.rows[found[0].number])


def study(
    drill: Path,
    over: Mapping[str, Sequence[Value]],
    *,
    fixed: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    model_file: Path | None = None,
    replications: int = 5,
    engine: EngineName = "virtual",
    design: DesignName = "grid",
    curve_s: float = _CURVE_S,
    folder: Path = STORE,
) -> Study:
    """Simulate a drill at all combinations of the values in `over`, or with another design.

    `fixed` has keys of the drill that are the same at all points; `model` is the content of a model file. A `model_file`, which
    `stormgate plan calibrate` writes, takes its place.
    """
    sweep = Sweep(
        name="study",
        question="?",
        drill=str(drill),
        engine=engine,
        design=design,
        replications=replications,
        set=dict(fixed or {}),
        model=_model(model, model_file),
        parameters=tuple(Parameter(key=key, values=tuple(values)) for key, values in over.items()),
    )
    points = designs.points(sweep_file.plan(sweep, str(drill), {}))
    curves, store = Curves(curve_s), Store(folder)
    seeds = range(1, replications + 1)
    if why := runs.run(runs.jobs(engine, points, seeds, curves), store):
        raise EvidenceError(f"the study was cut short: {why}. Run the cell again to resume.")
    rows = {point.number: store.rows(runs.job(engine, point, seed, curves) for seed in seeds) for point in points}
    return Study(points, rows, curves)


def _model(model: Mapping[str, Any] | None, file: Path | None) -> dict[str, Any]:
    if file is None:
        return dict(model or {})
    if not Path(file).is_file():
        raise UsageError(
            f"{file}: there is no such model file. `stormgate plan calibrate --target NAME` writes one to results/calibrations."
        )
    return {key: value for key, value in read_toml(Path(file)).items() if key != "calibration"}


def _value(point: Point, name: str) -> Value | None:
    return next((value for key, value in point.values.items() if key == name or key.rpartition(".")[2] == name), None)
