"""A process that publishes in greenlets to `tests.peers.nats_stand_in`: `python -m tests.engines.green_publishing PORT`."""

import locust  # noqa: F401 - first of all: it changes Python's sockets

# isort: split
import json
import sys
from typing import Any

import gevent

from drills import CATALOG
from sim.base.clocks import WallClock
from sim.client.actions import Token
from sim.drill.model import load
from sim.engines.greenlets.protocol_publisher import GreenletPublisher
from sim.engines.shared import client_setup
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.service_api import PublishFailedError


class Http:
    """Issues tokens at once."""

    def __init__(self, port: str) -> None:
        url = f"http://127.0.0.1:{port}"
        self.endpoints = Endpoints("stand-in", "staging", url, url, protocol="nats_jetstream", socket_path="/")

    def ask(self, *_: object) -> Token:
        return Token("none", 2e9, 2e9)


def outcome_of(over: GreenletPublisher, key: str) -> int | str:
    try:
        return over.publish("s", {"n": key}, key).seq
    except PublishFailedError as error:
        return error.code


def main(port: str) -> None:
    http: Any = Http(port)
    settings = client_setup.target_settings(load(CATALOG / "reconnect_storm.toml"), 1, "", http.endpoints)
    over = GreenletPublisher(http, settings, WallClock())
    over.connect()
    found = {}
    for key in ("a", "b", "c", "d"):
        while not over.session.is_live:
            gevent.sleep(0.01)
        found[key] = outcome_of(over, key)
    found["b again"] = outcome_of(over, "b")
    over.close()
    found["closed"] = outcome_of(over, "e")
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
