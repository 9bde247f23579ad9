"""Publishes a drill's events by greenlets, each at its own due moment, however long the ones before it take."""

import gevent
from gevent.pool import Group

from locustfiles.load.clients.recording import LiveMetrics
from locustfiles.load.workers.workers import Workers
from sim.base.clocks import WallClock
from sim.drill.model import Load
from sim.engines.greenlets.background import BackgroundGreenlets
from sim.engines.greenlets.http import GreenletHttp
from sim.engines.greenlets.protocol_publisher import GreenletPublisher
from sim.engines.shared import service_api
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.publishing import DueEvent, Publishing, Stream, Try
from sim.engines.shared.service_api import PublishedEvent, PublishFailedError
from sim.record.parquet import Recorder


class LivePublishing(Publishing):
    """A run's events; what becomes of them also goes to the live metrics and to the workers."""

    def __init__(
        self,
        streams: list[Stream],
        load: Load,
        recorder: Recorder,
        began: float,
        marker_run: str,
        live: LiveMetrics,
        workers: Workers,
    ) -> None:
        super().__init__(streams, load, recorder, began, marker_run)
        self._live, self._workers = live, workers

    def record(self, kind: str, event: DueEvent, now: float, seq: int = -1, detail: str = "") -> None:
        """See `Publishing`."""
        super().record(kind, event, now, seq, detail)
        late_ms = (now - event.due) * 1000
        if kind == "published":
            self._workers.published(event.stream.stream, event.number, event.due)
            self._live.published(event, late_ms)
        else:
            self._live.publish_failed(late_ms, detail)


class Publisher:
    """Sends what `publishing` makes due, one greenlet per event. `pacer` keeps to the target's cap.

    With `over`, it publishes over the clients' protocol, otherwise over HTTP.
    """

    def __init__(
        self,
        http: GreenletHttp,
        publishing: Publishing,
        clock: WallClock,
        background: BackgroundGreenlets,
        pacer: Pacer | None = None,
        over: GreenletPublisher | None = None,
    ) -> None:
        self.publishing = publishing
        self._background = background
        self._http, self._clock, self._pacer, self._over = http, clock, pacer, over
        self._under_way = Group()

    def run(self) -> None:
        """Publish until the run stops it."""
        self.publishing.start(self._clock.now())
        while (due := self.publishing.next_due) is not None:
            if (wait_s := due - self._clock.now()) > 0:  # all that is due goes out at once, however late we are
                gevent.sleep(wait_s)
            if self.publishing.next_due is not None and (first := self.publishing.take(due)) is not None:
                self._under_way.spawn(self._publish, first)

    def cancel(self) -> None:
        """Stop at once."""
        self.publishing.stop()
        self._under_way.kill()
        if self._over is not None:
            self._over.close()

    def _publish(self, due: Try | None) -> None:
        with self._background.must_not_fail():
            while due is not None:
                gevent.sleep(max(due.at - self._clock.now(), 0))
                for wait_s in self._pacer.waits(self._clock.now) if self._pacer else ():
                    gevent.sleep(wait_s)
                due = self._send(due)

    def _send(self, due: Try) -> Try | None:
        event, now = due.event, self._clock.now
        if event.is_too_late(now()):
            return self.publishing.drop(event, now())
        self.publishing.sent(event, now())
        try:
            published = self._append(event)
        except PublishFailedError as error:
            return self.publishing.failed(event, error, now())
        return self.publishing.succeeded(event, published, now())

    def _append(self, event: DueEvent) -> PublishedEvent:
        if self._over is not None:
            return self._over.publish(event.stream.topic, event.payload, event.key)
        return self._http.ask(service_api.publish, *event.content, event.key)
