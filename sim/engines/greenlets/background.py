"""Greenlets that go with a run, and what a run knows of its own lateness."""

import contextlib
from collections.abc import Callable, Iterator

import gevent
from gevent.pool import Group

from sim.base.clocks import WallClock
from sim.record.parquet import Collector

_LAG_PERIOD_S = 0.05


class Helpers:
    """Greenlets that last as long as a run. A defect of ours in any of them ends it: what was measured cannot be trusted."""

    def __init__(self, stop: Callable[[str], None]) -> None:
        self._stop = stop
        self._group = Group()

    def help(self, work: Callable[[], None]) -> None:
        """Do it in a greenlet of its own."""

        def guarded() -> None:
            with self.must_not_fail():
                work()

        self._group.spawn(guarded)

    @contextlib.contextmanager
    def must_not_fail(self) -> Iterator[None]:
        """Whatever goes wrong inside ends the run as one that was cut short; a greenlet that is killed ends as it should."""
        try:
            yield
        except Exception as error:
            self._stop(str(error) or type(error).__name__)

    def kill(self) -> None:
        """End all of them."""
        self._group.kill()


class OwnLag:
    """How late this process's own timers are: its load generator's honesty. `name` says which process it is."""

    def __init__(self, clock: WallClock, recorder: Collector, name: str = "") -> None:
        self._clock = clock
        self._recorder = recorder
        self._name = name
        self.ms = 0.0  # lately

    def watch(self) -> None:
        """For as long as the run lasts. A long stall is many late ticks, not one."""
        due = self._clock.now() + _LAG_PERIOD_S
        while True:
            gevent.sleep(max(due - self._clock.now(), 0))
            while (late_s := self._clock.now() - due) >= 0:
                self.ms = late_s * 1000
                t = self._clock.now() - self._clock.began
                self._recorder.add(t, "generator_lag", value=self.ms, detail=self._name)
                due += _LAG_PERIOD_S
