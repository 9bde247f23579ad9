"""The points of a sweep: a grid, a Latin hypercube, or one parameter at a time from the drill's own values."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from sim.base.errors import UsageError
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.planning.sweep_file import MODEL, Parameter, Plan, Value

MAX_POINTS = 100_000  # [ours] a larger design is probably a mistake


@dataclass(frozen=True)
class Point:
    """One combination of values, with its drill and model. `varies`: the key that differs from the base (one at a time)."""

    number: int
    values: Mapping[str, Value]
    drill: Drill
    model: SystemModel
    varies: str = ""

    @property
    def digest(self) -> str:
        """Hex SHA-256 of drill and model; equal points have the same."""
        return hashlib.sha256(msgspec.json.encode([self.drill, self.model], order="deterministic")).hexdigest()


def points(plan: Plan) -> tuple[Point, ...]:
    """All points of a sweep. Raises `UsageError` for a point that cannot be run."""
    sweep = plan.sweep
    if not sweep.parameters:
        raise UsageError(
            f"{plan.where}: has no [[parameters]], so there is nothing to sweep. `stormgate plan find` uses [find]."
        )
    combinations = {"grid": _grid, "latin_hypercube": _hypercube, "one_at_a_time": _one_at_a_time}[sweep.design]
    return tuple(point(plan, values, number, varies) for number, (values, varies) in enumerate(combinations(plan)))


def point(plan: Plan, values: Mapping[str, Value], number: int = 0, varies: str = "") -> Point:
    """A single point. Raises `UsageError`."""
    drill, model = plan.variant(values)
    return Point(number, values, drill, model, varies)


Combinations = Iterator[tuple[dict[str, Value], str]]


def _grid(plan: Plan) -> Combinations:
    ranges = {parameter.key: single_values(parameter) for parameter in plan.sweep.parameters}
    count = math.prod(map(len, ranges.values()))
    if count > MAX_POINTS:
        raise UsageError(
            f"{plan.where}: the grid has {count} points; the maximum is {MAX_POINTS}. A latin_hypercube needs fewer."
        )
    return ((dict(zip(ranges, values, strict=True)), "") for values in itertools.product(*ranges.values()))


def _hypercube(plan: Plan) -> Combinations:
    from scipy.stats import qmc  # imported late: this takes longer than everything else

    sweep = plan.sweep
    sampler = qmc.LatinHypercube(d=len(sweep.parameters), rng=np.random.default_rng(abs(sweep.seed)))
    for shares in sampler.random(sweep.points):
        drawn = zip(sweep.parameters, shares.tolist(), strict=True)
        yield {parameter.key: value_at(parameter, share) for parameter, share in drawn}, ""


def _one_at_a_time(plan: Plan) -> Combinations:
    """The base first, then each parameter alone."""
    base = {parameter.key: own_value(plan, parameter.key) for parameter in plan.sweep.parameters}
    yield base, ""
    for parameter in plan.sweep.parameters:
        for value in single_values(parameter):
            if value != base[parameter.key]:
                yield {**base, parameter.key: value}, parameter.key


def own_value(plan: Plan, key: str) -> Value:
    """The value of the drill or model at a key. Raises `UsageError` if it is not a number, text or boolean."""
    drill, model = plan.variant({})
    found: Any = msgspec.to_builtins(model if key.startswith(MODEL) else drill)
    for step in key.removeprefix(MODEL).split("."):
        if isinstance(found, list):
            found = found[int(step)] if step.isdigit() and int(step) < len(found) else None
        else:
            found = found.get(step) if isinstance(found, dict) else None
    if not isinstance(found, bool | int | float | str):
        raise UsageError(
            f"{plan.where}: the drill has no value at '{key}', which one_at_a_time needs as the base. Add it to [set]."
        )
    return found


def single_values(parameter: Parameter) -> tuple[Value, ...]:
    """The values of a list, or values in a range that include both bounds."""
    if parameter.values:
        return parameter.values
    spread = np.linspace(0.0, 1.0, parameter.steps).tolist()
    return tuple(dict.fromkeys(_between(parameter, share) for share in spread))


def value_at(parameter: Parameter, share: float) -> Value:
    """The value at a share (0 <= share < 1) of a parameter's range; all integers have the same share."""
    if parameter.values:
        return parameter.values[int(share * len(parameter.values))]
    low, high = parameter.low, parameter.high
    if isinstance(low, int) and isinstance(high, int) and parameter.scale == "linear":
        return low + int(share * (high - low + 1))
    return _between(parameter, share)


def _between(parameter: Parameter, share: float) -> Value:
    """Interpolate between the bounds, linear or geometric; an integer between integer bounds."""
    low, high = parameter.low, parameter.high
    assert low is not None
    assert high is not None
    value = low * (high / low) ** share if parameter.scale == "log" else low + share * (high - low)
    return min(max(round(value), int(low)), int(high)) if isinstance(low, int) and isinstance(high, int) else float(value)
