"""Results of sweeps as data frames: per point and metric with its interval, per run, and differences between points."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sim.analysis import statistics
from sim.analysis.metrics import percentile
from sim.analysis.statistics import CONFIDENCE, Mean
from sim.planning.designs import Point
from sim.planning.store import Row

POINT_COLUMNS = ("point", "varies")
_ZERO_IF_MISSING = "disconnects."  # metrics that a run has only if their count is not zero


@dataclass(frozen=True)
class Results:
    """The rows of a sweep, by the number of the point."""

    points: tuple[Point, ...]
    rows: Mapping[int, Sequence[Row]]

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per point and metric; see `summary`."""
        return summary(self.points, self.rows)

    @property
    def runs(self) -> pd.DataFrame:
        """A row per run and metric; see `runs_frame`."""
        return runs_frame(self.points, self.rows)


def runs_frame(points: Sequence[Point], rows: Mapping[int, Sequence[Row]]) -> pd.DataFrame:
    """One row per run and metric: point, varies, the parameters by their keys, seed, metric, unit, value, error.

    `rows` maps the number of a point to its rows. A run without metrics has one row with its error.
    """
    found = [line for point in points for row in rows[point.number] for line in _lines(point, row)]
    columns = [*POINT_COLUMNS, *(points[0].values if points else ()), "seed", "metric", "unit", "value", "error"]
    return pd.DataFrame(found, columns=columns)


def _lines(point: Point, row: Row) -> list[dict[str, object]]:
    own = {"point": point.number, "varies": point.varies, **point.values, "seed": row.seed, "error": row.error}
    if not row.metrics:
        return [{**own, "metric": "", "unit": "", "value": math.nan}]
    return [{**own, "metric": metric.name, "unit": metric.unit, "value": float(metric.value)} for metric in row.metrics]


def summary(points: Sequence[Point], rows: Mapping[int, Sequence[Row]]) -> pd.DataFrame:
    """One row per point and metric: the parameters, metric, unit, n, missing, mean, lower, upper, ...

    `lower` and `upper` are the two-sided 95 % interval of the mean (Student's t); NaN for a single value, or an infinite one.
    `n` runs had a value and `missing` runs had none.
    """
    found = [_summary(point, rows[point.number], name, unit) for point in points for name, unit in _names(rows[point.number])]
    columns = [*POINT_COLUMNS, *(points[0].values if points else ()), "metric", "unit", *_SUMMARY]
    return pd.DataFrame(found, columns=columns)


_SUMMARY = ("n", "missing", "mean", "lower", "upper", "deviation", "min", "median", "p95", "max")


def _names(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((metric.name, metric.unit) for row in rows for metric in row.metrics))


def _summary(point: Point, rows: Sequence[Row], name: str, unit: str) -> dict[str, object]:
    values = np.sort(np.array([value for row in rows if not math.isnan(value := _value(row, name))]))
    mean = statistics.mean(values)
    lowest, highest = (float(values[0]), float(values[-1])) if len(values) else (math.nan, math.nan)
    spread = (lowest, percentile(values, 0.5), percentile(values, 0.95), highest)
    found = (len(values), len(rows) - len(values), mean.value, mean.lower, mean.upper, mean.deviation, *spread)
    own = {"point": point.number, "varies": point.varies, **point.values, "metric": name, "unit": unit}
    return {**own, **dict(zip(_SUMMARY, found, strict=True))}


def _value(row: Row, name: str) -> float:
    absent = 0.0 if name.startswith(_ZERO_IF_MISSING) and row.metrics else math.nan
    return next((metric.value for metric in row.metrics if metric.name == name), absent)


def difference(one: Sequence[Row], other: Sequence[Row], metric: str, confidence: float = CONFIDENCE) -> Mean:
    """How much larger a metric is in `one` than in `other`, compared per seed, so that common randomness cancels.

    NaN without an interval if a run of either has no finite value.
    """
    seeds = {row.seed: _value(row, metric) for row in other}
    pairs = [(_value(row, metric), seeds[row.seed]) for row in one if row.seed in seeds]
    differences = np.array([first - second for first, second in pairs if math.isfinite(first) and math.isfinite(second)])
    if not len(differences) or len(differences) < len(pairs):
        return Mean(math.nan, math.nan, math.nan, math.nan, len(differences))
    return statistics.mean(differences, confidence)


def sensitivity(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """From the summary of a one-at-a-time sweep: base, minimum and maximum per parameter, the widest swing first.

    `is_significant` is false if the intervals of minimum and maximum overlap: such a swing may be chance.
    """
    of = frame[frame["metric"] == metric]
    base = of[of["varies"] == ""]
    swings = [_swing(str(key), pd.concat([base, group])) for key, group in of[of["varies"] != ""].groupby("varies")]
    columns = ["parameter", "base", "min", "at_min", "max", "at_max", "swing", "is_significant"]
    return pd.DataFrame(swings, columns=columns).sort_values("swing", ascending=False, ignore_index=True)


def _swing(key: str, group: pd.DataFrame) -> dict[str, object]:
    means = group["mean"].to_numpy(dtype=float)
    low, high = group.iloc[int(np.nanargmin(means))], group.iloc[int(np.nanargmax(means))]
    return {
        "parameter": key,
        "base": float(means[0]),
        "min": low["mean"],
        "at_min": low[key],
        "max": high["mean"],
        "at_max": high[key],
        "swing": high["mean"] - low["mean"],
        "is_significant": bool(high["lower"] > low["upper"]),
    }
