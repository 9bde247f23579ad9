"""What a client or a stream has, as intervals of places (see `sim.record.published`)."""

from dataclasses import dataclass

import numpy as np

from sim.record.history import Ints
from sim.record.published import SPAN


@dataclass(frozen=True)
class Intervals:
    """Half-open intervals `(low, high]` of places; the owner is a (client, stream) pair or a stream."""

    owner: Ints
    low: Ints
    high: Ints

    def gaps(self, owners: Ints) -> "Intervals":
        """For each of `owners`, what no interval covers, from 0 to the last possible place."""
        low = np.concatenate((self.owner * SPAN + self.low, owners * SPAN, owners * SPAN + SPAN - 1))
        high = np.concatenate((self.owner * SPAN + self.high, owners * SPAN, owners * SPAN + SPAN - 1))
        order = np.argsort(low, kind="stable")
        low, reach = low[order], np.maximum.accumulate(high[order])
        open_ = (low[1:] > reach[:-1]) & (low[1:] // SPAN == reach[:-1] // SPAN)
        begin, end = reach[:-1][open_], low[1:][open_]
        known = np.isin(begin // SPAN, owners)
        begin, end = begin[known], end[known]
        return Intervals(begin // SPAN, begin % SPAN, end % SPAN)
