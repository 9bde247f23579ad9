"""Counts of a fleet run, kept in its header instead of one row per observation.

A fleet of a million clients makes a hundred million observations, so metrics are counted during the run: per time bin, per size
bin and per fault. Invariants need every delivery of every client, so a fleet run cannot check them.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray


class Sizes(msgspec.Struct, frozen=True):
    """Histogram of samples: `counts` of them were at most `upto` each, and at most a thousandth smaller."""

    upto: list[float] = []
    counts: list[int] = []

    @property
    def n(self) -> int:
        """Number of samples."""
        return sum(self.counts)

    def samples(self) -> NDArray[np.float64]:
        """All samples in ascending order, each at the upper end of its bin."""
        return np.repeat(np.array(self.upto, np.float64), self.counts)


class Herd(msgspec.Struct, frozen=True):
    """`together` of the `n` delays of one backoff attempt lie in one window, a tenth of the nominal step wide.

    Attempt 0 stands for all delays, in units of their nominal step.
    """

    attempt: int
    n: int
    together: int

    @property
    def share(self) -> float:
        """Share of delays in the fullest window."""
        return self.together / self.n


class Lives(msgspec.Struct, frozen=True):
    """`n` live periods of at least `from_s` seconds ended in a backoff; after `missed` of them the backoff did not restart."""

    from_s: float
    n: int
    missed: int


class Recovery(msgspec.Struct, frozen=True):
    """Recovery from one fault that disconnected clients: seconds from its end until a percentage was live; None: never."""

    fault: str
    index: int
    began_s: float
    ended_s: float
    clients: int
    live_again_s: dict[str, float | None]
    attempts_mean: float
    attempts_max: int


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """All counts of a run. Times are seconds since the run began; series are counts in bins of `bin_s`."""

    clients: int
    events: int  # of the simulation's queue
    bin_s: float
    series: dict[str, list[int]]
    totals: dict[str, int]
    disconnects: dict[str, int]  # by reason
    peak_connects_per_s: int | None  # after the first fault; None without a fault
    recoveries: list[Recovery]
    bootstrap_ms: Sizes  # of reconnects after the first fault; without any, of all connects
    token_ms: Sizes
    max_backoff_ms: float | None
    herds: list[Herd]
    lives: list[Lives]
    unconverged: int
    overloaded_at_s: float | None  # when delivery was so late that clients would have been evicted as slow consumers


def sizes(upto: Sequence[float] | NDArray[np.float64], counts: NDArray[np.int64]) -> Sizes:
    """Histogram of the bins that are not empty."""
    used = np.flatnonzero(counts)
    return Sizes(np.asarray(upto)[used].tolist(), counts[used].tolist())
