"""Resumes a run's phases in simulated time."""

from sim.drill.fault_lifecycle import Steps
from sim.drill.waiting import Signals, Wait, Woke
from sim.engines.virtual.clock import VirtualClock


class VirtualDriver:
    """Driver of a run's phases. It queues each moment as soon as it is known, so that what was planned first runs first."""

    def __init__(self, clock: VirtualClock, steps: Steps) -> None:
        self._clock = clock
        self._steps = steps
        self._wait: Wait | None = None
        self._known: set[float] = set()
        self.signals = Signals()
        self.is_over = clock.event()

    def start(self) -> None:
        """Start the phases now."""
        self._resume(next(self._steps))

    def stop(self) -> None:
        """End the run early."""
        self.signals.is_stopped = True
        self.look()

    def _resume(self, wait: Wait) -> None:
        self._wait = wait
        for moment in wait.moments:
            if moment not in self._known:
                self._known.add(moment)
                self._clock.call_at(moment, self._come, moment)
        if self.signals.is_stopped or self.signals.is_by_hand or (wait.condition is not None and wait.condition()):
            self._clock.call_at(self._clock.now, self.look)

    def _come(self, moment: float) -> None:
        self._known.discard(moment)
        self.look()

    def look(self) -> None:
        """Resume the phases if the wait ends now: its moment is reached, an action has ended, or a signal is set."""
        if self._wait is not None and (woke := self.signals.reason(self._wait, self._clock.now)) is not None:
            self._go_on(woke)

    def _go_on(self, woke: Woke) -> None:
        try:
            self._resume(self._steps.send(woke))
        except StopIteration:
            self._wait = None
            self.is_over.succeed()
