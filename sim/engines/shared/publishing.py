"""A drill's publishing without I/O: when each event is due, its retries with one idempotency key, and its records.

`PublishingSession` publishes over the protocol that the clients speak, on one connection of the publisher's own.

The engines wait until the times that this module returns, and send. Times are in seconds of the caller's clock.
"""

import math
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from sim.base.errors import TargetError
from sim.base.randomness import draw
from sim.client import policies
from sim.client.actions import ClientSettings, Send
from sim.client.lifecycle import NEVER
from sim.client.marks import Acknowledged
from sim.client.notices import Notice, short_hash
from sim.client.session import Session
from sim.drill.model import Load
from sim.drill.target_rules import StreamRules
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.service_api import UNKNOWN_OUTCOME, PublishedEvent, PublishFailedError
from sim.protocols import registry
from sim.protocols.events import (
    DisconnectReason,
    Message,
    Next,
    Outcome,
    Position,
    Problem,
    Published,
    PublishFailed,
    Refused,
    Step,
)
from sim.protocols.intents import Publish
from sim.protocols.markers import bytes_of, marked
from sim.record.columns import Columns
from sim.record.observations import NAN
from sim.record.parquet import Collector, Recorder
from sim.service import templates

_OWN_STREAMS: Final = StreamRules()
ACKNOWLEDGED: Final = "acknowledged"  # a try's outcome, beside those of `Outcome`
ANSWER_LOST: Final = "answer_lost"  # another one: a fault of stormgate dropped the acknowledgement
RETRY_S: Final = 0.2  # between two tries, unless the service asks for more
GIVE_UP_S: Final = 20.0  # after its due moment, an event without an acknowledgement has failed


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream that a drill publishes to."""

    topic: str
    run_id: str
    event_type: str
    stream: str  # the topic's name in observations


def streams_of(
    runs: list[str], worker_events: bool, protocol: str = registry.DEFAULT, rules: StreamRules = _OWN_STREAMS
) -> list[Stream]:
    """Return the streams of these runs and, if wanted, the stream of worker events. A target may name its own."""
    spoken = registry.get(protocol)
    found = spoken.streams_of(runs, worker_events)
    if rules.names or rules.topic:
        found = [(templates.text(rules.topic or "{run_id}", {"run_id": run}), run, found[0][2]) for run in runs]
    return [Stream(*names, spoken.stream_id(names[0])) for names in found]


def own_streams(streams: Iterable[Stream], rules: StreamRules = _OWN_STREAMS) -> list[str]:
    """Return the ids of the streams that only this run publishes to: it created them, and their topics name its runs."""
    return [] if rules.names else [each.stream for each in streams if each.run_id in each.topic]


@dataclass(slots=True, eq=False)
class DueEvent:
    """One event to publish. Its key contains the run's id, because the stream may have had other publishers before."""

    stream: Stream
    number: int  # in its stream, from 1: that of its marker
    payload: object  # with its marker, so that every try sends the same
    key: str
    due: float
    tries: int = 0
    first_sent_at: float = NAN
    sent_at: float = NAN  # the latest try, while it has no answer
    worst: str = ""  # code of the latest failed try; `UNKNOWN_OUTCOME` stays, as the event may have been appended

    @property
    def content(self) -> tuple[str, str, object]:
        """Run, type and payload, as sent."""
        return self.stream.run_id, self.stream.event_type, self.payload

    def is_too_late(self, now: float) -> bool:
        """Return whether the generator missed the time for the first try. This is our own failure: it is missing load."""
        return not self.worst and now > self.due + GIVE_UP_S


@dataclass(frozen=True, slots=True)
class Try:
    """The next event to send, and the earliest time for it."""

    event: DueEvent
    at: float


@dataclass
class Publishing:
    """The events of a run. `began` is the run's start, `marker_run` the header's.

    `heads` holds what was acknowledged of each topic.
    """

    streams: list[Stream]
    load: Load
    recorder: Recorder
    began: float
    marker_run: str
    heads: dict[str, Acknowledged] = field(init=False)
    acknowledged: int = field(default=0, init=False)
    at_once: int = field(default=1, init=False)  # events that become due together, on one stream
    overlapped: int = field(
        default=0, init=False
    )  # events of groups that were sent while another of their stream was in flight
    answer_loss_share: float = field(default=0.0, init=False)  # of the acknowledgements of first tries, which are dropped
    lost_answers: int = field(default=0, init=False)
    under_way: dict[DueEvent, None] = field(default_factory=dict, init=False)  # in the order of their due moments
    _taken: int = field(default=0, init=False)
    _groups: int = field(default=0, init=False)
    _left: int = field(default=0, init=False)  # events of the present group that are not yet taken
    _before_group: int = field(default=0, init=False)  # events before the present group
    _first_due: float | None = field(default=None, init=False)  # None: not started
    _is_stopped: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.heads = {stream.topic: Acknowledged() for stream in self.streams}
        # With a fixed number of events, each stream publishes in order: an event then has the same seq in every run.
        self._max_in_flight = self.load.in_flight_per_stream or (1 if self.load.events else math.inf)
        self._in_flight = dict.fromkeys(self.heads, 0)
        self._waiting: dict[str, deque[DueEvent]] = {topic: deque() for topic in self.heads}
        self._numbers = dict.fromkeys(self.heads, 0)

    def start(self, now: float) -> None:
        """Start publishing: the first event is due now."""
        self._first_due = now

    def stop(self) -> None:
        """Stop publishing: no further event becomes due. Earlier events are still sent and retried."""
        self._is_stopped = True

    @property
    def next_due(self) -> float | None:
        """The moment when the next event is due; None if there is no next event."""
        if self._is_stopped or self._first_due is None or 0 < self.load.events <= self._taken:
            return None
        return self._first_due + (self._before_group if self._left else self._taken) / self.load.events_per_s

    def take(self, due: float) -> Try | None:
        """Take the next event. Return None if it must wait for an earlier event of its stream, whose end returns it."""
        if not self._left:
            self._left, self._before_group = self.at_once, self._taken
            self._groups += 1
        count, stream = self._taken, self.streams[(self._groups - 1) % len(self.streams)]
        self._taken += 1
        self._left -= 1
        self._numbers[stream.topic] = number = self._numbers[stream.topic] + 1
        payload = {"number": count, "text": "x" * max(self.load.payload_bytes - bytes_of(number), 0)}
        payload = marked(payload, self.marker_run, stream.stream, number)
        event = DueEvent(stream, number, payload, f"{stream.run_id}-{self.marker_run}-{count}", due)
        self.under_way[event] = None
        if self._in_flight[stream.topic] >= self._max_in_flight:
            self._waiting[stream.topic].append(event)
            return None
        self.overlapped += self.at_once > 1 and self._in_flight[stream.topic] > 0
        self._in_flight[stream.topic] += 1
        return Try(event, due)

    def sent(self, event: DueEvent, now: float) -> None:
        """Start a try; `succeeded` or `failed` ends it."""
        event.tries += 1
        event.sent_at = now
        event.first_sent_at = now if event.tries == 1 else event.first_sent_at

    def _answered(self, event: DueEvent, outcome: str, now: float) -> None:
        """Record how a try ended."""
        ms, event.sent_at = (now - event.sent_at) * 1000, NAN
        self.recorder.add(
            now - self.began,
            "publish_tried",
            stream=event.stream.stream,
            attempt=event.tries,
            value=ms,
            detail=outcome,
            marker=event.number,
        )

    def succeeded(self, event: DueEvent, published: PublishedEvent, now: float) -> Try | None:
        """Record an acknowledgement and return the next try, if any. After `GIVE_UP_S`, the outcome is unknown."""
        if event not in self.under_way:  # `give_up_all` has recorded it, and the end of its last try was not to be stopped
            return None
        if event.tries == 1 and draw(0, "lose_answer", zlib.crc32(event.key.encode())) < self.answer_loss_share:
            self.lost_answers += 1
            return self._try_again(event, ANSWER_LOST, PublishFailedError(UNKNOWN_OUTCOME), now)
        self._answered(event, ACKNOWLEDGED, now)
        if now > event.due + GIVE_UP_S:
            event.worst = UNKNOWN_OUTCOME
            return self._given_up(event, now)
        self.acknowledged += 1
        self.heads[event.stream.topic].add(event.number, published.seq, event.first_sent_at, now)
        self.record("published", event, now, published.seq, short_hash(published.payload_hash))
        return self.drop(event, now)

    def failed(self, event: DueEvent, error: PublishFailedError, now: float) -> Try | None:
        """Record a failed try and return the next try, if any."""
        if event not in self.under_way:
            return None
        outcome = Outcome.UNKNOWN if error.code == UNKNOWN_OUTCOME else Outcome.REFUSED
        return self._try_again(event, outcome, error, now)

    def _try_again(self, event: DueEvent, outcome: str, error: PublishFailedError, now: float) -> Try | None:
        self._answered(event, outcome, now)
        event.worst = event.worst if event.worst == UNKNOWN_OUTCOME else error.code
        again_at = now + max((error.retry_after_ms or 0) / 1000, RETRY_S)
        if not error.is_final and again_at <= event.due + GIVE_UP_S:
            return Try(event, again_at)
        return self._given_up(event, now)

    def _given_up(self, event: DueEvent, now: float) -> Try | None:
        self.record("publish_failed", event, now, detail=event.worst)
        return self.drop(event, now)

    def drop(self, event: DueEvent, now: float) -> Try | None:
        """Stop trying this event. Return the next event of its stream if that event waits for it."""
        del self.under_way[event]
        if waiting := self._waiting[event.stream.topic]:
            return Try(waiting.popleft(), now)  # takes the place of this event
        self._in_flight[event.stream.topic] -= 1
        return None

    def give_up_all(self, now: float) -> None:
        """Record an unknown outcome for every event that is not yet acknowledged or failed."""
        for event in list(self.under_way):
            if not math.isnan(event.sent_at):
                self._answered(event, Outcome.UNKNOWN, now)
            event.worst = UNKNOWN_OUTCOME
            self._given_up(event, now)

    def record(self, kind: str, event: DueEvent, now: float, seq: int = -1, detail: str = "") -> None:
        """Record the outcome of an event: its `seq`, or the reason of its failure in `detail`."""
        value = (now - event.due) * 1000
        stream, marker = event.stream.stream, event.number
        self.recorder.add(now - self.began, kind, stream=stream, seq=seq, value=value, detail=detail, marker=marker)


# --- over the clients' protocol ---------------------------------------------------------------------------

PUBLISHER = 999_999  # the number of the publisher's session, beside those of the clients
NOT_CONNECTED = "not_connected"  # code of an event that was not sent
CONNECT_LIMIT_S = 10.0  # [ours] until the publisher must be connected for the first time

Answered = Callable[[str, PublishedEvent | PublishFailedError], None]  # takes an event's key and what became of it


class Unrecorded(Collector):
    """Drops what the publisher's session reports: it is not one of the clients."""

    def __init__(self) -> None:
        super().__init__(max_rows=1000)

    def _hand_on(self, columns: Columns) -> None:
        """See `Collector`."""


class PublishingSession(Session):
    """A session without streams that publishes. It connects, renews its token and reconnects as every client does.

    `answered` is called once for each event whose outcome the server stated, or that was in flight when the connection ended.
    """

    _in_flight: dict[str, None]  # by key
    _report: Answered
    last_code: str  # of a refusal

    @classmethod
    def make(cls, settings: ClientSettings, answered: Answered) -> "PublishingSession":
        """Return a session that has not started."""
        session = cls(PUBLISHER, (), policies.get("reference"), settings)
        session._in_flight, session._report, session.last_code = {}, answered, ""
        session._notices_silence = False  # nothing comes while nothing is published; a time-out of an event shows a dead link
        return session

    def publish(self, topic: str, payload: object, key: str) -> None:
        """Send an event. Raises `PublishFailedError` without a connection."""
        if not self.is_live:
            raise PublishFailedError(NOT_CONNECTED)
        self._in_flight[key] = None
        self._actions.append(Send(Publish(self._next_ref(), topic, msgspec.Raw(msgspec.json.encode(payload)), key)))

    def received(self, message: Message, now: float) -> None:
        """See `Session`."""
        for event in message:
            if isinstance(event, Published) and event.key in self._in_flight:
                self._end(event.key, PublishedEvent(_number_of(event.position)))
            elif isinstance(event, PublishFailed) and event.key in self._in_flight:
                code = UNKNOWN_OUTCOME if event.outcome is Outcome.UNKNOWN else event.code
                is_final = event.next.step is Step.TERMINAL
                self._end(event.key, PublishFailedError(code, event.next.wait_ms, is_final=is_final))
            elif isinstance(event, Refused | Problem):
                self.last_code = event.code
        super().received(message, now)

    def give_up(self, key: str, now: float) -> None:
        """Take that an event was not answered in time: the connection may be dead, so open another one."""
        self._in_flight.pop(key, None)
        if self.is_live:
            self._leave(DisconnectReason.NETWORK, now)

    def _end(self, key: str, outcome: PublishedEvent | PublishFailedError) -> None:
        del self._in_flight[key]
        self._report(key, outcome)

    def _subscribe(self, now: float, streams: Sequence[str] = ()) -> None:
        """Be live at once: there is nothing to subscribe to."""
        self._go_live(now)
        self._reply_by = NEVER
        self._schedule()

    def _lost(self, reason: DisconnectReason, now: float, hint: Next, end: Notice) -> None:
        super()._lost(reason, now, hint, end)
        for key in list(self._in_flight):
            self._end(key, PublishFailedError(UNKNOWN_OUTCOME))


def not_connected(endpoints: Endpoints, session: PublishingSession) -> TargetError:
    """Return the error for a publisher that cannot connect."""
    code = session.end_code or session.last_code or f"no answer within {CONNECT_LIMIT_S:g} s"
    return TargetError(
        f"target {endpoints.name}: events are published over {endpoints.protocol}, but its publisher cannot connect to "
        f"{endpoints.socket_url} ({code}). Check protocol, socket_path, [token] and [protocol_options]."
    )


def _number_of(position: Position | None) -> int:
    """Return the number of an acknowledged position; -1 without one."""
    offset = None if position is None else position.offset
    return offset if isinstance(offset, int) and offset > 0 else -1
