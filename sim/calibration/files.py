"""A fitted model as a file: any model file (`--model`), with a table `calibration` that says of what, when and how well."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

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
    probes: dict[str, int | float] = {}
    not_measured: list[str]  # what kept the model's own default
    estimates: dict[str, Estimate] = {}
    residuals: list[Residual]


def write(path: Path, fit: Fit, about: About) -> None:
    """Write model and calibration, in place at once. Raises `StorageError`."""
    model = msgspec.to_builtins(fit.model)
    tables = (*_lines(model, ()), "", *_lines({"calibration": msgspec.to_builtins(about)}, ()), "")
    text = "\n".join((_HEAD, *tables))
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); give another file with --out.") from None


def read(path: Path) -> tuple[SystemModel, About]:
    """A fitted model and what is known of it. Raises `UsageError` for any other file."""
    data = read_toml(path)
    if "calibration" not in data:
        raise UsageError(f"{path}: has no table 'calibration', so it was fitted to nothing; `plan calibrate` makes one.")
    return system_model.load(path), to_struct(data["calibration"], About, f"{path}: [calibration]")


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """A table as TOML, its own values before its tables; what is None is left out."""
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
    """A number, word, truth or list as TOML has it; JSON's form is TOML's for all of them."""
    return msgspec.json.encode(value).decode()
