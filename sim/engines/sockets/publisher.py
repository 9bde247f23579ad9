"""Publishes a drill's events on asyncio, over HTTP or over the clients' protocol.

Each event is sent when it is due, without waiting for earlier events.
"""

import asyncio

from sim.base.clocks import WallClock
from sim.client.actions import ClientSettings
from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.publishing import (
    CONNECT_LIMIT_S,
    DueEvent,
    Publishing,
    PublishingSession,
    Stream,
    Try,
    Unrecorded,
    not_connected,
    streams_of,
)
from sim.engines.shared.service_api import (
    MAX_CONNECTIONS,
    REQUEST_TIMEOUT_S,
    UNKNOWN_OUTCOME,
    PublishedEvent,
    PublishFailedError,
)
from sim.engines.sockets.client import ClientDriver, MintToken
from sim.engines.sockets.http import ServiceHttp


async def create_streams(http: ServiceHttp, run_streams: int, worker_events: bool) -> list[Stream]:
    """Create one new run per stream, so that there are no other publishers, unless the target names streams.

    Raises `TargetError` on failure.
    """
    rules = http.endpoints.streams
    runs = list(rules.names[:run_streams])
    if not runs:
        runs = [await http.ask(service_api.create_run, f"stormgate-{number}") for number in range(run_streams)]
    return streams_of(runs, worker_events, http.endpoints.protocol, rules)


_LOOK_EVERY_S = 0.02


class ProtocolPublisher:
    """The publisher's own connection over the clients' protocol. `connect` before `publish`, and `close` at the end."""

    def __init__(
        self, endpoints: Endpoints, settings: ClientSettings, mint: MintToken, clock: WallClock, pacer: Pacer | None = None
    ) -> None:
        self._endpoints, self._clock = endpoints, clock
        self._waiting: dict[str, asyncio.Future[PublishedEvent]] = {}
        self.session = PublishingSession.make(settings, self._answered)
        self._driver = ClientDriver(self.session, endpoints.socket_url, mint, clock, Unrecorded(), pacer=pacer)

    async def connect(self) -> None:
        """Connect for the first time; later it reconnects by itself. Raises `TargetError`."""
        self._driver.start()
        until = self._clock.now() + CONNECT_LIMIT_S
        while not self.session.is_live:
            if self._clock.now() > until or self.session.end_code:
                self.close()
                raise not_connected(self._endpoints, self.session)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def publish(self, topic: str, payload: object, key: str) -> PublishedEvent:
        """Append one event with an idempotency key. Raises `PublishFailedError`."""
        self.session.publish(topic, payload, key)
        answer = self._waiting[key] = asyncio.get_running_loop().create_future()
        self._driver.carry_on()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                published: PublishedEvent = await answer
                return published
        except TimeoutError:
            self.session.give_up(key, self._clock.now())
            self._driver.carry_on()
            raise PublishFailedError(UNKNOWN_OUTCOME) from None
        finally:
            self._waiting.pop(key, None)

    def close(self) -> None:
        """Disconnect for good."""
        self._driver.stop()

    def _answered(self, key: str, outcome: PublishedEvent | PublishFailedError) -> None:
        answer = self._waiting.get(key)
        if answer is None or answer.done():
            return
        if isinstance(outcome, PublishFailedError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)


class Publisher:
    """Sends the events that `publishing` makes due. `pacer` enforces the target's cap.

    With `over`, it publishes over the clients' protocol, otherwise over HTTP.
    """

    def __init__(
        self,
        http: ServiceHttp,
        publishing: Publishing,
        clock: WallClock,
        pacer: Pacer | None = None,
        over: ProtocolPublisher | None = None,
    ) -> None:
        self.publishing = publishing
        self._http, self._clock, self._pacer, self._over = http, clock, pacer, over
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS["publish"])
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Start publishing; return the task. It ends after the last due event, when it fails or when it is cancelled."""
        self.publishing.start(self._clock.now())
        self._loop_task = asyncio.create_task(self._publish_all())
        return self._loop_task

    def cancel(self) -> None:
        """Stop publishing at once."""
        for task in (*self._tasks, *([self._loop_task] if self._loop_task else [])):
            task.cancel()

    async def _publish_all(self) -> None:
        while (due := self.publishing.next_due) is not None:
            if (wait_s := due - self._clock.now()) > 0:  # late events are sent at once, so that a slow event loop catches up
                await asyncio.sleep(wait_s)
            if (first := self.publishing.take(due)) is not None:
                task = asyncio.create_task(self._publish(first))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _publish(self, due: Try | None) -> None:
        while due is not None:
            await asyncio.sleep(due.at - self._clock.now())
            async with self._slots:
                for wait_s in self._pacer.waits(self._clock.now) if self._pacer else ():
                    await asyncio.sleep(wait_s)
                due = await self._send(due)

    async def _send(self, due: Try) -> Try | None:
        event, now = due.event, self._clock.now
        if event.is_too_late(now()):
            return self.publishing.drop(event, now())
        self.publishing.sent(event, now())
        try:
            published = await self._append(event)
        except PublishFailedError as error:
            return self.publishing.failed(event, error, now())
        return self.publishing.succeeded(event, published, now())

    async def _append(self, event: DueEvent) -> PublishedEvent:
        if self._over is not None:
            return await self._over.publish(event.stream.topic, event.payload, event.key)
        return await self._http.ask(service_api.publish, *event.content, event.key)
