"""What a process full of clients is told to do, and what it reports."""

import resource
import time
from pathlib import Path
from typing import Protocol

import msgspec

from sim.client.session import Session
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.session_driver import SessionDriver
from sim.engines.shared.web_socket import WebSocket
from sim.protocols.intents import Compatibility

WARM_UP_S = 1.0
COMPATIBILITY = Compatibility("bench", "20260601T000000Z", "spacetime.sync.v1", 1)


class Job(msgspec.Struct):
    """What to do: `kind` is one of `tests.bench.__main__`'s; `tokens` one a client."""

    kind: str
    service_url: str
    run_id: str
    topic: str
    tokens: list[str]
    outstanding: list[int]  # events on their way at once, one measurement each
    measure_s: float

    @property
    def service(self) -> Endpoints:
        """Where everything is."""
        return Endpoints("bench", "mock", self.service_url, self.service_url)


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


class Count(Protocol):
    """What a crowd of clients got so far."""

    deliveries: int
    frames: int
    bytes: int


class Counting(SessionDriver):
    """To be put before a driver of sessions, which then also counts for its crowd."""

    crowd: Count

    def socket_message(self, socket: WebSocket, data: bytes, is_text: bool) -> None:
        """Count, then as always."""
        self.crowd.frames += 1
        self.crowd.bytes += len(data)
        before = _watermark(self.session)
        super().socket_message(socket, data, is_text)
        self.crowd.deliveries += _watermark(self.session) - before


def _watermark(session: Session) -> int:
    return next(iter(session.replica.cursors.values())).watermark or 0


class Since:
    """What a crowd gets from now on, and what that takes."""

    def __init__(self, crowd: Count) -> None:
        self._crowd = crowd
        self._deliveries, self._frames, self._bytes = crowd.deliveries, crowd.frames, crowd.bytes
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def deliveries(self) -> Deliveries:
        """Until now."""
        return Deliveries(
            self._crowd.deliveries - self._deliveries,
            self._crowd.frames - self._frames,
            self._crowd.bytes - self._bytes,
            time.perf_counter() - self._wall_s,
            time.process_time() - self._cpu_s,
        )


def resident_kib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024
