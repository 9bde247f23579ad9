"""A sweep: one typed TOML file that says which drill is run at which points, and how often.

name = "fleet_against_recovery"
question = "How long does it take until everyone is back, by the size of the fleet?"
drill = "reconnect_storm"            # of the catalogue, or a .toml file beside this one
design = "grid"                      # or latin_hypercube, one_at_a_time
replications = 10

[set]                                # of the drill, at all points
"load.events_per_s" = 3.0

[[parameters]]
key = "fleet.clients"                # as `drill run --set` has them
values = [1000, 3000, 10000]

[[parameters]]
key = "model.server.handshake_workers"   # as a model file has them, after `model.`
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
MODEL = "model."  # before the keys of the system model
MAX_REPLICATIONS = 10_000


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key that varies: by a list of values, or between two bounds, both included."""

    key: Key
    values: tuple[Value, ...] = ()
    low: int | float | None = None  # where both bounds are whole numbers, so is everything between them
    high: int | float | None = None
    scale: Literal["linear", "log"] = "linear"
    steps: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 5  # between bounds, for designs that need single values


class Find(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is looked for: of a number the largest or smallest, of `values` the best, at which all checks of `keep` pass."""

    key: Key
    want: Literal["largest", "smallest", "best"]
    low: int | float | None = None
    high: int | float | None = None
    values: tuple[Value, ...] = ()
    by: str = "live_again_95_s"  # the measure by which the best is the best: the lower, the better
    keep: tuple[CheckName, ...] = ()  # left out: everything that the drill asks
    tolerance: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.02  # of the value, within which the search ends; [ours]
    max_replications: Count = 40  # at one value, where fewer cannot tell; [ours]


class Sweep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of `stormgate plan sweep` or, with `[find]`, of `stormgate plan find`."""

    name: Name
    question: Annotated[str, msgspec.Meta(min_length=1)]
    drill: Annotated[str, msgspec.Meta(min_length=1)]
    engine: EngineName = "virtual"
    design: DesignName = "grid"
    points: Count = 32  # of a Latin hypercube
    replications: Annotated[int, msgspec.Meta(ge=1, le=MAX_REPLICATIONS)] = 5
    seed: Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)] = (
        1  # of the first replication, the same at each point; and of the hypercube
    )
    set: dict[str, Any] = {}
    model: dict[str, Any] = {}  # as a model file has it
    model_file: str = ""  # beside this one
    parameters: tuple[Parameter, ...] = ()
    find: Find | None = None


class Plan(msgspec.Struct, frozen=True):
    """A sweep with its drill and model as parsed tables, to which each point's values are added."""

    sweep: Sweep
    where: str  # the file, for complaints
    drill: dict[str, Any]
    model: dict[str, Any]

    def variant(self, values: Mapping[str, Value]) -> tuple[Drill, SystemModel]:
        """The drill and model with these values of the parameters. Raises `UsageError`, one sentence."""
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
    """Read a sweep file; `catalogue` has the drills that go by name. Raises `UsageError`, one sentence."""
    sweep = to_struct(read_toml(path), Sweep, str(path))
    return plan(sweep, str(path), catalogue, path.parent)


def plan(sweep: Sweep, where: str, catalogue: Mapping[str, Path], folder: Path = Path()) -> Plan:
    """A sweep with what it refers to; files are looked for in `folder`. Raises `UsageError`."""
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
            f"{where}: key 'drill' is {sweep.drill!r}, but there are: {', '.join(catalogue)}; or give a .toml file."
        )
    return catalogue[sweep.drill]


def _check(sweep: Sweep, where: str) -> None:
    """Raise `UsageError` for what no type can forbid."""
    if sweep.model and sweep.model_file:
        raise UsageError(f"{where}: give the table 'model' or the key 'model_file', not both.")
    keys = [parameter.key for parameter in sweep.parameters]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise UsageError(f"{where}: there are two parameters with the key '{twice[0]}'; one of them is enough.")
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
        raise UsageError(f"{where}: one of the 'values' is there twice.")
    if parameter.values:
        return
    if low is None or high is None:
        raise UsageError(f"{where}: give both 'low' and 'high'.")
    if isinstance(low, bool) or isinstance(high, bool) or not math.isfinite(low) or not math.isfinite(high):
        raise UsageError(f"{where}: 'low' and 'high' are {low} and {high}, but must be finite numbers.")
    if low >= high:
        raise UsageError(f"{where}: 'low' is {low:g} and 'high' is {high:g}, so nothing lies between them.")
    if isinstance(parameter, Parameter) and parameter.scale == "log" and low <= 0:
        raise UsageError(f"{where}: 'low' is {low:g}, but a logarithmic scale begins above 0.")


def _check_find(find: Find, where: str) -> None:
    _check_range(find, where)
    if (find.want == "best") != bool(find.values):
        raise UsageError(f"{where}: the best is looked for among 'values', the largest or smallest between 'low' and 'high'.")
    if len(find.values) == 1:
        raise UsageError(f"{where}: of one value there is no best; give at least two.")


def _copy(table: Any) -> Any:
    if isinstance(table, dict):
        return {key: _copy(value) for key, value in table.items()}
    return [_copy(value) for value in table] if isinstance(table, list) else table


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two parsed tables as one; of a key in both, `over` has the word."""
    both = {key: _merged(under[key], value) for key, value in over.items() if isinstance(value, dict) and key in under}
    return {**under, **over, **both}
