"""One window of a stage with its evidence: snapshots of the servers, and observations of the canary checks' clients.

Seconds are POSIX seconds. Missing snapshots, rows and canary checks are found here: evidence with a problem can still fail a
check, but cannot pass one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import msgspec
import numpy as np

from drills.judging.checks.base import Case
from drills.judging.checks.verdicts import State
from drills.rollout.setup.records import Coverage, Revisions, Snapshot
from drills.rollout.setup.stages import MAX_HOLE_INTERVALS
from sim.analysis import machine
from sim.analysis.machine import BusyTime
from sim.base.clocks import from_iso
from sim.drill.model import Drill
from sim.record.history import Floats, History, Ints, Mask
from sim.service.metric_names import PROFILES, STATUS_COUNTERS

T = TypeVar("T")
MIN_SNAPSHOTS = 50
COVERED_SHARE = 0.9
LIVE_PHASES = ("baseline", "hold")  # in all other phases stormgate changes the sync service
_PRIMARY = ("metrics", "prometheus", "control")  # the first one with snapshots decides the coverage
_MAX_SET_BACK_S = 1.0  # [ours] how far time synchronization may set the clock back
MAX_CLOCK_STEP_S = 10.0  # [ours] a `Date` has whole seconds, and may wait for its answer
MAX_CLOCK_DRIFT = 1e-4  # [ours] 0.1 ms per s: a clock without synchronization loses about half of it
_AT_ONCE = 5  # answers whose median counts, because one may be late or from a cache
_MIN_CLIENT_HOLE_S = 600.0  # [ours] a shorter time without a canary check does not count as a hole


@dataclass(frozen=True)
class CanaryCheck:
    """A drill without faults that ran during a stage. Its observations count seconds from `began_s`."""

    began_s: float
    source: History | Callable[[], History]  # observations, or a function to read them: those of a day do not fit into memory
    drill: Drill
    path: str  # its folder, relative to the stage's
    is_excused: bool = False  # whether what our own machine may have delayed is taken out
    _known: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def history(self) -> History:
        """Its observations. Raises `EvidenceError` if they changed."""
        return self.source if isinstance(self.source, History) else self.source()

    def once(self, name: str, compute: Callable[[Case], T]) -> T:
        """Compute a value from this check alone, only once, because a hold is evaluated many times."""
        if name not in self._known:
            self._known[name] = compute(Case(self.drill, self.history, self.is_excused))
        return cast(T, self._known[name])

    @property
    def busy_times(self) -> list[BusyTime]:
        """The times in which our own machine was too busy."""
        return self.once("busy_times", lambda case: case.busy_times)

    @property
    def excused(self) -> "CanaryCheck":
        """The same check without what our own machine may have delayed."""
        return self.once("excused", lambda _: replace(self, is_excused=True, _known={}))

    @property
    def duration_s(self) -> float:
        """Seconds from its start to its last observation."""
        return self.once("duration_s", lambda case: case.history.duration_s)

    @property
    def clients(self) -> int:
        """Number of its clients."""
        return self.once("clients", lambda case: case.history.header.clients)

    @property
    def build(self) -> str:
        """The build that its clients reported."""
        return self.drill.fleet.client_build

    @property
    def rows(self) -> int:
        """Number of its observations."""
        return self.once("rows", lambda case: len(case.history))

    @property
    def ended_s(self) -> float:
        """Time of its last observation."""
        return self.began_s + self.duration_s

    @property
    def problem(self) -> str:
        """Why its evidence is invalid; empty if it is valid."""
        recorded = self.once("recorded", lambda case: case.history.header.observations_rows)
        return "" if recorded == self.rows else f"{self.path}: has {self.rows} of {recorded} recorded rows"


@dataclass(frozen=True)
class StageWindow:
    """The evidence of one window, of all origins."""

    began_s: float
    ended_s: float
    interval_s: float
    snapshots: tuple[Snapshot, ...]  # those within the window
    canary_checks: tuple[CanaryCheck, ...]  # those that began within the window
    baseline: "StageWindow | None" = None  # stage 0's
    clients: int = 0  # clients of the whole service, for rates; 0 if unknown
    expected_canary_checks: int | None = None  # recorded for this window; None if unknown
    problems: tuple[str, ...] = ()  # sentences on canary checks with missing or changed evidence
    cut_short: int = 0  # canary checks that did not start or did not end, and are left out
    control: "StageWindow | None" = None  # the same time, with the canary checks of the control

    def of_checks(self, checks: "Iterable[CanaryCheck]") -> "StageWindow":
        """Copy the window with other canary checks."""
        return replace(self, canary_checks=tuple(checks), expected_canary_checks=None)

    @property
    def busy_times(self) -> str:
        """When our own machine was too busy, in words; empty if it never was."""
        busy = [check for check in self.canary_checks if check.busy_times]
        where = f"in {len(busy)} of {len(self.canary_checks)} canary checks"
        return f"{where}, as in {busy[0].path} {machine.in_words(busy[0].busy_times)}" if busy else ""

    @property
    def excused(self) -> "StageWindow":
        """The same window without what our own machine may have delayed in its canary checks."""
        return replace(self, canary_checks=tuple(check.excused for check in self.canary_checks))

    @property
    def seconds(self) -> float:
        """Length of the window in seconds."""
        return self.ended_s - self.began_s

    @cached_property
    def revisions(self) -> tuple[Revisions, ...]:
        """The pairs of revisions that servers reported, without duplicates, in order.

        A snapshot has the revision of one service. The pair has the last known revision of the other one, or else its first.
        """
        reported = [each.revisions for each in self.ordered]
        control = next((each.control for each in reported if each.control), "")
        runtime = next((each.runtime for each in reported if each.runtime), "")
        pairs = []
        for each in reported:
            control, runtime = each.control or control, each.runtime or runtime
            pairs.append(Revisions(control=control, runtime=runtime))
        return tuple(dict.fromkeys(pair for pair in pairs if pair != Revisions()))

    @cached_property
    def ordered(self) -> tuple[Snapshot, ...]:
        """The snapshots in the order in which they were taken."""
        return tuple(sorted(self.snapshots, key=lambda each: each.n))

    def of(self, source: str) -> "Answers":
        """The answers of one source."""
        if source not in self._answers:
            self._answers[source] = Answers([each for each in self.ordered if each.source == source])
        return self._answers[source]

    @cached_property
    def _answers(self) -> "dict[str, Answers]":
        return {}

    @cached_property
    def foreign_sources(self) -> dict[str, str]:
        """Cache: for each source, why it belongs to another runtime than the canary checks."""
        return {}

    @cached_property
    def promises(self) -> frozenset[str]:
        """Every metric that a server has or should have."""
        return frozenset(name for each in self.snapshots for name in _promises(each))

    @cached_property
    def clock_problem(self) -> str:
        """How far our clock and the target's moved against each other, if too far: how long the window was is then unknown."""
        allowed_s = MAX_CLOCK_STEP_S + MAX_CLOCK_DRIFT * self.seconds
        for source in dict.fromkeys(each.source for each in self.ordered):
            found = [each.clock_skew_s for each in self.ordered if each.source == source and each.clock_skew_s is not None]
            ahead_s = [float(np.median(found[n : n + _AT_ONCE])) for n in range(max(len(found) - _AT_ONCE, 0) + 1) if found]
            if ahead_s and (moved_s := max(ahead_s) - min(ahead_s)) > allowed_s:
                return (
                    f"our clock and that of {source} moved against each other by {moved_s:.1f} s, where {allowed_s:.1f} s are "
                    "allowed; one of them was set, or is fast or slow"
                )
        return ""

    @cached_property
    def snapshot_problem(self) -> str:
        """Why the snapshots are invalid: one is missing, their times go back, or a clock is off. Empty if they are valid."""
        numbers = [each.n for each in self.ordered]
        if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            lost = next(n for n, found in enumerate(numbers, numbers[0]) if n != found)
            return f"snapshot {lost} is missing from the evidence, or is there twice"
        back_s = np.diff(np.array([moment_s(each) for each in self.ordered])).min(initial=0.0)
        return "snapshots are not in the order of time" if back_s < -_MAX_SET_BACK_S else self.clock_problem

    @cached_property
    def canary_check_problem(self) -> str:
        """Why the canary checks are invalid; empty if they are valid."""
        problems = [*self.problems, *(check.problem for check in self.canary_checks if check.problem)]
        found, expected = len(self.canary_checks), self.expected_canary_checks
        if expected is not None and expected != found:
            problems.append(f"there are {found} canary checks, but {expected} are recorded")
        return "; ".join(problems)

    @cached_property
    def client_hole(self) -> str:
        """A text about the longest time without a canary check if it is too long; else empty.

        It is too long if it exceeds three median intervals between canary checks, and ten minutes.
        """
        began = np.sort(np.array([check.began_s for check in self.canary_checks]))
        interval_s = float(np.median(np.diff(began))) if len(began) > 1 else 0.0
        max_s = max(MAX_HOLE_INTERVALS * interval_s, _MIN_CLIENT_HOLE_S)
        hole_s = longest_hole_s(self, began)
        return f"no canary check started for {hole_s:.0f} s" if hole_s > max_s else ""

    @cached_property
    def primary(self) -> str:
        """The source that decides the coverage; empty without a snapshot."""
        asked = {each.source for each in self.snapshots}
        return next((source for source in _PRIMARY if source in asked), "")

    @cached_property
    def coverage(self) -> Coverage:
        """How well the usable answers of the primary source cover the window."""
        found = covered(self, moments([each for each in self.ordered if each.source == self.primary and each.ok]))
        if not self.primary:
            return msgspec.structs.replace(found, state=State.NO_DATA, reason="no server was asked")
        if self.snapshot_problem:
            return msgspec.structs.replace(found, state=State.ERROR, reason=self.snapshot_problem)
        return found


class Answers:
    """The answers of one source in a window, in order of time. A metric that is not a finite number is missing."""

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self.all = snapshots
        self.ok = [each for each in snapshots if each.ok]
        self.t = moments(self.ok)
        self._metrics: dict[str, Floats] = {}
        n = np.array([each.n for each in snapshots], np.int64)
        self._place = np.searchsorted(n, np.array([each.n for each in self.ok], np.int64))
        self._broken = np.concatenate(([0], np.cumsum([not is_clean(each) for each in snapshots])))

    def metric(self, name: str) -> Floats:
        """The metric of each usable answer; NaN if it is missing."""
        if name not in self._metrics:
            found = np.array([each.metrics.get(name, np.nan) for each in self.ok], np.float64)
            self._metrics[name] = np.where(np.isfinite(found), found, np.nan)
        return self._metrics[name]

    def dirty(self, having: Ints) -> Mask:
        """For each step between two of these answers of `ok`: whether stormgate changed something at any answer."""
        place = self._place[having]
        dirty: Mask = self._broken[place[1:] + 1] > self._broken[place[:-1]]
        return dirty


def moment_s(snapshot: Snapshot) -> float:
    """The time of a snapshot, in POSIX seconds."""
    return from_iso(snapshot.at).timestamp()


def moments(snapshots: Sequence[Snapshot]) -> Floats:
    """The times of snapshots, in POSIX seconds, ascending."""
    return np.maximum.accumulate(np.array([moment_s(each) for each in snapshots], np.float64))


def _promises(snapshot: Snapshot) -> Iterator[str]:
    yield from snapshot.metrics
    if snapshot.source == "control":  # its status has either no counters or all of them
        yield from STATUS_COUNTERS if snapshot.metrics or snapshot.ok else ()
        return
    yield from snapshot.missing
    if snapshot.source == "metrics" and snapshot.profile:
        yield from PROFILES[snapshot.profile]


def is_clean(snapshot: Snapshot) -> bool:
    """Whether stormgate changed nothing in the service at the time of a snapshot."""
    return not snapshot.fault and snapshot.phase in LIVE_PHASES


def longest_hole_s(window: StageWindow, moments: Floats) -> float:
    """The longest time in a window without one of the ascending `moments`, in seconds."""
    edges = np.concatenate(([window.began_s], moments, [max(window.ended_s, window.began_s)]))
    return float(np.diff(edges).max(initial=0.0))


def covered(window: StageWindow, seen: Floats) -> Coverage:
    """Judge how well the ascending moments `seen` cover a window."""
    n, expected = len(seen), max(int(window.seconds / window.interval_s + 1e-6), 1)
    hole_s = longest_hole_s(window, seen)
    state, reason = State.PASS, f", the longest hole {hole_s:.0f} s"
    if hole_s > MAX_HOLE_INTERVALS * window.interval_s:
        state, reason = State.INCONCLUSIVE, f", with a hole of {hole_s:.0f} s, over {MAX_HOLE_INTERVALS} intervals"
    if n < COVERED_SHARE * expected:
        state, reason = State.INCONCLUSIVE, f"; {COVERED_SHARE:.0%} are needed"
    if n < MIN_SNAPSHOTS:
        state, reason = State.INCONCLUSIVE, f"; at least {MIN_SNAPSHOTS} are needed"
    if n == 0:
        state, reason = State.NO_DATA, ""
    said = f"{n} snapshots, {expected} expected{reason}"
    return Coverage(expected=expected, got=n, longest_hole_s=hole_s, interval_s=window.interval_s, state=state, reason=said)
