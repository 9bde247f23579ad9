"""Caps of connections, where each stream of a client has its own."""

import pytest

from drills import CATALOG
from sim.base.errors import UsageError
from sim.drill import model as drills
from sim.drill.target_rules import Caps, Rules
from sim.engines.shared import permission
from sim.engines.shared.endpoints import Endpoints

SETTINGS = ("fleet.clients=10", "fleet.topics_per_client=2", "load.run_streams=3", "load.events_per_s=1")


def endpoints(protocol: str, clients: int, connects_per_s: float = 1000.0) -> Endpoints:
    caps = Caps(clients=clients, connects_per_s=connects_per_s, events_per_s=100.0)
    return Endpoints("t", "staging", "http://t", "http://t", protocol=protocol, rules=Rules(caps=caps))


@pytest.mark.parametrize(("protocol", "connections"), [("spacetime", 11), ("durable_streams", 10 * 2 + 3)])
def test_each_stream_of_a_client_is_a_connection(protocol: str, connections: int) -> None:
    drill = drills.load(CATALOG / "network_flap.toml", SETTINGS)
    assert permission.connections(drill, endpoints(protocol, 1)) == connections
    permission.require_allowed(drill, endpoints(protocol, connections))
    with pytest.raises(UsageError, match="Use --clients 9"):
        permission.require_allowed(drill, endpoints(protocol, connections - 1))


def test_clients_that_open_several_connections_arrive_more_slowly() -> None:
    drill = drills.load(CATALOG / "network_flap.toml", (*SETTINGS, "fleet.connects_per_s=10"))
    permission.require_allowed(drill, endpoints("spacetime", 100, 10.0))
    with pytest.raises(UsageError, match=r"fleet.connects_per_s=5"):
        permission.require_allowed(drill, endpoints("durable_streams", 100, 10.0))
