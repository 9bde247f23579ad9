"""One process full of clients, ours or plain ones, that reports what it took: `python -m tests.bench.clients JSON`.

Both kinds do the same: open the socket with a ready-made token, join, subscribe, then receive. The plain one is what the
documentation of `websockets` shows, with the standard library's JSON; ours records every observation, checks hashes and
keeps cursors as in a drill.

Events are published from here, too, with a limited number in flight: as fast as it goes, and no
faster, so that neither side drowns in a queue. What that costs is in both kinds' figures. With few on their way each frame
holds one event; with many the runtime puts several into one.
"""

import asyncio
import contextlib
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

import msgspec
import uvloop
from websockets.asyncio.client import connect

from sim.base.clocks import WallClock
from sim.base.gc_tuning import relaxed_gc
from sim.client import policies
from sim.client.actions import ClientSettings, Token
from sim.client.session import Session
from sim.engines.shared import service_api
from sim.engines.shared.client_setup import RUN_EVENT
from sim.engines.sockets.client import ClientDriver
from sim.engines.sockets.http import ServiceHttp
from sim.protocols.spacetime.codec import encode_client
from sim.protocols.spacetime.frames import Join, Subscribe
from sim.record.parquet import Recorder
from tests.bench.report import COMPATIBILITY, WARM_UP_S, Count, Counting, Deliveries, Job, Report, Since, resident_kib


class Clients(Count, Protocol):
    """A crowd that can be connected, and counts what it gets."""

    async def connect(self, job: Job) -> None:
        """Return when every client has subscribed."""


class CountingDriver(Counting, ClientDriver):
    """A drill's client that also counts."""


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

        async def mint(_: Session) -> Token:
            return Token(next(tokens), time.time() + 270, time.time() + 300)

        for number in range(len(job.tokens)):
            session = Session(number, [job.topic], policies.get("reference"), settings)
            driver = CountingDriver(session, job.service.socket_url, mint, clock, self._recorder)
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
        url = f"{job.service.socket_url}?token={token}&vsn=2.0.0"
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
    """Connect everyone, measure deliveries for a while, report."""
    crowd: Clients = OurClients(folder) if job.kind == "ours" else PlainClients()
    gc.collect()
    memory_before, cpu, wall = resident_kib(), time.process_time(), time.perf_counter()
    await crowd.connect(job)
    took_s, count = time.perf_counter() - wall, len(job.tokens)
    connect_cpu_us = (time.process_time() - cpu) / count * 1e6
    gc.collect()
    report = Report(count / took_s, connect_cpu_us, (resident_kib() - memory_before) / count, [])
    publisher = Window(job, crowd)
    for outstanding in job.outstanding:
        publisher.outstanding = outstanding
        await asyncio.sleep(WARM_UP_S)
        report.received.append(await metric(crowd, job.measure_s))
    publisher.task.cancel()
    return report


async def metric(crowd: Clients, seconds: float) -> Deliveries:
    """Count for a while."""
    since = Since(crowd)
    await asyncio.sleep(seconds)
    return since.deliveries()


class Window:
    """Publishes so that at most `outstanding` events are on their way: a burst whenever half of them have arrived."""

    def __init__(self, job: Job, crowd: Clients) -> None:
        self.outstanding = 0
        self._job = job
        self._crowd = crowd
        self._http = ServiceHttp(job.service)
        self.task = asyncio.create_task(self._publish_all())

    async def _publish_all(self) -> None:
        number = 0
        while True:
            room = self.outstanding - (number - self._crowd.deliveries // len(self._job.tokens))
            if 2 * room >= self.outstanding > 0:
                await asyncio.gather(*(self._publish(number + k) for k in range(room)))
                number += room
            await asyncio.sleep(0.001)

    async def _publish(self, number: int) -> None:
        payload = {"number": number, "text": "x" * 64}
        await self._http.ask(service_api.publish, self._job.run_id, RUN_EVENT, payload, f"bench-{number}")


def main() -> None:
    """Run the job given on the command line's file; the report is the last line printed."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    like_the_engine = relaxed_gc() if job.kind == "ours" else contextlib.nullcontext()
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with like_the_engine, tempfile.TemporaryDirectory() as folder, runner:
        report = runner.run(run(job, Path(folder)))
    print(msgspec.json.encode(report).decode(), flush=True)


if __name__ == "__main__":
    main()
