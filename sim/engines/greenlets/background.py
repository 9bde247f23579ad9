"""Background greenlets of a run, and a monitor of the timer lag of its process."""

import contextlib
from collections.abc import Callable, Collection, Iterator

import gevent
from gevent.pool import Group

from sim.base.clocks import WallClock
from sim.machine.monitor import MachineMonitor
from sim.machine.processes import LocalTarget
from sim.record.parquet import Collector

_LAG_PERIOD_S = 0.05


class BackgroundGreenlets:
    """Greenlets that run until the run ends. An error in one of them stops the run, because its metrics are unreliable."""

    def __init__(self, stop: Callable[[str], None]) -> None:
        self._stop = stop
        self._group = Group()

    def spawn(self, work: Callable[[], None]) -> None:
        """Run `work` in a new greenlet."""

        def guarded() -> None:
            with self.must_not_fail():
                work()

        self._group.spawn(guarded)

    @contextlib.contextmanager
    def must_not_fail(self) -> Iterator[None]:
        """Stop the run as incomplete if the body raises an exception. Killing the greenlet does not stop it."""
        try:
            yield
        except Exception as error:
            self._stop(str(error) or type(error).__name__)

    def kill(self) -> None:
        """Kill all background greenlets."""
        self._group.kill()


class LagMonitor:
    """Measures how late this process's timers are, and the state of the machine.

    So a slow load generator is not mistaken for a slow service.
    """

    def __init__(
        self,
        clock: WallClock,
        recorder: Collector,
        name: str = "",
        server: Callable[[], int] = lambda: 0,
        target_ahead_s: Callable[[], float | None] = lambda: None,
        target_urls: Collection[str] = (),
    ) -> None:
        self._machine = MachineMonitor(recorder, server, target_ahead_s, name, LocalTarget(target_urls))
        self._clock = clock
        self._recorder = recorder
        self._name = name
        self.ms = 0.0  # latest

    def run(self) -> None:
        """Measure until the greenlet is killed. A long stall counts as many late ticks, not one."""
        due = self._clock.now() + _LAG_PERIOD_S
        while True:
            gevent.sleep(max(due - self._clock.now(), 0))
            while (late_s := self._clock.now() - due) >= 0:
                self.ms = late_s * 1000
                t = self._clock.now() - self._clock.began
                self._recorder.add(t, "generator_lag", value=self.ms, detail=self._name)
                due += _LAG_PERIOD_S
            self._machine.sample(self._clock.now() - self._clock.began)
