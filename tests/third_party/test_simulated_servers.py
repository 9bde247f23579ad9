"""The simulated servers tell a few dozen clients what the real ones tell them, event by event.

Each of the clients has a script: subscribe, be cut off, return from a position. The real server gets it through the adapter.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from drills.runs import targets
from drills.third_party import centrifugo, nats
from drills.third_party.running import Server
from drills.third_party.running import running as server_running
from sim.protocols import registry
from sim.protocols.adapter import Connection, Credentials, Open, TransportEnd, Write
from sim.protocols.events import (
    Batch,
    CaughtUp,
    Closed,
    Event,
    Head,
    Joined,
    Position,
    PositionUnknown,
    Problem,
    Refused,
    Resumed,
    Stale,
)
from sim.protocols.intents import AskHead, Compatibility, Intent, Join, Publish, Subscribe
from sim.protocols.registry import ConnectionOptions
from sim.service.tokens import signed_token
from tests.server.test_stream_runtime import Driver, token

STREAMS = {"centrifugo": centrifugo.CHANNELS[0], "nats": f"{nats.STREAM}.simulated"}
PROTOCOLS = {"centrifugo": "centrifugo", "nats": "nats_jetstream"}
EVENTS = 12
QUIET_S = 0.4  # without another message, the server has said everything
OTHER_LOG = "another log"
POSITIONS: tuple[tuple[int | None, str], ...] = (
    *((number, "") for number in range(1, EVENTS + 1)),
    *((None, "") for _ in range(3)),
    *((EVENTS + more, "") for more in (1, 5, 100)),
    *((number, OTHER_LOG) for number in (1, 6, EVENTS, EVENTS + 1)),
)
"""Where each client returns: after an event, without a position, above the head, or in another log."""


def place(position: Position | None, log: str | None) -> str:
    """A position in words that do not depend on the log's name."""
    if position is None:
        return "-"
    where = "" if position.epoch == log else " of no log" if position.epoch is None else " of another log"
    return f"{position.offset}{where}"


def said(events: list[Event], log: str | None) -> list[str]:
    """What events say, without payloads and signs of life; neighbouring batches are one."""
    out: list[str] = []
    delivered: list[str] = []
    for event in [*events, None]:
        if isinstance(event, Batch):
            delivered += [place(item.position, log) for item in event.items]
            continue
        words = in_words(event, log)
        if delivered and (words or event is None):
            out.append(f"delivers {' '.join(delivered)}")
            delivered = []
        out += words
    return out


def in_words(event: Event | None, log: str | None) -> list[str]:
    """What an event says; nothing of a sign of life."""
    match event:
        case Joined():
            return ["joined"]
        case Resumed(at=at, head=head):
            return [f"resumed at {place(at, log)}, head {place(head, log)}"]
        case PositionUnknown(asked=asked, head=head, reason=reason, subscribed_at=at):
            return [f"unknown {place(asked, log)}, head {place(head, log)}, {reason}, goes on at {place(at, log)}"]
        case Stale(asked=asked, head=head, subscribed_at=at):
            return [f"stale {place(asked, log)}, head {place(head, log)}, goes on at {place(at, log)}"]
        case CaughtUp():
            return ["caught up"]
        case Head(position=position):
            return [f"head {place(position, log)}"]
        case Refused(code=code, next=following, is_open=is_open):
            return [f"refused {code}, {following.step}, {'open' if is_open else 'closed'}"]
        case Problem(code=code):
            return [f"problem {code}"]
        case Closed(code=code, next=following):
            return [f"closed {code}, {following.step}"]
    return []


class RealClient:
    """A client of the real server: its adapter, and a socket that is read as long as something comes."""

    def __init__(self, url: str, protocol: str, options: dict[str, object], token: str) -> None:
        self.adapter: Connection = registry.get(protocol).new_connection(ConnectionOptions(url, options))
        self.events: list[Event] = list(self.adapter.connect(Credentials(token)))
        self.socket: ClientConnection | None = None
        self.token = token
        self._carry_out()
        self.joined = self.ask(Join("1", Compatibility(), token))

    def _carry_out(self) -> None:
        for action in self.adapter.actions():
            if isinstance(action, Open):
                self.socket = connect(action.url, compression=None)
                self.events += self.adapter.opened(action.id, 101, {})
                self._carry_out()
            elif isinstance(action, Write) and self.socket is not None:
                self.socket.send(action.data.decode() if action.is_text else action.data)

    def ask(self, intent: Intent) -> list[Event]:
        """Send an intent; returns what came until the server was quiet."""
        self.events += self.adapter.send(intent)
        self._carry_out()
        return self.hear()

    def hear(self) -> list[Event]:
        assert self.socket is not None
        try:
            while True:
                data = self.socket.recv(timeout=QUIET_S)
                is_text = isinstance(data, str)
                self.events += self.adapter.received(0, data.encode() if isinstance(data, str) else data, is_text)
                self._carry_out()
        except TimeoutError:
            pass
        except ConnectionClosed as closed:
            end = closed.rcvd
            self.events += self.adapter.closed(0, TransportEnd(end.code, end.reason) if end else TransportEnd())
        found, self.events = self.events, []
        return found

    def cut(self) -> None:
        assert self.socket is not None
        self.socket.socket.close()


class Real:
    """A real server, and how to reach it."""

    def __init__(self, name: str, up: Server) -> None:
        endpoints = targets.resolve(up.name, Path(up.targets_file))
        assert endpoints is not None
        self.name, self.stream = name, STREAMS[name]
        self.http = endpoints.runtime_url
        self.url = self.http.replace("http", "ws", 1) + endpoints.socket_path
        self.options = dict(endpoints.protocol_options)
        self._endpoints = endpoints
        self._key = up.environment.get("CENTRIFUGO_API_KEY", "")

    def token(self, ttl_s: int = 300) -> str:
        """A token as the target's clients get it, signed here."""
        values = {**self._endpoints.values(), "ttl_s": ttl_s, "unique": "id"}
        return signed_token(self._endpoints.forms.token, values, self._endpoints.signing_key)

    def client(self, token: str | None = None) -> RealClient:
        return RealClient(self.url, PROTOCOLS[self.name], self.options, self.token() if token is None else token)

    def publish(self, first: int, count: int) -> None:
        if self.name == "centrifugo":
            for number in range(first, first + count):
                body = {"channel": self.stream, "data": {"n": number}}
                httpx.post(f"{self.http}/api/publish", headers={"X-API-Key": self._key}, json=body).raise_for_status()
            return
        publisher = self.client()
        for number in range(first, first + count):
            payload = json.dumps({"n": number}).encode()
            publisher.ask(Publish(str(number), self.stream, msgspec.Raw(payload), f"key-{number}"))


@pytest.fixture(scope="module", params=sorted(STREAMS))
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with server_running(request.param, log=tmp_path_factory.mktemp("real") / "server.log") as up:
        yield Real(request.param, up)


def real_log(real: Real) -> str | None:
    """The name of the real server's log."""
    answer = real.client().ask(Subscribe("2", {real.stream: None}))
    (found,) = [event for event in answer if isinstance(event, Resumed)]
    return found.at.epoch if found.at else None


def asked_at(number: int | None, epoch: str, log: str | None) -> Position | None:
    return None if number is None else Position(number, epoch or log)


def test_a_few_dozen_clients_hear_the_same(real: Real) -> None:
    driver = Driver(PROTOCOLS[real.name])
    driver.publish(real.stream, EVENTS)
    real.publish(1, EVENTS)
    own, theirs = driver.runtime.streams.epoch(real.stream), real_log(real)
    clients = [real.client() for _ in POSITIONS]
    for client in clients:
        client.hear()
        client.cut()
    for number, epoch in POSITIONS:
        simulated = driver.open()
        back = real.client()
        assert said(driver.ask(simulated, driver.join()), own) == said(back.joined, theirs)
        found = said(driver.ask(simulated, Subscribe("2", {real.stream: asked_at(number, epoch, own)})), own)
        expected = said(back.ask(Subscribe("2", {real.stream: asked_at(number, epoch, theirs)})), theirs)
        assert found == expected, f"position {number} {epoch}"
        back.cut()


def test_live_events_and_heads_are_the_same(real: Real) -> None:
    driver = Driver(PROTOCOLS[real.name])
    before = len(numbers_of(real))
    driver.publish(real.stream, before)
    own, theirs = driver.runtime.streams.epoch(real.stream), real_log(real)
    simulated, client = driver.joined(), real.client()
    client.hear()
    steps: tuple[Callable[[Position], Intent], ...] = (
        lambda head: Subscribe("2", {real.stream: head}),
        lambda head: AskHead("3", real.stream),
    )
    for step in steps:
        found = said(driver.ask(simulated, step(Position(before, own))), own)
        assert found == said(client.ask(step(Position(before, theirs or ""))), theirs)
    driver.publish(real.stream, 2)
    real.publish(before + 1, 2)
    assert said(driver.pull(simulated), own) == said(client.hear(), theirs)


def numbers_of(real: Real) -> range:
    """The positions that the real stream has now."""
    answer = real.client().ask(Subscribe("2", {real.stream: None}))
    (found,) = [event for event in answer if isinstance(event, Resumed)]
    assert found.head is not None
    return range(int(found.head.offset))


@pytest.mark.parametrize("kind", ["expired", "malformed"])
def test_refused_tokens_are_refused_alike(real: Real, kind: str) -> None:
    driver = Driver(PROTOCOLS[real.name])
    simulated = driver.open()
    expired = token(driver.now - 1000), real.token(-1000)
    own, theirs = expired if kind == "expired" else ("no token", "no token")
    found = driver.ask(simulated, Join("1", Compatibility(), own))
    if driver.runtime.is_closing(simulated):
        found.append(driver.runtime.end_of(simulated))
    assert said(found, None) == said(real.client(theirs).joined, None)
