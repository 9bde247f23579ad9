"""`--predict`: predict each drill with a fitted model before it runs; the report compares prediction and measurement.

Simulated runs are alike, but the speed of a real service varies from run to run. So the simulated servers of the replications
vary as much as the rounds of the calibration drills did, and the predicted interval includes this variation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist, stdev

import numpy as np

from drills.reports.terminal import Several
from sim.analysis.statistics import half_width
from sim.base import bounded_reads
from sim.base.errors import EvidenceError, UsageError
from sim.base.ownership import OwnedFolder
from sim.calibration import files
from sim.calibration.agreement import Pace, pace_of
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.planning import runs
from sim.planning.designs import Point
from sim.planning.runs import WORK_PREFIX
from sim.planning.store import Row, Store
from sim.record.predictions import Predicted, Prediction
from sim.record.run_header import RunHeader, write_header

ENGINE = "virtual"
REPLICATIONS = 5  # [ours]
RECOVERY = (
    *("live_again_50_s", "live_again_95_s", "live_again_99_s", "caught_up_99_s", "peak_connects_per_s", "connects_attempted"),
    *("attempts_per_client_mean", "bootstrap_p95_ms", "publish_to_apply_p95_ms"),
)


@dataclass(frozen=True)
class Predictor:
    """A fitted model that is ready to predict."""

    path: Path
    model: SystemModel
    fitted_to: str
    pace: Pace

    def predict(self, drill: Drill, seed: int, workers: int | None = None) -> Prediction:
        """Simulate a drill with several seeds. Raises `EvidenceError` if it is interrupted."""
        spread = self.pace.spread if self.pace.is_known else 0.0
        servers = [self.model.slowed(math.exp(score * spread)) for score in _scores()]
        points = [Point(0, {}, drill, server) for server in servers]
        jobs = [runs.job(ENGINE, point, seed + n, runs.MetricsOnly()) for n, point in enumerate(points)]
        with OwnedFolder(WORK_PREFIX) as folder, Several(f"predicting {drill.name}", [job.name for job in jobs]) as progress:
            store = Store(Path(folder))
            if why := runs.run(jobs, store, progress, workers):
                raise EvidenceError(f"drill '{drill.name}' could not be predicted: {why}.")
            rows = [row for job in jobs if (row := store.get(job.digest)) is not None]
        found = [predicted(name, rows, self.pace) for name in RECOVERY]
        return Prediction(
            model=f"{self.path.name}, fitted to {self.fitted_to}",
            model_sha256=bounded_reads.file_sha256(self.path),
            engine=ENGINE,
            replications=REPLICATIONS,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            predicted=tuple(each for each in found if each is not None),
            not_predicted=tuple(name for name, each in zip(RECOVERY, found, strict=True) if each is None),
        )


def predictor(path: Path | None, target: str, out: Path) -> Predictor:
    """Read the model of a file, or the one that `plan calibrate` wrote for this target. Raises `UsageError`."""
    path = path or calibration_path(out, target)
    if not path.is_file():
        raise UsageError(
            f"--predict: there is no model fitted to '{target}' ({path}); make one by "
            f"`stormgate plan calibrate --target {target}`, or give one with --model."
        )
    model, about = files.read(path)
    return Predictor(path, model, f"{about.target} on {about.date}", pace_of(about.residuals))


def calibration_path(out: Path, target: str) -> Path:
    """The default path of a target's fitted model."""
    name = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in target)
    return out / "calibrations" / f"{name}.toml"


def check(drill: Drill) -> None:
    """Raise `UsageError` for a drill that cannot be predicted because it cannot be simulated."""
    if drill.variants:
        raise UsageError(f"--predict: drill '{drill.name}' compares variants and has no recovery to predict; leave it out.")
    runs.check(ENGINE, drill)


def keep(folder: Path, header: RunHeader, prediction: Prediction) -> None:
    """Write a prediction into the header of its run. Raises `StorageError`."""
    header.prediction = prediction
    write_header(folder, header)


def _scores() -> list[float]:
    """Standard normal scores, one per replication: quantiles at the middles of equal shares, scaled to a deviation of 1."""
    places = [NormalDist().inv_cdf((n + 0.5) / REPLICATIONS) for n in range(REPLICATIONS)]
    return [place / stdev(places) for place in places]


def predicted(name: str, rows: Sequence[Row], pace: Pace) -> Predicted | None:
    """The geometric mean of all runs, and the 95 % interval of the next run, by Student's t on logarithms.

    `rows` are runs from the fastest to the slowest server that `pace` allows. If a run has no value, the result is the value of
    the fitted server (the middle run) without an interval. It is None if that run has no value either.
    """
    found = [next((each for each in row.metrics if each.name == name), None) for row in rows]
    values = np.array([math.nan if each is None else each.value for each in found])
    fitted = found[len(found) // 2]
    if fitted is None or not math.isfinite(fitted.value):
        return None
    if not bool(np.isfinite(values).all()):
        return Predicted(name, fitted.unit, fitted.value, None, None)
    if not pace.is_known or not bool((values > 0).all()):
        return Predicted(name, fitted.unit, float(np.mean(values)), None, None)
    logs, n = np.log(values / values[0]), pace.free + 1  # exactly zero if all runs are equal
    middle, factor = float(values[0] * np.exp(logs.mean())), math.exp(half_width(float(logs.std(ddof=1)), n) * math.sqrt(n + 1))
    return Predicted(name, fitted.unit, middle, middle / factor, middle * factor)
