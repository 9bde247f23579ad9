"""A drill's publishing, without the waiting: when each event is due, its retries under one idempotency key, and its records.

The engines wait until the times that this module returns, and send. Times are in seconds of the caller's clock.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from sim.client.notices import short_hash
from sim.drill.model import Load
from sim.engines.shared.client_setup import CODEX_EVENT, RUN_EVENT
from sim.engines.shared.service_api import UNKNOWN_OUTCOME, PublishedEvent, PublishFailedError
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS, run_events, stream_id
from sim.record.parquet import Recorder

RETRY_S: Final = 0.2  # between two tries, unless the service asks for more
GIVE_UP_S: Final = 20.0  # after its due moment; an event not acknowledged by then has failed


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream a drill publishes to."""

    topic: str
    run_id: str
    event_type: str

    @property
    def stream(self) -> str:
        """Its stream id."""
        return stream_id(self.topic)


def streams_of(runs: list[str], worker_events: bool) -> list[Stream]:
    """The streams of these runs, and the one of worker events."""
    streams = [Stream(run_events(run_id), run_id, RUN_EVENT) for run_id in runs]
    if worker_events:
        streams.append(Stream(CODEX_WORKER_EVENTS, runs[0], CODEX_EVENT))
    return streams


@dataclass(slots=True, eq=False)
class DueEvent:
    """One event. Its key contains the run's id, because the stream may have had other publishers before."""

    stream: Stream
    payload: object
    key: str
    due: float
    worst: str = ""  # code of the failed tries; once it is "unknown", the event may have been appended

    @property
    def content(self) -> tuple[str, str, object]:
        """Run, type and payload, as they are sent."""
        return self.stream.run_id, self.stream.event_type, self.payload

    def is_too_late(self, now: float) -> bool:
        """Whether the generator did not try it in time. This is our own failure, and shows as missing load."""
        return not self.worst and now > self.due + GIVE_UP_S


@dataclass(frozen=True, slots=True)
class Try:
    """What to send next, and the earliest time for it."""

    event: DueEvent
    at: float


@dataclass
class Publishing:
    """The events of a run. `began` is the run's start. `heads` holds, per topic, the highest acknowledged seq."""

    streams: list[Stream]
    load: Load
    recorder: Recorder
    began: float
    heads: dict[str, int] = field(init=False)
    acknowledged: int = field(default=0, init=False)
    under_way: dict[DueEvent, None] = field(default_factory=dict, init=False)  # in the order of their due moments
    _taken: int = field(default=0, init=False)
    _first_due: float | None = field(default=None, init=False)  # None: not started
    _is_stopped: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.heads = {stream.topic: 0 for stream in self.streams}
        # With a fixed number of events, each stream publishes in order: an event then has the same seq in every run.
        self._turns: dict[str, deque[DueEvent]] = {stream.topic: deque() for stream in self.streams}

    def start(self, now: float) -> None:
        """Make the first event due now."""
        self._first_due = now

    def stop(self) -> None:
        """Make no further event due. Events under way continue."""
        self._is_stopped = True

    @property
    def next_due(self) -> float | None:
        """When the next event is due; None: never."""
        if self._is_stopped or self._first_due is None or 0 < self.load.events <= self._taken:
            return None
        return self._first_due + self._taken / self.load.events_per_s

    def take(self, due: float) -> Try | None:
        """Take the next event. None: it waits for an earlier event of its stream, whose end returns it as a `Try`."""
        number, stream = self._taken, self.streams[self._taken % len(self.streams)]
        self._taken += 1
        payload = {"number": number, "text": "x" * self.load.payload_bytes}
        event = DueEvent(stream, payload, f"{stream.run_id}-{number}", due)
        self.under_way[event] = None
        if self.load.events:
            self._turns[stream.topic].append(event)
            if len(self._turns[stream.topic]) > 1:
                return None
        return Try(event, due)

    def succeeded(self, event: DueEvent, published: PublishedEvent, now: float) -> Try | None:
        """Record an acknowledgement; returns what to try next. After `GIVE_UP_S`, the outcome is unknown."""
        if now > event.due + GIVE_UP_S:
            return self.failed(event, PublishFailedError(UNKNOWN_OUTCOME), now)
        self.acknowledged += 1
        self.heads[event.stream.topic] = max(self.heads[event.stream.topic], published.seq)
        self.record("published", event, now, published.seq, short_hash(published.payload_hash))
        return self.drop(event, now)

    def failed(self, event: DueEvent, error: PublishFailedError, now: float) -> Try | None:
        """Record a failed try; returns what to try next."""
        event.worst = event.worst if event.worst == UNKNOWN_OUTCOME else error.code
        again_at = now + max((error.retry_after_ms or 0) / 1000, RETRY_S)
        if not error.is_final and again_at <= event.due + GIVE_UP_S:
            return Try(event, again_at)
        self.record("publish_failed", event, now, detail=event.worst)
        return self.drop(event, now)

    def drop(self, event: DueEvent, now: float) -> Try | None:
        """Stop trying this event; returns the next event of its stream if that waits for it."""
        del self.under_way[event]
        turns = self._turns[event.stream.topic]
        if turns and turns[0] is event:
            turns.popleft()
            return Try(turns[0], now) if turns else None
        return None

    def give_up_all(self, now: float) -> None:
        """Record an unknown outcome for every event under way."""
        for event in list(self.under_way):
            self.record("publish_failed", event, now, detail=UNKNOWN_OUTCOME)
            self.drop(event, now)

    def record(self, kind: str, event: DueEvent, now: float, seq: int = -1, detail: str = "") -> None:
        """Record what became of an event; `seq` or `detail` says what."""
        value = (now - event.due) * 1000
        self.recorder.add(now - self.began, kind, stream=event.stream.stream, seq=seq, value=value, detail=detail)
