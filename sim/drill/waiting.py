"""What a phase runner waits for, and why it goes on. A driver resumes it in its own kind of time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto


class Woke(Enum):
    """Why a wait ended."""

    TIME = auto()
    CONDITION = auto()
    STOPPED = auto()
    BY_HAND = auto()


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for the earliest of these moments of the run's clock (none: for ever), or until the condition is true."""

    moments: tuple[float, ...]
    condition: Callable[[], bool] | None = None
    heeds_stop: bool = True

    @property
    def until(self) -> float:
        """The moment at which it ends at the latest."""
        return min(self.moments, default=math.inf)


@dataclass
class Signals:
    """What others ask of a run while it waits: to stop, or to look at what an operator has changed."""

    is_stopped: bool = False
    is_by_hand: bool = False

    def reason(self, wait: Wait, now: float) -> Woke | None:
        """Why this wait ends now; None when it goes on."""
        if self.is_stopped and wait.heeds_stop:
            return Woke.STOPPED
        if self.is_by_hand:
            self.is_by_hand = False
            return Woke.BY_HAND
        if wait.condition is not None and wait.condition():
            return Woke.CONDITION
        return Woke.TIME if wait.until <= now else None
