"""One clock for all processes of a run: the master's, which each worker estimates by asking for it."""

from collections import deque

from sim.base.clocks import WallClock

_ANSWERS = 30  # latest answers kept; the one with the shortest round trip counts


class SharedClock(WallClock):
    """A worker's estimate of the master's clock, from the answer with the shortest round trip."""

    def __init__(self) -> None:
        super().__init__()
        self._answers: deque[tuple[float, float]] = deque(maxlen=_ANSWERS)  # uncertainty and offset, in s

    def answered(self, sent: float, at: float) -> None:
        """Take an answer: asked at `sent` (this clock), the master's time was `at`."""
        now = self.now()
        self._answers.append(((now - sent) / 2, at - (sent + now) / 2))

    @property
    def answers(self) -> int:
        """Number of answers kept."""
        return len(self._answers)

    @property
    def within_s(self) -> float:
        """Uncertainty of the estimate in s."""
        return min(self._answers)[0] if self._answers else float("inf")

    @property
    def ahead_s(self) -> float:
        """How far the master's clock is ahead of this one, in s."""
        return min(self._answers)[1] if self._answers else 0.0

    def follow(self) -> float:
        """Set this clock to the master's; returns by how much it moved forward, in s."""
        ahead_s = self.ahead_s
        self._offset += ahead_s
        self._answers.clear()
        return ahead_s
