"""Publishes events at a fixed rate over the lane's HTTP, each due at its own moment whatever the ones before it do."""

import asyncio

from sim.base.clocks import WallClock
from sim.engines.shared import service_api
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.publishing import DueEvent, Published, streams_of
from sim.engines.shared.publishing import Stream as Stream
from sim.engines.shared.service_api import MAX_CONNECTIONS, PublishFailedError
from sim.engines.sockets.http import ServiceHttp
from sim.record.parquet import Recorder


async def create_streams(http: ServiceHttp, run_streams: int, worker_events: bool) -> list[Stream]:
    """One new run a stream, so that nobody else publishes to them; raises `TargetError`."""
    return streams_of(
        [await http.ask(service_api.create_run, f"stormgate-{number}") for number in range(run_streams)], worker_events
    )


class Publisher:
    """`heads` holds, a topic, the highest seq that was acknowledged."""

    def __init__(
        self,
        http: ServiceHttp,
        streams: list[Stream],
        events_per_s: float,
        payload_bytes: int,
        clock: WallClock,
        recorder: Recorder,
        events: int = 0,
        pacer: Pacer | None = None,  # keeps to a target's cap
    ) -> None:
        self._pacer = pacer
        self._http = http
        self._events = events  # 0: as many as there is time for
        self._turns = {stream.topic: asyncio.Lock() for stream in streams}
        self._period_s = 1 / events_per_s
        self._clock = clock
        self._book = Published(streams, payload_bytes, clock, recorder)
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS["publish"])
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def heads(self) -> dict[str, int]:
        """A topic's highest seq that was acknowledged."""
        return self._book.heads

    @property
    def acknowledged(self) -> int:
        """How many events were."""
        return self._book.acknowledged

    def start(self) -> asyncio.Task[None]:
        """Begin publishing; returns the task that does, which ends when all is published, fails or is cancelled."""
        self._loop_task = asyncio.create_task(self._publish_all())
        return self._loop_task

    async def finish(self) -> None:
        """Publish no more, and wait until each event under way is acknowledged or has failed, `GIVE_UP_S` or so at most."""
        if self._loop_task is not None:
            self._loop_task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cancel(self) -> None:
        """Stop at once."""
        for task in (*self._tasks, *([self._loop_task] if self._loop_task else [])):
            task.cancel()

    async def _publish_all(self) -> None:
        began, number = self._clock.now(), 0
        while not self._events or number < self._events:
            due = began + number * self._period_s
            if (wait_s := due - self._clock.now()) > 0:  # all that is due goes out at once, however slow the event loop
                await asyncio.sleep(wait_s)
            publish = self._publish_in_turn if self._events else self._publish
            task = asyncio.create_task(publish(self._book.event(number, due)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            number += 1

    async def _publish_in_turn(self, event: DueEvent) -> None:
        """One event, after those of its stream that were due before: each then has the same seq in every run."""
        async with self._turns[event.stream.topic]:  # first come, first served
            await self._publish(event)

    async def _publish(self, event: DueEvent) -> None:
        while True:
            try:
                async with self._slots:
                    await self._wait_for_the_cap()
                    if event.is_too_late:
                        return
                    stream = event.stream
                    taken = await self._http.ask(
                        service_api.publish, stream.run_id, stream.event_type, event.payload, event.key
                    )
            except PublishFailedError as error:
                if (wait_s := event.failed(error)) is None:
                    return
                await asyncio.sleep(wait_s)
            else:
                event.succeeded(taken)
                return

    async def _wait_for_the_cap(self) -> None:
        if self._pacer is not None:
            now = self._clock.now()
            await asyncio.sleep(self._pacer.reserve(now) - now)
            while (again_at := self._pacer.act(now := self._clock.now())) > now:
                await asyncio.sleep(again_at - now)
