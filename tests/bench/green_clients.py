"""One Locust process full of clients, ours or plain ones: `python -m tests.bench.green_clients JSON` reports what it took.

Ours are a load test's clients, which record as in a drill and report each delivery to Locust. The plain ones are what one
would write for Locust without them: a `websocket-client` socket per user, the standard library's JSON, and Locust's event.
All users are greenlets of a real Locust environment without a web page. Otherwise as `tests.bench.clients`.
"""

import locust  # first of all: it changes Python's sockets

# isort: split
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import gevent
import websocket
from locust.env import Environment

from locustfiles.load.clients.recording import GreenRecorder, LiveMetrics
from sim.base.clocks import WallClock
from sim.client import policies
from sim.client.actions import Token
from sim.client.session import Session
from sim.engines.greenlets.client import WireClient
from sim.engines.greenlets.http import GreenletHttp
from sim.engines.shared import service_api
from sim.mock.server import raise_descriptor_limit
from sim.protocols.spacetime.codec import encode_client
from sim.protocols.spacetime.frames import Join, Subscribe
from sim.service.requests import Request
from tests.bench.report import (
    COMPATIBILITY,
    SETTINGS,
    Connecting,
    Counting,
    Crowd,
    Job,
    Report,
    Window,
    carry_out,
    measurements,
)

T = TypeVar("T")


class ReadyTokens(GreenletHttp):
    """The HTTP requests of the service, with tokens minted before the measurement."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.service)
        self._tokens = iter(job.tokens)

    def _send(self, request: Request[T]) -> T:
        return Token(  # type: ignore[return-value]  # only tokens are asked for
            next(self._tokens), time.time() + 270, time.time() + 300
        )


class CountingClient(Counting, WireClient):
    """A load test's client that also counts."""


class OurCrowd(Crowd):
    """A load test's clients."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        self._recorder = GreenRecorder(folder)
        self._stats = environment.stats
        self._live = LiveMetrics(lambda kind, name, ms, _: self._stats.log_request(kind, name, round(ms), 0))
        self._clients: list[CountingClient] = []

    def connect(self, job: Job) -> None:
        """Return when every client has subscribed."""
        clock, service = WallClock(), ReadyTokens(job)
        for number in range(len(job.tokens)):
            session = Session(number, [job.topic], policies.get("reference"), SETTINGS)
            client = CountingClient(session, service, clock, self._recorder, self._live.noticed)
            client.crowd = self
            self._clients.append(client)
            gevent.spawn(client.run, 0.0)
        while not all(client.session.is_caught_up for client in self._clients):
            gevent.sleep(0.005)


class PlainCrowd(Crowd):
    """Users as one would write them for Locust."""

    def __init__(self, environment: Environment) -> None:
        self._fire: Callable[..., None] = environment.events.request.fire

    def connect(self, job: Job) -> None:
        """Return when every client has subscribed."""
        users = [gevent.spawn(self._one, job, token) for token in job.tokens]
        gevent.joinall(users, raise_error=True)

    def _one(self, job: Job, token: str) -> None:
        began = time.perf_counter()
        socket: Any = websocket.create_connection(f"{job.service.socket_url}?token={token}&vsn=2.0.0", enable_multithread=False)
        socket.send(encode_client(Join("1", COMPATIBILITY)))
        socket.recv()
        socket.send(encode_client(Subscribe("2", (job.topic,), {}, 200)))
        while json.loads(socket.recv())[3] != "phx_reply":
            pass
        self._report("connect", began)
        gevent.spawn(self._read, socket)

    def _read(self, socket: Any) -> None:
        while text := socket.recv():  # nothing: the server has closed it
            began = time.perf_counter()
            for _ in range(self.count(text)):
                self._report("delivery", began)

    def _report(self, name: str, began: float) -> None:
        ms = (time.perf_counter() - began) * 1000
        self._fire(request_type="WS", name=name, response_time=ms, response_length=0, exception=None, context={})


def run(job: Job, folder: Path) -> Report:
    """Connect all clients, measure deliveries for a while, report."""
    environment = Environment(user_classes=[])
    environment.create_local_runner()  # it listens to what users report
    crowd: OurCrowd | PlainCrowd = OurCrowd(folder, environment) if job.kind == "locust" else PlainCrowd(environment)
    connecting = Connecting()
    crowd.connect(job)
    report, window = connecting.report(len(job.tokens)), Window(job, crowd)
    publisher = gevent.spawn(_publish, window, GreenletHttp(job.service))
    for wait_s in measurements(job, crowd, window, report):
        gevent.sleep(wait_s)
    publisher.kill()
    return report


def _publish(window: Window, service: GreenletHttp) -> None:
    while True:
        gevent.joinall(
            [gevent.spawn(partial(service.ask, service_api.publish, *each)) for each in window.due()], raise_error=True
        )
        gevent.sleep(0.001)


if __name__ == "__main__":
    assert locust
    raise_descriptor_limit()
    carry_out(run, "locust")
