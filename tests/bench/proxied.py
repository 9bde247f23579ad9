"""What the fault proxy costs while nothing is wrong: the same bytes by it and directly, by turns, in one run.

Client and proxy share this process, as in a drill; the other end is a process of its own
(`python -m tests.bench.proxied serve`). A client asks for bytes in bulk, and for one message after the other.
"""

import asyncio
import sys
import time

import uvloop
from rich.console import Console
from rich.table import Table

from sim.engines.sockets.proxy import FaultProxy
from tests.bench.report import medians, ratios

ROUNDS = 5
CONNECTIONS = 8
BULK_BYTES = 64 * 2**20  # over all connections
MESSAGE_BYTES, MESSAGES = 512, 3000  # about an event's frame; one after the other on each connection
_HOST = "127.0.0.1"
Figures = dict[str, float]


async def serve() -> None:
    """Answer each request (a byte count in 8 bytes) with that many bytes; prints the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(8):
            writer.write(bytes(int.from_bytes(request, "big")))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, _HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _ask(port: int, size: int, times: int) -> None:
    reader, writer = await asyncio.open_connection(_HOST, port, limit=2**20)
    for _ in range(times):
        writer.write(size.to_bytes(8, "big"))
        await reader.readexactly(size)
    writer.close()


async def _measure(port: int) -> Figures:
    bulk = BULK_BYTES // CONNECTIONS
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(_ask(port, bulk, 1) for _ in range(CONNECTIONS)))
    bulk_s, bulk_cpu_s = time.perf_counter() - began, time.process_time() - cpu
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(_ask(port, MESSAGE_BYTES, MESSAGES) for _ in range(CONNECTIONS)))
    messages_s, messages_cpu_s = time.perf_counter() - began, time.process_time() - cpu
    count = CONNECTIONS * MESSAGES
    return {
        "bulk_mib_per_s": BULK_BYTES / 2**20 / bulk_s,
        "bulk_cpu_ms_per_mib": bulk_cpu_s * 1000 / (BULK_BYTES / 2**20),
        "round_trips_per_s": count / messages_s,
        "round_trip_cpu_us": messages_cpu_s / count * 1e6,
    }


async def _run() -> list[dict[str, Figures]]:
    far = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.proxied", "serve", stdout=asyncio.subprocess.PIPE
    )
    assert far.stdout is not None
    port = int(await far.stdout.readline())
    proxy = FaultProxy(_HOST, port, seed=1)
    try:
        group = await proxy.open_group()
        return [{"direct": await _measure(port), "proxied": await _measure(group.port)} for _ in range(ROUNDS)]
    finally:
        await proxy.close()
        far.kill()
        await far.wait()


def run() -> dict[str, Figures]:
    """Medians over rounds; the ratio is made round by round."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rounds = runner.run(_run())
    return {**medians(rounds), "proxied_to_direct": ratios(rounds, "proxied", "direct")}


def show(result: dict[str, Figures]) -> None:
    """A table."""
    table = Table(f"{CONNECTIONS} connections", "direct", "by the fault proxy", "ratio (median of rounds)")
    for name, direct in result["direct"].items():
        table.add_row(name, f"{direct:,.1f}", f"{result['proxied'][name]:,.1f}", f"{result['proxied_to_direct'][name]:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        uvloop.run(serve())
    else:
        show(run())
