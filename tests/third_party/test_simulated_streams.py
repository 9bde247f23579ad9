"""The simulated Durable Streams server answers a few dozen clients as the real one does, event by event.

Real offsets count bytes and simulated ones events, so both are compared as the number of events before them.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import httpx
import pytest

from drills.third_party.running import running as server_running
from sim.protocols.adapter import Credentials, Open, TransportEnd
from sim.protocols.durable_streams.adapter import DurableStreamsConnection
from sim.protocols.events import Activity, Batch, CaughtUp, Event, Position, PositionUnknown, Refused, Resumed, StreamEnded
from sim.protocols.intents import Compatibility, Join, Subscribe, Unsubscribe
from tests.server.test_stream_runtime import Driver

STREAM, EVENTS, QUIET_S = "simulated", 12, 0.3
ABOVE = "9999999999999999_9999999999999999"
PLACES: tuple[int | str | None, ...] = (*range(1, EVENTS + 1), None, *range(1, EVENTS + 1), None, ABOVE, ABOVE)


def said(events: list[Event], numbers: Mapping[str, int]) -> list[str]:
    """What events say; offsets by the number of events before them, neighbouring batches as one."""
    out: list[str] = []
    delivered = 0
    for event in events:
        match event:
            case Batch(items=items, after=after):
                delivered += len(items)
                assert after is not None
                at = numbers[str(after.offset)]
                out = out[:-1] if out and out[-1].startswith("at ") else out
                out.append(f"at {at} after {delivered} events")
            case CaughtUp(stream=stream):
                out.append(f"caught up with {stream}")
            case Resumed(ref=ref, stream=stream, at=at_position, head=head):
                out.append(f"resumed {stream} by {ref}, at {at_position}, head {head}")
            case PositionUnknown(asked=asked, head=head, reason=reason, subscribed_at=on):
                assert asked is not None
                assert head is not None
                out.append(f"unknown {asked.offset == ABOVE}, head {numbers[str(head.offset)]}, {reason}, {on}, {event.ref!r}")
            case Refused(code=code, next=following, streams=streams):
                out.append(f"refused {code} {following.step} {streams}")
            case StreamEnded(stream=stream, code=code, next=following):
                out.append(f"ended {stream} {code} {following.step}")
            case Activity():
                pass
            case _:
                out.append(type(event).__name__)
    return out


class RealReader:
    """A client of the real server: its adapter, and one SSE answer that is read as long as something comes."""

    def __init__(self, base: str) -> None:
        self.adapter = DurableStreamsConnection(base, {"live": "sse"})
        self.adapter.connect(Credentials(""))
        self.adapter.send(Join("1", Compatibility(), ""))
        self.http = httpx.Client(timeout=30.0)
        self.chunks: SimpleQueue[bytes] = SimpleQueue()
        self.id = 0

    def ask(self, after: Position | None, stream: str = STREAM) -> list[Event]:
        events = list(self.adapter.send(Subscribe("2", {stream: after})))
        (opened,) = [action for action in self.adapter.actions() if isinstance(action, Open)]
        self.id = opened.id
        answer = self.http.send(self.http.build_request("GET", opened.url, headers=opened.headers), stream=True)
        if answer.status_code != 200:
            end = TransportEnd(status=answer.status_code, headers=answer.headers, body=answer.read())
            return [*events, *self.adapter.closed(self.id, end)]
        events += self.adapter.opened(self.id, answer.status_code, answer.headers)
        Thread(target=self._read, args=(answer,), daemon=True).start()
        return [*events, *self.hear()]

    def _read(self, answer: httpx.Response) -> None:
        with contextlib.suppress(httpx.HTTPError):  # the server is stopped at the end
            for chunk in answer.iter_raw():
                self.chunks.put(chunk)

    def hear(self) -> list[Event]:
        """Return what comes until the server was quiet."""
        events: list[Event] = []
        with contextlib.suppress(Empty):
            while True:
                events += self.adapter.received(self.id, self.chunks.get(timeout=QUIET_S), True)
        return events


class Real:
    """The real server, with one stream."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.numbers: dict[str, int] = {}
        self.create()

    def create(self) -> None:
        created = httpx.put(f"{self.base}/{STREAM}", headers={"Content-Type": "application/json"})
        self.numbers = {created.raise_for_status().headers["Stream-Next-Offset"]: 0}

    def publish(self, count: int) -> None:
        for _ in range(count):
            answer = httpx.post(f"{self.base}/{STREAM}", json=[{"n": 1}]).raise_for_status()
            self.numbers[answer.headers["Stream-Next-Offset"]] = len(self.numbers)

    def offset(self, place: int | str | None) -> Position | None:
        if place is None:
            return None
        return Position(place if isinstance(place, str) else {number: at for at, number in self.numbers.items()}[place])


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    with server_running("durable_streams", log=tmp_path / "server.log") as up:
        text = Path(up.targets_file).read_text()
        (url,) = [line.split('"')[1] for line in text.splitlines() if line.startswith("runtime_url")]
        yield Real(f"{url}/v1")


class Simulated:
    """The simulated server, with the same stream."""

    def __init__(self) -> None:
        self.driver = Driver("durable_streams")
        self.driver.runtime.streams.log(STREAM)

    @property
    def numbers(self) -> dict[str, int]:
        return {str(self.offset(place)): place for place in range(100)}  # type: ignore[misc]

    def offset(self, place: int | str | None) -> str | None:
        return place if isinstance(place, str) or place is None else f"{0:016d}_{place:016d}"

    def ask(self, place: int | str | None) -> tuple[int, list[Event]]:
        number, offset = self.driver.open(), self.offset(place)
        after = None if offset is None else Position(offset)
        return number, self.driver.ask(number, Subscribe("2", {STREAM: after}))


@pytest.mark.parametrize("events", [EVENTS, 0])
def test_a_few_dozen_clients_are_answered_alike(real: Real, events: int) -> None:
    simulated = Simulated()
    simulated.driver.publish(STREAM, events)
    real.publish(events)
    places = PLACES if events else (None, ABOVE)
    for place in places:
        reader = RealReader(real.base)
        found = said(reader.ask(real.offset(place)), real.numbers)
        assert found == said(simulated.ask(place)[1], simulated.numbers), place
        assert found, "the real server says something"


def test_live_events_come_alike(real: Real) -> None:
    simulated, reader = Simulated(), RealReader(real.base)
    simulated.driver.publish(STREAM, 3)
    real.publish(3)
    number, _ = simulated.ask(3)
    reader.ask(real.offset(3))
    simulated.driver.publish(STREAM, 1)
    real.publish(1)
    found = said(reader.hear(), real.numbers)
    assert (
        found == said(simulated.driver.pull(number), simulated.numbers) == ["at 4 after 1 events", f"caught up with {STREAM}"]
    )


def test_a_new_log_is_silent_for_those_who_read_the_old_one(real: Real) -> None:
    simulated, reader = Simulated(), RealReader(real.base)
    simulated.driver.publish(STREAM, 3)
    real.publish(3)
    number, _ = simulated.ask(3)
    reader.ask(real.offset(3))
    httpx.delete(f"{real.base}/{STREAM}").raise_for_status()
    real.create()
    simulated.driver.runtime.recreate_log(STREAM)
    simulated.driver.publish(STREAM, 5)
    real.publish(5)
    assert said(reader.hear(), real.numbers) == said(simulated.driver.pull(number), simulated.numbers) == []
    later = said(RealReader(real.base).ask(real.offset(3)), real.numbers)
    assert later == said(simulated.ask(3)[1], simulated.numbers), "it goes on in the middle of the new log"


def test_a_reader_that_stops_gets_nothing_more(real: Real) -> None:
    simulated, reader = Simulated(), RealReader(real.base)
    number, _ = simulated.ask(None)
    reader.ask(None)
    simulated.driver.ask(number, Unsubscribe("3", (STREAM,)))
    reader.adapter.send(Unsubscribe("3", (STREAM,)))
    simulated.driver.publish(STREAM, 1)
    real.publish(1)
    assert said(reader.hear(), real.numbers) == said(simulated.driver.pull(number), simulated.numbers) == []
