"""Publishes events at a fixed rate over the lane's HTTP, each due at its own moment whatever the ones before it do."""

import asyncio
from dataclasses import dataclass

from sim.contract.notices import short_hash
from sim.contract.streams import CODEX_WORKER_EVENTS, run_events, stream_id
from sim.engines.client_driver import WallClock
from sim.engines.course import CODEX_EVENT, RUN_EVENT
from sim.engines.lane_http import PUBLISHES_AT_ONCE, UNKNOWN_OUTCOME, LaneHttp, PublishFailedError
from sim.engines.pacer import Pacer
from sim.observations import Recorder

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


async def create_streams(http: LaneHttp, run_streams: int, worker_events: bool) -> list[Stream]:
    """One new run a stream, so that nobody else publishes to them; raises `TargetError`."""
    runs = [await http.create_run(f"stormgate-{number}") for number in range(run_streams)]
    streams = [Stream(run_events(run_id), run_id, RUN_EVENT) for run_id in runs]
    if worker_events:
        streams.append(Stream(CODEX_WORKER_EVENTS, runs[0], CODEX_EVENT))
    return streams


class Publisher:
    """`heads` holds, a topic, the highest seq that was acknowledged."""

    def __init__(
        self,
        http: LaneHttp,
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
        self._streams = streams
        self._events = events  # 0: as many as there is time for
        self._turns = {stream.topic: asyncio.Lock() for stream in streams}
        self._period_s = 1 / events_per_s
        self._payload = {"text": "x" * payload_bytes}
        self._clock = clock
        self._recorder = recorder
        self._slots = asyncio.Semaphore(PUBLISHES_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop_task: asyncio.Task[None] | None = None
        self.heads: dict[str, int] = {stream.topic: 0 for stream in streams}
        self.acknowledged = 0

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
            task = asyncio.create_task(publish(number, self._streams[number % len(self._streams)], due))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            number += 1

    async def _publish_in_turn(self, number: int, stream: Stream, due: float) -> None:
        """One event, after those of its stream that were due before: each then has the same seq in every run."""
        async with self._turns[stream.topic]:  # first come, first served
            await self._publish(number, stream, due)

    async def _publish(self, number: int, stream: Stream, due: float) -> None:
        """One event, tried under one idempotency key until it is acknowledged or refused for good."""
        payload = {"number": number, **self._payload}
        key = f"{stream.run_id}-{number}"  # the stream may have had other publishers before
        worst = ""  # once a try's outcome was unknown, the event may have been taken, whatever later tries say
        while True:
            try:
                async with self._slots:
                    await self._wait_for_the_cap()
                    if not worst and self._clock.now() > due + GIVE_UP_S:
                        return  # we never got round to it: our own failure, which the load that is missing shows
                    event = await self._http.publish(stream.run_id, stream.event_type, payload, key)
            except PublishFailedError as error:
                worst = worst if worst == UNKNOWN_OUTCOME else error.code
                wait_s = max((error.retry_after_ms or 0) / 1000, RETRY_S)
                if error.final or self._clock.now() + wait_s > due + GIVE_UP_S:
                    self._note("publish_failed", stream, due, detail=worst)
                    return
                await asyncio.sleep(wait_s)
            else:
                self.acknowledged += 1
                self.heads[stream.topic] = max(self.heads[stream.topic], event.seq)
                self._note("published", stream, due, event.seq, short_hash(event.payload_hash))
                return

    async def _wait_for_the_cap(self) -> None:
        if self._pacer is not None:
            now = self._clock.now()
            await asyncio.sleep(self._pacer.reserve(now) - now)
            while (again_at := self._pacer.act(now := self._clock.now())) > now:
                await asyncio.sleep(again_at - now)

    def _note(self, kind: str, stream: Stream, due: float, seq: int = -1, detail: str = "") -> None:
        now = self._clock.now()
        t = now - self._clock.began
        self._recorder.add(t, kind, stream=stream.stream, seq=seq, value=(now - due) * 1000, detail=detail)
