"""One process full of clients, ours or plain ones, that reports what it took: `python -m tests.bench.clients JSON`.

Both kinds do the same: open the socket with a ready-made token, join, subscribe, then receive. The plain one is what the
documentation of `websockets` shows, with the standard library's JSON; ours records every observation, checks hashes and
keeps cursors as in a drill.

Events are published from here, too, with a limited number in flight: as fast as it goes, and no
faster, so that neither side drowns in a queue. What that costs is in both kinds' figures. With one on its way each frame
holds one event; with many the runtime puts several into one.
"""

import asyncio
import json
import time
from pathlib import Path

import uvloop
from websockets.asyncio.client import connect

from sim.base.clocks import WallClock
from sim.client import policies
from sim.client.actions import Token
from sim.client.session import Session
from sim.engines.shared import service_api
from sim.engines.sockets.client import ClientDriver
from sim.engines.sockets.http import ServiceHttp
from sim.protocols.spacetime.codec import encode_client
from sim.protocols.spacetime.frames import Join, Subscribe
from sim.record.parquet import Recorder
from tests.bench.report import (
    COMPATIBILITY,
    SETTINGS,
    Connecting,
    Counting,
    Crowd,
    Job,
    Report,
    Window,
    carry_out,
    measurements,
)


class CountingDriver(Counting, ClientDriver):
    """A drill's client that also counts."""


class OurClients(Crowd):
    """The engine's own clients, recording as in a drill."""

    def __init__(self, folder: Path) -> None:
        self._recorder = Recorder(folder)
        self._drivers: list[CountingDriver] = []

    async def connect(self, job: Job) -> None:
        """Return when every client has subscribed."""
        clock = WallClock()
        tokens = iter(job.tokens)

        async def mint(_: Session) -> Token:
            return Token(next(tokens), time.time() + 270, time.time() + 300)

        for number in range(len(job.tokens)):
            session = Session(number, [job.topic], policies.get("reference"), SETTINGS)
            driver = CountingDriver(session, job.service.socket_url, mint, clock, self._recorder)
            driver.crowd = self
            self._drivers.append(driver)
            driver.start()
        while not all(driver.session.is_caught_up for driver in self._drivers):
            await asyncio.sleep(0.005)


class PlainClients(Crowd):
    """Clients as the documentation of `websockets` shows them."""

    def __init__(self) -> None:
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
                self.count(str(text))

        self._readers.append(asyncio.create_task(read()))
        return True


async def run(job: Job, folder: Path) -> Report:
    """Connect all clients, measure deliveries for a while, report."""
    crowd: OurClients | PlainClients = OurClients(folder) if job.kind == "ours" else PlainClients()
    connecting = Connecting()
    await crowd.connect(job)
    report, window = connecting.report(len(job.tokens)), Window(job, crowd)
    http = ServiceHttp(job.service)
    publisher = asyncio.create_task(_publish(window, http))
    for wait_s in measurements(job, crowd, window, report):
        await asyncio.sleep(wait_s)
    publisher.cancel()
    await http.close()
    return report


async def _publish(window: Window, http: ServiceHttp) -> None:
    while True:
        await asyncio.gather(*(http.ask(service_api.publish, *event) for event in window.due()))
        await asyncio.sleep(0.001)


def main() -> None:
    """Run the job given on the command line."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        carry_out(lambda job, folder: runner.run(run(job, folder)), "ours")


if __name__ == "__main__":
    main()
