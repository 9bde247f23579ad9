"""One window of a stage with all its evidence: what the servers said of themselves, and what the clients of the watches saw.

Seconds are POSIX seconds. What a check may believe of it is decided here: snapshots that were taken out, rows that are gone and
watches that nothing is left of are trouble, and whoever has trouble can still fail, but not pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np

from drills.judging.checks.base import Case
from drills.judging.checks.verdicts import State
from drills.rollout.setup.records import Coverage, Revisions, Snapshot
from sim.base.clocks import from_iso
from sim.drill.model import Drill
from sim.protocols.spacetime.metric_names import PROFILES, STATUS_COUNTERS
from sim.record.history import Floats, History, Ints, Mask, Rows

T = TypeVar("T")
MAX_HOLE_INTERVALS = 3
MIN_SNAPSHOTS = 50
COVERED_SHARE = 0.9
LIVE_PHASES = ("baseline", "hold")  # in all others something is being done to the lane
_PRIMARY = ("metrics", "prometheus", "control")  # the first that was asked at all is the one that a window is covered by
_SET_BACK_S = 1.0  # [ours] by which a clock that is being disciplined may go back
_MIN_CLIENT_HOLE_S = 600.0  # [ours] so long clients may always be without a watch


@dataclass(frozen=True)
class CanaryCheck:
    """One observing drill that ran beside a stage. Its observations count their seconds from `began_s`."""

    began_s: float
    source: History | Callable[[], History]  # what was observed, or how to read it: a day's watches do not fit into memory
    drill: Drill
    path: str  # its folder, below the stage's
    _known: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def history(self) -> History:
        """What was observed. Raises `EvidenceError` where it is no more what it was."""
        return self.source if isinstance(self.source, History) else self.source()

    def once(self, name: str, work_out: Callable[[Case], T]) -> T:
        """What is worked out from it alone, and only once: a hold is judged again and again."""
        if name not in self._known:
            self._known[name] = work_out(Case(self.drill, self.history))
        return cast(T, self._known[name])

    @property
    def duration_s(self) -> float:
        """From its begin to its last observation."""
        return self.once("duration_s", lambda case: case.history.duration_s)

    @property
    def clients(self) -> int:
        """How many clients its fleet had."""
        return self.once("clients", lambda case: case.history.header.clients)

    @property
    def build(self) -> str:
        """That its clients said they are of."""
        return self.drill.fleet.client_build

    @property
    def rows(self) -> int:
        """How many observations it has."""
        return self.once("rows", lambda case: len(case.history))

    @property
    def ended_s(self) -> float:
        """When its last observation was made."""
        return self.began_s + self.duration_s

    def moments(self, rows: Rows) -> Floats:
        """When each of these rows of it was observed."""
        return rows.t + self.began_s

    @property
    def trouble(self) -> str:
        """Why it cannot be believed; empty where it can."""
        recorded = self.once("recorded", lambda case: case.history.header.observations_rows)
        return "" if recorded == self.rows else f"{self.path}: has {self.rows} rows of {recorded} recorded ones"


@dataclass(frozen=True)
class StageWindow:
    """All of one window's evidence, whatever its origin."""

    began_s: float
    ended_s: float
    interval_s: float
    snapshots: tuple[Snapshot, ...]  # only those within
    canary_checks: tuple[CanaryCheck, ...]  # only those that began within
    baseline: "StageWindow | None" = None  # stage 0's
    clients: int = 0  # the fleet's size as far as known, for rates of the whole lane; 0 where it is not
    told: int | None = None  # how many watches there must be; None where nobody knows
    troubles: tuple[str, ...] = ()  # watches of which something is missing or was changed, in words
    cut_short: int = 0  # watches that could not begin or did not reach their end, and are left out
    control: "StageWindow | None" = None  # of the same time, with the watches of the control alone

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.ended_s - self.began_s

    @cached_property
    def revisions(self) -> tuple[Revisions, ...]:
        """What servers said was deployed, each pair once, in the order in which they appeared.

        A snapshot tells of the service that it asked; the other is as it was, and before that as it is first told of.
        """
        told = [each.revisions for each in self.ordered]
        control = next((each.control for each in told if each.control), "")
        runtime = next((each.runtime for each in told if each.runtime), "")
        pairs = []
        for each in told:
            control, runtime = each.control or control, each.runtime or runtime
            pairs.append(Revisions(control=control, runtime=runtime))
        return tuple(dict.fromkeys(pair for pair in pairs if pair != Revisions()))

    @cached_property
    def ordered(self) -> tuple[Snapshot, ...]:
        """The snapshots as they were taken."""
        return tuple(sorted(self.snapshots, key=lambda each: each.n))

    def of(self, source: str) -> "Answers":
        """What one source answered."""
        if source not in self._answers:
            self._answers[source] = Answers([each for each in self.ordered if each.source == source])
        return self._answers[source]

    @cached_property
    def _answers(self) -> "dict[str, Answers]":
        return {}

    @cached_property
    def strangers(self) -> dict[str, str]:
        """By source, why it is of another runtime than the watches, in words; as far as that was asked."""
        return {}

    @cached_property
    def promises(self) -> frozenset[str]:
        """Every figure that some server has, or should have."""
        return frozenset(name for each in self.snapshots for name in _promises(each))

    @cached_property
    def snapshot_trouble(self) -> str:
        """Why the snapshots cannot be believed: their numbers have a hole, or their times go back. Empty where they can."""
        numbers = [each.n for each in self.ordered]
        if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            lost = next(n for n, found in enumerate(numbers, numbers[0]) if n != found)
            return f"snapshot {lost} is missing from the evidence, or there twice"
        back_s = np.diff(np.array([moment_s(each) for each in self.ordered])).min(initial=0.0)
        return "snapshots are not in the order of time" if back_s < -_SET_BACK_S else ""

    @cached_property
    def canary_check_trouble(self) -> str:
        """Why the watches cannot be believed, empty where they can."""
        troubles = [*self.troubles, *(watch.trouble for watch in self.canary_checks if watch.trouble)]
        if self.told is not None and self.told != len(self.canary_checks):
            troubles.append(f"there are {len(self.canary_checks)} watches where {self.told} are told of")
        return "; ".join(troubles)

    @cached_property
    def client_hole(self) -> str:
        """Where clients were not there for too long, in words; empty where they were there throughout.

        As long as three watches' distance, by the median of those that there are.
        """
        begun = np.sort(np.array([watch.began_s for watch in self.canary_checks]))
        apart_s = float(np.median(np.diff(begun))) if len(begun) > 1 else 0.0
        max_s = max(MAX_HOLE_INTERVALS * apart_s, _MIN_CLIENT_HOLE_S)
        hole_s = longest_hole_s(self, begun)
        return f"no watch began for {hole_s:.0f} s" if hole_s > max_s else ""

    @cached_property
    def primary(self) -> str:
        """The source that the window is covered by; empty where no server was asked."""
        asked = {each.source for each in self.snapshots}
        return next((source for source in _PRIMARY if source in asked), "")

    @cached_property
    def coverage(self) -> Coverage:
        """How well the servers were watched: the primary source's answers that told something."""
        found = covered(self, moments([each for each in self.ordered if each.source == self.primary and each.ok]))
        if not self.primary:
            return _with(found, State.NO_DATA, "no server was asked")
        if self.snapshot_trouble:
            return _with(found, State.ERROR, self.snapshot_trouble)
        return found


class Answers:
    """What one source answered in a window, in the order of time; figures that are no numbers are not there."""

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self.all = snapshots
        self.ok = [each for each in snapshots if each.ok]
        self.t = moments(self.ok)
        self._figures: dict[str, Floats] = {}
        n = np.array([each.n for each in snapshots], np.int64)
        self._place = np.searchsorted(n, np.array([each.n for each in self.ok], np.int64))
        self._broken = np.concatenate(([0], np.cumsum([not is_clean(each) for each in snapshots])))

    def figure(self, name: str) -> Floats:
        """By answer that told something, the figure; NaN where it is not there."""
        if name not in self._figures:
            found = np.array([each.metrics.get(name, np.nan) for each in self.ok], np.float64)
            self._figures[name] = np.where(np.isfinite(found), found, np.nan)
        return self._figures[name]

    def dirty(self, having: Ints) -> Mask:
        """By step between two of `ok`, whose places these are, whether any answer is of a moment when something was broken."""
        place = self._place[having]
        dirty: Mask = self._broken[place[1:] + 1] > self._broken[place[:-1]]
        return dirty


def moment_s(snapshot: Snapshot) -> float:
    """When it was asked."""
    return from_iso(snapshot.at).timestamp()


def moments(snapshots: Sequence[Snapshot]) -> Floats:
    """When they were asked, never going back."""
    return np.maximum.accumulate(np.array([moment_s(each) for each in snapshots], np.float64))


def _promises(snapshot: Snapshot) -> Iterator[str]:
    yield from snapshot.metrics
    if snapshot.source == "control":  # whose status need not have counters; if it has one, it has all
        yield from STATUS_COUNTERS if snapshot.metrics or snapshot.ok else ()
        return
    yield from snapshot.missing
    if snapshot.source == "metrics" and snapshot.profile:
        yield from PROFILES[snapshot.profile]


def is_clean(snapshot: Snapshot) -> bool:
    """Whether nothing was being done to the lane on purpose then."""
    return not snapshot.fault and snapshot.phase in LIVE_PHASES


def longest_hole_s(window: StageWindow, moments: Floats) -> float:
    """The longest stretch of a window without any of `moments`, which ascend."""
    edges = np.concatenate(([window.began_s], moments, [max(window.ended_s, window.began_s)]))
    return float(np.diff(edges).max(initial=0.0))


def covered(window: StageWindow, seen: Floats) -> Coverage:
    """How well a window is covered by what was had at these moments, which ascend."""
    expected = max(int(window.seconds / window.interval_s + 1e-6), 1)
    hole_s = longest_hole_s(window, seen)
    found = Coverage(
        expected=expected, got=len(seen), longest_hole_s=hole_s, interval_s=window.interval_s, state=State.PASS, reason=""
    )
    said = f"{len(seen)} of {expected} snapshots"
    if len(seen) == 0:
        return _with(found, State.NO_DATA, f"there is none of {expected} snapshots")
    if len(seen) < MIN_SNAPSHOTS:
        return _with(found, State.INCONCLUSIVE, f"{said}; at least {MIN_SNAPSHOTS} are needed")
    if len(seen) < COVERED_SHARE * expected:
        return _with(found, State.INCONCLUSIVE, f"{said}; {COVERED_SHARE:.0%} are needed")
    if hole_s > MAX_HOLE_INTERVALS * window.interval_s:
        return _with(found, State.INCONCLUSIVE, f"{said}, with a hole of {hole_s:.0f} s, over {MAX_HOLE_INTERVALS} intervals")
    return _with(found, State.PASS, f"{said}, the longest hole {hole_s:.0f} s")


def _with(found: Coverage, state: State, reason: str) -> Coverage:
    return Coverage(
        expected=found.expected,
        got=found.got,
        longest_hole_s=found.longest_hole_s,
        interval_s=found.interval_s,
        state=str(state),
        reason=reason,
    )
