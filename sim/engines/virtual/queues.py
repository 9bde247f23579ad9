"""Queues in virtual time.

A `Station` is a first-come-first-served queue with c workers, computed at arrival.
With FIFO order and no preemption, the start and end of an arrival's service are known when it arrives. Service starts when the
arrival is there and the first worker is free (Kiefer and Wolfowitz 1955; for one worker Lindley 1952). So a station needs no
events of its own, and costs O(log c) per arrival.
"""

import heapq
from collections import deque
from collections.abc import Callable

from sim.engines.virtual.clock import VirtualClock

NO_LIMIT = 2**31
Done = Callable[[], None]


class Station:
    """A queue with `workers` servers. Times are in seconds of any clock that never goes back."""

    def __init__(self, workers: int) -> None:
        self._free_at = [0.0] * workers
        self._ends: list[float] = []  # end of service of each arrival inside; a heap
        self.arrivals = 0
        self.waited_s = 0.0
        self.served_s = 0.0

    def admit(self, now: float, service_s: float) -> tuple[float, float]:
        """Add an arrival that needs `service_s`; return when its service starts and ends. `now` must not decrease."""
        start = max(now, self._free_at[0])
        end = start + service_s
        heapq.heapreplace(self._free_at, end)
        self.inside(now)  # removes those that have left
        heapq.heappush(self._ends, end)
        self.arrivals += 1
        self.waited_s += start - now
        self.served_s += service_s
        return start, end

    def inside(self, now: float) -> int:
        """Return how many are waiting or being served at `now`."""
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
        return len(self._ends)

    def clear(self, now: float) -> None:
        """Remove all arrivals at once: the server died."""
        self._free_at = [now] * len(self._free_at)
        self._ends.clear()


class Turnstile:
    """A station whose number of places and service time can change; a change also applies to those that wait."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._places = NO_LIMIT
        self._takes_s = 0.0
        self._inside = 0
        self._waiting: deque[Done] = deque()

    def set(self, places: int, takes_s: float) -> None:
        """Change both from now on; an arrival in service keeps the service time that it started with."""
        self._places, self._takes_s = places, takes_s
        self._admit()

    def enter(self, done: Done) -> None:
        """Add an arrival: wait for a place, serve it, then call `done`."""
        self._waiting.append(done)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._inside < self._places:
            self._inside += 1
            self._clock.call_at(self._clock.now + self._takes_s, self._leave, self._waiting.popleft())

    def _leave(self, done: Done) -> None:
        self._inside -= 1
        done()
        self._admit()
