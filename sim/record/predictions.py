"""What a fitted model foretold of a run before it began: kept in the run's header, so that it can be held against the run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec


class Predicted(msgspec.Struct, frozen=True):
    """One measure: the middle of simulated runs, and where the next run is expected with 95 % (null: unknown)."""

    metric: str
    unit: str
    value: float
    lower: float | None
    upper: float | None


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """All of one drill."""

    model: str  # the file's name, and what it was fitted to
    model_sha256: str
    engine: str  # that simulated
    replications: int
    made_at: str  # ISO 8601, UTC
    predicted: tuple[Predicted, ...]
    not_predicted: tuple[str, ...] = ()  # measures of which the lane as it was fitted had no value


@dataclass(frozen=True)
class Compared:
    """One measure as it was foretold and as it was. `error` is (predicted - measured) / measured; NaN where there is none."""

    metric: str
    unit: str
    predicted: float
    interval: tuple[float, float] | None
    measured: float
    error: float


def compare(prediction: Prediction, measured: Mapping[str, float]) -> tuple[Compared, ...]:
    """Every measure that was foretold, beside what was measured by its name."""
    return tuple(_compared(each, measured.get(each.metric, math.nan)) for each in prediction.predicted)


def _compared(one: Predicted, measured: float) -> Compared:
    interval = None if one.lower is None or one.upper is None else (one.lower, one.upper)
    error = (one.value - measured) / measured if math.isfinite(measured) and measured else math.nan
    return Compared(one.metric, one.unit, one.value, interval, measured, error)
