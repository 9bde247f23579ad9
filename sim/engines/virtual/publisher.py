"""Publishes a drill's events to the simulated service, each at its own due moment, even while earlier ones are under way."""

from functools import partial

from sim.drill.model import Load
from sim.engines.shared.publishing import DueEvent, Publishing, Stream, Try
from sim.engines.shared.service_api import UNKNOWN_OUTCOME, PublishedEvent, PublishFailedError, sent_hash
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.service import SimulatedService
from sim.record.parquet import Recorder
from sim.server.admission import Refusal


class VirtualPublisher:
    """Publisher of the events that `publishing` makes due. `began` is the start of the run, in the clock's time."""

    def __init__(
        self,
        clock: VirtualClock,
        service: SimulatedService,
        streams: list[Stream],
        load: Load,
        recorder: Recorder,
        began: float,
        marker_run: str,
    ) -> None:
        self._clock, self._service = clock, service
        self.publishing = Publishing(streams, load, recorder, began, marker_run)
        self.heads = self.publishing.heads

    def start(self) -> None:
        """Start publishing."""
        self.publishing.start(self._clock.now)
        self._next()

    def _next(self) -> None:
        """Publish the event that is due now, and schedule the next."""
        if self.publishing.next_due is not None:
            if (first := self.publishing.take(self._clock.now)) is not None:
                self._try(first.event)
            if (due := self.publishing.next_due) is not None:
                self._clock.call_at(due, self._next)

    def _try(self, event: DueEvent) -> None:
        if event in self.publishing.under_way:
            self.publishing.sent(event, self._clock.now)
            run_id, event_type, payload = event.content
            content = {"run_id": run_id, "event_type": event_type, "payload": payload}
            self._service.publish(event.stream.topic, event.key, content, partial(self._answered, event))

    def _answered(self, event: DueEvent, answer: int | Refusal | None) -> None:
        if event not in self.publishing.under_way:
            return  # it was abandoned
        following = self._outcome(event, answer, self._clock.now)
        if following is not None:
            self._clock.call_at(following.at, self._try, following.event)

    def _outcome(self, event: DueEvent, answer: int | Refusal | None, now: float) -> Try | None:
        if isinstance(answer, int):
            return self.publishing.succeeded(event, PublishedEvent(answer, sent_hash(*event.content)), now)
        if isinstance(answer, Refusal):
            error = PublishFailedError.by_status(answer.status, answer.code, answer.retry_after_ms)
            return self.publishing.failed(event, error, now)
        return self.publishing.failed(event, PublishFailedError(UNKNOWN_OUTCOME), now)
