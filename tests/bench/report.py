"""What one process full of clients has to do, how it measures, and what it reports."""

import contextlib
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from sim.client.actions import ClientSettings
from sim.client.session import Session
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.session_driver import SessionDriver
from sim.engines.transports.wire import Wire
from sim.machine.gc_tuning import relaxed_gc
from sim.protocols.intents import Compatibility
from sim.protocols.spacetime.adapter import CAPABILITIES
from sim.protocols.spacetime.streams import stream_id

WARM_UP_S = 1.0
COMPATIBILITY = Compatibility("bench", "20260601T000000Z", "spacetime.sync.v1", 1)
SETTINGS = ClientSettings(seed=1, compatibility=COMPATIBILITY, capabilities=CAPABILITIES, stream_id=stream_id)


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
    """What came in during `wall_s`. CPU seconds and memory are this process's own; `peak_mib` is since its start."""

    deliveries: int
    frames: int
    bytes: int
    wall_s: float
    cpu_s: float
    peak_mib: float


class Report(msgspec.Struct):
    """What it took: to connect, and to receive, for each number of events on their way that was asked for."""

    connects_per_s: float
    connect_cpu_us: float
    kib_per_client: float
    received: list[Deliveries]


class Crowd:
    """Clients that can be connected, and what they received so far."""

    deliveries = frames = bytes = 0

    def count(self, text: str) -> int:
        """Count a frame that a plain client reads with the standard library; returns its number of events."""
        event = json.loads(text)
        updates = len(event[4]["updates"]) if event[3] == "sync:update_batch" else 0
        self.frames, self.bytes, self.deliveries = self.frames + 1, self.bytes + len(text), self.deliveries + updates
        return updates


class Counting(SessionDriver):
    """To be put before a driver of sessions, which then also counts for its crowd."""

    crowd: Crowd

    def socket_message(self, wire: Wire, data: bytes, is_text: bool) -> None:
        """Count, then as always."""
        self.crowd.frames += 1
        self.crowd.bytes += len(data)
        before = _watermark(self.session)
        super().socket_message(wire, data, is_text)
        self.crowd.deliveries += _watermark(self.session) - before


def _watermark(session: Session) -> int:
    return next(iter(session.replica.cursors.values())).watermark or 0


class Window:
    """Publishes so that at most `outstanding` events are on their way: a burst whenever half of them have arrived."""

    def __init__(self, job: Job, crowd: Crowd) -> None:
        self.outstanding = 0
        self._job, self._crowd, self._number = job, crowd, 0

    def due(self) -> list[tuple[str, str, dict[str, object], str]]:
        """Return run, event, payload and key of the events to publish now."""
        room = self.outstanding - (self._number - self._crowd.deliveries // len(self._job.tokens))
        if not 2 * room >= self.outstanding > 0:
            return []
        self._number += room
        numbers = range(self._number - room, self._number)
        return [(self._job.run_id, "run.progress", {"number": n, "text": "x" * 64}, f"bench-{n}") for n in numbers]


class Connecting:
    """Measures what connecting costs, from its creation on."""

    def __init__(self) -> None:
        gc.collect()
        self._kib, self._cpu_s, self._wall_s = resident_kib(), time.process_time(), time.perf_counter()

    def report(self, clients: int) -> Report:
        """All clients are connected."""
        took_s, cpu_s = time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s
        gc.collect()
        return Report(clients / took_s, cpu_s / clients * 1e6, (resident_kib() - self._kib) / clients, [])


def measurements(job: Job, crowd: Crowd, window: Window, report: Report) -> Iterator[float]:
    """Measure deliveries for each number of events on their way; yields the seconds to wait."""
    for window.outstanding in job.outstanding:
        yield WARM_UP_S
        counts, wall_s, cpu_s = (crowd.deliveries, crowd.frames, crowd.bytes), time.perf_counter(), time.process_time()
        yield job.measure_s
        more = (crowd.deliveries - counts[0], crowd.frames - counts[1], crowd.bytes - counts[2])
        report.received.append(Deliveries(*more, time.perf_counter() - wall_s, time.process_time() - cpu_s, peak_mib()))


def carry_out(run: Callable[[Job, Path], Report], ours: str) -> None:
    """Run the job in the command line's file, with the engine's collector settings for `ours`; prints the report last."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    like_the_engine = relaxed_gc() if job.kind == ours else contextlib.nullcontext()
    with like_the_engine, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        print(msgspec.json.encode(run(job, Path(folder))).decode(), flush=True)


T = TypeVar("T")
Rounds = list[dict[str, dict[str, float]]]  # of each round: figures by kind and name


def medians(rounds: Rounds) -> dict[str, dict[str, float]]:
    """The median over rounds of each figure."""
    first = rounds[0]
    return {kind: {name: statistics.median(each[kind][name] for each in rounds) for name in first[kind]} for kind in first}


def ratios(rounds: Rounds, one: str, other: str) -> dict[str, float]:
    """The median over rounds of the ratio of two kinds, by figure."""
    return {name: statistics.median(each[one][name] / each[other][name] for each in rounds) for name in rounds[0][one]}


def run_alone(module: str, job: msgspec.Struct, report: type[T], **environment: str) -> T:
    """Carry out a job in a process of its own, which prints its report."""
    command = [sys.executable, "-m", module, msgspec.json.encode(job).decode()]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, **environment})
    return msgspec.json.decode(done.stdout, type=report)


def resident_kib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


def peak_mib() -> float:
    """The most memory that this process had. `getrusage` would count its parent's, too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
