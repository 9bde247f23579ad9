"""Publishing over the clients' protocol: answers by key, time-outs, cuts and reconnects, on asyncio and in greenlets."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from drills import CATALOG
from sim.base.clocks import WallClock
from sim.base.errors import TargetError
from sim.client.actions import Token
from sim.client.session import Session
from sim.drill.model import load
from sim.engines.shared import client_setup
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.publishing import NOT_CONNECTED, Publishing, Stream
from sim.engines.shared.service_api import UNKNOWN_OUTCOME, PublishedEvent, PublishFailedError
from sim.engines.sockets import publisher as publishers
from sim.engines.sockets.publisher import ProtocolPublisher, Publisher
from sim.record.parquet import Recorder, read
from tests.engines.proxied import on_uvloop, until
from tests.peers.nats_stand_in import NatsStandIn


def endpoints_of(server: NatsStandIn) -> Endpoints:
    url = f"http://127.0.0.1:{server.port}"
    return Endpoints("stand-in", "staging", url, url, protocol="nats_jetstream", socket_path="/")


async def mint(_: Session) -> Token:
    return Token("none", 2e9, 2e9)


def publisher_to(server: NatsStandIn) -> ProtocolPublisher:
    endpoints, drill = endpoints_of(server), load(CATALOG / "reconnect_storm.toml")
    return ProtocolPublisher(endpoints, client_setup.target_settings(drill, 1, "", endpoints), mint, WallClock())


async def closed(over: ProtocolPublisher, server: NatsStandIn) -> None:
    """Disconnect the publisher, and wait until its server knows."""
    over.close()
    await until(lambda: server.open == 0)


async def outcome_of(over: ProtocolPublisher, key: str) -> PublishedEvent | str:
    """The acknowledgement of an event, or the code of its failure, with `!` if it is final."""
    try:
        return await over.publish("s", {"n": key}, key)
    except PublishFailedError as error:
        return error.code + ("!" if error.is_final else "")


@on_uvloop
async def test_each_event_gets_its_own_answer() -> None:
    with NatsStandIn() as server:
        over = publisher_to(server)
        await over.connect()
        server.reactions = ["ack", "refuse", "ack", "ack"]
        found = await asyncio.gather(*(outcome_of(over, key) for key in ("a", "b", "c")))
        assert found == [PublishedEvent(1), "stream_full", PublishedEvent(2)]
        assert await outcome_of(over, "a") == PublishedEvent(1)  # the same key again
        assert (server.log, server.connects) == (["a", "c"], 1)
        server.reactions, server.code = ["refuse"], 10054
        assert await outcome_of(over, "d") == "message_too_large!"
        await closed(over, server)


@on_uvloop
async def test_outcome_of_what_was_in_flight_at_a_cut_is_unknown_and_the_publisher_comes_back() -> None:
    with NatsStandIn() as server:
        over = publisher_to(server)
        await over.connect()
        server.reactions = ["cut"]
        assert await outcome_of(over, "a") == UNKNOWN_OUTCOME
        assert await outcome_of(over, "b") == NOT_CONNECTED
        await until(lambda: over.session.is_live)
        assert await outcome_of(over, "a") == PublishedEvent(1)  # it was stored before the cut
        assert (server.log, server.connects) == (["a"], 2)
        await closed(over, server)
        assert await outcome_of(over, "c") == NOT_CONNECTED


@on_uvloop
async def test_unanswered_event_is_of_unknown_outcome_and_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishers, "REQUEST_TIMEOUT_S", 0.2)
    with NatsStandIn() as server:
        over = publisher_to(server)
        await over.connect()
        server.reactions = ["silence", "silence"]
        assert await asyncio.gather(outcome_of(over, "a"), outcome_of(over, "b")) == [UNKNOWN_OUTCOME] * 2
        await until(lambda: over.session.is_live)
        assert await outcome_of(over, "a") == PublishedEvent(1)
        assert server.connects == 2
        await closed(over, server)


@on_uvloop
async def test_publisher_that_is_not_let_in_is_an_error_of_the_target() -> None:
    with NatsStandIn(lets_in=False) as server, pytest.raises(TargetError, match="its publisher cannot connect") as raised:
        await publisher_to(server).connect()
    assert "(unauthorized)" in str(raised.value)


@on_uvloop
async def test_every_event_of_a_run_is_stored_once_over_cuts_and_refusals(tmp_path: Path) -> None:
    with NatsStandIn() as server:
        over, clock, recorder = publisher_to(server), WallClock(), Recorder(tmp_path)
        await over.connect()
        server.reactions = ["ack", "cut", "refuse", "ack", "cut"]
        drill = load(CATALOG / "reconnect_storm.toml", ("load.events_per_s=200", "load.events=8"))
        publishing = Publishing([Stream("s", "s", "event", "s")], drill.load, recorder, clock.began, "5f0c9b1a77d2")
        publisher = Publisher(None, publishing, clock, None, over)  # type: ignore[arg-type]
        await publisher.start()
        await until(lambda: not publishing.under_way)
        await closed(over, server)
        recorder.seal()
    rows = read(tmp_path).to_pylist()
    published = [row for row in rows if row["kind"] == "published"]
    assert [row["seq"] for row in published] == list(range(1, 9))
    assert [row["marker"] for row in published] == list(range(1, 9))
    assert len(server.log) == len(set(server.log)) == 8
    tried = [row["detail"] for row in rows if row["kind"] == "publish_tried"]
    assert tried.count("acknowledged") == 8
    assert tried.count("unknown") == 2
    assert tried.count("refused") >= 1
    assert {row["client"] for row in rows} == {-1}  # the publisher is not one of the clients


def test_greenlets_publish_over_the_protocol_as_well() -> None:
    with NatsStandIn() as server:
        server.reactions = ["ack", "cut", "refuse"]
        command = [sys.executable, "-m", "tests.engines.green_publishing", str(server.port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        expected = {
            "a": 1,
            "b": UNKNOWN_OUTCOME,
            "c": "stream_full",
            "d": 3,
            "b again": 2,
            "closed": NOT_CONNECTED,
        }
        assert json.loads(done.stdout) == expected
        assert server.log == ["a", "b", "d"]
