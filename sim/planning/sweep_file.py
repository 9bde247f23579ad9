"""The definition of a sweep or a search: a typed TOML file with a drill, its points and the number of replications.

name = "fleet_against_recovery"
question = "How long does recovery take, by the size of the fleet?"
drill = "reconnect_storm"            # from the catalogue, or a .toml file in the same folder
design = "grid"                      # or latin_hypercube, one_at_a_time
replications = 10

[set]                                # keys of the drill, the same at all points
"load.events_per_s" = 3.0

[[parameters]]
key = "fleet.clients"                # a key of the drill, as in `drill run --set`
values = [1000, 3000, 10000]

[[parameters]]
key = "model.server.handshake_workers"   # `model.` and a key of the model file
low = 1
high = 16
scale = "log"
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from sim.base.config import put, read_toml, to_struct
from sim.base.errors import UsageError
from sim.drill.model import CheckName, Drill, Name, check
from sim.drill.system_model import SystemModel
from sim.server.settings import Count

EngineName = Literal["virtual", "fleet"]
DesignName = Literal["grid", "latin_hypercube", "one_at_a_time"]
Key = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)+$")]
Value = bool | int | float | str
MODEL = "model."  # prefix of the keys of the system model
MAX_REPLICATIONS = 10_000


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key that varies: a list of values, or a range that includes both bounds."""

    key: Key  # of the drill, or of the system model after `model.`
    values: tuple[Value, ...] = ()  # list of values
    low: int | float | None = None  # between integer bounds, all values are integers
    high: int | float | None = None  # upper bound
    scale: Literal["linear", "log"] = "linear"  # of a range
    steps: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 5  # number of values in a range, for designs that need single values


class Find(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The goal of a search: the largest or smallest number, or the best of `values`, at which all checks of `keep` pass."""

    key: Key  # that is searched
    want: Literal["largest", "smallest", "best"]  # goal of the search
    low: int | float | None = None  # lower bound
    high: int | float | None = None  # upper bound
    values: tuple[Value, ...] = ()  # to compare, for `best`
    by: str = "live_again_95_s"  # the metric that decides which value is best; lower is better
    keep: tuple[CheckName, ...] = ()  # default: all checks of the drill
    tolerance: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.02  # relative to the value, at which the search ends; [ours]
    max_replications: Count = 40  # at one value, while the result is inconclusive; [ours]


class Sweep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file for `stormgate plan sweep` or, with `[find]`, for `stormgate plan find`."""

    name: Name  # of the folder with the result
    question: Annotated[str, msgspec.Meta(min_length=1)]  # heading of the result
    drill: Annotated[str, msgspec.Meta(min_length=1)]  # name, or a file beside this one
    engine: EngineName = "virtual"  # that simulates
    design: DesignName = "grid"  # how the points are chosen
    points: Count = 32  # of a Latin hypercube
    replications: Annotated[int, msgspec.Meta(ge=1, le=MAX_REPLICATIONS)] = 5  # runs at each point
    # Of the first replication (the same at each point), and of the hypercube.
    seed: Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)] = 1
    set: dict[str, Any] = {}  # overrides of the drill at all points
    model: dict[str, Any] = {}  # the content of a model file
    model_file: str = ""  # in the same folder
    parameters: tuple[Parameter, ...] = ()  # keys that vary
    find: Find | None = None  # goal of a search


class Plan(msgspec.Struct, frozen=True):
    """A sweep with its drill and model as parsed tables, to which the values of each point are added."""

    sweep: Sweep
    where: str  # the file, for error messages
    drill: dict[str, Any]
    model: dict[str, Any]

    def variant(self, values: Mapping[str, Value]) -> tuple[Drill, SystemModel]:
        """The drill and the model with these parameter values. Raises `UsageError`."""
        drill, model = _copy(self.drill), _copy(self.model)
        for key, value in values.items():
            target, name = (model, key.removeprefix(MODEL)) if key.startswith(MODEL) else (drill, key)
            put(target, name, value, f"{self.where}: key '{key}'")
        at = ", ".join(f"{key} = {value}" for key, value in values.items())
        where = f"{self.where}: with {at}" if values else self.where
        made = to_struct(drill, Drill, where)
        check(made, where)
        return made, to_struct(model, SystemModel, f"{where}: system model")


def load(path: Path, catalogue: Mapping[str, Path]) -> Plan:
    """Read a sweep file; `catalogue` maps names of drills to files. Raises `UsageError`."""
    sweep = to_struct(read_toml(path), Sweep, str(path))
    return plan(sweep, str(path), catalogue, path.parent)


def plan(sweep: Sweep, where: str, catalogue: Mapping[str, Path], folder: Path = Path()) -> Plan:
    """Load the files that a sweep refers to; relative paths start at `folder`. Raises `UsageError`."""
    _check(sweep, where)
    drill = read_toml(_drill_path(sweep, where, catalogue, folder))
    model = read_toml(folder / sweep.model_file) if sweep.model_file else {}
    for key, value in sweep.set.items():
        put(drill, key, value, f"{where}: key 'set'")
    made = Plan(sweep, where, drill, _merged(model, sweep.model))
    made.variant({})
    return made


def _drill_path(sweep: Sweep, where: str, catalogue: Mapping[str, Path], folder: Path) -> Path:
    if sweep.drill.endswith(".toml"):
        return folder / sweep.drill
    if sweep.drill not in catalogue:
        raise UsageError(
            f"{where}: key 'drill': unknown drill {sweep.drill!r}. Give a .toml file, or one of: {', '.join(catalogue)}."
        )
    return catalogue[sweep.drill]


def _check(sweep: Sweep, where: str) -> None:
    """Raise `UsageError` for errors that the types do not catch."""
    if sweep.model and sweep.model_file:
        raise UsageError(f"{where}: give the table 'model' or the key 'model_file', not both.")
    keys = [parameter.key for parameter in sweep.parameters]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise UsageError(f"{where}: two parameters have the key '{twice[0]}'. Remove one.")
    if not sweep.parameters and sweep.find is None:
        raise UsageError(f"{where}: nothing varies; add a [[parameters]] with its key and values, or a [find].")
    for number, parameter in enumerate(sweep.parameters):
        _check_range(parameter, f"{where}: 'parameters.{number}' ({parameter.key})")
    if sweep.find is not None:
        _check_find(sweep.find, f"{where}: 'find' ({sweep.find.key})")


def _check_range(parameter: Parameter | Find, where: str) -> None:
    low, high = parameter.low, parameter.high
    if bool(parameter.values) == (low is not None or high is not None):
        raise UsageError(f"{where}: give 'values', or both 'low' and 'high'.")
    if len(set(parameter.values)) < len(parameter.values):
        raise UsageError(f"{where}: the list 'values' has a duplicate.")
    if parameter.values:
        return
    if low is None or high is None:
        raise UsageError(f"{where}: give both 'low' and 'high'.")
    if isinstance(low, bool) or isinstance(high, bool) or not math.isfinite(low) or not math.isfinite(high):
        raise UsageError(f"{where}: 'low' and 'high' are {low} and {high}, but must be finite numbers.")
    if low >= high:
        raise UsageError(f"{where}: 'low' ({low:g}) must be below 'high' ({high:g}).")
    if isinstance(parameter, Parameter) and parameter.scale == "log" and low <= 0:
        raise UsageError(f"{where}: 'low' is {low:g}, but a logarithmic scale needs 'low' above 0.")


def _check_find(find: Find, where: str) -> None:
    _check_range(find, where)
    if (find.want == "best") != bool(find.values):
        raise UsageError(f"{where}: the best needs 'values'; the largest or smallest needs 'low' and 'high'.")
    if len(find.values) == 1:
        raise UsageError(f"{where}: the best needs at least two 'values'.")


def _copy(table: Any) -> Any:
    if isinstance(table, dict):
        return {key: _copy(value) for key, value in table.items()}
    return [_copy(value) for value in table] if isinstance(table, list) else table


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two parsed tables as one; `over` wins for a key in both."""
    both = {key: _merged(under[key], value) for key, value in over.items() if isinstance(value, dict) and key in under}
    return {**under, **over, **both}
