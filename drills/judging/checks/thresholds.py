"""Thresholds as operators write them: one table a check in a TOML file, each key checked against what the check takes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from drills import DATA
from sim.base.config import read_toml, to_struct
from sim.base.errors import IllegalMoveError, UsageError
from sim.server.settings import Count, NotNegative, Positive

DEFAULT_PATH = DATA / "thresholds.toml"
Comparator = Literal["<=", "=="]


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One check's number. The optional keys are for the checks that take them."""

    threshold: NotNegative
    comparator: Comparator
    unit: str
    source: str
    comment: str = ""
    minimum_n: Count | None = None  # fewer cannot pass
    live_for_s: Positive | None = None  # how long a client must be live for a live period
    window_s: Positive | None = None  # the worst window of this width counts
    warn: NotNegative | None = None  # a value over this is told, and passes
    long_s: Positive | None = None  # the longer of two windows that must both be over it, the shorter being a twelfth of it
    minimum_events: NotNegative | None = None  # fewer in a window do not count
    budget: Positive | None = None  # the share of errors that counts as 1


class Expected(NamedTuple):
    """What a check takes from the file."""

    unit: str
    comparator: str
    extras: frozenset[str] = frozenset()  # further keys that must be there
    options: frozenset[str] = frozenset()  # and those that may

    def joined(self, other: "Expected | None") -> "Expected":
        """What two checks of one name take together."""
        if other is None:
            return self
        if (self.unit, self.comparator) != (other.unit, other.comparator):
            raise IllegalMoveError(f"checks of one name are decided in {self.unit} and in {other.unit}")
        return self._replace(extras=self.extras | other.extras, options=self.options | other.options)


Thresholds = dict[str, Threshold]
_EXTRAS = ("minimum_n", "live_for_s", "window_s", "warn", "long_s", "minimum_events", "budget")


def load(path: Path, expected: Mapping[str, Expected], is_record: bool = False) -> Thresholds:
    """Read a thresholds file; it must have the `expected` checks (`gate.check`), and no others. Raises `UsageError`.

    A run's own copy (`is_record`) may lack those that were not yet there when it was made; whoever needs one will say so.
    """
    found = _tables(read_toml(path), path)
    if not found:
        raise UsageError(f"{path}: has no thresholds; expected one table a check, such as [{next(iter(expected))}].")
    if unknown := sorted(set(found) - set(expected)):
        raise UsageError(f"{path}: there is no check '{unknown[0]}' that takes a threshold; there are: {', '.join(expected)}.")
    if not is_record and (missing := [name for name in expected if name not in found]):
        raise UsageError(f"{path}: the threshold of '{missing[0]}' is missing; add a table [{missing[0]}].")
    return {name: _checked(found[name], expected[name], f"{path}: [{name}]") for name in expected if name in found}


def _tables(data: dict[str, object], path: Path) -> dict[str, dict[str, object]]:
    tables: dict[str, dict[str, object]] = {}
    for gate, checks in data.items():
        if not isinstance(checks, dict):
            raise UsageError(f"{path}: unknown key '{gate}'; expected one table a check, such as [ux.integrity].")
        for check, table in checks.items():
            if not isinstance(table, dict):
                raise UsageError(f"{path}: key '{gate}.{check}' is {table!r}, but a check's threshold is a table.")
            tables[f"{gate}.{check}"] = table
    return tables


def _checked(table: dict[str, object], expected: Expected, where: str) -> Threshold:
    threshold = to_struct(table, Threshold, where)
    if not math.isfinite(threshold.threshold):
        raise UsageError(f"{where}: key 'threshold' is {threshold.threshold}, but a threshold is a finite number.")
    for key in ("unit", "comparator"):
        if getattr(threshold, key) != getattr(expected, key):
            raise UsageError(
                f"{where}: key '{key}' is {getattr(threshold, key)!r}, but this check is decided in {getattr(expected, key)!r}."
            )
    for key in _EXTRAS:
        value = getattr(threshold, key)
        if value is None and key in expected.extras:
            raise UsageError(f"{where}: key '{key}' is missing; this check needs it.")
        if value is not None and key not in expected.extras | expected.options:
            raise UsageError(f"{where}: key '{key}' is not one this check takes.")
        if value is not None and not math.isfinite(value):
            raise UsageError(f"{where}: key '{key}' is {value}, but a finite number is expected.")
    return threshold
