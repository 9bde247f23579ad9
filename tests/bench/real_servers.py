"""CPU of a delivery and of a connect on each third-party server, beside the official Python client where there is one.

Each round starts the server and runs our clients and the official ones by turns, under the same load from this process.
"""

import asyncio
import math
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from drills.runs.targets import resolve
from drills.third_party import recipes
from drills.third_party.running import Server, running
from sim.base.clocks import WallClock
from sim.drill.model import Load
from sim.engines.shared import client_setup, service_api
from sim.engines.shared.publishing import Publishing
from sim.engines.sockets.http import ServiceHttp
from sim.engines.sockets.publisher import ProtocolPublisher, Publisher, create_streams
from sim.record.parquet import Recorder
from tests.bench.report import Rounds, medians
from tests.bench.subscribers import OFFICIAL, Taken, Task, _drill

ROUNDS = 3
CLIENTS = 300
EVENTS, EVENTS_PER_S = 100, 20.0
SETTLE_S = 1.0  # for the last deliveries


@dataclass(frozen=True)
class Kind:
    """Whose clients, on which server."""

    server: str
    client: str

    def __str__(self) -> str:
        return f"{self.server}, {self.client}"


def kinds() -> list[Kind]:
    """All that are measured, by server."""
    return [Kind(name, client) for name in recipes.NAMES for client in ("ours", *(["official"] if name in OFFICIAL else []))]


async def measure(kind: Kind, server: Server, folder: Path) -> dict[str, float]:
    """Figures of one crowd, units last."""
    endpoints = resolve(server.name, server.targets_file)
    assert endpoints is not None
    marker_run, clock, recorder = secrets.token_hex(6), WallClock(), Recorder(folder)
    http = ServiceHttp(endpoints)
    streams = await create_streams(http, 1, worker_events=False)
    publishing = Publishing(streams, Load(events_per_s=EVENTS_PER_S, events=EVENTS), recorder, clock.began, marker_run)
    over = None
    if endpoints.forms.publish.over == "protocol":
        settings = client_setup.target_settings(_drill(), 1, marker_run, endpoints)
        over = ProtocolPublisher(endpoints, settings, lambda asking: http.ask(service_api.mint, asking), clock)
        await over.connect()
    stream = streams[0]
    task = Task(kind.client, server.name, str(server.targets_file), stream.run_id, stream.topic, CLIENTS, marker_run)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.subscribers", msgspec.json.encode(task).decode()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    await asyncio.wait_for(process.stdout.readline(), 60)
    publisher = Publisher(http, publishing, clock, None, over)
    await publisher.start()
    await asyncio.sleep(SETTLE_S)
    process.stdin.close()
    taken = msgspec.json.decode(await asyncio.wait_for(process.stdout.readline(), 30), type=Taken)
    await process.wait()
    if over is not None:
        over.close()
    await http.close()
    if taken.deliveries < 0.9 * EVENTS * CLIENTS:
        print(f"{kind}: only {taken.deliveries} of {EVENTS * CLIENTS} deliveries arrived", file=sys.stderr)
    return {
        "delivery_cpu_us": taken.cpu_s / taken.deliveries * 1e6 if taken.deliveries else math.nan,
        "connect_cpu_us": taken.connect_cpu_us,
        "connects_per_s": taken.connects_per_s,
        "memory_kib_per_client": taken.kib_per_client,
        "peak_memory_mib": taken.peak_mib,
    }


def run() -> dict[str, object]:
    """All rounds."""
    rounds: Rounds = []
    for _ in range(ROUNDS):
        this: dict[str, dict[str, float]] = {}
        for kind in kinds():
            with tempfile.TemporaryDirectory(prefix="stormgate-bench-") as folder:
                path = Path(folder)
                with running(kind.server, log=path / "server.log") as server:
                    this[str(kind)] = asyncio.run(measure(kind, server, path))
        rounds.append(this)
    return {"clients": CLIENTS, "rounds": ROUNDS, "median": medians(rounds), "each_round": rounds}


def show(result: dict[str, object]) -> None:
    """The table."""
    found: dict[str, dict[str, float]] = result["median"]  # type: ignore[assignment]
    table = Table("figure (median of rounds)", *found)
    for name in next(iter(found.values())):
        table.add_row(name, *(f"{figures[name]:,.1f}" for figures in found.values()))
    Console().print(table)


if __name__ == "__main__":
    show(run())
