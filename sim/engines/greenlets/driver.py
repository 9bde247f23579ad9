"""Resumes a run's phases in one greenlet, and carries out the steps of faults in other greenlets."""

import contextlib
from collections.abc import Callable

import gevent
from gevent.event import Event

from sim.base.clocks import WallClock
from sim.drill import fault_lifecycle
from sim.drill.waiting import Signals, Wait, Woke
from sim.engines.shared.fault_actions import Steps, at_once

_CHECK_PERIOD_S = 0.1


class GreenletDriver:
    """Drives a phase runner in wall time. It calls `check` regularly, and raises its errors inside the phases."""

    def __init__(self, clock: WallClock, check: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._check = check
        self._nudged = Event()
        self.signals = Signals()

    def stop(self) -> None:
        """Stop the run early."""
        self.signals.is_stopped = True
        self._nudged.set()

    def look(self) -> None:
        """End the current wait, so that the phases check what an operator has changed."""
        self.signals.is_by_hand = True
        self._nudged.set()

    def drive(self, steps: fault_lifecycle.Steps) -> None:
        """Resume the phases until they end, and raise their errors."""
        with contextlib.suppress(StopIteration):
            wait = next(steps)
            while True:
                try:
                    woke = self._end_of(wait)
                except Exception as error:
                    wait = steps.throw(error)
                else:
                    wait = steps.send(woke)

    def _end_of(self, wait: Wait) -> Woke:
        while (woke := self.signals.reason(wait, self._clock.now())) is None:
            if wait.heeds_stop:
                self._check()
            self._nudged.clear()
            self._nudged.wait(max(min(wait.until - self._clock.now(), _CHECK_PERIOD_S), 0))
        return woke

    def carry_out(self, steps: Steps) -> "GreenletCompletion":
        """Carry out an action in a new greenlet."""
        return GreenletCompletion(steps, self._nudged.set)


class GreenletCompletion:
    """The outcome of an action that a greenlet carries out."""

    def __init__(self, steps: Steps, ended: Callable[[], None]) -> None:
        self._steps = steps
        self._value = 0.0
        self._error: Exception | None = None
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.link(lambda _: ended())

    def _run(self) -> None:
        try:
            self._value = at_once(self._steps)
        except Exception as error:
            self._error = error

    @property
    def is_done(self) -> bool:
        """See `Completion`."""
        return bool(self._greenlet.ready())

    def result(self) -> float:
        """See `Completion`."""
        if self._error is not None:
            raise self._error
        return self._value

    def cancel(self) -> None:
        """See `Completion`."""
        self._greenlet.kill(block=False)
