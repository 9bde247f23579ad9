"""The load of each queue of a simulated service over time: how many of its workers are busy, and how many wait for one.

Both are means per bin of time, exact however short a stay is. Only simulated runs have them: a real service is not seen from
inside.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

FINE_S, _MAX_FINE = 0.1, 4000  # [ours] width of a bin while a run is simulated, and the number of bins of a long one
_MAX_BINS = 120  # [ours] kept of each station
FULL = 0.95  # [ours] share of its workers that are busy, from which a station is full

TOKEN_LIMIT, MINTING, HANDSHAKES, DELIVERY, EVENT_LOOP, PUBLISHING = (
    *("token limit", "minting", "handshakes", "delivery", "event loop", "publishing"),
)


class StationLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One queue with its workers over a run, in bins of `bin_s` seconds from the run's start."""

    name: str  # what its workers do
    workers: int  # that serve at the same time
    bin_s: float  # seconds
    busy: list[float]  # workers that serve, mean of each bin
    waiting: list[float]  # how many wait for a worker, mean of each bin
    since_s: float  # the first fault, from when on the next numbers count; 0 without one
    # In bins of a tenth of a second, longer in the fleet engine's longest runs:
    mean_busy: float  # busy workers
    max_busy: float  # the highest mean of busy workers
    max_waiting: float  # the highest mean of those that wait
    full_s: float  # seconds in which at least 95 % of the workers were busy
    places: int = 0  # of a queue with an end, such as the accept queue; 0: it has none
    refused: int = 0  # how often one more found no place
    fine_s: float = FINE_S  # width of the bins of `arrived`, seconds
    arrived: list[int] = []  # arrivals in each such bin; of handshakes alone: the connects that reach the service

    def peak_arrivals_per_s(self, since_s: float) -> float:
        """The most arrivals in one second from a moment on (seconds since the start); NaN if they were not counted."""
        counts = np.array(self.arrived[max(int(since_s / self.fine_s), 0) :])
        if not len(counts):
            return math.nan
        width = max(round(1.0 / self.fine_s), 1)
        sums = np.concatenate(([0], np.cumsum(np.pad(counts, (0, width)))))
        return float((sums[width:] - sums[:-width]).max())


def fine_s(horizon_s: float) -> float:
    """The width of a bin in arrays that are as long as a run may last, of at most `horizon_s` seconds."""
    return max(FINE_S, horizon_s / _MAX_FINE)


class Level:
    """A number that changes at moments in any order, and its mean per bin. Moments are seconds from `begin`."""

    def __init__(self, begin: float = 0.0) -> None:
        self._begin = begin
        self._changes: dict[int, float] = {}  # by bin; one may lie long after the end of a run
        self._parts: dict[int, float] = {}
        self._now = 0.0

    def change(self, at: float, by: float) -> None:
        """Change it by `by` from `at` on."""
        place = (at - self._begin) / FINE_S
        whole = int(place)
        self._changes[whole] = self._changes.get(whole, 0.0) + by
        self._parts[whole] = self._parts.get(whole, 0.0) + by * (1 - (place - whole))

    def between(self, start: float, end: float, by: float = 1.0) -> None:
        """Add `by` from `start` until `end`."""
        if end > start:
            self.change(start, by)
            self.change(end, -by)

    def set(self, at: float, value: float) -> None:
        """Set it to `value` from `at` on; then nothing else may change it."""
        if value != self._now:
            self.change(at, value - self._now)
            self._now = value

    def means(self, until_s: float) -> NDArray[np.float64]:
        """Its mean in each whole bin until then."""
        changes, parts = (np.zeros(_bins(until_s, FINE_S)) for _ in range(2))
        for found, levels in ((changes, self._changes), (parts, self._parts)):
            within = [place for place in levels if place < len(found)]
            found[within] = [levels[place] for place in within]
        return means(changes, parts, FINE_S, until_s)


def means(changes: NDArray[Any], parts: NDArray[Any], bin_s: float, until_s: float) -> NDArray[np.float64]:
    """The mean level of each whole bin until then: what earlier bins left, and the changes in it for the rest of the bin."""
    count = _bins(until_s, bin_s)
    sums = np.zeros(count)
    known = min(count, len(changes))
    sums[:known] = np.cumsum(changes[:known])
    if known and known < count:
        sums[known:] = sums[known - 1]
    found = np.concatenate(([0.0], sums[:-1]))
    found[:known] += parts[:known]
    return np.maximum(found, 0.0)  # a sum of fractions can be a rounding error below


def _bins(until_s: float, bin_s: float) -> int:
    return max(int(until_s / bin_s + 1e-9), 1)


def load(
    name: str,
    workers: int,
    fine: float,
    busy: NDArray[Any],
    waiting: NDArray[Any],
    since_s: float,
    *,
    places: int = 0,
    refused: int = 0,
    arrived: Sequence[int] = (),
) -> StationLoad:
    """A station's load from its means in bins of `fine` seconds, in fewer and wider bins."""
    joined = -(-len(busy) // _MAX_BINS)
    first = min(int(since_s / fine), len(busy) - 1)
    late, queue = busy[first:], waiting[first:]
    return StationLoad(
        name=name,
        workers=workers,
        bin_s=fine * joined,
        busy=_joined(busy, joined),
        waiting=_joined(waiting, joined),
        since_s=since_s,
        mean_busy=round(float(late.mean()), 4),
        max_busy=round(float(late.max()), 4),
        max_waiting=round(float(queue.max()), 3),
        full_s=round(fine * int((late >= FULL * workers).sum()), 4),
        places=places,
        refused=refused,
        fine_s=fine,
        arrived=list(arrived),
    )


def _joined(values: Sequence[float] | NDArray[Any], count: int) -> list[float]:
    starts = np.arange(0, len(values), count)
    sums = np.add.reduceat(np.asarray(values, np.float64), starts)
    return [round(float(value), 4) for value in sums / np.diff([*starts, len(values)])]
