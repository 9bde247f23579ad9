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
from sim.record import stations
from sim.record.stations import Level, StationLoad

NO_LIMIT = 2**31
Done = Callable[[], None]


class Station:
    """A queue with `workers` servers. Times are in seconds of any clock that never goes back."""

    def __init__(self, workers: int, begin: float = 0.0) -> None:
        self._free_at = [0.0] * workers
        self._inside: list[tuple[float, float]] = []  # when the service of each arrival inside ends and starts; a heap
        self._busy, self._waiting = Level(begin), Level(begin)
        self.arrivals = 0
        self.waited_s = 0.0
        self.served_s = 0.0

    def admit(self, now: float, service_s: float) -> tuple[float, float]:
        """Add an arrival that needs `service_s`; return when its service starts and ends. `now` must not decrease."""
        start = max(now, self._free_at[0])
        end = start + service_s
        heapq.heapreplace(self._free_at, end)
        self.inside(now)  # removes those that have left
        heapq.heappush(self._inside, (end, start))
        self._waiting.between(now, start)
        self._busy.between(start, end)
        self.arrivals += 1
        self.waited_s += start - now
        self.served_s += service_s
        return start, end

    def inside(self, now: float) -> int:
        """Return how many are waiting or being served at `now`."""
        while self._inside and self._inside[0][0] <= now:
            heapq.heappop(self._inside)
        return len(self._inside)

    def clear(self, now: float) -> None:
        """Remove all arrivals at once: the server died."""
        self._free_at = [now] * len(self._free_at)
        self.inside(now)
        for end, start in self._inside:  # they wait and are served no longer
            self._waiting.between(now, start, -1.0)
            self._busy.between(max(now, start), end, -1.0)
        self._inside.clear()

    def load(self, name: str, until_s: float, since_s: float = 0.0) -> StationLoad:
        """Return its load until then, in seconds since it began; what is told in one number counts from `since_s` on."""
        busy, waiting = self._busy.means(until_s), self._waiting.means(until_s)
        return stations.load(name, len(self._free_at), stations.FINE_S, busy, waiting, since_s)


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
