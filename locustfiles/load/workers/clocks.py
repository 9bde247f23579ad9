"""One clock for all processes of a run: the master's, which each worker knows by asking what time it is there."""

from collections import deque

from sim.base.clocks import WallClock

_ANSWERS = 30  # the latest, of which the quickest counts


class SharedClock(WallClock):
    """A worker's idea of the master's clock. An answer that took long says little."""

    def __init__(self) -> None:
        super().__init__()
        self._answers: deque[tuple[float, float]] = deque(maxlen=_ANSWERS)  # known within, ahead by; in s

    def answered(self, sent: float, at: float) -> None:
        """What was asked at `sent`, here, was answered with `at`, there, and is known now."""
        now = self.now()
        self._answers.append(((now - sent) / 2, at - (sent + now) / 2))

    @property
    def answers(self) -> int:
        """How many of the latest there are."""
        return len(self._answers)

    @property
    def within_s(self) -> float:
        """How exactly the master's clock is known."""
        return min(self._answers)[0] if self._answers else float("inf")

    @property
    def ahead_s(self) -> float:
        """By how much the master's clock is ahead of this one."""
        return min(self._answers)[1] if self._answers else 0.0

    def follow(self) -> float:
        """From now on this clock is the master's; returns by how much it was put forward."""
        ahead_s = self.ahead_s
        self._offset += ahead_s
        self._answers.clear()
        return ahead_s
