"""A fitted model as a file: a model file (`--model`) with a table `calibration` about its target, date and accuracy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sim.base.atomic_files import write_whole
from sim.base.config import read_toml, to_struct
from sim.base.errors import StorageError, UsageError
from sim.calibration.agreement import Fit, Residual
from sim.calibration.fitting import Estimate
from sim.drill import system_model
from sim.drill.system_model import SystemModel

_HEAD = "# A system model that `stormgate plan calibrate` fitted to a target; for `drill run --predict` and for `--model`."


class About(msgspec.Struct, frozen=True, kw_only=True):
    """The table `calibration`."""

    date: str  # ISO 8601, UTC
    target: str  # its name, never a secret
    target_kind: str
    method: str
    drills: dict[str, int | float] = {}  # sizes of the calibration drills
    not_measured: list[str]  # keys of the model that keep their default
    estimates: dict[str, Estimate] = {}
    residuals: list[Residual]


def write(path: Path, fit: Fit, about: About) -> None:
    """Write model and calibration atomically. Raises `StorageError`."""
    model = msgspec.to_builtins(fit.model)
    tables = (*_lines(model, ()), "", *_lines({"calibration": msgspec.to_builtins(about)}, ()), "")
    text = "\n".join((_HEAD, *tables))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}). Give another file with --out.") from None
    write_whole(path, text.encode(), "give another file with --out")


def read(path: Path) -> tuple[SystemModel, About]:
    """A fitted model and its calibration. Raises `UsageError` for any other file."""
    data = read_toml(path)
    if "calibration" not in data:
        raise UsageError(f"{path}: has no table 'calibration', so it is not a fitted model. See `stormgate plan calibrate`.")
    return system_model.load(path), to_struct(data["calibration"], About, f"{path}: [calibration]")


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """A table as TOML, its own values before its subtables; None is left out."""
    known = {key: value for key, value in table.items() if value is not None}
    below = {key: value for key, value in known.items() if isinstance(value, dict) or _tables(value)}
    values = {key: value for key, value in known.items() if key not in below}
    lines = [f"\n[{'.'.join(map(_key, path))}]"] if path and values else []
    lines += [f"{_key(key)} = {_value(value)}" for key, value in values.items()]
    for key, value in below.items():
        if isinstance(value, dict):
            lines += _lines(value, (*path, key))
        for one in value if isinstance(value, list) else ():
            lines += [f"\n[[{'.'.join(map(_key, (*path, key)))}]]", *(f"{_key(k)} = {_value(v)}" for k, v in one.items())]
    return lines


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else msgspec.json.encode(key).decode()


def _value(value: Any) -> str:
    """A number, text, boolean or list; TOML writes them like JSON."""
    return msgspec.json.encode(value).decode()
