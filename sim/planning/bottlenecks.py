"""Which queue of the simulated service limits a point: how busy each one was, how long it was full, and how many waited."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sim.analysis.metrics import Metric
from sim.planning.designs import Point
from sim.planning.store import Row
from sim.record.history import Floats, History
from sim.record.stations import HANDSHAKES, StationLoad

BUSY = 0.7  # [ours] below it, a queue is short, and other things decide (at 70 % of one worker, 1.2 wait on average)


@dataclass(frozen=True)
class Use:
    """How one station was used at one point after the first fault: means over its runs."""

    name: str
    workers: int
    busy: float  # share of its workers that serve
    busiest: float  # the same in its busiest tenth of a second
    full_s: float  # seconds in which all workers are busy
    max_waiting: float
    places: int  # of its queue; 0: no end
    refused: float  # how often a queue was full

    @property
    def words(self) -> str:
        """What to know of it, for a sentence."""
        said = f"{self.name}: busiest {self.busiest:.0%}"
        if self.full_s > 0:
            whole = "the only worker is" if self.workers == 1 else f"all {self.workers} workers are"
            said = f"{self.name}: {whole} busy for {self.full_s:.2g} s"
        said += f", up to {self.max_waiting:,.0f} wait" if self.max_waiting >= 0.5 else ", and nobody waits"
        return said + (f", and {self.overflow}" if self.refused else "")

    @property
    def overflow(self) -> str:
        """How often its queue was full; empty if never."""
        if not self.refused:
            return ""
        return f"the {queue_of(self.name)} of {self.places:,} is full {self.refused:,.0f} times"


def queue_of(name: str) -> str:
    """What people call a station's queue."""
    return "accept queue" if name == HANDSHAKES else f"queue of {name}"


def uses(rows: Sequence[Row]) -> list[Use]:
    """Each station's use at one point, the most limiting first; nothing if no run ended."""
    runs = [row.stations for row in rows if row.stations]
    found = [_use(loads) for loads in zip(*runs, strict=True)]
    return sorted(found, key=lambda use: (-round(use.full_s, 2), -use.busiest))


def _use(loads: Sequence[StationLoad]) -> Use:
    first = loads[0]

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    return Use(
        first.name,
        first.workers,
        mean([load.mean_busy / load.workers for load in loads]),
        mean([load.max_busy / load.workers for load in loads]),
        mean([load.full_s for load in loads]),
        mean([load.max_waiting for load in loads]),
        first.places,
        mean([load.refused for load in loads]),
    )


def peak_reached(history: History) -> Metric:
    """The most connects that reached the service in one second after the first fault.

    Unlike `peak_connects_per_s`, without tries while a client's own network is away, or while the accept queue is full.
    """
    door = next((load for load in history.header.stations if load.name == HANDSHAKES), None)
    if door is None or not math.isfinite(history.first_fault_t):
        return Metric("peak_reached_per_s", math.nan, "connects/s", 0)
    return Metric("peak_reached_per_s", door.peak_arrivals_per_s(history.first_fault_t), "connects/s", sum(door.arrived))


def limit_of(rows: Sequence[Row]) -> str:
    """What limits a point, as a sentence; empty if no run ended."""
    found = uses(rows)
    if not found:
        return ""
    first = found[0]
    full = [use for use in found if use.overflow and use is not first]
    also = "".join(f" And {use.overflow}." for use in full)
    if first.full_s > 0 or first.busiest >= BUSY:
        return f"The bottleneck is {first.words}.{also}"
    return (
        f"No station is a bottleneck (the busiest, {first.name}, reaches {first.busiest:.0%}): the clients' own delays and the "
        f"network decide.{also}"
    )


def overflows(key: str, tried: Mapping[float, Sequence[Row]]) -> list[str]:
    """From which value of a key on a queue is full in some run, as a sentence for each queue that is."""
    said: list[str] = []
    by_value = {value: {use.name: use for use in uses(tried[value])} for value in sorted(tried)}
    for name in dict.fromkeys(name for found in by_value.values() for name in found):
        known = [(value, found[name]) for value, found in by_value.items() if name in found]
        full = [value for value, use in known if use.refused]
        clear = [value for value, use in known if not use.refused]
        if not full:
            continue
        places = known[0][1].places
        where = f"at {len(full)} of {len(known)} values of {key}"
        if clear and max(clear) < min(full):
            where = f"from {key} = {min(full):,.6g} on; at {max(clear):,.6g} it does not"
        elif clear and min(clear) > max(full):
            where = f"up to {key} = {max(full):,.6g}; at {min(clear):,.6g} it does not"
        said.append(f"The {queue_of(name)} of {places:,} overflows {where}.")
    return said


def table(points: Sequence[Point], rows: Mapping[int, Sequence[Row]]) -> pd.DataFrame:
    """One row per point and station, with the parameters by their keys; see `Use`."""
    found = [
        {"point": point.number, **point.values, **{name: getattr(use, name) for name in _COLUMNS}}
        for point in points
        for use in uses(rows[point.number])
    ]
    return pd.DataFrame(found, columns=["point", *(points[0].values if points else ()), *_COLUMNS])


_COLUMNS = ("name", "workers", "busy", "busiest", "full_s", "max_waiting", "places", "refused")


def over_time(points: Sequence[Point], rows: Mapping[int, Sequence[Row]]) -> pd.DataFrame:
    """One row per point, station and bin of time: the share of busy workers and how many wait, means over the runs."""
    parts = [_of_point(point, load) for point in points for load in mean_loads(rows[point.number])]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _of_point(point: Point, load: StationLoad) -> pd.DataFrame:
    t = load.bin_s * np.arange(len(load.busy))
    shares = np.array(load.busy) / load.workers
    columns = {"name": load.name, "t": t, "busy": shares, "waiting": load.waiting}
    return pd.DataFrame({"point": point.number, **point.values, **columns})


def mean_loads(rows: Sequence[Row]) -> list[StationLoad]:
    """Each station's load over time, the mean over the runs in the widest of their bins, as long as all runs last."""
    runs = [row.stations for row in rows if row.stations]
    return [_mean_load(loads) for loads in zip(*runs, strict=True)]


def _mean_load(loads: Sequence[StationLoad]) -> StationLoad:
    bin_s = max(load.bin_s for load in loads)
    edges: Floats = np.float64(bin_s) * np.arange(int(min(len(load.busy) * load.bin_s for load in loads) / bin_s + 1e-9) + 1)

    def mean(of: str) -> list[float]:
        means = np.mean([_rebinned(getattr(load, of), load.bin_s, edges) for load in loads], axis=0)
        return [float(value) for value in means]

    first = loads[0]
    return StationLoad(
        name=first.name,
        workers=first.workers,
        bin_s=bin_s,
        busy=mean("busy"),
        waiting=mean("waiting"),
        since_s=first.since_s,
        mean_busy=float(np.mean([load.mean_busy for load in loads])),
        max_busy=max(load.max_busy for load in loads),
        max_waiting=max(load.max_waiting for load in loads),
        full_s=float(np.mean([load.full_s for load in loads])),
        places=first.places,
        refused=max(load.refused for load in loads),
    )


def _rebinned(values: Sequence[float], bin_s: float, edges: Floats) -> Floats:
    """Means in other bins, from the integral up to each edge."""
    sums = np.concatenate(([0.0], np.cumsum(values))) * bin_s
    return np.diff(np.interp(edges, np.arange(len(sums)) * bin_s, sums)) / np.diff(edges)
