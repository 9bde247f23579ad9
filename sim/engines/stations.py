"""Queues in virtual time: a first-come-first-served station with c workers, worked out at arrival.

With FIFO order and no preemption an arrival's start and end are known the moment it arrives: it starts when it is there
and the first worker is free (Kiefer and Wolfowitz 1955; for one worker Lindley 1952). So a station needs no events of its
own, and costs O(log c) an arrival.
"""

import heapq


class Station:
    """`workers` servers and one queue. Times are in seconds of any clock that does not go back."""

    def __init__(self, workers: int) -> None:
        self._free_at = [0.0] * workers
        self._ends: list[float] = []  # of everything still here, smallest first
        self.arrivals = 0
        self.waited_s = 0.0
        self.served_s = 0.0

    def admit(self, now: float, service_s: float) -> tuple[float, float]:
        """An arrival that needs `service_s`; returns when its service starts and ends. `now` must not decrease."""
        start = max(now, self._free_at[0])
        end = start + service_s
        heapq.heapreplace(self._free_at, end)
        self.inside(now)  # forgets those who have left
        heapq.heappush(self._ends, end)
        self.arrivals += 1
        self.waited_s += start - now
        self.served_s += service_s
        return start, end

    def inside(self, now: float) -> int:
        """How many are waiting or being served at `now`."""
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
        return len(self._ends)

    def clear(self, now: float) -> None:
        """Everyone leaves at once: the server died."""
        self._free_at = [now] * len(self._free_at)
        self._ends.clear()
