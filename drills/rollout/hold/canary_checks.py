"""Watches: an ordinary drill without faults that runs beside a baseline or a hold, every so often.

They take turns: between the target and the control, where there is one, and over the client builds. What a control's watches
saw lies in a folder and a list of its own, so that nothing of it can count as the target's.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import msgspec

from drills.judging.checks.verdicts import State
from drills.reports import report
from drills.rollout.preflight import drill_runs, one_drill
from drills.rollout.preflight.drill_runs import Child
from drills.rollout.preflight.one_drill import Order
from drills.rollout.servers import revisions
from drills.rollout.setup import evidence, records
from drills.rollout.setup.evidence import append
from drills.rollout.setup.records import CanaryCheckDone, DrillDone, Phase, Revisions
from drills.rollout.setup.stage_target import StageTarget
from drills.rollout.setup.stages import CanaryChecks
from drills.runs import catalog, results
from sim.base import atomic_files
from sim.base.clocks import Clock, SystemClock, iso
from sim.base.errors import StorageError, StormgateError, UsageError
from sim.base.ownership import is_left_over
from sim.drill import model as drill_file
from sim.drill.model import CLIENT_BUILD, Drill, expected_duration_s
from sim.engines.shared import permission

_LOG = f"{records.LOGS}/watches.txt"
_LEFT = "the stormgate that began it was killed"
_LOOK_S = 0.2


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


def load(watching: CanaryChecks, beside: Path, kind: str, interval_s: float, sides: int = 1) -> Drill:
    """The watch, as it will run. Raises `UsageError` for one that breaks something, or takes longer than there is time for.

    `sides`: how many targets are watched in turns, each so often.
    """
    path = catalog.path_of(watching.drill, beside)
    drill = drill_file.load(path, watching.set)
    if drill.faults or drill.expect.negative_clients:
        raise UsageError(f"{path}: has faults or probes, and a watch breaks nothing; expected one such as 'observation'.")
    if expected_duration_s(drill) > watching.every_s / sides:
        beside_it = " and one of the control between" if sides > 1 else ""
        raise UsageError(
            f"{path}: takes about {expected_duration_s(drill):.0f} s, but there is to be a watch every {watching.every_s:g} s"
            f"{beside_it} on a target of kind {kind} (snapshots every {interval_s:g} s); make it shorter with 'set', "
            "or rarer."
        )
    return drill


@dataclass(frozen=True)
class Side:
    """One of the targets that are watched in turns, and where its watches are kept."""

    target: StageTarget
    listed: str = records.CANARY_CHECK_LIST
    folder: str = records.CANARY_CHECKS

    @property
    def is_control(self) -> bool:
        """Whether it is what the target is held against."""
        return self.listed == records.CONTROL_LIST

    def revisions(self) -> Revisions:
        """What is deployed there; of the target itself others ask."""
        return revisions.find(self.target.endpoints, self.target.entry) if self.is_control else Revisions()


@dataclass(frozen=True)
class _Turn:
    """One watch that is under way; its line lacks what only its end tells."""

    side: Side
    began: datetime
    line: CanaryCheckDone
    run: Run


class Watcher:
    """All watches of one window."""

    def __init__(
        self,
        watching: CanaryChecks,
        beside: Path,
        folder: Path,
        target: StageTarget,
        clock: Clock,
        builds: Sequence[str] = (CLIENT_BUILD,),
        control: StageTarget | None = None,
    ) -> None:
        self._watching, self._folder, self._clock, self._builds = watching, folder, clock, builds
        self._path = catalog.path_of(watching.drill, beside)
        self._start: Start = Child if isinstance(clock, SystemClock) else within
        self._sides = [Side(target), *([Side(control, records.CONTROL_LIST, records.CONTROL)] if control else [])]
        self._turn: _Turn | None = None
        self._begun = sum(len(evidence.read_lines(folder / side.listed, CanaryCheckDone)) for side in self._sides)
        self._due: datetime | None = None

    def step(self, phase: Phase, may_begin: bool = True) -> CanaryCheckDone | None:
        """Begin a watch if one is due, and take one that has ended: then its line, which is on disk; none of a control's."""
        now = self._clock.now()
        if may_begin and self._turn is None and (self._due is None or now >= self._due):
            self._due = now + timedelta(seconds=self._watching.every_s / len(self._sides))
            self._turn = self._begin(now, phase)
        answer = self._turn.run.poll() if self._turn is not None else None
        return self._taken(answer) if answer is not None else None

    @property
    def takes(self) -> timedelta:
        """About how long one takes."""
        return timedelta(seconds=expected_duration_s(drill_file.load(self._path, self._watching.set)))

    @property
    def is_running(self) -> bool:
        """Whether one is under way."""
        return self._turn is not None

    def close(self) -> None:
        """End what is under way, in order."""
        if self._turn is not None:
            self._taken(self._turn.run.interrupt())

    def _begin(self, now: datetime, phase: Phase) -> _Turn:
        """Each build is seen on every side before the next one has its turn."""
        n, self._begun = self._begun, self._begun + 1
        side = self._sides[n % len(self._sides)]
        build = self._builds[n // len(self._sides) % len(self._builds)]
        line = CanaryCheckDone(
            at=iso(now),
            ended=iso(now),
            run=side.folder,
            drill=self._path.stem,
            phase=phase,
            status=State.NOT_RUN,
            reason=_LEFT,
            build=build,
            revisions=side.revisions(),
        )
        order = self._order(side, build)
        _mark(Path(order.mark), line)
        return _Turn(side, now, line, self._start(order, self._folder / _LOG))

    def _taken(self, answer: DrillDone) -> CanaryCheckDone | None:
        turn, self._turn = self._turn, None
        assert turn is not None
        self._clock.sleep_until(turn.began + timedelta(seconds=answer.duration_s))  # a real clock has been there already
        line = msgspec.structs.replace(
            turn.line,
            ended=iso(self._clock.now()),
            run=f"{turn.side.folder}/{answer.run}" if answer.run else "",
            drill=answer.name,
            status=answer.status,
            reason=answer.reason,
            revisions=turn.line.revisions if turn.side.revisions() == turn.line.revisions else Revisions(),
        )
        append(self._folder / turn.side.listed, line)
        (self._folder / records.UNDER_WAY).unlink(missing_ok=True)
        return None if turn.side.is_control else line

    def _order(self, side: Side, build: str) -> Order:
        return Order(
            drill=str(self._path.resolve()),
            set=(*self._watching.set, f"fleet.client_build={build}"),
            target=side.target.given,
            targets=str(side.target.file) if side.target.file else "",
            thresholds=str(self._folder / records.THRESHOLDS),
            out=str(self._folder / side.folder),
            mark=str(self._folder / records.UNDER_WAY),
        )


def adopt(folder: Path, clock: Clock) -> list[CanaryCheckDone]:
    """Tell of the watch that was under way when its stormgate was killed: it is judged by what it left.

    Returns its line, which is on disk; none where none was left. Raises `EvidenceError`, and `UsageError` while it still runs.
    """
    mark = folder / records.UNDER_WAY
    if not mark.exists():
        return []
    _wait_for(mark)
    left = atomic_files.read_struct(mark, CanaryCheckDone)
    listed = folder / (records.CONTROL_LIST if left.run == records.CONTROL else records.CANARY_CHECK_LIST)
    told = {each.run for each in evidence.read_lines(listed, CanaryCheckDone)}
    there = sorted(f"{left.run}/{path.name}" for path in (folder / left.run).glob("*"))
    found = [_adopted(folder, run, left, clock) for run in there if run not in told]
    for line in found:
        append(listed, line)
    mark.unlink()
    return found


def _wait_for(mark: Path) -> None:
    """Until the watch has ended, which it does when whoever began it has."""
    until = time.monotonic() + drill_runs.LAST_WORDS_S
    while not is_left_over(mark):
        if time.monotonic() > until:
            raise UsageError(f"{mark.parent}: a watch of the stormgate that was killed still runs; wait until it has ended.")
        time.sleep(_LOOK_S)


def _adopted(folder: Path, run: str, left: CanaryCheckDone, clock: Clock) -> CanaryCheckDone:
    """What it saw counts against the target as always; for it only where the watch came to its end."""
    try:
        verdict = results.judge_run(folder / run).drills[0]
        status, why = str(verdict.status), "" if verdict.status is State.PASS else report.why(verdict)
    except StormgateError as error:
        status, why = str(State.NOT_RUN), str(error)
    reason = f"{_LEFT}: {why}" if why else _LEFT
    return msgspec.structs.replace(left, ended=iso(clock.now()), run=run, status=status, reason=reason, revisions=Revisions())


def _mark(path: Path, line: CanaryCheckDone) -> None:
    try:
        path.write_bytes(msgspec.json.encode(line))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}).") from None


def require_allowed(drill: Drill, target: StageTarget) -> None:
    """Raise `UsageError` for a watch that the target's caps do not allow."""
    permission.require_allowed(drill, target.endpoints)
