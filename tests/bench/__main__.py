"""`make bench`: prints a table and writes results/bench.json, with the machine's details.

Each round starts a fresh mock, then runs our clients and plain ones by turns under the same load; figures are medians over
rounds, ratios are made round by round. The mock runs in a process of its own, and so does each crowd of clients.
"""

import asyncio
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from sim.client import policies
from sim.client.actions import Token
from sim.client.session import Session
from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.sockets.http import ServiceHttp
from sim.engines.sockets.publisher import create_streams
from sim.mock.process import MockProcess
from sim.mock.server import ServeOptions, raise_descriptor_limit
from sim.server.settings import RuntimeSettings, Switches
from tests.bench import held, judged, markers, proxied, real_servers, simulated
from tests.bench.report import SETTINGS, Job, Report, Rounds, medians, ratios

# Kinds of clients, and the module that is a process full of them: the sockets engine's and plain `websockets` ones, a load
# test's and plain `websocket-client` ones in Locust.
CROWDS = {
    "ours": "tests.bench.clients",
    "plain": "tests.bench.clients",
    "locust": "tests.bench.green_clients",
    "plain_locust": "tests.bench.green_clients",
}
ROUNDS = 3
CLIENTS = 1000
MEASURE_S = 4.0
ON_THEIR_WAY = {"one": 1, "many": 40}  # events not yet with every client, see tests/bench/clients.py
LIMIT_S = 60.0  # for one crowd; a machine that needs longer has other worries
OUTPUT = Path("results/bench.json")
_SETTINGS = RuntimeSettings(publishes_per_s=100_000, outbound_queue_events=1_000_000)


async def metric(kind: str, folder: Path) -> Report:
    """One crowd against a fresh mock."""
    process = MockProcess(ServeOptions(_SETTINGS, Switches()), folder)
    await process.start()
    service = Endpoints("bench", "mock", process.url, process.url)
    http = ServiceHttp(service)
    try:
        streams = await create_streams(http, 1, worker_events=False)
        tokens = await _tokens(http, streams[0].topic)
        job = folder / "job.json"
        windows = list(ON_THEIR_WAY.values())
        what = Job(kind, process.url, streams[0].run_id, streams[0].topic, tokens, windows, MEASURE_S)
        job.write_bytes(msgspec.json.encode(what))
        return await _run_clients(CROWDS[kind], job)
    finally:
        await http.close()
        await process.stop()


async def _tokens(http: ServiceHttp, topic: str) -> list[str]:
    sessions = [Session(number, [topic], policies.get("reference"), SETTINGS) for number in range(CLIENTS)]
    tokens: list[Token] = await asyncio.gather(*(http.ask(service_api.mint, session) for session in sessions))
    return [token.text for token in tokens]


async def _run_clients(module: str, job: Path) -> Report:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, str(job), stdout=asyncio.subprocess.PIPE)
    line, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    return msgspec.json.decode(line, type=Report)


def figures(report: Report) -> dict[str, float]:
    """One crowd's figures, units last."""
    out = {
        "connects_per_s": report.connects_per_s,
        "connect_cpu_us": report.connect_cpu_us,
        "memory_kib_per_client": report.kib_per_client,
    }
    for name, got in zip(ON_THEIR_WAY, report.received, strict=True):
        deliveries = max(got.deliveries, 1)
        out |= {
            f"{name}_deliveries_per_s": got.deliveries / got.wall_s,
            f"{name}_frames_per_s": got.frames / got.wall_s,
            f"{name}_delivery_cpu_us": got.cpu_s / deliveries * 1e6,
            f"{name}_delivery_bytes": got.bytes / deliveries,
            f"{name}_peak_memory_mib": got.peak_mib,
            f"{name}_frames_per_cpu_s": got.frames / got.cpu_s,  # how many users one core holds, at a frame a second each
        }
    return out


async def run() -> dict[str, object]:
    """All rounds."""
    rounds: Rounds = []
    for _ in range(ROUNDS):
        this: dict[str, dict[str, float]] = {}
        for kind in CROWDS:
            with tempfile.TemporaryDirectory(prefix="stormgate-bench-") as folder:
                this[kind] = figures(await metric(kind, Path(folder)))
        rounds.append(this)
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "clients": CLIENTS,
        "rounds": ROUNDS,
        "events_on_their_way": ON_THEIR_WAY,
        "median": medians(rounds),
        "ours_to_plain": ratios(rounds, "ours", "plain"),
        "locust_to_plain_locust": ratios(rounds, "locust", "plain_locust"),
        "each_round": rounds,
    }


def machine() -> dict[str, object]:
    """What it was measured on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "websockets": version("websockets"),
        "uvicorn": version("uvicorn"),
    }


def show(result: dict[str, dict[str, dict[str, float]]]) -> None:
    """The table."""
    table = Table("figure (median of rounds)", "ours", "plain websockets", "ratio", "in Locust", "websocket-client", "ratio")
    for name in result["median"]["ours"]:
        ours, plain, load, plain_load = (f"{result['median'][kind][name]:,.1f}" for kind in CROWDS)
        ratio, load_ratio = (f"{result[each][name]:.2f}" for each in ("ours_to_plain", "locust_to_plain_locust"))
        table.add_row(name, ours, plain, ratio, load, plain_load, load_ratio)
    Console().print(table)


def main() -> None:
    """Measure, show, write."""
    raise_descriptor_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(run())
    show(result)  # type: ignore[arg-type]
    for part in (held, judged, simulated, proxied, markers, real_servers):
        found = result[part.__name__.rpartition(".")[2]] = part.run()
        part.show(found)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
    print(f"written to {OUTPUT}")


if __name__ == "__main__":
    main()
