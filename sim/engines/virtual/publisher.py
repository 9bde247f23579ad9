"""Publishes events at a fixed rate to a simulated lane, each due at its own moment whatever the ones before it do."""

from collections import deque
from collections.abc import Generator, Sequence

import simpy

from sim.client.notices import short_hash
from sim.drill.model import Load
from sim.engines.shared.client_setup import CODEX_EVENT, RUN_EVENT
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.service import SimulatedService
from sim.protocols.spacetime.streams import stream_id
from sim.record.parquet import Recorder
from sim.server.admission import Refusal, is_final, may_be_taken
from sim.server.stream_log import canonical_json, payload_hash

RETRY_S = 0.2
GIVE_UP_S = 20.0  # after its due moment; an event not acknowledged by then has failed
UNKNOWN_OUTCOME = "unknown_outcome"  # nobody answered, or too late: the event may have been taken
_POLL_S = 0.1


class VirtualPublisher:
    """`heads` holds, a topic, the highest seq that was acknowledged. `began` is when the run did, in the clock's time."""

    def __init__(
        self,
        clock: VirtualClock,
        service: SimulatedService,
        run_topics: Sequence[str],
        other_topics: Sequence[str],
        load: Load,
        recorder: Recorder,
        began: float,
    ) -> None:
        self._clock = clock
        self._service = service
        self._topics = [*run_topics, *other_topics]
        self._other_topics = frozenset(other_topics)
        self._load = load
        self._recorder = recorder
        self._began = began
        self._first_due = 0.0
        self._is_on = False
        self._turns: dict[str, deque[int]] = {topic: deque() for topic in self._topics}  # where the load is counted
        self._under_way: dict[int, tuple[str, float, str]] = {}  # number -> topic, due, the gravest refusal so far
        self.heads = dict.fromkeys(self._topics, 0)

    def start(self) -> None:
        """Begin publishing."""
        self._is_on = True
        self._first_due = self._clock.now
        self._next(0)

    def finish(self) -> Generator[simpy.Event, object, None]:
        """Publish no more, and wait until each event under way is acknowledged or has failed."""
        self._is_on = False
        limit = self._clock.now + GIVE_UP_S
        while self._under_way and self._clock.now < limit:
            yield self._clock.timeout(_POLL_S)
        for number in list(self._under_way):
            self._failed(number, UNKNOWN_OUTCOME)

    def _next(self, number: int) -> None:
        """Publish event `number` now, and see to the next at its own due moment."""
        if not self._is_on or 0 < self._load.events <= number:
            return
        topic = self._topics[number % len(self._topics)]
        self._under_way[number] = (topic, self._clock.now, "")
        if self._load.events:
            self._turns[topic].append(number)
        if not self._load.events or len(self._turns[topic]) == 1:
            self._try(number)
        self._clock.call_at(self._first_due + (number + 1) / self._load.events_per_s, self._next, number + 1)

    def _try(self, number: int) -> None:
        """One event, tried under one idempotency key until it is acknowledged or refused for good."""
        if number not in self._under_way:
            return
        topic = self._under_way[number][0]
        self._service.publish(topic, f"event-{number}", self._event(number), lambda answer: self._answered(number, answer))

    def _event(self, number: int) -> object:
        topic = self._under_way[number][0]
        is_other = topic in self._other_topics
        payload = {"number": number, "text": "x" * self._load.payload_bytes}
        kind = CODEX_EVENT if is_other else RUN_EVENT
        return {"run_id": "r1" if is_other else topic.split(":")[1], "event_type": kind, "payload": payload}

    def _answered(self, number: int, answer: int | Refusal | None) -> None:
        if number not in self._under_way:
            return  # it was given up
        now, (topic, due, _) = self._clock.now, self._under_way[number]
        if isinstance(answer, int) and now <= due + GIVE_UP_S:
            sent = payload_hash(canonical_json(self._event(number)))  # what comes out is held against what went in
            self._done(number)
            self.heads[topic] = max(self.heads[topic], answer)
            self._note("published", topic, due, answer, short_hash(sent))
        elif isinstance(answer, Refusal):
            wait_s = max((answer.retry_after_ms or 0) / 1000, RETRY_S)
            code = UNKNOWN_OUTCOME if may_be_taken(answer.status) else answer.code
            self._again(number, code, wait_s, final=is_final(answer.status))
        else:
            self._again(number, UNKNOWN_OUTCOME, RETRY_S)

    def _again(self, number: int, code: str, wait_s: float, *, final: bool = False) -> None:
        """Try later, or give up; once an outcome was unknown the event may have been taken, whatever later tries say."""
        topic, due, worst = self._under_way[number]
        worst = worst if worst == UNKNOWN_OUTCOME else code
        self._under_way[number] = (topic, due, worst)
        if final or self._clock.now + wait_s > due + GIVE_UP_S:
            self._failed(number, worst)
        else:
            self._clock.call_at(self._clock.now + wait_s, self._try, number)

    def _failed(self, number: int, code: str) -> None:
        topic, due, _ = self._done(number)
        self._note("publish_failed", topic, due, detail=code)

    def _done(self, number: int) -> tuple[str, float, str]:
        """Nothing more is to be done for this event; where the load is counted, its stream's next has its turn."""
        found = self._under_way.pop(number)
        turns = self._turns[found[0]]
        if turns and turns[0] == number:
            turns.popleft()
            if turns:
                self._clock.call_at(self._clock.now, self._try, turns[0])
        return found

    def _note(self, kind: str, topic: str, due: float, seq: int = -1, detail: str = "") -> None:
        now = self._clock.now
        self._recorder.add(now - self._began, kind, stream=stream_id(topic), seq=seq, value=(now - due) * 1000, detail=detail)
