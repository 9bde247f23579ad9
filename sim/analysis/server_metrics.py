"""What the runtime said of itself while a drill ran, from its metrics endpoint; kept apart from what clients measured.

A figure that was not served is absent, never zero. Counters count since the runtime's process began, so what is told of them is
their increase; one that went back was begun anew, and everything it shows then has been added since.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sim.protocols.spacetime.metric_names import MEANINGS, PROFILES, is_counter
from sim.record.history import Floats, History
from sim.record.observations import Kind

_HARMLESS = ("drop_sockets",)  # faults that give no runtime a reason to begin anew


@dataclass(frozen=True)
class ServerMetric:
    """One figure over a run: `n` polls had it. `increase` is of counters only; `resets` counts how often one went back."""

    name: str
    first: float
    last: float
    n: int
    increase: float | None = None
    resets: int = 0

    @property
    def meaning(self) -> str:
        """What it really is, where its name says something else."""
        return MEANINGS.get(self.name, "")


@dataclass(frozen=True)
class Polls:
    """How often the endpoint was asked, and why it gave nothing."""

    n: int
    failed: dict[str, int]  # by reason

    @property
    def failures(self) -> int:
        """How many of them gave nothing."""
        return sum(self.failed.values())


def polls(history: History) -> Polls:
    """All polls of a run."""
    rows = history.of(Kind.METRICS_POLLED)
    counts = history.detail_counts(rows)
    return Polls(len(rows), {why: count for why, count in counts.items() if why != "ok"})


def figures(history: History) -> tuple[ServerMetric, ...]:
    """Every figure that was served at least once, by name."""
    return tuple(_figure(name, values) for name, _, values in _series(history))


def absent(history: History, profile: str) -> tuple[str, ...]:
    """What the profile promises but no answer had; all of it when nothing was answered."""
    seen = {name for name, _, _ in _series(history)}
    return tuple(name for name in PROFILES.get(profile, ()) if name not in seen)


def unexplained_resets(history: History) -> list[float]:
    """When counters were seen to have gone back, in seconds, though no fault of the drill had touched the runtime."""
    found = set()
    for name, t, values in _series(history):
        if is_counter(name):
            back = np.flatnonzero(np.diff(values) < 0)
            found |= {float(t[at + 1]) for at in back if not _touched(history, float(t[at]), float(t[at + 1]))}
    return sorted(found)


def _touched(history: History, since_t: float, until_t: float) -> bool:
    """Whether a fault that may make a runtime begin anew acted between two moments."""
    begun, ended = history.of(Kind.FAULT_INJECTED), history.of(Kind.FAULT_REVERTED)
    begun = begun.take(~history.detail_is(begun, _HARMLESS))
    ends = {int(index): float(t) for index, t in zip(ended.attempt, ended.t, strict=True)}
    spans = [(float(t), ends.get(int(index), np.inf)) for index, t in zip(begun.attempt, begun.t, strict=True)]
    return any(began <= until_t and end >= since_t for began, end in spans)


def _figure(name: str, values: Floats) -> ServerMetric:
    first, last = float(values[0]), float(values[-1])
    if not is_counter(name):
        return ServerMetric(name, first, last, len(values))
    steps = np.diff(values)
    return ServerMetric(
        name, first, last, len(values), float(np.where(steps >= 0, steps, values[1:]).sum()), int((steps < 0).sum())
    )


def _series(history: History) -> Iterator[tuple[str, Floats, Floats]]:
    """Each figure's name, and when and as what it was served."""
    rows = history.of(Kind.SERVER_METRIC)
    for code in sorted(np.unique(rows.detail), key=lambda code: history.details[code]):
        own = rows.take(rows.detail == code)
        yield history.details[code], own.t, own.value
