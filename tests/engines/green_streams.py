"""A process of greenlet clients of `tests.peers.stream_server`: `python -m tests.engines.green_streams PORT TRANSPORT FOLDER`.

It says when all have caught up; `cut` on standard input cuts them all, `stop` ends it.
"""

import locust  # first of all: it changes Python's sockets

# isort: split
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gevent
from gevent.fileobject import FileObject

from locustfiles.load.clients.recording import GreenRecorder
from sim.base.clocks import WallClock
from sim.client import policies
from sim.client.actions import Token
from sim.client.session import Session
from sim.engines.greenlets.client import WireClient
from sim.protocols import registry
from sim.protocols.adapter import Transport
from tests.engines.streams import protocol
from tests.engines.test_http_transports import CLIENTS, LIMIT_S, STREAMS, applied, settings


class Endpoints:
    """Issues tokens at once."""

    def __init__(self, port: int) -> None:
        self.endpoints = self
        self.socket_url = f"http://127.0.0.1:{port}"

    def ask(self, *_: object) -> Token:
        return Token("good", 2e9, 2e9)


def main(port: str, transport: str, folder: str) -> None:
    registry.get = lambda _: protocol(Transport(transport))  # type: ignore[assignment]
    endpoints: Any = Endpoints(int(port))
    seen: Counter[str] = Counter()
    recorder, clock = GreenRecorder(Path(folder)), WallClock()
    clients = []
    for number in range(CLIENTS):
        session = Session(number, STREAMS, policies.get("reference"), settings())
        client = WireClient(
            session, endpoints, clock, recorder, lambda _, __, notices: seen.update(each.kind for each in notices)
        )
        clients.append(client)
        gevent.spawn(client.run, 0.0)
    count = 5
    lines = FileObject(sys.stdin, "r")
    while True:
        with gevent.Timeout(LIMIT_S):
            while any(applied(each.session) != [count] * len(STREAMS) or len(each._wires) < len(STREAMS) for each in clients):
                gevent.sleep(0.01)
        print(f"caught up {count}", flush=True)
        if lines.readline() == "stop\n":
            break
        for client in clients:
            with gevent.Timeout(LIMIT_S):
                while len(client._wires) < len(STREAMS):  # what was published meanwhile answers polls
                    gevent.sleep(0.001)
            assert client.cut(0.05)
        count += 4
    for client in clients:
        client.stop()
    recorder.seal()
    print(json.dumps({kind: seen[kind] for kind in ("disconnected", "connect_failed")}))


if __name__ == "__main__":
    assert locust
    main(*sys.argv[1:])
