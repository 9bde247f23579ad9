"""Predictions of a run's metrics, made with a fitted model before the run and kept in its header for comparison."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec


class Predicted(msgspec.Struct, frozen=True):
    """Prediction of one metric: the median of simulated runs and the 95 % interval of the next run (null: unknown)."""

    metric: str
    unit: str
    value: float
    lower: float | None
    upper: float | None


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of all metrics of one drill."""

    model: str  # name of the model file, and the target it was fitted to
    model_sha256: str
    engine: str
    replications: int
    made_at: str  # ISO 8601, UTC
    predicted: tuple[Predicted, ...]
    not_predicted: tuple[str, ...] = ()  # metrics without a value in the simulation


@dataclass(frozen=True)
class Compared:
    """One metric, predicted and measured. `error` is (predicted - measured) / measured, NaN without a measured value."""

    metric: str
    unit: str
    predicted: float
    interval: tuple[float, float] | None
    measured: float
    error: float


def compare(prediction: Prediction, measured: Mapping[str, float]) -> tuple[Compared, ...]:
    """Compare each predicted metric with its measured value."""
    return tuple(_compared(each, measured.get(each.metric, math.nan)) for each in prediction.predicted)


def _compared(one: Predicted, measured: float) -> Compared:
    interval = None if one.lower is None or one.upper is None else (one.lower, one.upper)
    error = (one.value - measured) / measured if math.isfinite(measured) and measured else math.nan
    return Compared(one.metric, one.unit, one.value, interval, measured, error)
