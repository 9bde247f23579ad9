"""One process full of clients, ours or plain ones, that reports what it took: `python -m tests.bench.clients JSON`.

Both kinds do the same: open the socket with a ready-made token, join, subscribe, then receive. The plain one is what the
documentation of `websockets` shows, with the standard library's JSON; ours records every observation, checks hashes and
keeps cursors as in a drill.
"""

import asyncio
import gc
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

import msgspec
import uvloop
from websockets.asyncio.client import connect

from sim.contract import policies
from sim.contract.actions import ClientSettings, Token
from sim.contract.client import ClientSession
from sim.contract.codec import encode_client
from sim.contract.frames import Compatibility, Join, Subscribe
from sim.engines.client_driver import ClientDriver, WallClock
from sim.engines.socket import ClientSocket
from sim.observations import Recorder

COMPATIBILITY = Compatibility("bench", "20260601T000000Z", "spacetime.sync.v1", 1)


class Job(msgspec.Struct):
    """What to do: `kind` is `ours` or `plain`; `tokens` one a client."""

    kind: str
    socket_url: str
    topic: str
    tokens: list[str]
    measure_s: float


class Report(msgspec.Struct):
    """What it took. CPU seconds are this process's own."""

    connects_per_s: float = 0.0
    connect_cpu_us: float = 0.0
    deliveries: int = 0
    frames: int = 0
    bytes: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    kib_per_client: float = 0.0


class Clients(Protocol):
    """A crowd that can be connected, and counts what it gets."""

    deliveries: int
    frames: int
    bytes: int

    async def connect(self, job: Job) -> None:
        """Return when every client has subscribed."""


class CountingDriver(ClientDriver):
    """A drill's client that also counts bytes."""

    crowd: "OurClients"

    def socket_text(self, socket: ClientSocket, text: bytes) -> None:
        """Count, then as always."""
        self.crowd.frames += 1
        self.crowd.bytes += len(text)
        before = _watermark(self.session)
        super().socket_text(socket, text)
        self.crowd.deliveries += _watermark(self.session) - before


def _watermark(session: ClientSession) -> int:
    return next(iter(session.replica.cursors.values())).watermark or 0


class OurClients:
    """The engine's own clients, recording as in a drill."""

    def __init__(self, folder: Path) -> None:
        self.deliveries = self.frames = self.bytes = 0
        self._recorder = Recorder(folder)
        self._drivers: list[CountingDriver] = []

    async def connect(self, job: Job) -> None:
        """Return when every client has subscribed."""
        clock = WallClock()
        settings = ClientSettings(seed=1, compatibility=COMPATIBILITY)
        tokens = iter(job.tokens)

        async def mint(_: ClientSession) -> Token:
            return Token(next(tokens), time.time() + 270, time.time() + 300)

        for number in range(len(job.tokens)):
            session = ClientSession(number, [job.topic], policies.get("reference"), settings)
            driver = CountingDriver(session, job.socket_url, mint, clock, self._recorder)
            driver.crowd = self
            self._drivers.append(driver)
            driver.start()
        while not all(driver.session.is_caught_up for driver in self._drivers):
            await asyncio.sleep(0.005)


class PlainClients:
    """Clients as the documentation of `websockets` shows them."""

    def __init__(self) -> None:
        self.deliveries = self.frames = self.bytes = 0
        self._readers: list[asyncio.Task[None]] = []

    async def connect(self, job: Job) -> None:
        """Return when every client has subscribed."""
        ready = await asyncio.gather(*(self._one(job, token) for token in job.tokens))
        assert all(ready)

    async def _one(self, job: Job, token: str) -> bool:
        url = f"{job.socket_url}?token={token}&vsn=2.0.0"
        socket = await connect(url, compression=None, ping_interval=None, open_timeout=None)
        await socket.send(encode_client(Join("1", COMPATIBILITY)))
        await socket.recv()
        await socket.send(encode_client(Subscribe("2", (job.topic,), {}, 200)))
        while json.loads(await socket.recv())[3] != "phx_reply":
            pass

        async def read() -> None:
            async for text in socket:
                event = json.loads(text)
                self.frames += 1
                self.bytes += len(text)
                if event[3] == "sync:update_batch":
                    self.deliveries += len(event[4]["updates"])

        self._readers.append(asyncio.create_task(read()))
        return True


async def run(job: Job, folder: Path) -> Report:
    """Connect everyone, say so on stdout, measure deliveries for a while, report."""
    crowd: Clients = OurClients(folder) if job.kind == "ours" else PlainClients()
    gc.collect()
    memory_before, cpu, wall = _resident_kib(), time.process_time(), time.perf_counter()
    await crowd.connect(job)
    took_s, count = time.perf_counter() - wall, len(job.tokens)
    report = Report(connects_per_s=count / took_s, connect_cpu_us=(time.process_time() - cpu) / count * 1e6)
    gc.collect()
    report.kib_per_client = (_resident_kib() - memory_before) / count
    print("connected", flush=True)
    await asyncio.sleep(1.0)  # the publisher gets going
    began = (crowd.deliveries, crowd.frames, crowd.bytes, time.perf_counter(), time.process_time())
    await asyncio.sleep(job.measure_s)
    report.wall_s, report.cpu_s = time.perf_counter() - began[3], time.process_time() - began[4]
    report.deliveries, report.frames, report.bytes = (
        crowd.deliveries - began[0],
        crowd.frames - began[1],
        crowd.bytes - began[2],
    )
    return report


def _resident_kib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


def main() -> None:
    """Run the job given on the command line's file; the report is the last line printed."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(run(job, Path(folder)))
    print(msgspec.json.encode(report).decode(), flush=True)


if __name__ == "__main__":
    main()
