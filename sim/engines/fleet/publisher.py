"""When each event is announced, computed before the run from the publisher's rate and the service's publish workers.

Events are due at a fixed rate, regardless of the result of earlier ones. While the runtime is down, the publisher tries again
every `RETRY_S` seconds, as in the other engines.
"""

import heapq

import numpy as np

from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.engines.fleet.kernel.world import Array, World
from sim.engines.shared.publishing import RETRY_S
from sim.record import stations
from sim.record.stations import StationLoad


class FleetPublisher:
    """The announcements of a run."""

    def __init__(self, drill: Drill, model: SystemModel, until_s: float) -> None:
        self._streams = drill.streams
        self._takes_s = model.server.publish_ms / 1000
        self._workers = model.server.publish_workers
        self._due = np.arange(int(until_s * drill.load.events_per_s) + 1) / drill.load.events_per_s
        self._tried = self._due.copy()
        self._done = self._served(self._due)

    def into(self, world: World) -> None:
        """Put all announcements into the world, past and future."""
        order = np.argsort(self._done, kind="stable")
        stream = (np.arange(len(self._done)) % self._streams).astype(np.int32)
        by_stream = [np.sort(self._done[stream == each]) for each in range(self._streams)]
        published = np.full((self._streams, max(map(len, by_stream))), np.inf)
        for each, moments in enumerate(by_stream):
            published[each, : len(moments)] = moments
        world["published"] = published
        world["heads"] = np.array([len(moments) for moments in by_stream])
        world["order"], world["order_stream"] = self._done[order], stream[order]
        service = world.service[0]
        announced = int(np.searchsorted(self._done[order], service["now"], side="right")) if service["now"] > 0 else 0
        service["planned"], service["announced"] = len(order), announced
        service["next_pub"] = self._done[order][announced] if announced < len(order) else np.inf

    def finish(self, at_s: float) -> None:
        """Drop the events that are due at `at_s` or later."""
        self._keep(self._due < at_s)

    def stall(self, from_s: float, to_s: float) -> None:
        """Stop the runtime from `from_s` to `to_s`: publishes that were not complete are tried again until it is up."""
        open_ = self._done > from_s
        tried = np.where(self._tried < from_s, self._done, self._tried)
        late = open_ & (tried < to_s)
        tried[late] += np.ceil((to_s - tried[late]) / RETRY_S) * RETRY_S
        self._tried = np.where(open_, tried, self._tried)
        self._done[open_] = self._served(self._tried[open_])

    @property
    def last_s(self) -> float:
        """The moment of the last announcement, in seconds."""
        return float(self._done.max(initial=0.0))

    def load(self, level_s: float, until_s: float, since_s: float) -> StationLoad:
        """Return the load of the publish workers; what is told in one number counts from `since_s` on."""
        started = self._done - self._takes_s

        def of(start: Array, end: Array) -> Array:
            changes, parts = np.zeros((2, int(max(end.max(initial=0.0), until_s) / level_s) + 1))
            for at, by in ((start, 1.0), (end, -1.0)):
                whole = (at / level_s).astype(np.int64)
                np.add.at(changes, whole, by)
                np.add.at(parts, whole, by * (1 - (at / level_s - whole)))
            return stations.means(changes, parts, level_s, until_s)

        busy, waiting = of(started, self._done), of(self._tried, started)
        return stations.load(stations.PUBLISHING, self._workers, level_s, busy, waiting, since_s)

    @property
    def events(self) -> int:
        """The number of events."""
        return len(self._done)

    def _keep(self, which: Array) -> None:
        self._due, self._tried, self._done = self._due[which], self._tried[which], self._done[which]

    def _served(self, tried: Array) -> Array:
        """Return when each event is durable: the publish workers serve first come, first served."""
        gaps = np.diff(np.sort(tried))
        if self._takes_s == 0 or len(gaps) == 0 or gaps.min() * self._workers >= self._takes_s:
            return tried + self._takes_s
        free_at, done = [0.0] * self._workers, np.empty(len(tried))
        for place in np.argsort(tried, kind="stable"):
            done[place] = max(float(tried[place]), free_at[0]) + self._takes_s
            heapq.heapreplace(free_at, float(done[place]))
        return done
