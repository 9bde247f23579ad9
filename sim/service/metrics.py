"""Reader of the metrics and status that the services report. Only this module decides whether a body is usable.

A body may have any content. A metric that the service does not expose is missing, not zero. Text that looks like a
number is ignored. One impossible number makes the whole body unusable.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from sim.service.forms import HealthForm, MetricsForm, ServiceForms, StatusForm
from sim.service.metric_names import PROFILES, STATUS_COUNTERS, is_counter
from sim.service.templates import find

OK = "ok"
_MOCK_FORMS = ServiceForms()
MAX_METRICS = 200
ServedProfile = Literal["full", "pinned", ""]
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,120}")
_WORD = re.compile(r"[!-~]{1,128}")
_DEEPEST = 8  # levels of nested tables that are read; the contract has two
_TABLES = ("mirror", "delivery", "auth_failures")
_FULL_ONLY = frozenset(PROFILES["full"]) - frozenset(PROFILES["pinned"])
_PINNED_ONLY = frozenset(PROFILES["pinned"]) - frozenset(PROFILES["full"])


@dataclass(frozen=True, slots=True)
class Reading:
    """The content of one body. `outcome` is `ok`, or no_json, not_metrics, not_status, no_metrics or bad_numbers."""

    outcome: str
    figures: dict[str, float] = field(default_factory=dict)  # finite numbers by path, such as `delivery.served_messages`
    profile: ServedProfile = ""  # of the metrics endpoint, by the metrics that the body has
    generated_at: str = ""  # as in the body
    revision: str = ""
    notes: tuple[str, ...] = ()


def read_metrics(body: bytes, form: MetricsForm = _MOCK_FORMS.metrics) -> Reading:
    """Read an answer of the metrics endpoint."""
    try:
        data = decoded(body)
    except ValueError:
        return Reading("no_json")
    if form.metrics:
        return _mapped(data, form)
    numbers = dict(_numbers(data, ""))
    known = [name for name in numbers if name in _FULL_ONLY or name in PROFILES["pinned"]]
    if not isinstance(data, dict) or (data and not known and not any(table in data for table in _TABLES)):
        return Reading("not_metrics")
    figures, notes = _believed(numbers)
    outcome = "bad_numbers" if notes else OK if known else "no_metrics"
    return Reading(outcome, figures, _profile(known), _short(find(data, form.generated_at)), word(data.get("revision")), notes)


def _mapped(data: Any, form: MetricsForm) -> Reading:
    """Read the metrics at the pointers of a form."""
    found = {name: find(data, pointer) for name, pointer in form.metrics.items()}
    figures, notes = _believed({name: number for name, value in found.items() for _, number in _numbers(value, name)})
    outcome = "bad_numbers" if notes else OK if figures else "no_metrics"
    return Reading(outcome, figures, generated_at=_short(find(data, form.generated_at)), notes=notes)


def read_status(body: bytes, form: StatusForm = _MOCK_FORMS.status) -> Reading:
    """Read the control service's status: its revision, and its counters by the contract's names."""
    try:
        answer = decoded(body)
    except ValueError:
        return Reading("no_json")
    counters, revision, made = (find(answer, pointer) for pointer in (form.counters, form.revision, form.generated_at))
    if not isinstance(find(answer, form.counters.rpartition("/")[0]), dict):
        return Reading("not_status")
    numbers = dict(_numbers(counters, "")) if isinstance(counters, dict) else {}
    figures, notes = _believed(numbers)
    outcome = "bad_numbers" if notes else OK if any(name in numbers for name in STATUS_COUNTERS) else "no_metrics"
    return Reading(outcome, figures, generated_at=_short(made), revision=word(revision), notes=notes)


def revision_of(body: bytes, form: HealthForm = _MOCK_FORMS.health) -> str:
    """Return the runtime's revision in an answer; empty if it is missing or not a word."""
    try:
        return word(find(decoded(body), form.revision))
    except ValueError:
        return ""


def word(value: object) -> str:
    """Return `value` if it is one printable word, such as a revision's name; otherwise an empty text."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ""


def decoded(body: bytes) -> Any:
    """Decode JSON, including the NaN and infinities that some servers write. Raises `ValueError` for anything else."""
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _numbers(data: Any, path: str, depth: int = 0) -> Iterator[tuple[str, float]]:
    """Yield all numbers with their path, including impossible ones."""
    if isinstance(data, dict):
        for name, value in data.items() if depth < _DEEPEST else ():
            yield from _numbers(value, f"{path}.{name}" if path else str(name), depth + 1)
    elif isinstance(data, int | float) and not isinstance(data, bool) and _NAME.fullmatch(path):
        try:
            yield path, float(data)
        except OverflowError:  # an integer too large for a float
            yield path, math.inf


def _believed(numbers: dict[str, float]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return at most `MAX_METRICS` valid numbers, the contract's metrics first, and the errors of invalid ones."""
    wrong = {name: why for name, value in numbers.items() if (why := what_is_wrong(name, value))}
    kept = sorted((name for name in numbers if name not in wrong), key=lambda name: not is_promised(name))
    return {name: numbers[name] for name in kept[:MAX_METRICS]}, tuple(f"{name} is {why}" for name, why in wrong.items())


def what_is_wrong(name: str, value: float) -> str:
    """Return why a metric cannot have this value; empty if it can. Counters and the contract's metrics are never negative."""
    if not math.isfinite(value):
        return "not a finite number"
    return f"{value:g}, which it cannot be" if value < 0 and (is_counter(name) or is_promised(name)) else ""


def is_promised(name: str) -> bool:
    """Whether the contract names this metric."""
    return name in _FULL_ONLY or name in PROFILES["pinned"] or name in STATUS_COUNTERS


def _profile(known: list[str]) -> ServedProfile:
    if any(name in _FULL_ONLY for name in known):
        return "full"
    return "pinned" if any(name in _PINNED_ONLY for name in known) else ""


def _short(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= 64 and value.isprintable() else ""
