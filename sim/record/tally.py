"""What a fleet run counted, instead of a row an observation: a part of its header.

A fleet of a million clients makes a hundred million observations. What recovery is measured by is counted while it happens:
in bins of time, in bins of size, and by fault. What a law needs, every delivery of every client, is not there at all.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray


class Sizes(msgspec.Struct, frozen=True):
    """Samples by size: `counts` of them were at most `upto` each, and no more than a thousandth below it."""

    upto: list[float] = []
    counts: list[int] = []

    @property
    def n(self) -> int:
        """How many samples."""
        return sum(self.counts)

    def samples(self) -> NDArray[np.float64]:
        """All samples, ascending, each at its bin's upper end: never smaller than it was."""
        return np.repeat(np.array(self.upto, np.float64), self.counts)


class Herd(msgspec.Struct, frozen=True):
    """Of `n` backoffs of one attempt number (0: all, in steps), at most `together` lie within a tenth of their nominal step."""

    attempt: int
    n: int
    together: int


class Lives(msgspec.Struct, frozen=True):
    """Of `n` live periods of at least `from_s` seconds that ended in a backoff, after how many it went on counting."""

    from_s: float
    n: int
    missed: int


class Recovery(msgspec.Struct, frozen=True):
    """One fault that disconnected clients; seconds until so many percent were live again, from its end; None for never."""

    fault: str
    index: int
    began_s: float
    ended_s: float
    clients: int
    live_again_s: dict[str, float | None]
    tries_mean: float
    tries_most: int


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. Times are seconds since the run began; series are counts in bins `bin_s` wide."""

    clients: int
    events: int  # of the simulation's queue
    bin_s: float
    series: dict[str, list[int]]
    totals: dict[str, int]
    disconnects: dict[str, int]  # by reason
    peak_connects_per_s: int | None  # from the first fault on, if one began
    recoveries: list[Recovery]
    bootstrap_ms: Sizes  # of reconnects after the first fault, if there were any, else of all
    token_ms: Sizes
    longest_backoff_ms: float | None
    herds: list[Herd]
    lives: list[Lives]
    unconverged: int
    overloaded_at_s: float | None  # when delivery fell so far behind that clients would have been sent away as slow


def sizes(upto: Sequence[float] | NDArray[np.float64], counts: NDArray[np.int64]) -> Sizes:
    """Of all bins those that have something."""
    some = np.flatnonzero(counts)
    return Sizes(np.asarray(upto)[some].tolist(), counts[some].tolist())
