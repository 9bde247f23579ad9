"""Publishing a drill's load by greenlets: each event is due at its own moment, whatever became of the ones before it."""

import gevent
from gevent.pool import Group

from locustfiles.load.clients.recording import LiveMetrics
from locustfiles.load.workers.remote import NoWorkers
from sim.base.clocks import WallClock
from sim.engines.greenlets.http import GreenletHttp
from sim.engines.shared import service_api
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.publishing import DueEvent, Published, Stream
from sim.engines.shared.service_api import PublishedEvent, PublishFailedError
from sim.record.parquet import Recorder


class WatchedPublished(Published):
    """What became of all events, told to the live figures and to workers, too."""

    def __init__(
        self,
        streams: list[Stream],
        payload_bytes: int,
        clock: WallClock,
        recorder: Recorder,
        live: LiveMetrics,
        others: NoWorkers,
    ) -> None:
        super().__init__(streams, payload_bytes, clock, recorder)
        self._live = live
        self._others = others

    def take(self, event: DueEvent, acknowledged: PublishedEvent) -> None:
        """See `Published`."""
        super().take(event, acknowledged)
        self._others.published(event.stream.stream, acknowledged.seq, event.due)
        self._live.published(event, acknowledged.seq, self._late_ms(event))

    def give_up(self, event: DueEvent, code: str) -> None:
        """See `Published`."""
        super().give_up(event, code)
        self._live.publish_failed(self._late_ms(event), code)

    def _late_ms(self, event: DueEvent) -> float:
        return (self._clock.now() - event.due) * 1000


class EventPublisher:
    """Publishes at a fixed rate until it is told to finish; a greenlet an event, so that none waits for another."""

    def __init__(
        self, endpoints: GreenletHttp, book: Published, events_per_s: float, clock: WallClock, pacer: Pacer | None = None
    ) -> None:
        self.book = book
        self._pacer = pacer  # keeps to a target's cap
        self._endpoints = endpoints
        self._period_s = 1 / events_per_s
        self._clock = clock
        self._under_way = Group()
        self._is_over = False

    def run(self) -> None:
        """Publish what is due, as long as the run wants it."""
        began, number = self._clock.now(), 0
        while not self._is_over:
            due = began + number * self._period_s
            if (wait_s := due - self._clock.now()) > 0:  # all that is due goes out at once, however late we are
                gevent.sleep(wait_s)
            if not self._is_over:
                self._under_way.spawn(self._publish, self.book.event(number, due))
            number += 1

    def finish(self) -> None:
        """Publish no more, and wait until each event under way is acknowledged or has failed."""
        self._is_over = True
        self._under_way.join()

    def cancel(self) -> None:
        """Stop at once."""
        self._is_over = True
        self._under_way.kill()

    def _publish(self, event: DueEvent) -> None:
        while True:
            self._wait_for_the_cap()
            if event.is_too_late:
                return
            stream = event.stream
            try:
                taken = self._endpoints.ask(service_api.publish, stream.run_id, stream.event_type, event.payload, event.key)
            except PublishFailedError as error:
                if (wait_s := event.failed(error)) is None:
                    return
                gevent.sleep(wait_s)
            else:
                event.succeeded(taken)
                return

    def _wait_for_the_cap(self) -> None:
        if self._pacer is not None:
            now = self._clock.now()
            gevent.sleep(self._pacer.reserve(now) - now)
            while (again_at := self._pacer.act(now := self._clock.now())) > now:
                gevent.sleep(again_at - now)
