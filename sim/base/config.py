"""Reads TOML files into typed structs, with one clear sentence for every mistake.

The sentence is built from the type that decodes the file, so it always lists the allowed keys and values.
"""

import copy
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from sim.base import bounded_reads
from sim.base.errors import UsageError

T = TypeVar("T", bound=msgspec.Struct)

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]+)`(?: - at `(?P<path>[^`]+)`)?")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]+)`(?: - at `(?P<path>[^`]+)`)?")
_OTHER = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>[^`]+)`)?$", re.DOTALL)


def read_toml(path: Path) -> dict[str, Any]:
    """Read `path` as TOML; raises `UsageError` for a missing, unreadable or malformed file."""
    try:
        return parse_toml(bounded_reads.file_text(path))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file.") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UsageError(f"{path}: is not valid TOML ({error}).") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; raises `ValueError`, also for tables that are nested too deeply."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def to_struct(data: dict[str, Any], kind: type[T], where: str) -> T:
    """Convert a parsed table to `kind`; raises `UsageError`: a line for each mistake with `where`, key and what is allowed."""
    if infinite := next(_not_finite(data, ""), None):
        raise UsageError(f"{where}: key '{infinite}' is {_value_at(data, infinite)}, but expected a finite number.")
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError:
        raise UsageError("\n".join(_mistakes(data, kind, where))) from None
    except ValueError as error:  # from a struct's own __post_init__ outside of conversion
        raise UsageError(f"{where}: {error}") from None


def set_key(data: dict[str, Any], assignment: str) -> None:
    """Apply one `--set table.key=value` to a parsed table in place; the value is written as in TOML, bare words are strings."""
    key, separator, text = assignment.partition("=")
    if not separator or not all(key.strip().split(".")):
        raise UsageError(f"--set {assignment}: expected KEY=VALUE, for example --set load.events_per_s=50.")
    try:
        value = parse_toml(f"v = {text.strip()}")["v"]
    except ValueError:
        value = text.strip()
    put(data, key.strip(), value, f"--set {assignment}")


def put(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set `table.key` of a parsed table in place, creating missing tables; raises `UsageError`."""
    *parents, last = key.split(".")
    table: Any = data
    for name in parents:
        if isinstance(table, list) and name.isdigit() and int(name) < len(table):
            table = table[int(name)]
        elif isinstance(table, dict):
            table = table.setdefault(name, {})
        else:
            break
    if not isinstance(table, dict):
        raise UsageError(f"{where}: '{'.'.join(parents)}' is not a table.")
    table[last] = value


def _not_finite(data: Any, path: str) -> Iterator[str]:
    """The keys of all infinite or NaN numbers, which TOML can write but no setting allows."""
    if isinstance(data, float) and not math.isfinite(data):
        yield path
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for step, value in parts:
        yield from _not_finite(value, f"{path}.{step}" if path else str(step))


def _mistakes(data: dict[str, Any], kind: type[msgspec.Struct], where: str) -> Iterator[str]:
    """A sentence for each mistake: the wrong key is removed, and the rest is read again. Removing too much never adds one."""
    left, removed = copy.deepcopy(data), set[str]()
    while True:
        try:
            msgspec.convert(left, kind)
        except msgspec.ValidationError as error:
            key = _key_of(str(error))
            if any(key == each or key.startswith(f"{each}.") for each in removed):
                key = key.rpartition(".")[0]  # its table lacks what was removed
            else:
                yield _sentence(str(error), data, kind, where)
            if not (gone := _remove(left, key)):
                return
            removed.add(gone)
        else:
            return


def _key_of(message: str) -> str:
    """The key that a message of msgspec is about; empty for the whole table."""
    match = _UNKNOWN.match(message) or _MISSING.match(message) or _OTHER.match(message)
    assert match is not None
    return _join(match["path"], match.groupdict().get("field") or "")


def _remove(data: dict[str, Any], key: str) -> str:
    """Remove a key, or the list of which it is an entry; returns which, or an empty text if there is no such key."""
    *parents, last = key.split(".")
    table = _value_at(data, ".".join(parents))
    if isinstance(table, list) and parents:
        return _remove(data, ".".join(parents))
    return key if isinstance(table, dict) and table.pop(last, data) is not data else ""


def _sentence(message: str, data: dict[str, Any], kind: type[msgspec.Struct], where: str) -> str:
    if match := _UNKNOWN.match(message):
        fields = ", ".join(_fields_at(data, kind, match["path"]))
        key = _join(match["path"], match["field"])
        return f"{where}: unknown key '{key}'; allowed here: {fields}."
    if match := _MISSING.match(message):
        return f"{where}: key '{_join(match['path'], match['field'])}' is missing."
    match = _OTHER.match(message)
    assert match is not None
    if not match["path"]:
        return f"{where}: {message}."
    found = _value_at(data, match["path"])
    what = match["what"].rstrip(".")
    if match["path"].endswith("_env"):  # it may be the secret itself, in the wrong place
        return f"{where}: key '{_join(match['path'], '')}' is not the name of an environment variable, such as ADMIN_TOKEN."
    if what.startswith("Invalid") and (allowed := _choices_at(data, kind, match["path"])):
        what = f"allowed here: {', '.join(allowed)}"
        return f"{where}: key '{_join(match['path'], '')}' is {found!r}; {what}."
    what = what[:1].lower() + what[1:] if what.startswith(("Expected", "Invalid")) else what
    return f"{where}: key '{_join(match['path'], '')}' is {found!r}, but {what.replace('`', '')}."


def _steps(path: str | None) -> list[str]:
    return re.findall(r"[^.\[\]$]+", path or "")


def _join(path: str | None, field: str) -> str:
    return ".".join([*_steps(path), *([field] if field else [])])


def _value_at(data: Any, path: str) -> Any:
    for step in _steps(path):
        if isinstance(data, list):
            index = int(step) if step.isdigit() else 0
            data = data[index] if index < len(data) else None
        elif isinstance(data, dict):
            data = data.get(step)
    return data


def _fields_at(data: Any, kind: Any, path: str | None) -> list[str]:
    """The keys allowed in the struct at `path`."""
    kind = _type_at(data, kind, _steps(path))
    tag = kind.__struct_config__.tag_field
    return [*([tag] if tag else []), *kind.__struct_encode_fields__]


def _choices_at(data: Any, kind: Any, path: str) -> list[str]:
    """The values or tags allowed at `path` by an enumeration or a tagged union."""
    steps = _steps(path)
    parent = _type_at(data, kind, steps[:-1])
    if isinstance(parent, type):
        parent = get_type_hints(parent).get(steps[-1])
    elif members := [member for member in get_args(parent) if isinstance(member, type)]:
        return [str(member.__struct_config__.tag) for member in members if issubclass(member, msgspec.Struct)]
    return [str(choice) for choice in _literals(parent)]


def _literals(kind: Any) -> Iterator[Any]:
    """The values that a type lists, itself or for the entries of a list or of a table."""
    for part in get_args(kind):
        if isinstance(part, str | int):
            yield part
        else:
            yield from _literals(part)


def _type_at(data: Any, kind: Any, steps: list[str]) -> Any:
    """The type of the value at `steps` in `kind`; the data's tag selects a member of a tagged union."""
    for step in steps:
        if isinstance(data, list):
            data = data[int(step)] if step.isdigit() else data[0]
            kind = get_args(kind)[0] if get_args(kind) else kind
        else:
            data, kind = data.get(step), get_type_hints(kind)[step]
        kind = _pick(kind, data)
    return kind


def _pick(kind: Any, data: Any) -> Any:
    """The member of a union that the data selects."""
    members = [member for member in get_args(kind) if isinstance(member, type) and issubclass(member, msgspec.Struct)]
    for member in members:
        tag = member.__struct_config__.tag
        if len(members) == 1 and not isinstance(data, list):
            return member
        if isinstance(data, dict) and tag is not None and data.get(member.__struct_config__.tag_field) == tag:
            return member
    return kind
