"""A simulated client of Durable Streams by long polls hears what the adapter hears of the real server, answer by answer."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from math import inf
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from drills.third_party.running import running as server_running
from sim.client.actions import Connect, Token
from sim.client.transitions import State
from sim.drill.system_model import SystemModel
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.polling_client import PollingClient
from sim.engines.virtual.service import SimulatedService
from sim.protocols import registry
from sim.protocols.adapter import Credentials, Open, TransportEnd
from sim.protocols.durable_streams.adapter import DurableStreamsConnection
from sim.protocols.events import Event, Message, Opened, Position
from sim.protocols.intents import Compatibility, Join, Subscribe
from sim.protocols.payloads import canonical_json
from sim.server.settings import RuntimeSettings, Switches
from tests.third_party.test_simulated_streams import ABOVE, EVENTS, STREAM, Real, said

START, TIME_OUT_S, SOON_S = 2.0**20, 2.0, 0.5  # the time-out is the real server's, too
PLACES: tuple[int | str | None, ...] = (None, 1, 7, EVENTS - 1, EVENTS, ABOVE)


class RealPoller:
    """The adapter at the real server. A request that waits there is answered in a thread."""

    def __init__(self, base: str, threads: ThreadPoolExecutor) -> None:
        self.adapter = DurableStreamsConnection(base, {"live": "long-poll"})
        self.adapter.connect(Credentials(""))
        self.adapter.send(Join("1", Compatibility(), ""))
        self.threads = threads
        self.next: Open | None = None
        self.answer: Future[httpx.Response] | None = None

    def subscribe(self, after: Position | None) -> None:
        self.adapter.send(Subscribe("2", {STREAM: after}))
        self.look()

    def look(self) -> None:
        self.next = next((action for action in self.adapter.actions() if isinstance(action, Open)), None)

    @property
    def waits_next(self) -> bool:
        return self.next is not None and "live=long-poll" in self.next.url

    def ask(self) -> None:
        """Send the request that is due."""
        assert self.next is not None
        self.answer = self.threads.submit(httpx.get, self.next.url, headers=dict(self.next.headers), timeout=30.0)

    def hear(self) -> list[Event]:
        """Return what the adapter makes of the answer."""
        assert self.next is not None
        assert self.answer is not None
        id, answer = self.next.id, self.answer.result(30.0)
        if answer.status_code >= 300:
            end = TransportEnd(status=answer.status_code, headers=answer.headers, body=answer.content)
            events = self.adapter.closed(id, end)
        else:
            events = (
                *self.adapter.opened(id, answer.status_code, answer.headers),
                *self.adapter.received(id, answer.content, True),
            )
        self.look()
        return list(events)


class Listener:
    """A session that only listens."""

    client, state, is_cut_by_fault = 0, State.LIVE, False

    def __init__(self) -> None:
        self.settings = SimpleNamespace(seed=1, run_of=lambda message: None, heartbeat_interval_s=TIME_OUT_S)
        self.heard: list[Event] = []

    def received(self, message: Message, now: float) -> None:
        self.heard += message

    def actions(self) -> tuple[()]:
        return ()

    notices = actions

    def wake_at(self) -> float:
        return inf


class SimulatedPoller:
    """A simulated client and its service."""

    def __init__(self, events: int) -> None:
        self.clock = VirtualClock(START)
        forms = registry.server_forms("durable_streams")
        settings = RuntimeSettings(heartbeat_interval_s=TIME_OUT_S)
        self.service = SimulatedService(self.clock, forms, settings, Switches(), SystemModel())
        self.publish(events)
        self.session = Listener()
        parts = self.clock, self.session, self.service, SystemModel(), SimpleNamespace(share=None), START
        self.client = PollingClient(*parts)  # type: ignore[arg-type]
        self.client._connect(Connect(Token("", inf, inf), Compatibility()))
        assert self.hear(0.0) == [Opened()]
        self.numbers = {f"{0:016d}_{place:016d}": place for place in range(100)}

    def publish(self, count: int) -> None:
        log = self.service.runtime.streams.log(STREAM)
        for _ in range(count):
            log.append(f"key{log.next_seq}", canonical_json({"n": 1}), self.clock.now)
            self.service.runtime.announce(STREAM, self.clock.now)
        self.service.kick()

    def subscribe(self, place: int | str | None) -> None:
        offset = place if isinstance(place, str) or place is None else f"{0:016d}_{place:016d}"
        self.client._send(Subscribe("2", {STREAM: None if offset is None else Position(offset)}))

    @property
    def waits_next(self) -> bool:
        return STREAM in self.client._requests and self.client._requests[STREAM].is_live

    def hear(self, seconds: float = SOON_S) -> list[Event]:
        if seconds:
            self.clock.run(until=self.clock.now + seconds)
        heard, self.session.heard = self.session.heard, []
        return heard


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    with server_running("durable_streams", log=tmp_path / "server.log") as up:
        text = Path(up.targets_file).read_text()
        (url,) = [line.split('"')[1] for line in text.splitlines() if line.startswith("runtime_url")]
        yield Real(f"{url}/v1")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def at_the_end(real: Real, threads: ThreadPoolExecutor) -> tuple[RealPoller, SimulatedPoller]:
    """Two clients that have all three events and whose next request waits."""
    real.publish(3)
    poller, simulated = RealPoller(real.base, threads), SimulatedPoller(3)
    poller.subscribe(real.offset(3))
    poller.ask()
    simulated.subscribe(3)
    first = said(poller.hear(), real.numbers)
    assert first == said(simulated.hear(), simulated.numbers)
    assert first[1:] == ["at 3 after 0 events", f"caught up with {STREAM}"]
    assert poller.waits_next
    assert simulated.waits_next
    poller.ask()
    return poller, simulated


@pytest.mark.parametrize("events", [EVENTS, 0])
def test_the_first_answer_and_the_next_request_are_alike(real: Real, threads: ThreadPoolExecutor, events: int) -> None:
    real.publish(events)
    for place in PLACES if events else (None, ABOVE):
        poller, simulated = RealPoller(real.base, threads), SimulatedPoller(events)
        if not events:
            simulated.service.runtime.streams.log(STREAM)
        poller.subscribe(real.offset(place))
        simulated.subscribe(place)
        poller.ask()
        found = said(poller.hear(), real.numbers)
        assert found == said(simulated.hear(), simulated.numbers), place
        assert len(found) > 1
        assert poller.waits_next == simulated.waits_next == (place != ABOVE)


def test_a_poll_that_waits_is_answered_with_the_next_event(real: Real, threads: ThreadPoolExecutor) -> None:
    poller, simulated = at_the_end(real, threads)
    real.publish(1)
    simulated.publish(1)
    found = said(poller.hear(), real.numbers)
    assert found == said(simulated.hear(), simulated.numbers) == ["at 4 after 1 events", f"caught up with {STREAM}"]
    assert poller.waits_next
    assert simulated.waits_next


def test_a_poll_that_is_over_is_asked_again_as_a_new_subscribe(real: Real, threads: ThreadPoolExecutor) -> None:
    poller, simulated = at_the_end(real, threads)
    found = said(poller.hear(), real.numbers)
    assert found == said(simulated.hear(TIME_OUT_S), simulated.numbers)
    assert found[-1] == f"ended {STREAM} poll resubscribe"
    poller.subscribe(real.offset(3))
    simulated.subscribe(3)
    assert poller.waits_next
    assert simulated.waits_next
    poller.ask()
    assert simulated.hear() == []
    real.publish(1)
    simulated.publish(1)
    found = said(poller.hear(), real.numbers)
    assert found == said(simulated.hear(), simulated.numbers)
    assert found[0].startswith("resumed"), "it is accepted when it is answered"


def test_a_poll_of_a_stream_that_is_deleted_is_refused(real: Real, threads: ThreadPoolExecutor) -> None:
    poller, simulated = at_the_end(real, threads)
    assert poller.answer is not None
    with pytest.raises(TimeoutError):
        poller.answer.result(SOON_S)  # it waits
    httpx.delete(f"{real.base}/{STREAM}").raise_for_status()
    simulated.service.recreate_log(STREAM)
    found = said(poller.hear(), real.numbers)
    assert found == said(simulated.hear(), simulated.numbers)
    assert found == [f"refused status_404 refetch ('{STREAM}',)"]


def test_the_server_closes_a_connection_whose_client_polls_no_more() -> None:
    """Nobody hears of it."""
    simulated = SimulatedPoller(3)
    simulated.subscribe(3)
    simulated.hear(SOON_S + TIME_OUT_S)
    assert simulated.service.runtime.consumers == 1
    habits = simulated.service.profile.streams
    assert habits is not None
    assert habits.polls is not None
    assert simulated.hear(habits.polls.idle_s + SOON_S) == []
    assert simulated.service.runtime.consumers == 0
    simulated.subscribe(3)
    simulated.publish(1)
    assert said(simulated.hear(), simulated.numbers)[-1] == f"caught up with {STREAM}", "the next one opens another"
