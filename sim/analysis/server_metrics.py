"""Metrics that the service exposed during a run, kept apart from what clients measured.

A metric that the service does not expose is missing, not zero. A counter counts since the service's process started, so its
increase is reported. A counter that went back was reset: its whole value was added after that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sim.record.history import Floats, History
from sim.record.observations import Kind
from sim.service.metric_names import MEANINGS, PROFILES, is_counter

_RESTARTS = ("kill_runtime",)  # faults that restart the service


@dataclass(frozen=True)
class ServerMetric:
    """One metric over a run; `n` polls had it. `increase` and `resets` (how often it went back) apply to counters only."""

    name: str
    first: float
    last: float
    n: int
    increase: float | None = None
    resets: int = 0

    @property
    def meaning(self) -> str:
        """What it measures, where its name is misleading."""
        return MEANINGS.get(self.name, "")


@dataclass(frozen=True)
class Polls:
    """Polls of the metrics endpoint, and the failures by reason."""

    n: int
    failed: dict[str, int]

    @property
    def failures(self) -> int:
        """Number of failed polls."""
        return sum(self.failed.values())


def polls(history: History) -> Polls:
    """All polls of a run."""
    rows = history.of(Kind.METRICS_POLLED)
    counts = history.detail_counts(rows)
    return Polls(len(rows), {why: count for why, count in counts.items() if why != "ok"})


def served(history: History) -> tuple[ServerMetric, ...]:
    """Every metric that was served at least once, sorted by name."""
    return tuple(_metric(name, values) for name, _, values in _series(history))


def absent(history: History, profile: str) -> tuple[str, ...]:
    """The metrics of the profile that no poll had."""
    seen = {name for name, _, _ in _series(history)}
    return tuple(name for name in PROFILES.get(profile, ()) if name not in seen)


def unexplained_resets(history: History) -> list[float]:
    """Times, in seconds, at which a counter went back although no fault can have restarted the service."""
    found = set()
    for name, t, values in _series(history):
        if is_counter(name):
            back = np.flatnonzero(np.diff(values) < 0)
            found |= {float(t[at + 1]) for at in back if not _is_explained(history, float(t[at]), float(t[at + 1]))}
    return sorted(found)


def _is_explained(history: History, since_t: float, until_t: float) -> bool:
    """Whether a fault that restarts the service, or a hook that may, was active between two times."""
    hooked = {index for index, fault in enumerate(history.header.plan) if fault.get("by") == "hook"}
    faults = [fault for fault in history.faults if fault.kind in _RESTARTS or fault.index in hooked]
    return any(fault.start_t <= until_t and fault.end_t >= since_t for fault in faults)


def _metric(name: str, values: Floats) -> ServerMetric:
    first, last = float(values[0]), float(values[-1])
    if not is_counter(name):
        return ServerMetric(name, first, last, len(values))
    steps = np.diff(values)
    return ServerMetric(
        name, first, last, len(values), float(np.where(steps >= 0, steps, values[1:]).sum()), int((steps < 0).sum())
    )


def _series(history: History) -> Iterator[tuple[str, Floats, Floats]]:
    """Name, times and values of each metric."""
    rows = history.of(Kind.SERVER_METRIC)
    for code in sorted(np.unique(rows.detail), key=lambda code: history.details[code]):
        own = rows.take(rows.detail == code)
        yield history.details[code], own.t, own.value
