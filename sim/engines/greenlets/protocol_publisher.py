"""Publishes over the clients' protocol in greenlets, on one connection of the publisher's own."""

import gevent
from gevent.event import AsyncResult

from sim.base.clocks import WallClock
from sim.client.actions import ClientSettings
from sim.engines.greenlets.client import WireClient
from sim.engines.greenlets.http import GreenletHttp
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.publishing import CONNECT_LIMIT_S, PublishingSession, Unrecorded, not_connected
from sim.engines.shared.service_api import REQUEST_TIMEOUT_S, UNKNOWN_OUTCOME, PublishedEvent, PublishFailedError

_LOOK_EVERY_S = 0.02


class GreenletPublisher:
    """The publisher's connection. `connect` before `publish`, and `close` at the end."""

    def __init__(self, http: GreenletHttp, settings: ClientSettings, clock: WallClock, pacer: Pacer | None = None) -> None:
        self._endpoints, self._clock = http.endpoints, clock
        self._waiting: dict[str, AsyncResult[PublishedEvent]] = {}
        self.session = PublishingSession.make(settings, self._answered)
        self._failure: Exception | None = None  # of the client's greenlet
        self._client = WireClient(self.session, http, clock, Unrecorded(), lambda now, session, notices: None, pacer)

    def connect(self) -> None:
        """Connect for the first time; later it reconnects by itself. Raises `TargetError`."""
        gevent.spawn(self._run)
        until = self._clock.now() + CONNECT_LIMIT_S
        while not self.session.is_live:
            if self._failure is not None:
                raise self._failure
            if self._clock.now() > until or self.session.end_code:
                self.close()
                raise not_connected(self._endpoints, self.session)
            gevent.sleep(_LOOK_EVERY_S)

    def _run(self) -> None:
        try:
            self._client.run(self._clock.now())
        except Exception as error:
            self._failure = error
            for answer in self._waiting.values():
                answer.set_exception(error)

    def publish(self, topic: str, payload: object, key: str) -> PublishedEvent:
        """Append one event with an idempotency key. Raises `PublishFailedError`."""
        if self._failure is not None:
            raise self._failure
        self.session.publish(topic, payload, key)
        answer = self._waiting[key] = AsyncResult()
        self._client.carry_on()
        try:
            published = answer.get(timeout=REQUEST_TIMEOUT_S)
        except gevent.Timeout:
            self.session.give_up(key, self._clock.now())
            self._client.carry_on()
            raise PublishFailedError(UNKNOWN_OUTCOME) from None
        finally:
            self._waiting.pop(key, None)
        assert published is not None
        return published

    def close(self) -> None:
        """Disconnect for good."""
        self._client.stop()

    def _answered(self, key: str, outcome: PublishedEvent | PublishFailedError) -> None:
        answer = self._waiting.get(key)
        if answer is None:
            return
        if isinstance(outcome, PublishFailedError):
            answer.set_exception(outcome)
        else:
            answer.set(outcome)
