"""What publishing a drill's load is, whatever does the waiting: which stream is due when, one idempotency key an event however
often it is tried, and what is recorded of it."""

from dataclasses import dataclass

from sim.base.clocks import RunClock
from sim.client.notices import short_hash
from sim.engines.shared.client_setup import CODEX_EVENT, RUN_EVENT
from sim.engines.shared.service_api import UNKNOWN_OUTCOME, PublishedEvent, PublishFailedError
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS, run_events, stream_id
from sim.record.parquet import Recorder

RETRY_S = 0.2
GIVE_UP_S = 20.0  # after its due moment; an event not acknowledged by then has failed


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


class Published:
    """What became of all events. `heads` holds, a topic, the highest seq that was acknowledged."""

    def __init__(self, streams: list[Stream], payload_bytes: int, clock: RunClock, recorder: Recorder) -> None:
        self.streams = streams
        self.heads: dict[str, int] = {stream.topic: 0 for stream in streams}
        self.acknowledged = 0
        self._filler = {"text": "x" * payload_bytes}
        self._clock = clock
        self._recorder = recorder

    def event(self, number: int, due: float) -> "DueEvent":
        """The `number`th event of the run, from 0; each stream has its turn."""
        stream = self.streams[number % len(self.streams)]
        return DueEvent(self, self._clock, stream, {"number": number, **self._filler}, f"{stream.run_id}-{number}", due)

    def take(self, event: "DueEvent", acknowledged: PublishedEvent) -> None:
        """An event was acknowledged."""
        topic = event.stream.topic
        self.acknowledged += 1
        self.heads[topic] = max(self.heads[topic], acknowledged.seq)
        self._note("published", event, acknowledged.seq, short_hash(acknowledged.payload_hash))

    def give_up(self, event: "DueEvent", code: str) -> None:
        """An event was not acknowledged, and is not tried again."""
        self._note("publish_failed", event, detail=code)

    def _note(self, kind: str, event: "DueEvent", seq: int = -1, detail: str = "") -> None:
        now = self._clock.now()
        value = (now - event.due) * 1000
        self._recorder.add(now - self._clock.began, kind, stream=event.stream.stream, seq=seq, value=value, detail=detail)


class DueEvent:
    """One event, tried under one idempotency key until it is acknowledged or refused for good.

    The key names its run, too: the stream may have had other publishers before.
    """

    def __init__(self, book: Published, clock: RunClock, stream: Stream, payload: object, key: str, due: float) -> None:
        self._book = book
        self._clock = clock
        self.stream, self.payload, self.key, self.due = stream, payload, key, due
        self._worst = ""  # once a try's outcome was unknown, the event may have been taken, whatever later tries say

    @property
    def is_too_late(self) -> bool:
        """We never got round to it: our own failure, which the load that is missing shows."""
        return not self._worst and self._clock.now() > self.due + GIVE_UP_S

    def succeeded(self, event: PublishedEvent) -> None:
        """It was acknowledged."""
        self._book.take(self, event)

    def failed(self, error: PublishFailedError) -> float | None:
        """A try failed; returns after how many seconds to try again, None when it is given up."""
        self._worst = self._worst if self._worst == UNKNOWN_OUTCOME else error.code
        wait_s = max((error.retry_after_ms or 0) / 1000, RETRY_S)
        if error.is_final or self._clock.now() + wait_s > self.due + GIVE_UP_S:
            self._book.give_up(self, self._worst)
            return None
        return wait_s
