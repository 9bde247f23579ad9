"""Watches: an ordinary drill without faults that runs beside a baseline or a hold, every so often."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from drills.rollout import drill_runs, one_drill, records
from drills.rollout.aim import Aim
from drills.rollout.clock import Clock, SystemClock, iso
from drills.rollout.commands import append
from drills.rollout.drill_runs import Child
from drills.rollout.one_drill import Order
from drills.rollout.records import DrillDone, Phase, WatchDone
from drills.rollout.stages import Watching
from sim import drill as drill_file
from sim.drill import Drill, expected_duration_s
from sim.engines import permission
from sim.errors import UsageError

_LOG = f"{records.LOGS}/watches.txt"


class Run(Protocol):
    """One drill that is under way."""

    def poll(self) -> DrillDone | None:
        """What came of it; None while it runs."""
        ...

    def interrupt(self) -> DrillDone:
        """End it in order."""
        ...


@dataclass(frozen=True)
class Over:
    """One that is over already."""

    answer: DrillDone

    def poll(self) -> DrillDone:
        return self.answer

    def interrupt(self) -> DrillDone:
        return self.answer


Start = Callable[[Order, Path], Run]


def within(order: Order, _: Path) -> Run:
    """Run a watch here and now: for a clock that does not go on meanwhile."""
    return Over(one_drill.run(order))


def load(watching: Watching, beside: Path, aim_lane_kind: str, interval_s: float) -> Drill:
    """The watch, as it will run. Raises `UsageError` for one that breaks something, or takes longer than there is time for."""
    path = drill_runs.path_of(watching.drill, beside)
    drill = drill_file.load(path, watching.set)
    if drill.faults or drill.expect.probes:
        raise UsageError(f"{path}: has faults or probes, and a watch breaks nothing; expected one such as 'observation'.")
    if expected_duration_s(drill) > watching.every_s:
        raise UsageError(
            f"{path}: takes about {expected_duration_s(drill):.0f} s, but there is to be a watch every {watching.every_s:g} s "
            f"on a target of kind {aim_lane_kind} (snapshots every {interval_s:g} s); make it shorter with 'set', or rarer."
        )
    return drill


class Watcher:
    """All watches of one window."""

    def __init__(self, watching: Watching, beside: Path, folder: Path, aim: Aim, clock: Clock) -> None:
        self._watching, self._folder, self._aim, self._clock = watching, folder, aim, clock
        self._path = drill_runs.path_of(watching.drill, beside)
        self._start: Start = Child if isinstance(clock, SystemClock) else within
        self._run: Run | None = None
        self._began: datetime | None = None
        self._due: datetime | None = None
        self._phase: Phase = "hold"

    def step(self, phase: Phase, may_begin: bool = True) -> WatchDone | None:
        """Begin a watch if one is due, and take one that has ended: then its line, which is on disk."""
        now = self._clock.now()
        if may_begin and self._run is None and (self._due is None or now >= self._due):
            self._began, self._due, self._phase = now, now + timedelta(seconds=self._watching.every_s), phase
            self._run = self._start(self._order(), self._folder / _LOG)
        answer = self._run.poll() if self._run is not None else None
        return self._taken(answer) if answer is not None else None

    @property
    def takes(self) -> timedelta:
        """About how long one takes."""
        return timedelta(seconds=expected_duration_s(drill_file.load(self._path, self._watching.set)))

    @property
    def is_running(self) -> bool:
        """Whether one is under way."""
        return self._run is not None

    def close(self) -> None:
        """End what is under way, in order."""
        if self._run is not None:
            self._taken(self._run.interrupt())

    def _taken(self, answer: DrillDone) -> WatchDone:
        assert self._began is not None
        self._run = None
        self._clock.sleep_until(self._began + timedelta(seconds=answer.duration_s))  # a real clock has been there already
        line = WatchDone(
            at=iso(self._began),
            ended=iso(self._clock.now()),
            run=f"{records.WATCHES}/{answer.run}" if answer.run else "",
            drill=answer.name,
            phase=self._phase,
            status=answer.status,
            reason=answer.reason,
        )
        append(self._folder / records.WATCH_LIST, line)
        return line

    def _order(self) -> Order:
        return Order(
            drill=str(self._path.resolve()),
            set=self._watching.set,
            target=self._aim.given,
            targets=str(self._aim.file) if self._aim.file else "",
            thresholds=str(self._folder / records.THRESHOLDS),
            out=str(self._folder / records.WATCHES),
        )


def require_allowed(drill: Drill, aim: Aim) -> None:
    """Raise `UsageError` for a watch that the target's caps do not allow."""
    permission.require_allowed(drill, aim.lane)
