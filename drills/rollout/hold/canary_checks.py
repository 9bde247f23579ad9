"""Canary checks: a drill without faults that runs at intervals during a baseline or a hold.

They alternate between the target and the control, if there is one, and rotate through the client builds. The control's checks
have their own folder and list, so that they cannot count for the target.
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
from drills.rollout.setup.records import CanaryCheckDone, DrillDone, Phase, Revisions
from drills.rollout.setup.stage_target import StageTarget
from drills.rollout.setup.stages import CanaryChecks
from drills.runs import catalog, results
from sim.base import atomic_files
from sim.base.clocks import Clock, SystemClock, iso
from sim.base.errors import StormgateError, UsageError
from sim.base.ownership import is_left_over
from sim.drill import model as drill_file
from sim.drill.model import CLIENT_BUILD, Drill, expected_duration_s

_LOG = f"{records.LOGS}/canary-checks.txt"
_LEFT = "the stormgate that started it was killed"
_POLL_S = 0.2


class Run(Protocol):
    """A drill that is running."""

    def poll(self) -> DrillDone | None:
        """Return its result; None while it runs."""
        ...

    def interrupt(self) -> DrillDone:
        """End it gracefully and return its result."""
        ...


@dataclass(frozen=True)
class Finished:
    """A drill that has already ended; see `Run`."""

    answer: DrillDone

    def poll(self) -> DrillDone:
        return self.answer

    def interrupt(self) -> DrillDone:
        return self.answer


Start = Callable[[Order, Path], Run]


def run_here(order: Order, _: Path) -> Run:
    """Run a canary check in this process, for a simulated clock, which stands still while it runs."""
    return Finished(one_drill.run(order))


def load(rules: CanaryChecks, beside: Path, kind: str, interval_s: float, sides: int = 1) -> Drill:
    """Load the drill of the canary checks. Raises `UsageError` if it has faults or is longer than the interval between two.

    `sides`: the number of targets that are checked in turns, each at the same interval.
    """
    path = catalog.path_of(rules.drill, beside)
    drill = drill_file.load(path, rules.set)
    if drill.faults or drill.expect.negative_clients:
        raise UsageError(
            f"{path}: has faults or negative clients, and a canary check breaks nothing; expected one such as 'observation'."
        )
    if expected_duration_s(drill) > rules.every_s / sides:
        beside_it = " and one of the control between" if sides > 1 else ""
        raise UsageError(
            f"{path}: takes about {expected_duration_s(drill):.0f} s, but there is a canary check every {rules.every_s:g} s"
            f"{beside_it} on a target of kind {kind} (snapshots every {interval_s:g} s); make it shorter with 'set', or less "
            "frequent."
        )
    return drill


@dataclass(frozen=True)
class Side:
    """One of the targets that are checked in turns, with the list and the folder of its checks."""

    target: StageTarget
    listed: str = records.CANARY_CHECK_LIST
    folder: str = records.CANARY_CHECKS

    @property
    def is_control(self) -> bool:
        """Whether this side is the control."""
        return self.listed == records.CONTROL_LIST

    def revisions(self) -> Revisions:
        """The control's revisions. For the target they are empty, because its snapshots have them."""
        return revisions.find(self.target.endpoints, self.target.entry) if self.is_control else Revisions()


@dataclass(frozen=True)
class _Turn:
    """A running canary check. Its line is completed when it ends."""

    side: Side
    began: datetime
    line: CanaryCheckDone
    run: Run


class CanaryCheckRunner:
    """Runs the canary checks of one window."""

    def __init__(
        self,
        rules: CanaryChecks,
        beside: Path,
        folder: Path,
        target: StageTarget,
        clock: Clock,
        builds: Sequence[str] = (CLIENT_BUILD,),
        control: StageTarget | None = None,
    ) -> None:
        self._rules, self._folder, self._clock, self._builds = rules, folder, clock, builds
        self._path = catalog.path_of(rules.drill, beside)
        self._start: Start = Child if isinstance(clock, SystemClock) else run_here
        self._sides = [Side(target), *([Side(control, records.CONTROL_LIST, records.CONTROL)] if control else [])]
        self._turn: _Turn | None = None
        self._started = sum(len(evidence.read_lines(folder / side.listed, CanaryCheckDone)) for side in self._sides)
        self._due: datetime | None = None

    def step(self, phase: Phase, may_begin: bool = True) -> CanaryCheckDone | None:
        """Start a check if one is due, and record a finished one. Returns its line if it was a check of the target."""
        now = self._clock.now()
        if may_begin and self._turn is None and (self._due is None or now >= self._due):
            self._due = now + timedelta(seconds=self._rules.every_s / len(self._sides))
            self._turn = self._begin(now, phase)
        answer = self._turn.run.poll() if self._turn is not None else None
        return self._taken(answer) if answer is not None else None

    @property
    def takes(self) -> timedelta:
        """Expected length of one check."""
        return timedelta(seconds=expected_duration_s(drill_file.load(self._path, self._rules.set)))

    @property
    def is_running(self) -> bool:
        """Whether a check is running."""
        return self._turn is not None

    def close(self) -> None:
        """End the running check gracefully and record it."""
        if self._turn is not None:
            self._taken(self._turn.run.interrupt())

    def _begin(self, now: datetime, phase: Phase) -> _Turn:
        """Start the next check. Each build runs on every side before the next build."""
        n, self._started = self._started, self._started + 1
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
        mark = self._folder / records.UNDER_WAY
        try:
            mark.write_bytes(msgspec.json.encode(line))
        except OSError as error:
            raise evidence.cannot_write(mark, error) from None
        return _Turn(side, now, line, self._start(self._order(side, build, mark), self._folder / _LOG))

    def _taken(self, answer: DrillDone) -> CanaryCheckDone | None:
        turn, self._turn = self._turn, None
        assert turn is not None
        self._clock.sleep_until(turn.began + timedelta(seconds=answer.duration_s))  # returns at once with a real clock
        line = msgspec.structs.replace(
            turn.line,
            ended=iso(self._clock.now()),
            run=f"{turn.side.folder}/{answer.run}" if answer.run else "",
            drill=answer.name,
            status=answer.status,
            reason=answer.reason,
            revisions=turn.line.revisions if turn.side.revisions() == turn.line.revisions else Revisions(),
        )
        evidence.append(self._folder / turn.side.listed, line)
        (self._folder / records.UNDER_WAY).unlink(missing_ok=True)
        return None if turn.side.is_control else line

    def _order(self, side: Side, build: str, mark: Path) -> Order:
        return Order(
            drill=str(self._path.resolve()),
            set=(*self._rules.set, f"fleet.client_build={build}"),
            target=side.target.given,
            targets=str(side.target.file) if side.target.file else "",
            thresholds=str(self._folder / records.THRESHOLDS),
            out=str(self._folder / side.folder),
            mark=str(mark),
        )


def adopt(folder: Path, clock: Clock) -> list[CanaryCheckDone]:
    """Record the canary check that was running when its stormgate process was killed, judged by the files that it left.

    Returns the recorded lines; empty if no check was running. Raises `EvidenceError`, and `UsageError` if it does not end.
    """
    mark = folder / records.UNDER_WAY
    if not mark.exists():
        return []
    until = time.monotonic() + drill_runs.END_LIMIT_S
    while not is_left_over(mark):  # the check ends soon after its stormgate process
        if time.monotonic() > until:
            raise UsageError(f"{folder}: a canary check of the stormgate that was killed still runs; wait until it has ended.")
        time.sleep(_POLL_S)
    left = atomic_files.read_struct(mark, CanaryCheckDone)
    listed = folder / (records.CONTROL_LIST if left.run == records.CONTROL else records.CANARY_CHECK_LIST)
    recorded = {each.run for each in evidence.read_lines(listed, CanaryCheckDone)}
    there = sorted(f"{left.run}/{path.name}" for path in (folder / left.run).glob("*"))
    found = [_adopted(folder, run, left, clock) for run in there if run not in recorded]
    for line in found:
        evidence.append(listed, line)
    mark.unlink()
    return found


def _adopted(folder: Path, run: str, left: CanaryCheckDone, clock: Clock) -> CanaryCheckDone:
    """The line of such a check. A failure always counts against the target; a pass counts only if the check was complete."""
    try:
        verdict = results.judge_run(folder / run).drills[0]
        status, why = str(verdict.status), "" if verdict.status is State.PASS else report.why(verdict)
    except StormgateError as error:
        status, why = str(State.NOT_RUN), str(error)
    reason = f"{_LEFT}: {why}" if why else _LEFT
    return msgspec.structs.replace(left, ended=iso(clock.now()), run=run, status=status, reason=reason, revisions=Revisions())
