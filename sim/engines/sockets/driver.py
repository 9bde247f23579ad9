"""Resumes a run's phases on asyncio, and carries out the steps of faults in tasks."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sim.base.clocks import WallClock
from sim.drill import fault_lifecycle
from sim.drill.waiting import Signals, Wait, Woke
from sim.engines.shared.fault_actions import Steps

_CHECK_PERIOD_S = 0.1


class AsyncioDriver:
    """Drives a phase runner in wall time. It calls `check` regularly, and raises its errors inside the phases."""

    def __init__(self, clock: WallClock, check: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._check = check
        self._nudged = asyncio.Event()
        self.signals = Signals()

    def stop(self) -> None:
        """Stop the run early."""
        self.signals.is_stopped = True
        self._nudged.set()

    def look(self) -> None:
        """End the current wait, to check the signals and the running actions now."""
        self._nudged.set()

    async def drive(self, steps: fault_lifecycle.Steps) -> None:
        """Resume the phases until they end, and raise their errors."""
        with contextlib.suppress(StopIteration):
            wait = next(steps)
            while True:
                try:
                    woke = await self._end_of(wait)
                except Exception as error:
                    wait = steps.throw(error)
                else:
                    wait = steps.send(woke)

    async def _end_of(self, wait: Wait) -> Woke:
        while (woke := self.signals.reason(wait, self._clock.now())) is None:
            if wait.heeds_stop:
                self._check()
            self._nudged.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(wait.until - self._clock.now(), _CHECK_PERIOD_S)):
                    await self._nudged.wait()
        return woke

    def carry_out(self, work: Steps | Coroutine[Any, Any, float]) -> "TaskCompletion":
        """Carry out an action in a new task."""
        completion = TaskCompletion(asyncio.create_task(work if isinstance(work, Coroutine) else carried_out(work)))
        completion.task.add_done_callback(self._ended)
        return completion

    def _ended(self, task: asyncio.Task[float]) -> None:
        _ = task.cancelled() or task.exception()  # no warning by asyncio: the lifecycle raises the first of several errors
        self._nudged.set()


class TaskCompletion:
    """The outcome of an action that a task carries out."""

    def __init__(self, task: asyncio.Task[float]) -> None:
        self.task = task

    @property
    def is_done(self) -> bool:
        """See `Completion`."""
        return self.task.done()

    def result(self) -> float:
        """See `Completion`."""
        return self.task.result()

    def cancel(self) -> None:
        """See `Completion`."""
        self.task.cancel()


async def carried_out(steps: Steps) -> float:
    """Carry out steps, and await each outcome that is not known at once."""
    outcome: Any = None
    while True:
        try:
            request = steps.send(outcome)
        except StopIteration as end:
            return float(end.value)
        outcome = await request if isinstance(request, Awaitable) else request
