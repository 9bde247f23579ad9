"""The thresholds file: one TOML table per check, each key checked against the check's declaration."""

from pathlib import Path

import msgspec

from drills import DATA
from drills.judging.checks import registry
from drills.judging.checks.specs import CheckSpec, Comparator, Expected
from sim.base.config import read_toml, to_struct
from sim.base.errors import UsageError
from sim.server.settings import Count, NotNegative, Positive

DEFAULT_PATH = DATA / "thresholds.toml"


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The threshold of one check. The optional keys are for the checks that use them."""

    threshold: NotNegative
    comparator: Comparator
    unit: str
    source: str
    comment: str = ""
    minimum_n: Count | None = None  # with fewer samples it cannot pass
    live_for_s: Positive | None = None  # how long a client must be live for a live period
    window_s: Positive | None = None  # the width of the window; the worst one counts
    warn: NotNegative | None = None  # a passing value over this is reported as a warning
    long_s: Positive | None = None  # the longer of two spans that must both exceed the threshold; the shorter is a twelfth
    minimum_events: NotNegative | None = None  # a window with fewer events does not count
    budget: Positive | None = None  # the error ratio that is a burn rate of 1


Thresholds = dict[str, Threshold]
_FURTHER_KEYS = ("minimum_n", "live_for_s", "window_s", "warn", "long_s", "minimum_events", "budget")


def load_thresholds(path: Path = DEFAULT_PATH, is_record: bool = False) -> Thresholds:
    """Read a thresholds file. It must have an entry for each check that takes a threshold, and no other. Raises `UsageError`.

    A run's own copy (`is_record`) may lack checks that are newer than the run. A run check and a window check with the same
    name share one threshold.
    """
    found, expected = _tables(read_toml(path), path), registry.expected()
    if not found:
        raise UsageError(f"{path}: is empty; expected one table per check, such as [{next(iter(expected))}].")
    if unknown := sorted(set(found) - set(expected)):
        raise UsageError(f"{path}: unknown check '{unknown[0]}'; checks with a threshold are: {', '.join(expected)}.")
    if not is_record and (missing := [name for name in expected if name not in found]):
        raise UsageError(f"{path}: the threshold of '{missing[0]}' is missing; add a table [{missing[0]}].")
    return {name: _checked(found[name], expected[name], f"{path}: [{name}]") for name in expected if name in found}


def says(spec: CheckSpec, threshold: Threshold) -> str:
    """The threshold in words, such as `p95 of bootstrap <= 600 ms`."""
    is_share = spec.unit == "ratio"
    limit = f"{threshold.threshold * 100:g} %" if is_share else f"{threshold.threshold:g} {spec.unit}"
    what = f"p95 of {spec.measures}" if spec.method.startswith("p95") else spec.measures
    return f"{what} {threshold.comparator} {limit}"


def _tables(data: dict[str, object], path: Path) -> dict[str, dict[str, object]]:
    tables: dict[str, dict[str, object]] = {}
    for gate, checks in data.items():
        if not isinstance(checks, dict):
            raise UsageError(f"{path}: unknown key '{gate}'; expected one table per check, such as [ux.integrity].")
        for check, table in checks.items():
            if not isinstance(table, dict):
                raise UsageError(f"{path}: key '{gate}.{check}' is {table!r}, but a check's threshold is a table.")
            tables[f"{gate}.{check}"] = table
    return tables


def _checked(table: dict[str, object], expected: Expected, where: str) -> Threshold:
    threshold = to_struct(table, Threshold, where)
    for key in ("unit", "comparator"):
        if getattr(threshold, key) != getattr(expected, key):
            raise UsageError(
                f"{where}: key '{key}' is {getattr(threshold, key)!r}, but this check is decided in {getattr(expected, key)!r}."
            )
    for key in _FURTHER_KEYS:
        value = getattr(threshold, key)
        if value is None and key in expected.keys:
            raise UsageError(f"{where}: key '{key}' is missing; add it, because this check needs it.")
        if value is not None and key not in (*expected.keys, *expected.optional_keys):
            raise UsageError(f"{where}: key '{key}' is unknown for this check; remove it.")
    return threshold
