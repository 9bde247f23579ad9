"""What a process full of clients is told to do, and what it reports."""

import resource
from pathlib import Path

import msgspec

from sim.contract.frames import Compatibility
from sim.engines.lane import Lane

WARM_UP_S = 1.0
COMPATIBILITY = Compatibility("bench", "20260601T000000Z", "spacetime.sync.v1", 1)


class Job(msgspec.Struct):
    """What to do: `kind` is one of `tests.bench.__main__`'s; `tokens` one a client."""

    kind: str
    lane_url: str
    run_id: str
    topic: str
    tokens: list[str]
    outstanding: list[int]  # events on their way at once, one measurement each
    measure_s: float

    @property
    def lane(self) -> Lane:
        """Where everything is."""
        return Lane("bench", "mock", self.lane_url, self.lane_url)


class Deliveries(msgspec.Struct):
    """What came in during `wall_s`. CPU seconds are this process's own."""

    deliveries: int
    frames: int
    bytes: int
    wall_s: float
    cpu_s: float


class Report(msgspec.Struct):
    """What it took: to connect, and to receive, for each number of events on their way that was asked for."""

    connects_per_s: float
    connect_cpu_us: float
    kib_per_client: float
    received: list[Deliveries]


def resident_kib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024
