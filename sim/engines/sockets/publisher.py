"""Publishes a drill's events on asyncio. Each event is sent when it is due, without waiting for earlier events."""

import asyncio

from sim.base.clocks import WallClock
from sim.engines.shared import service_api
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.publishing import Publishing, Stream, Try, streams_of
from sim.engines.shared.service_api import MAX_CONNECTIONS, PublishFailedError
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


class Publisher:
    """Sends the events that `publishing` makes due. `pacer` enforces the target's cap."""

    def __init__(self, http: ServiceHttp, publishing: Publishing, clock: WallClock, pacer: Pacer | None = None) -> None:
        self.publishing = publishing
        self._http, self._clock, self._pacer = http, clock, pacer
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
            published = await self._http.ask(service_api.publish, *event.content, event.key)
        except PublishFailedError as error:
            return self.publishing.failed(event, error, now())
        return self.publishing.succeeded(event, published, now())
