"""A client whose process dies: what is left to the next one, and that healing starts it whatever happened to its fault."""

from pathlib import Path

import pytest

from sim.client import policies
from sim.client.actions import ClientSettings
from sim.client.session import Session
from sim.client.transitions import State
from sim.drill.fault_kinds import RestartClients
from sim.drill.system_model import SystemModel
from sim.engines.virtual.client import VirtualClient
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.service import SimulatedService
from sim.protocols.intents import Compatibility
from sim.protocols.spacetime.adapter import CAPABILITIES
from sim.protocols.spacetime.server import SERVER
from sim.protocols.spacetime.streams import run_events
from sim.record.parquet import Recorder
from sim.server.settings import RuntimeSettings, Switches

BEGAN = 1000.0
COMPATIBILITY = Compatibility("drill", "20260201T000000Z", "spacetime.sync.v1", 1)
TOPIC = run_events("r1")
LOST = RestartClients(at_s=0.0, checkpoint="lost")
KEPT = RestartClients(at_s=0.0, checkpoint="kept")


@pytest.fixture
def client(tmp_path: Path) -> VirtualClient:
    env, model = VirtualClock(BEGAN), SystemModel()
    endpoints = SimulatedService(env, SERVER, RuntimeSettings(), Switches(), model)
    session = Session(0, [TOPIC], policies.get("reference"), ClientSettings(1, COMPATIBILITY, CAPABILITIES))
    return VirtualClient(env, session, endpoints, model, Recorder(tmp_path), BEGAN)


def run(client: VirtualClient, seconds: float) -> State:
    client._env.run(until=client._env.now + seconds)
    return client.session.state


def publish(client: VirtualClient, key: str) -> None:
    event = {"run_id": "r1", "event_type": "run.progress", "payload": {"key": key}}
    client._service.publish(TOPIC, key, event, lambda answer: None)
    run(client, 1.0)
    client.catch_up()


@pytest.mark.parametrize(("fault", "at"), [(LOST, None), (KEPT, 2)])
def test_the_next_life_begins_where_its_store_says(client: VirtualClient, fault: RestartClients, at: int | None):
    client.start()
    assert run(client, 2.0) is State.LIVE
    publish(client, "a")
    publish(client, "b")
    before = client.session
    assert client.die(fault)
    assert not client.die(fault)
    assert client.session is not before
    assert client.session.replica.cursors[TOPIC].watermark == at
    assert run(client, 5.0) is State.IDLE
    client.revive()
    assert run(client, 2.0) is State.LIVE
    publish(client, "c")
    assert client.session.replica.cursors[TOPIC].watermark == 3


def test_healing_starts_what_a_fault_left_dead(client: VirtualClient):
    client.start()
    run(client, 2.0)
    client.die(LOST)
    client.come_online()
    assert run(client, 2.0) is State.LIVE
    live = client.session
    client.come_online()
    client.revive()
    assert run(client, 1.0) is State.LIVE
    assert client.session is live


def test_a_process_that_dies_while_it_mints_gets_no_token_of_its_earlier_life(client: VirtualClient):
    client.start()
    assert client.session.state is State.MINTING
    client.die(LOST)
    assert run(client, 5.0) is State.IDLE
    client.revive()
    assert run(client, 2.0) is State.LIVE
