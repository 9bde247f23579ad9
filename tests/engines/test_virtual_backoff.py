"""Backoff policies under contention rank as they are known to.

M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): with a fixed capacity and everyone starting at
once, backoff without jitter costs far the most attempts; equal jitter somewhat more than full and decorrelated jitter.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from sim.client import backoff, policies
from sim.client.actions import ClientSettings
from sim.client.backoff import Backoff, Exponential
from sim.client.session import Session
from sim.drill.system_model import ControlService, Server, SystemModel
from sim.engines.virtual.client import VirtualClient
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.service import SimulatedService
from sim.protocols.intents import Compatibility
from sim.protocols.spacetime.adapter import CAPABILITIES
from sim.protocols.spacetime.server import SERVER
from sim.record.observations import Kind
from sim.record.parquet import Recorder, read
from sim.server.settings import RuntimeSettings, Switches

CLIENTS = 600
LIMIT_S = 2000.0  # simulated
RUNTIME = RuntimeSettings()
# One handshake after the other, 20 ms each, and room for ten: whoever comes when it is full hears nothing, and gives up
# after half a second, before the kernel tries again for it.
NARROW = SystemModel(server=Server(accept_backlog=10, handshake_ms=20.0), control=ControlService(mint_ms=0.0))
COMPATIBILITY = Compatibility("test", "20260601T000000Z", RUNTIME.protocol_version, RUNTIME.schema_version)
SETTINGS = ClientSettings(seed=1, compatibility=COMPATIBILITY, capabilities=CAPABILITIES, reply_timeout_s=0.5)
NO_JITTER = Exponential("no_jitter")  # the same base and cap as the jittered ones


def storm(folder: Path, delays: Backoff, seed: int, clients: int = CLIENTS) -> float:
    """Everyone connects at once; returns how often a client attempted to, on average, until all were live."""
    env, recorder = VirtualClock(0.0), Recorder(folder)
    service = SimulatedService(env, SERVER, RUNTIME, Switches(), NARROW)
    policy = replace(policies.get("reference"), backoff=delays)
    sessions = [Session(n, ["run:r1:events"], policy, replace(SETTINGS, seed=seed)) for n in range(clients)]
    for session in sessions:
        env.call_at(0.0, VirtualClient(env, session, service, NARROW, recorder, 0.0).start)
    while not all(session.is_live for session in sessions) and env.now < LIMIT_S:
        env.run(until=env.now + 0.5)
    recorder.seal()
    kinds = read(folder)["kind"].to_pylist()
    return kinds.count(Kind.CONNECT_ATTEMPTED) / clients


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Mean attempts a client, over two seeds."""
    chosen = [NO_JITTER, *map(backoff.get, ("equal_jitter", "reference", "decorrelated"))]
    folder = tmp_path_factory.mktemp("storms")
    found = {each.name: sum(storm(folder / f"{each.name}-{seed}", each, seed) for seed in (1, 2)) / 2 for each in chosen}
    print(found)
    return found


def test_no_jitter_costs_far_the_most_attempts(attempts: dict[str, float]):
    assert all(attempts["no_jitter"] > 2 * attempts[name] for name in attempts if name != "no_jitter"), attempts


def test_full_and_decorrelated_jitter_cost_no_more_than_equal_jitter(attempts: dict[str, float]):
    assert attempts["reference"] < 1.05 * attempts["equal_jitter"], attempts
    assert attempts["decorrelated"] < 1.05 * attempts["equal_jitter"], attempts


def test_trying_again_at_once_is_hopeless(tmp_path: Path):
    """No wait at all: everyone retries at a full accept queue; jitter needs a fraction of it."""
    hammering = storm(tmp_path / "none", backoff.get("none"), 1, clients=200)
    assert hammering > 2 * storm(tmp_path / "full", backoff.get("reference"), 1, clients=200)
