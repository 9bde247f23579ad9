"""A rate limiter: reserve a moment, wait until then, and ask again before acting."""

from collections import deque
from collections.abc import Callable, Iterator


class Pacer:
    """Allows at most `per_s` acts in any second. If `per_s` is below 1, two acts are at least 1 / `per_s` seconds apart.

    Moments are reserved in order, so each client usually waits once. The limit applies to the acts, not to the
    reservations: an event loop that wakes late must not allow several acts at once. All times are seconds of one clock.
    """

    def __init__(self, per_s: float) -> None:
        burst = max(int(per_s), 1)
        self._window_s = max(burst / per_s, 1.0)  # at 1.5 per second, never two in one second
        self._reserved: deque[float] = deque(maxlen=burst)  # the latest reserved moments, in order
        self._acts: deque[float] = deque(maxlen=burst)  # the latest acts

    def reserve(self, now: float) -> float:
        """Reserve and return the first free moment, `now` or later."""
        moment = max(now, self._reserved[-1]) if self._reserved else now
        if len(self._reserved) == self._reserved.maxlen:
            moment = max(moment, self._reserved[0] + self._window_s)
        self._reserved.append(moment)
        return moment

    def act(self, now: float) -> float:
        """Act if the rate allows it, and return `now`; else return the moment to ask again."""
        if len(self._acts) == self._acts.maxlen and (free_at := self._acts[0] + self._window_s) > now:
            return free_at
        self._acts.append(now)
        return now

    def waits(self, now: Callable[[], float]) -> Iterator[float]:
        """Yield seconds to sleep, one value after the other, until the rate allows the act; it then counts as made."""
        asked_at = now()
        yield self.reserve(asked_at) - asked_at
        while (again_at := self.act(asked_at := now())) > asked_at:
            yield again_at - asked_at
