"""Whole drills over HTTP: by long polls, and by SSE over TLS. All clients go through the fault proxy, which resets them."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

from drills.judging.checks.verdicts import DrillVerdict, State
from drills.runs import results
from drills.third_party.findings import CLIENTS_FOR_GO, Finding
from drills.third_party.running import running as server_running
from sim.record.parquet import read
from tests.commands import stormgate
from tests.live import certified

FLAP = Finding(drill="network_flap", settings=("load.events_per_s=15",))


def judged(folder: Path, targets: Path, **environment: str) -> DrillVerdict:
    """The verdict on the drill, run in a process of its own, which trusts the certificates of its environment."""
    settings = [word for override in FLAP.overrides() for word in ("--set", override)]
    words = ("drill", "run", FLAP.drill, "--target", "durable_streams", "--targets", targets, "--out", folder)
    said = stormgate(*words, *settings, **environment)
    (run,) = folder.glob("*-network_flap-*")
    assert "Traceback" not in said.err
    (verdict,) = results.judge_run(run).drills
    return verdict


def survived(folder: Path, verdict: DrillVerdict) -> None:
    """All clients were disconnected, and nothing was lost, repeated or in the wrong order."""
    assert verdict.violations == ()
    states = {check.name: check.state for check in verdict.checks}
    wanted = ("drill.converged", "drill.audited", "drill.faults_observed", "delivery.dropped_deliveries")
    assert {name: states[name] for name in wanted} == dict.fromkeys(wanted, State.PASS)
    rows = read(next(folder.glob("*/drills/network_flap"))).to_pylist()
    assert {row["client"] for row in rows if row["kind"] == "disconnected"} == set(range(CLIENTS_FOR_GO))
    assert {row["detail"] for row in rows if row["kind"] == "rebootstrapped"} == {"fresh"}, "positions were resumed"


def test_clients_that_poll_survive_a_flapping_network(tmp_path: Path):
    with server_running("durable_streams", "memory", log=tmp_path / "server.log") as up:
        text = up.targets_file.read_text()
        assert 'live = "sse"' in text
        up.targets_file.write_text(text.replace('live = "sse"', 'live = "long-poll"'))
        verdict = judged(tmp_path, up.targets_file)
    survived(tmp_path, verdict)


def test_clients_over_tls_survive_a_flapping_network(tmp_path: Path):
    pem, trusted = certified(tmp_path)
    with contextlib.ExitStack() as stack:
        up = stack.enter_context(server_running("durable_streams", "memory", log=tmp_path / "server.log"))
        port = stack.enter_context(tls_before(up.place.ports[0], pem))
        plain = f'http://127.0.0.1:{up.place.ports[0]}"'
        up.targets_file.write_text(up.targets_file.read_text().replace(plain, f'https://127.0.0.1:{port}"'))
        verdict = judged(tmp_path, up.targets_file, **trusted)
    survived(tmp_path, verdict)


@contextlib.contextmanager
def tls_before(port: int, pem: Path) -> Iterator[int]:
    """Pass on connections to a port, behind TLS; yields the port for clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, forth), copy(back, writer))

    async def end() -> None:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context), loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
