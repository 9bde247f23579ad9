"""Simulated time: SimPy's environment with plain calls in its queue.

A timeout of SimPy costs an event object, a list of callbacks and a closure; a fleet needs one for each frame of each client.
A plain call is an entry of the same queue, in the same order, and nothing else.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.events import NORMAL


class VirtualClock(simpy.Environment):
    """An environment that also runs plain calls. `now` is in seconds."""

    _queue: list[Any]  # SimPy's entries are (moment, priority, number, event), ours (moment, priority, number, do, arguments)

    def call_at(self, moment: float, do: Callable[..., object], *arguments: object) -> None:
        """Call `do(*arguments)` at `moment`, or now if that has passed; calls for one moment keep their order."""
        now = self._now
        heappush(self._queue, (moment if moment > now else now, NORMAL, next(self._eid), do, arguments))

    def step(self) -> None:
        """Run all calls up to the next event of SimPy, and that event."""
        queue = self._queue
        while queue and len(queue[0]) == 5:
            self._now, _, _, do, arguments = heappop(queue)
            do(*arguments)
        super().step()
