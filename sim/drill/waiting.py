"""The waits of a phase runner, and the reasons why they end. A driver resumes the runner in wall or virtual time."""

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
    """Wait until the earliest of these moments (empty: no limit), or until the condition is true."""

    moments: tuple[float, ...]
    condition: Callable[[], bool] | None = None
    heeds_stop: bool = True

    @property
    def until(self) -> float:
        """The latest moment at which the wait ends."""
        return min(self.moments, default=math.inf)


@dataclass
class Signals:
    """Requests to a waiting run: to stop, or to check what an operator has changed."""

    is_stopped: bool = False
    is_by_hand: bool = False

    def reason(self, wait: Wait, now: float) -> Woke | None:
        """Return why this wait ends now; None if it continues."""
        if self.is_stopped and wait.heeds_stop:
            return Woke.STOPPED
        if self.is_by_hand:
            self.is_by_hand = False
            return Woke.BY_HAND
        if wait.condition is not None and wait.condition():
            return Woke.CONDITION
        return Woke.TIME if wait.until <= now else None
