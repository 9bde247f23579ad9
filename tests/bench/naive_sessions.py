"""The real sessions against the simulated service, in the obvious SimPy style: equal work, another driver.

Each client is a generator process with a Store for what it receives; each frame on its way is a process of its own; every frame
is JSON in between, encoded once for each client and decoded by it. Sessions, service, records and times are the engine's.
"""

from collections.abc import Callable, Generator
from typing import Any

import simpy

from sim.client import policies
from sim.client.actions import Action, Close, Connect, Send
from sim.client.session import Session
from sim.client.transitions import State
from sim.drill.model import Drill
from sim.drill.system_model import UNLIMITED
from sim.engines.shared import client_setup
from sim.engines.shared.publishing import streams_of
from sim.engines.virtual.client import one_way_delay_s
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.engine import EPOCH
from sim.engines.virtual.publisher import VirtualPublisher
from sim.engines.virtual.service import SimulatedService
from sim.protocols.adapter import TransportEnd
from sim.protocols.events import Closed, Message
from sim.protocols.intents import Raw
from sim.protocols.spacetime import server
from sim.protocols.spacetime.adapter import SpacetimeConnection, frame_of
from sim.protocols.spacetime.codec import encode_client
from sim.protocols.spacetime.server import SERVER
from sim.protocols.spacetime.streams import run_events
from sim.record.parquet import Recorder
from sim.server.settings import Switches
from tests.bench import naive_simpy

Steps = Generator[simpy.Event, Any, None]
_LOST = ""  # in a client's Store: the service closed the connection


def _teller(event: simpy.Event) -> Callable[[object], None]:
    def tell(value: object) -> None:
        event.succeed(value)

    return tell


class SessionProcess:
    """One client, as a process that waits for a frame or for its own deadline."""

    def __init__(self, env: VirtualClock, session: Session, service: SimulatedService, recorder: Recorder) -> None:
        self._env = env
        self._session = session
        self._service = service
        self._recorder = recorder
        self._inbox = simpy.Store(env)
        self._number = 0
        self._connection = SpacetimeConnection("ws://bench")
        self._delay_s = one_way_delay_s(UNLIMITED, 1, session.client)

    # --- the service's side ------------------------------------------------------------------------

    def sends(self, message: Message, moment: float) -> None:
        """A message is put on the wire."""
        self._env.process(self._down(self._inbox, server.write(message, "1"), moment))

    def lost(self, event: Closed) -> None:
        """The connection is closed."""
        self._env.process(self._down(self._inbox, _LOST, self._env.now))

    def _down(self, inbox: simpy.Store, text: str, moment: float) -> Steps:
        yield self._env.timeout(moment + self._delay_s - self._env.now)
        inbox.put(text)

    def _up(self, text: str, number: int) -> Steps:
        yield self._env.timeout(self._delay_s)
        self._service.received(number, self, server.read(text.encode(), True, 2**18))

    # --- its life -----------------------------------------------------------------------------------

    def run(self, arrives_s: float) -> Steps:
        """From its arrival on; an interrupt cuts its connection."""
        yield self._env.timeout(arrives_s)
        self._session.start(self._env.now)
        while True:
            try:
                yield from self._pump()
                yield from self._wait()
            except simpy.Interrupt:
                self._inbox = simpy.Store(self._env)
                self._service.close(self._number, self)
                if self._session.state in (State.CONNECTING, State.JOINING, State.SUBSCRIBING, State.LIVE):
                    self._session.received(self._connection.closed(0, TransportEnd()), self._env.now)

    def _wait(self) -> Steps:
        got = self._inbox.get()
        timer = self._env.timeout(max(self._session.wake_at() - self._env.now, 0.0))
        yield got | timer
        if got.triggered and got.value != _LOST:
            self._session.received(self._connection.received(0, str(got.value).encode(), True), self._env.now)
        elif got.triggered:
            self._session.received(self._connection.closed(0, TransportEnd()), self._env.now)
        else:
            got.cancel()
            self._session.wake(self._env.now)

    def _pump(self) -> Steps:
        while actions := self._session.actions():
            for action in actions:
                yield from self._carry_out(action)
        self._recorder.extend(self._env.now - EPOCH, self._session.client, list(self._session.notices()))

    def _carry_out(self, action: Action) -> Steps:
        if isinstance(action, Send):
            assert not isinstance(action.intent, Raw)  # no negative client is among them
            self._connection.send(action.intent)
            self._env.process(self._up(encode_client(frame_of(action.intent)), self._number))
        elif isinstance(action, Close):
            self._service.close(self._number, self)
        elif isinstance(action, Connect):
            yield from self._connect(action)
        else:
            answer = self._env.event()
            yield self._env.timeout(self._delay_s)
            self._service.mint(self._session, f"client-{self._session.client}", _teller(answer))
            token = yield answer
            yield self._env.timeout(self._delay_s)
            self._session.minted(token, self._env.now)

    def _connect(self, asked: Connect) -> Steps:
        yield self._env.timeout(3 * self._delay_s)  # SYN, SYN-ACK, upgrade
        answer = self._env.event()
        self._service.upgrade(asked, self, _teller(answer))
        self._number = yield answer
        yield self._env.timeout(self._delay_s)
        self._connection = SpacetimeConnection("ws://bench")
        self._session.received(self._connection.opened(0, 101, {}), self._env.now)


def run(drill: Drill, recorder: Recorder, cuts_s: list[float], ends_s: float) -> tuple[int, int]:
    """The drill's storm with these moments of cutting everyone, without limits; returns 0 (count them) and SimPy's events."""
    env = VirtualClock(EPOCH)
    service = SimulatedService(env, SERVER, drill.runtime, Switches(), UNLIMITED)
    topics = [run_events(f"r{number + 1}") for number in range(drill.load.run_streams)]
    streams = streams_of([f"r{number + 1}" for number in range(drill.load.run_streams)], drill.load.worker_events)
    publisher = VirtualPublisher(env, service, streams, drill.load, recorder, EPOCH, client_setup.run_marker("virtual", 1))
    settings, policy = client_setup.client_settings(drill, 1), policies.get("reference")
    sessions = [Session(n, [topics[n % len(topics)]], policy, settings) for n in range(drill.fleet.clients)]
    clients = [SessionProcess(env, session, service, recorder) for session in sessions]
    period_s = drill.fleet.arrival_s / drill.fleet.clients
    processes = [env.process(client.run(n * period_s)) for n, client in enumerate(clients)]

    publisher.start()
    env.process(naive_simpy.cut(env, processes, [EPOCH + moment for moment in cuts_s]))
    env.run(until=EPOCH + ends_s)
    return 0, next(env._eid)
