"""A rate that is never exceeded: whoever wants to act asks for a moment, waits until then, and asks again whether it may."""

from collections import deque


class Pacer:
    """Never more than `per_s` acts in any one second; for a rate under 1, never two within 1 / `per_s` s.

    Moments are given out in order, so that a crowd waits once each. What counts are the acts themselves: an event loop that
    wakes late, and several at once, must not let them all go. All times are seconds of one clock.
    """

    def __init__(self, per_s: float) -> None:
        at_once = max(int(per_s), 1)
        self._window_s = max(at_once / per_s, 1.0)  # 1.5 a second are never two in one
        self._given: deque[float] = deque(maxlen=at_once)  # the latest moments given out, in order
        self._acts: deque[float] = deque(maxlen=at_once)  # the latest acts

    def reserve(self, now: float) -> float:
        """The first moment from `now` on that is still free; it is taken then."""
        moment = max(now, self._given[-1]) if self._given else now
        if len(self._given) == self._given.maxlen:
            moment = max(moment, self._given[0] + self._window_s)
        self._given.append(moment)
        return moment

    def act(self, now: float) -> float:
        """Act, if that keeps the rate: returns `now`. Else nothing is done, and the moment to ask again is returned."""
        if len(self._acts) == self._acts.maxlen and (free_at := self._acts[0] + self._window_s) > now:
            return free_at
        self._acts.append(now)
        return now
