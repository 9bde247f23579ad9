"""Clients over SSE and long polls, one request a stream: on asyncio and in greenlets, over cuts, faults and TLS."""

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sim.base import certificates
from sim.base.clocks import WallClock
from sim.client import policies
from sim.client.actions import ClientSettings, Token
from sim.client.session import Session
from sim.drill.fault_kinds import RestartClients
from sim.engines.shared.pacer import Pacer
from sim.engines.sockets.client import ClientDriver
from sim.engines.sockets.proxy import FaultProxy
from sim.protocols import registry
from sim.protocols.adapter import Transport
from sim.protocols.intents import Compatibility
from sim.record.parquet import Recorder, read
from tests.engines.proxied import LIMIT_S, on_uvloop, until
from tests.engines.streams import CAPABILITIES, protocol
from tests.live import certified
from tests.peers.stream_server import StreamServer

CLIENTS, STREAMS = 12, ("one", "two words", "three")


@dataclass
class Run:
    """Clients of a server, and what they record."""

    server: StreamServer
    drivers: list[ClientDriver]
    recorder: Recorder
    folder: Path
    published: int = 0

    def publish(self, count: int) -> None:
        for _ in range(count):
            self.published += 1
            for stream in STREAMS:
                self.server.append(stream, {"number": self.published})

    async def caught_up(self) -> None:
        """All clients have all events, and wait for more: with one request for each stream of each client."""
        await until(lambda: all(applied(driver.session) == [self.published] * len(STREAMS) for driver in self.drivers))
        await until(lambda: self.server.open == CLIENTS * len(STREAMS))

    def rows(self) -> list[dict[str, Any]]:
        for driver in self.drivers:
            driver.stop()
        self.recorder.seal()
        return read(self.folder).to_pylist()


def applied(session: Session) -> list[int]:
    return [cursor.watermark or 0 for cursor in session.replica.cursors.values()]


def settings() -> ClientSettings:
    return ClientSettings(1, Compatibility(), CAPABILITIES, protocol="streams", reply_timeout_s=5.0)


def started(
    server: StreamServer,
    folder: Path,
    scheme: str = "http",
    port: int | None = None,
    token: str = "good",
    pacer: Pacer | None = None,
) -> Run:
    """Start the clients, at most one a millisecond."""

    async def mint(_: Session) -> Token:
        return Token(token, 2e9, 2e9)

    recorder, clock, drivers = Recorder(folder), WallClock(), []
    for number in range(CLIENTS):
        session = Session(number, STREAMS, policies.get("reference"), settings())
        driver = ClientDriver(session, f"{scheme}://127.0.0.1:{server.port}", mint, clock, recorder, port, pacer)
        drivers.append(driver)
        driver.start()
    return Run(server, drivers, recorder, folder)


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer(*STREAMS) as server:
        yield server


@pytest.fixture(params=[Transport.SSE, Transport.LONG_POLL])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """The transport of the protocol that is registered."""
    monkeypatch.setattr(registry, "get", lambda _: protocol(request.param))
    return Transport(request.param)


def exactly_once(rows: list[dict[str, Any]], published: int) -> None:
    """Every client applied every event of each stream once, in order."""
    for client in range(CLIENTS):
        for stream in STREAMS:
            seqs = [
                row["detail"] for row in rows if row["kind"] == "applied" and (row["client"], row["stream"]) == (client, stream)
            ]
            assert len(seqs) == published
    assert not [row for row in rows if row["kind"] in ("malformed", "gap", "declared_loss")]


@pytest.mark.usefixtures("transport")
@on_uvloop
async def test_clients_follow_their_streams_over_cuts(server: StreamServer, tmp_path: Path):
    run = started(server, tmp_path)
    run.publish(5)
    await run.caught_up()
    for _ in range(3):
        assert [driver.cut(0.05) for driver in run.drivers] == [True] * CLIENTS
        run.publish(4)
        await run.caught_up()
    positions = [after for _, _, after in server.requests]
    rows = run.rows()
    exactly_once(rows, 17)
    assert len([row for row in rows if row["kind"] == "disconnected"]) >= 3 * CLIENTS * len(STREAMS)
    assert positions.count(None) == CLIENTS * len(STREAMS)  # each later request has a position
    await until(lambda: server.open == 0)


@pytest.mark.usefixtures("transport")
@on_uvloop
async def test_clients_whose_process_dies_resume_from_their_checkpoints(server: StreamServer, tmp_path: Path):
    run = started(server, tmp_path)
    run.publish(5)
    await run.caught_up()
    for driver in run.drivers:
        assert driver.die(RestartClients(at_s=0.0, checkpoint="kept"))
    run.publish(3)
    await until(lambda: server.open == 0)
    for driver in run.drivers:
        driver.revive()
    await until(lambda: all(applied(driver.session) == [3] * len(STREAMS) for driver in run.drivers))
    exactly_once(run.rows(), 8)


@pytest.mark.usefixtures("transport")
@on_uvloop
async def test_clients_recover_through_the_fault_proxy(server: StreamServer, tmp_path: Path):
    proxy = FaultProxy("127.0.0.1", server.port, 1)
    group = await proxy.open_group()
    run = started(server, tmp_path, port=group.port)
    run.publish(3)
    await run.caught_up()
    group.reset()
    run.publish(3)
    await run.caught_up()
    exactly_once(run.rows(), 6)
    await proxy.close()


@pytest.mark.usefixtures("transport")
@on_uvloop
async def test_client_stops_reading_and_continues(server: StreamServer, tmp_path: Path):
    run = started(server, tmp_path)
    run.publish(2)
    await run.caught_up()
    slow = run.drivers[0]
    assert slow.read(False)
    run.publish(2)
    await until(lambda: applied(run.drivers[1].session) == [4] * len(STREAMS))
    assert applied(slow.session) == [2] * len(STREAMS)
    slow.read(True)
    await run.caught_up()
    exactly_once(run.rows(), 4)


@pytest.mark.parametrize("transport", [Transport.LONG_POLL], indirect=True)
@pytest.mark.usefixtures("transport")
@on_uvloop
async def test_long_polls_of_a_client_share_its_connections(server: StreamServer, tmp_path: Path):
    server.keeps_connections = True
    run = started(server, tmp_path)
    for _ in range(3):
        run.publish(1)
        await run.caught_up()
    assert len(server.requests) >= 3 * CLIENTS * len(STREAMS)
    assert server.connections == CLIENTS * len(STREAMS)
    assert [driver.cut(0.05) for driver in run.drivers] == [True] * CLIENTS
    run.publish(1)
    await run.caught_up()
    exactly_once(run.rows(), 4)
    await until(lambda: server.open == 0)


@pytest.mark.parametrize("transport", [Transport.LONG_POLL], indirect=True)
@pytest.mark.usefixtures("transport")
@on_uvloop
async def test_connections_that_a_server_closes_without_saying_so_are_replaced(server: StreamServer, tmp_path: Path):
    server.keeps_connections = server.hangs_up = True
    run = started(server, tmp_path)
    for _ in range(3):
        run.publish(1)
        await run.caught_up()
    assert server.connections > CLIENTS * len(STREAMS)
    exactly_once(run.rows(), 3)


@pytest.mark.usefixtures("transport")
@on_uvloop
async def test_requests_keep_to_the_targets_cap(server: StreamServer, tmp_path: Path):
    """The cap is of connections, and each of a client's streams has one."""
    per_s = 30
    run = started(server, tmp_path, pacer=Pacer(per_s))
    run.publish(1)
    await run.caught_up()
    rows = run.rows()
    assert len([row for row in rows if row["kind"] == "paced"]) >= CLIENTS * len(STREAMS) - per_s


@pytest.mark.usefixtures("transport")
@on_uvloop
async def test_refused_requests_are_retried_with_a_new_token(server: StreamServer, tmp_path: Path):
    run = started(server, tmp_path, token="stale")
    await until(lambda: len(server.requests) > CLIENTS * len(STREAMS))
    rows = run.rows()
    assert len([row for row in rows if row["kind"] == "token_minted"]) > CLIENTS
    assert not [row for row in rows if row["kind"] == "applied"]


@pytest.mark.usefixtures("transport")
@on_uvloop
async def test_streams_are_read_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pem, trusted = certified(tmp_path)
    for name, value in trusted.items():
        monkeypatch.setenv(name, value)
    certificates.trusted.cache_clear()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pem)
    with StreamServer(*STREAMS, tls=tls) as server:
        run = started(server, tmp_path / "run", "https")
        run.publish(3)
        await run.caught_up()
        exactly_once(run.rows(), 3)
    certificates.trusted.cache_clear()


def test_greenlets_follow_their_streams_over_cuts(tmp_path: Path, transport: Transport):
    """In a process of its own, because Locust changes Python's sockets."""
    with StreamServer(*STREAMS) as server:
        run = Run(server, [], None, tmp_path)  # type: ignore[arg-type]
        run.publish(5)
        command = [sys.executable, "-m", "tests.engines.green_streams", str(server.port), transport.value, str(tmp_path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "caught up 5\n"
        for _ in range(2):
            process.stdin.write("cut\n")
            process.stdin.flush()
            run.publish(4)
            assert process.stdout.readline() == f"caught up {run.published}\n"
        out, _ = process.communicate("stop\n", timeout=LIMIT_S)
        said = json.loads(out)
        # A poll that was asked again, and is not answered yet when it is cut, has failed to connect.
        assert said["disconnected"] + said["connect_failed"] >= 2 * CLIENTS * len(STREAMS), said
    exactly_once(read(tmp_path).to_pylist(), 13)
