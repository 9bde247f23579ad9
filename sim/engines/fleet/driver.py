"""Resumes a run's phases while the compiled kernel is advanced in slices."""

import contextlib
from collections.abc import Callable

from sim.drill.fault_lifecycle import Steps
from sim.drill.waiting import Signals

_SLICE_S = 0.5  # simulated time between two checks of the signals


class KernelDriver:
    """Driver of a run's phases. `advance` simulates until a moment, in seconds."""

    def __init__(self, now: Callable[[], float], advance: Callable[[float], None]) -> None:
        self._now = now
        self._advance = advance
        self.signals = Signals()

    def drive(self, steps: Steps) -> None:
        """Resume the phases until they end. Their exceptions pass through."""
        with contextlib.suppress(StopIteration):
            wait = next(steps)
            while True:
                while (woke := self.signals.reason(wait, self._now())) is None:
                    self._advance(min(wait.until, self._now() + _SLICE_S))
                wait = steps.send(woke)
