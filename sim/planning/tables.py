"""Sweeps as data frames: one row a point and measure, with its interval; one row a run; differences between points."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sim.analysis import statistics
from sim.analysis.metrics import percentile
from sim.analysis.statistics import CONFIDENCE, Mean
from sim.planning.designs import Point
from sim.planning.store import Row

POINT_COLUMNS = ("point", "varies")
_COUNTED_WHEN_SEEN = "disconnects."  # measures that a run has only when there was one


def runs_frame(points: Sequence[Point], rows: Mapping[int, Sequence[Row]]) -> pd.DataFrame:
    """One row for each measure of each run: point, varies, the parameters by their keys, seed, measure, unit, value, trouble.

    `rows` are those of each point by its number. A run without measures has one row, with the trouble that it met.
    """
    found = [line for point in points for row in rows[point.number] for line in _lines(point, row)]
    columns = [*POINT_COLUMNS, *(points[0].values if points else ()), "seed", "measure", "unit", "value", "trouble"]
    return pd.DataFrame(found, columns=columns)


def _lines(point: Point, row: Row) -> list[dict[str, object]]:
    own = {"point": point.number, "varies": point.varies, **point.values, "seed": row.seed, "trouble": row.trouble}
    if not row.metrics:
        return [{**own, "measure": "", "unit": "", "value": math.nan}]
    return [{**own, "measure": metric.name, "unit": metric.unit, "value": float(metric.value)} for metric in row.metrics]


def tidy(points: Sequence[Point], rows: Mapping[int, Sequence[Row]]) -> pd.DataFrame:
    """One row for each point and measure: the parameters, measure, unit, n, missing, mean, lower, upper, ...

    `lower` and `upper` are the mean's two-sided 95 % interval (Student's t), NaN where there is none: of one value, or of an
    infinite one. `n` runs had a value and `missing` had none: a mean of those that are left is not one of all.
    """
    found = [_summary(point, rows[point.number], name, unit) for point in points for name, unit in _names(rows[point.number])]
    columns = [*POINT_COLUMNS, *(points[0].values if points else ()), "measure", "unit", *_SUMMARY]
    return pd.DataFrame(found, columns=columns)


_SUMMARY = ("n", "missing", "mean", "lower", "upper", "deviation", "least", "median", "p95", "most")


def _names(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((metric.name, metric.unit) for row in rows for metric in row.metrics))


def _summary(point: Point, rows: Sequence[Row], name: str, unit: str) -> dict[str, object]:
    values = np.sort(np.array([value for row in rows if not math.isnan(value := _value(row, name))]))
    mean = statistics.mean(values)
    least, most = (float(values[0]), float(values[-1])) if len(values) else (math.nan, math.nan)
    spread = (least, percentile(values, 0.5), percentile(values, 0.95), most)
    summary = (len(values), len(rows) - len(values), mean.value, mean.lower, mean.upper, mean.deviation, *spread)
    own = {"point": point.number, "varies": point.varies, **point.values, "measure": name, "unit": unit}
    return {**own, **dict(zip(_SUMMARY, summary, strict=True))}


def _value(row: Row, name: str) -> float:
    absent = 0.0 if name.startswith(_COUNTED_WHEN_SEEN) and row.metrics else math.nan
    return next((metric.value for metric in row.metrics if metric.name == name), absent)


def difference(one: Sequence[Row], other: Sequence[Row], metric: str, confidence: float = CONFIDENCE) -> Mean:
    """How much larger a measure is in `one` than in `other`, run by run under the same seed: what both have of luck cancels.

    NaN, without an interval, where a run of either has no finite value: then nothing can be said.
    """
    seeds = {row.seed: _value(row, metric) for row in other}
    pairs = [(_value(row, metric), seeds[row.seed]) for row in one if row.seed in seeds]
    differences = np.array([first - second for first, second in pairs if math.isfinite(first) and math.isfinite(second)])
    if not len(differences) or len(differences) < len(pairs):
        return Mean(math.nan, math.nan, math.nan, math.nan, len(differences))
    return statistics.mean(differences, confidence)


def sensitivity(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Of a one-at-a-time sweep's tidy frame: by parameter the base's mean, the least and the greatest, widest swing first.

    `told` is false where the intervals of the least and the greatest overlap: such a swing may be chance.
    """
    of = frame[frame["measure"] == metric]
    base = of[of["varies"] == ""]
    swings = [_swing(str(key), pd.concat([base, group])) for key, group in of[of["varies"] != ""].groupby("varies")]
    columns = ["parameter", "base", "least", "at_least", "greatest", "at_greatest", "swing", "told"]
    return pd.DataFrame(swings, columns=columns).sort_values("swing", ascending=False, ignore_index=True)


def _swing(key: str, group: pd.DataFrame) -> dict[str, object]:
    means = group["mean"].to_numpy(dtype=float)
    low, high = group.iloc[int(np.nanargmin(means))], group.iloc[int(np.nanargmax(means))]
    return {
        "parameter": key,
        "base": float(means[0]),
        "least": low["mean"],
        "at_least": low[key],
        "greatest": high["mean"],
        "at_greatest": high[key],
        "swing": high["mean"] - low["mean"],
        "told": bool(high["lower"] > low["upper"]),
    }
