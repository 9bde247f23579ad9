"""One process full of clients of a third-party server, ours or its official Python client's, that reports what they took.

`python -m tests.bench.subscribers JOB`: connects, prints what connecting took, counts deliveries until its input ends, and
prints what they took. Events are published elsewhere.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path

import jwt
import msgspec
import uvloop

from drills.runs.targets import resolve
from sim.base.clocks import WallClock
from sim.client import policies
from sim.client.actions import Token
from sim.client.session import Session
from sim.drill.model import Drill
from sim.engines.shared import client_setup, service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.sockets.client import ClientDriver
from sim.engines.sockets.http import ServiceHttp
from sim.machine.gc_tuning import relaxed_gc
from sim.record.parquet import Recorder
from tests.bench.report import Connecting, peak_mib

AT_ONCE = 50  # clients that the official libraries connect at once


class Task(msgspec.Struct):
    """What to do: `client` is ours, or a class of `OFFICIAL`; `run` and `topic` are those of the stream."""

    client: str
    server: str
    targets_file: str
    run: str
    topic: str
    clients: int
    marker_run: str


class Taken(msgspec.Struct):
    """What it took. CPU and memory are this process's own; connecting a client includes its first subscribe and its token."""

    connect_cpu_us: float
    connects_per_s: float
    kib_per_client: float
    deliveries: int = 0
    cpu_s: float = 0.0
    peak_mib: float = 0.0


class Subscribers(ABC):
    """Clients of one stream."""

    def __init__(self, task: Task, endpoints: Endpoints) -> None:
        self.task, self.endpoints = task, endpoints

    @abstractmethod
    async def connect(self) -> None:
        """Return when every client is subscribed."""

    @property
    @abstractmethod
    def deliveries(self) -> int:
        """Events that all clients have received."""


class Ours(Subscribers):
    """The clients of the sockets engine, recording as in a drill."""

    async def connect(self) -> None:
        """See `Subscribers`."""
        folder = tempfile.mkdtemp(prefix="stormgate-bench-")
        clock, recorder = WallClock(), Recorder(Path(folder))
        settings = client_setup.target_settings(_drill(), 1, self.task.marker_run, self.endpoints)
        http = ServiceHttp(self.endpoints)
        self._drivers = []

        async def mint(session: Session) -> Token:
            return await http.ask(service_api.mint, session)

        for number in range(self.task.clients):
            session = Session(number, [self.task.topic], policies.get("reference"), settings)
            self._drivers.append(ClientDriver(session, self.endpoints.socket_url, mint, clock, recorder))
            self._drivers[-1].start()
        while not all(driver.session.is_caught_up for driver in self._drivers):
            await asyncio.sleep(0.005)

    @property
    def deliveries(self) -> int:
        """See `Subscribers`."""
        return sum(driver.session.replica.cursors[self.task.topic].marks.high for driver in self._drivers)


class Counted(Subscribers):
    """Clients of an official library, which call `count` for each event and read its JSON."""

    def __init__(self, task: Task, endpoints: Endpoints) -> None:
        super().__init__(task, endpoints)
        self._count = 0

    @property
    def deliveries(self) -> int:
        """See `Subscribers`."""
        return self._count

    async def connect(self) -> None:
        """See `Subscribers`."""
        room = asyncio.Semaphore(AT_ONCE)

        async def connect(number: int) -> None:
            async with room:
                await self.one(number)

        await asyncio.gather(*map(connect, range(self.task.clients)))

    @abstractmethod
    async def one(self, number: int) -> None:
        """Connect and subscribe one client."""


class Centrifuge(Counted):
    """`centrifuge-python`, as its documentation shows it."""

    async def one(self, number: int) -> None:
        """See `Counted`."""
        from centrifuge import Client, SubscriptionEventHandler

        async def take(context: object) -> None:
            assert context.pub.data["marker"]  # type: ignore[attr-defined]
            self._count += 1

        handler, key = SubscriptionEventHandler(), self.endpoints.signing_key
        handler.on_publication = take
        token = jwt.encode({"sub": f"bench-{number}", "exp": int(time.time()) + 600}, key, "HS256")
        client = Client(self.endpoints.socket_url, token=token)
        subscription = client.new_subscription(self.task.topic, handler)
        await client.connect()
        await client.ready()
        await subscription.subscribe()
        await subscription.ready()


class Nats(Counted):
    """`nats-py` with its ordered consumer, as its documentation shows it."""

    async def one(self, number: int) -> None:
        """See `Counted`."""
        import nats

        async def take(message: object) -> None:
            assert json.loads(message.data)["marker"]  # type: ignore[attr-defined]
            self._count += 1

        connection = await nats.connect(self.endpoints.socket_url.rstrip("/"), max_reconnect_attempts=0)
        await connection.jetstream().subscribe(self.task.topic, cb=take, ordered_consumer=True)


OFFICIAL: dict[str, type[Counted]] = {"centrifugo": Centrifuge, "nats": Nats}


def _drill() -> Drill:
    from drills.runs import catalog
    from sim.drill.model import load

    return load(catalog.path_of("reconnect_storm"))


async def run(task: Task) -> None:
    """Connect, report, count until the input ends, report again."""
    endpoints = resolve(task.server, Path(task.targets_file))
    assert endpoints is not None
    crowd = Ours(task, endpoints) if task.client == "ours" else OFFICIAL[task.server](task, endpoints)
    connecting = Connecting()
    await crowd.connect()
    found = connecting.report(task.clients)
    taken = Taken(found.connect_cpu_us, found.connects_per_s, found.kib_per_client)
    print(msgspec.json.encode(taken).decode(), flush=True)
    before, cpu_s = crowd.deliveries, time.process_time()
    await asyncio.to_thread(sys.stdin.buffer.read)
    taken.deliveries, taken.cpu_s = crowd.deliveries - before, time.process_time() - cpu_s
    taken.peak_mib = peak_mib()
    print(msgspec.json.encode(taken).decode(), flush=True)
    os._exit(0)  # whatever the libraries still have under way is of no interest


def main() -> None:
    """Carry out the task on the command line."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    like_the_engine = relaxed_gc() if task.client == "ours" else contextlib.nullcontext()
    with like_the_engine, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(task))


if __name__ == "__main__":
    main()
