"""How far the simulated queues are right: `python -m tests.bench.queues` sets them against their closed forms.

Each system is built from the engine's own `Station`, started empty, and replicated with seeds 1 to 20; all systems draw from
the same random numbers. Intervals are Student's t over replications.
"""

import math
from dataclasses import astuple, dataclass, fields

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from sim.engines.virtual.queues import Station

REPLICATIONS = 20
ARRIVALS = 20_000  # counted in each replication
WARM_UP = 2_000  # arrivals before, not counted
LEVEL = 0.99


@dataclass(frozen=True)
class System:
    """Poisson arrivals with unit rate, and service times: exponential (M) or constant (D)."""

    name: str
    workers: int
    service_s: float  # mean
    is_exponential: bool


SYSTEMS = (
    System("M/M/1, load 0.5", 1, 0.5, True),
    System("M/M/1, load 0.8", 1, 0.8, True),
    System("M/M/4, load 0.8", 4, 3.2, True),
    System("M/D/1, load 0.8", 1, 0.8, False),
)


@dataclass(frozen=True)
class Figures:
    """Means of one system in its steady state."""

    wait_s: float  # in the queue
    waiting: float  # how many are in the queue, at any moment
    utilisation: float  # share of the workers' time


def closed_form(system: System) -> Figures:
    """M/M/c by Erlang's C formula, M/D/1 by Pollaczek and Khinchine; as many wait as arrive in one wait (rate 1)."""
    load = system.service_s / system.workers
    if system.is_exponential:
        wait_s = erlang_c(system.workers, system.service_s) * system.service_s / (system.workers * (1 - load))
    else:
        wait_s = system.service_s**2 / (2 * (1 - load))
    return Figures(wait_s, wait_s, load)


def erlang_c(workers: int, offered: float) -> float:
    """Probability that an arrival has to wait, at `offered` erlangs."""
    terms = [offered**k / math.factorial(k) for k in range(workers)]
    full = offered**workers / math.factorial(workers) * workers / (workers - offered)
    return full / (sum(terms) + full)


def simulate(system: System, seed: int) -> Figures:
    """One replication. How many wait is what arrivals find, which is the mean over time as arrivals are Poisson."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1.0, WARM_UP + ARRIVALS).tolist()
    works = random.exponential(1.0, WARM_UP + ARRIVALS) if system.is_exponential else np.ones(WARM_UP + ARRIVALS)
    services = (works * system.service_s).tolist()
    station, now = Station(system.workers), 0.0
    began, waited_s, served_s, waiting = 0.0, 0.0, 0.0, 0
    for number, (gap, service_s) in enumerate(zip(gaps, services, strict=True)):
        now += gap
        if number == WARM_UP:
            began, waited_s, served_s, waiting = now, station.waited_s, station.served_s, 0
        waiting += max(station.inside(now) - system.workers, 0)
        station.admit(now, service_s)
    busy_s = (station.served_s - served_s) / system.workers
    return Figures((station.waited_s - waited_s) / ARRIVALS, waiting / ARRIVALS, busy_s / (now - began))


@dataclass(frozen=True)
class Compared:
    """One figure: what the formula says, what replications gave, and half the width of their interval."""

    system: str
    figure: str
    expected: float
    mean: float
    half_width: float

    @property
    def agrees(self) -> bool:
        """Whether the interval holds the formula's value."""
        return abs(self.mean - self.expected) <= self.half_width

    def __str__(self) -> str:
        low, high = self.mean - self.half_width, self.mean + self.half_width
        verdict = "holds" if self.agrees else "DOES NOT HOLD"
        return f"{self.system}: {self.figure} in [{low:.4f}, {high:.4f}] {verdict} {self.expected:.4f}"


def compare(system: System) -> list[Compared]:
    """All figures of a system over all replications."""
    runs = [astuple(simulate(system, seed)) for seed in range(1, REPLICATIONS + 1)]
    t = float(stats.t.ppf((1 + LEVEL) / 2, REPLICATIONS - 1))
    found = []
    for field, expected, values in zip(fields(Figures), astuple(closed_form(system)), zip(*runs, strict=True), strict=True):
        half_width = t * float(np.std(values, ddof=1)) / math.sqrt(REPLICATIONS)
        found.append(Compared(system.name, field.name, expected, float(np.mean(values)), half_width))
    return found


def main() -> None:
    """Print the table."""
    table = Table("system", "figure", "closed form", "simulated", f"{LEVEL:.0%} interval, {REPLICATIONS} replications", "")
    for row in (row for system in SYSTEMS for row in compare(system)):
        interval = f"{row.mean - row.half_width:.4f} .. {row.mean + row.half_width:.4f}"
        table.add_row(row.system, row.figure, f"{row.expected:.4f}", f"{row.mean:.4f}", interval, "ok" if row.agrees else "NO")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
