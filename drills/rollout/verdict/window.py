"""A stage's window: read from the files of its folder, judged by every check, and asked whether to stop at once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from drills.judging.checks.base import Case
from drills.judging.checks.thresholds import Thresholds
from drills.judging.checks.verdicts import CheckResult, State
from drills.rollout.servers import sampler
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import CanaryCheckDone, Coverage, HoldEvent, Revisions, Snapshot, StagePlan
from drills.rollout.verdict.window_checks import REGISTRY
from drills.rollout.verdict.window_checks import coverage as window_course
from drills.rollout.verdict.window_data.base import answer
from drills.rollout.verdict.window_data.stage_window import CanaryCheck, StageWindow
from drills.runs import results
from sim.base.clocks import from_iso
from sim.base.errors import EvidenceError, StormgateError
from sim.drill.model import Drill
from sim.drill.target_rules import TargetKind
from sim.record import run_header
from sim.record.history import History

__all__ = ["REGISTRY", "CanaryCheck", "StageWindow", "abort_reason", "coverage", "judge", "load"]

# What stops a stage at once, beside what the watches' laws say.
_TRIGGERS = (
    *("replay.divergence", "replay.stale_loops", "error.error_budget_burn_fast", "error.error_budget_burn_slow"),
    *("reconnect.reconnects_per_s", "reconnect.reconnects_per_s_per_100", "reconnect.heartbeat_timeouts_per_s"),
)
_CONSUMERS = "delivery.active_consumers"
_KEPT = 2048  # watches of which is kept what was worked out of them, for a hold that is judged again and again


def coverage(window: StageWindow) -> Coverage:
    """How well the servers were watched."""
    return window.coverage


def judge(window: StageWindow, thresholds: Thresholds) -> tuple[CheckResult, ...]:
    """Every check that can be asked of a window, in whatever state it is."""
    _prepare(window, thresholds)
    return tuple(answer(check, window, thresholds.get(name)) for name, check in REGISTRY.items())


def abort_reason(window: StageWindow, thresholds: Thresholds) -> str:
    """Why to stop at once: a broken law, a replay that diverged, a stale loop, a budget that burns. Empty for nothing."""
    _prepare(window, thresholds)
    return next(_reasons(window, thresholds), "")


def _prepare(window: StageWindow, thresholds: Thresholds) -> None:
    """Have every check look at each watch by itself, so that each is read once and not once a check."""
    for watch in (*window.canary_checks, *(window.control.canary_checks if window.control else ())):
        alone = replace(window, snapshots=(), canary_checks=(watch,), baseline=None, control=None, told=None, troubles=())
        watch.once("prepared", partial(_asked_all, alone, thresholds))


def _asked_all(alone: StageWindow, thresholds: Thresholds, _: Case) -> bool:
    for name, check in REGISTRY.items():
        answer(check, alone, thresholds.get(name))
    return True


def _reasons(window: StageWindow, thresholds: Thresholds) -> Iterator[str]:
    try:
        for found in window_course.violations(window):
            yield f"{found.invariant}: {found.first}"
    except Exception as error:  # a law that cannot be looked for stops nothing, and passes nothing either
        _ = error
    for name in _TRIGGERS:
        result = answer(REGISTRY[name], window, thresholds.get(name))
        if result.state is State.FAIL:
            yield f"{name}: {result.reason} (by {result.origin})"


def load(run_dir: Path, baseline_dir: Path | None = None, began: str | None = None, ended: str | None = None) -> StageWindow:
    """The window of a stage's folder, and of stage 0's as its baseline. `began` and `ended` are moments as the files have them.

    Without them: the last hold, from where it was begun or begun again; without a hold the baseline, from its first snapshot to
    its last; without any, from the plan's begin to the last snapshot. Raises `EvidenceError` for what is missing or damaged.
    """
    plan = evidence.read_plan(run_dir)
    events, snapshots = evidence.read_lines(run_dir / records.HOLD, HoldEvent), sampler.read(run_dir)
    since, until = _span(plan, events, snapshots)
    since, until = began or since, ended or until
    if from_iso(until) < from_iso(since):
        raise EvidenceError(f"{run_dir}: a window from {since} to {until} ends before it begins.")
    inside = tuple(each for each in snapshots if from_iso(since) <= from_iso(each.at) <= from_iso(until))
    watches = _Watches(run_dir, since, until, plan.target, plan.target_kind)
    consumers = [each.metrics[_CONSUMERS] for each in inside if each.ok and _CONSUMERS in each.metrics]
    fleets = [watch.clients for watch in watches.found]
    return StageWindow(
        began_s=from_iso(since).timestamp(),
        ended_s=from_iso(until).timestamp(),
        interval_s=plan.snapshot_interval_s,
        snapshots=inside,
        canary_checks=tuple(watches.found),
        baseline=load(baseline_dir) if baseline_dir else None,
        clients=round(max([*consumers, *fleets], default=0)),
        told=len(watches.found),
        troubles=tuple(watches.troubles),
        cut_short=watches.cut_short,
        control=_control(run_dir, plan, since, until) if plan.control else None,
    )


def _control(run_dir: Path, plan: StagePlan, since: str, until: str) -> StageWindow:
    """What the control's watches saw in the same time."""
    assert plan.control is not None
    watches = _Watches(run_dir, since, until, plan.control.target, plan.target_kind, plan.control.revisions)
    return StageWindow(
        began_s=from_iso(since).timestamp(),
        ended_s=from_iso(until).timestamp(),
        interval_s=plan.snapshot_interval_s,
        snapshots=(),
        canary_checks=tuple(watches.found),
        told=len(watches.found),
        troubles=tuple(watches.troubles),
        cut_short=watches.cut_short,
    )


def _span(plan: StagePlan, events: Sequence[HoldEvent], snapshots: Sequence[Snapshot]) -> tuple[str, str]:
    begun = [each.at for each in events if each.kind in ("started", "restarted")]
    over = [each.at for each in events if each.kind in ("aborted", "ended")]
    baseline = [each.at for each in snapshots if each.phase == "baseline"]
    last = snapshots[-1].at if snapshots else plan.began
    if begun:
        ended = [at for at in over if from_iso(at) >= from_iso(begun[-1])]
        return begun[-1], ended[-1] if ended else max(last, begun[-1], key=from_iso)
    return (baseline[0], baseline[-1]) if baseline else (plan.began, last)


class _Watches:
    """The watches of a folder that began between two moments: those that can be read, and what is wrong with the others.

    With `revisions` those of the control: one that failed, or of which nobody knows what was deployed, is left out.
    """

    def __init__(
        self, run_dir: Path, since: str, until: str, target: str, kind: TargetKind, revisions: Revisions | None = None
    ) -> None:
        self._run_dir, self._target, self._kind = run_dir, target, kind
        self.found: list[CanaryCheck] = []
        self.troubles: list[str] = []
        self.cut_short = 0
        listed = records.CANARY_CHECK_LIST if revisions is None else records.CONTROL_LIST
        for told in evidence.read_lines(run_dir / listed, CanaryCheckDone):
            if from_iso(since) <= from_iso(told.at) <= from_iso(until) and self._counts(told, revisions):
                self._add(told)

    def _counts(self, told: CanaryCheckDone, control: Revisions | None) -> bool:
        if control is None or told.revisions == control:
            self.cut_short += (is_left_out := control is not None and told.status == State.FAIL)
            return not is_left_out
        if told.revisions.known:
            deployed = f"control {told.revisions.control}, runtime {told.revisions.runtime}"
            self.troubles.append(f"at {told.at} the control was of other revisions ({deployed}) than when this stage began")
        else:
            self.cut_short += 1
        return False

    def _add(self, told: CanaryCheckDone) -> None:
        if not told.run:
            if told.status == "not_run":
                self.cut_short += 1
            else:
                self.troubles.append(f"a watch at {told.at} could not begin ({told.reason})")
            return
        try:
            folders = results.drill_folders(self._run_dir / told.run)
        except StormgateError as error:
            if told.status == "not_run":  # it was killed before it came to anything
                self.cut_short += 1
            else:
                self.troubles.append(str(error).rstrip("."))
            return
        for folder in folders:
            self._add_drill(folder, told)

    def _add_drill(self, folder: Path, told: CanaryCheckDone) -> None:
        try:
            header = run_header.read_header(folder)
            if not header.complete:
                self.cut_short += 1
                return
            path, began_s = folder.relative_to(self._run_dir).as_posix(), from_iso(told.at).timestamp()
            watch = _watch(folder, path, began_s, header.observations_sha256)
        except StormgateError as error:
            self.troubles.append(str(error).rstrip("."))
            return
        if self._kind != "mock" and (header.target, header.target_kind) != (self._target, self._kind):
            where = f"{header.target} ({header.target_kind})"
            self.troubles.append(f"{path}: watched {where}, not {self._target} ({self._kind})")
        elif told.build and told.build != watch.build:
            self.troubles.append(f"{path}: is told to be of build {told.build}, but its clients were of {watch.build}")
        else:
            self.found.append(watch)


@lru_cache(maxsize=_KEPT)
def _watch(folder: Path, path: str, began_s: float, sha256: str) -> CanaryCheck:
    """A finished watch; `sha256` is of its observations, so that another is read again. Raises `EvidenceError`."""
    drill, _ = _recorded(folder, sha256)
    return CanaryCheck(began_s, lambda: _recorded(folder, sha256)[1], drill, path)


@lru_cache(maxsize=2)
def _recorded(folder: Path, sha256: str) -> tuple[Drill, History]:
    return results.recorded(folder)
