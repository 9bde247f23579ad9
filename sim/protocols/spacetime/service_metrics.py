"""Reading what the services report of themselves: the one place that decides whether a body is usable.

Bodies come from elsewhere and may be anything. What is not served is absent, never zero; text that looks like a
number is ignored; and one impossible number makes the whole body unusable.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from sim.protocols.spacetime.metric_names import PROFILES, STATUS_COUNTERS, is_counter

OK = "ok"
MAX_METRICS = 200
ServedProfile = Literal["full", "pinned", ""]
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,120}")
_WORD = re.compile(r"[!-~]{1,128}")
_DEEPEST = 8  # tables within tables that are looked into; the contract has two
_TABLES = ("mirror", "delivery", "auth_failures")
_FULL_ONLY = frozenset(PROFILES["full"]) - frozenset(PROFILES["pinned"])
_PINNED_ONLY = frozenset(PROFILES["pinned"]) - frozenset(PROFILES["full"])


@dataclass(frozen=True, slots=True)
class Reading:
    """What one body says. `outcome` is `ok`, or no_json, not_metrics, not_status, no_metrics or bad_numbers."""

    outcome: str
    figures: dict[str, float] = field(default_factory=dict)  # finite ones, by their place, such as `delivery.served_messages`
    profile: ServedProfile = ""  # of the metrics endpoint, by what it has and not by what anybody says of it
    generated_at: str = ""  # as it stands there
    revision: str = ""
    notes: tuple[str, ...] = ()


def read_metrics(body: bytes) -> Reading:
    """An answer of the metrics endpoint."""
    try:
        data = decoded(body)
    except ValueError:
        return Reading("no_json")
    numbers = dict(_numbers(data, ""))
    known = [name for name in numbers if name in _FULL_ONLY or name in PROFILES["pinned"]]
    if not isinstance(data, dict) or (data and not known and not any(table in data for table in _TABLES)):
        return Reading("not_metrics")
    figures, notes = _believed(numbers)
    outcome = "bad_numbers" if notes else OK if known else "no_metrics"
    return Reading(outcome, figures, _profile(known), _short(data.get("generated_at")), word(data.get("revision")), notes)


def read_status(body: bytes) -> Reading:
    """An answer of the control service's `/api/status`: its counters by the contract's names."""
    try:
        answer = decoded(body)
    except ValueError:
        return Reading("no_json")
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        return Reading("not_status")
    counters = data.get("counters")
    numbers = dict(_numbers(counters, "")) if isinstance(counters, dict) else {}
    figures, notes = _believed(numbers)
    outcome = "bad_numbers" if notes else OK if any(name in numbers for name in STATUS_COUNTERS) else "no_metrics"
    return Reading(
        outcome, figures, generated_at=_short(data.get("generated_at")), revision=word(data.get("revision")), notes=notes
    )


def revision_of(body: bytes) -> str:
    """The revision that a service gives on its health route; empty where it gives none, or no word."""
    try:
        data = decoded(body)
    except ValueError:
        return ""
    return word(data.get("revision")) if isinstance(data, dict) else ""


def word(value: object) -> str:
    """`value` if it is one printable word, such as a revision's name; else nothing."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ""


def decoded(body: bytes) -> Any:
    """The body as JSON, with the NaN and the infinities that some servers write. Raises `ValueError` for anything else."""
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _numbers(data: Any, path: str, depth: int = 0) -> Iterator[tuple[str, float]]:
    """All numbers by their place, impossible ones included."""
    if isinstance(data, dict):
        for name, value in data.items() if depth < _DEEPEST else ():
            yield from _numbers(value, f"{path}.{name}" if path else str(name), depth + 1)
    elif isinstance(data, int | float) and not isinstance(data, bool) and _NAME.fullmatch(path):
        try:
            yield path, float(data)
        except OverflowError:  # an integer beyond all floats
            yield path, math.inf


def _believed(numbers: dict[str, float]) -> tuple[dict[str, float], tuple[str, ...]]:
    """What may be kept, the promised ones first, and what is wrong with the rest."""
    wrong = {name: why for name, value in numbers.items() if (why := what_is_wrong(name, value))}
    kept = sorted((name for name in numbers if name not in wrong), key=lambda name: not is_promised(name))
    return {name: numbers[name] for name in kept[:MAX_METRICS]}, tuple(f"{name} is {why}" for name, why in wrong.items())


def what_is_wrong(name: str, value: float) -> str:
    """Why a metric cannot have this value; empty where it can. No promised metric is ever below zero."""
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
