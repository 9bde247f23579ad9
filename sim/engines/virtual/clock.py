"""Simulated time: SimPy's environment, with a cheaper way to schedule plain calls.

A SimPy timeout costs an event object, a list of callbacks and a closure. A fleet needs one for each frame of each client.
A plain call is only an entry in the same queue, in the same order.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.events import NORMAL


class VirtualClock(simpy.Environment):
    """A SimPy environment that also runs plain calls. `now` is in seconds."""

    _queue: list[Any]  # SimPy's entries are (moment, priority, number, event), ours (moment, priority, number, do, arguments)

    def call_at(self, moment: float, do: Callable[..., object], *arguments: object) -> None:
        """Schedule `do(*arguments)` at `moment`, or now if it has passed. At equal moments: first scheduled, first called."""
        now = self._now
        heappush(self._queue, (moment if moment > now else now, NORMAL, next(self._eid), do, arguments))

    def step(self) -> None:
        """Run everything up to and including SimPy's own next event."""
        queue = self._queue
        while queue and len(queue[0]) == 5:
            self._now, _, _, do, arguments = heappop(queue)
            do(*arguments)
        super().step()
