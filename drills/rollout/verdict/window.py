"""A stage's window: read it from the stage's files, judge it by every check, and find a reason to stop at once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from drills.judging.checks.base import Case
from drills.judging.checks.thresholds import Thresholds
from drills.judging.checks.verdicts import CheckResult, State
from drills.rollout.servers import sampler
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import CanaryCheckDone, HoldEvent, Revisions, Snapshot, StagePlan
from drills.rollout.verdict.window_checks import REGISTRY
from drills.rollout.verdict.window_checks.coverage import violations
from drills.rollout.verdict.window_data.base import answer
from drills.rollout.verdict.window_data.stage_window import CanaryCheck, StageWindow
from drills.runs import results
from sim.base.clocks import from_iso
from sim.base.errors import EvidenceError, StormgateError
from sim.drill.model import Drill
from sim.drill.target_rules import TargetKind
from sim.record import run_header
from sim.record.history import History

__all__ = ["REGISTRY", "CanaryCheck", "StageWindow", "abort_reason", "judge", "load"]

# Checks whose failure stops a stage at once. A violated invariant also stops it.
_TRIGGERS = (
    *("replay.divergence", "replay.stale_loops", "error.error_budget_burn_fast", "error.error_budget_burn_slow"),
    *("reconnect.reconnects_per_s", "reconnect.reconnects_per_s_per_100", "reconnect.heartbeat_timeouts_per_s"),
)
_CONSUMERS = "delivery.active_consumers"
_CACHED = 2048  # canary checks with cached values, because a hold is evaluated many times


def judge(window: StageWindow, thresholds: Thresholds) -> tuple[CheckResult, ...]:
    """The results of all checks of a window."""
    _prepare(window, thresholds)
    return tuple(answer(check, window, thresholds.get(name)) for name, check in REGISTRY.items())


def abort_reason(window: StageWindow, thresholds: Thresholds) -> str:
    """The reason to stop at once: a violated invariant, or a failed check of `_TRIGGERS`. Empty without one."""
    _prepare(window, thresholds)
    return next(_reasons(window, thresholds), "")


def _prepare(window: StageWindow, thresholds: Thresholds) -> None:
    """Run every check on each canary check alone. So its observations are read once, and not once per check."""
    for each in (*window.canary_checks, *(window.control.canary_checks if window.control else ())):
        alone = replace(window.of_checks([each]), snapshots=(), baseline=None, control=None, problems=())
        each.once("prepared", partial(_ask_all, alone, thresholds))


def _ask_all(alone: StageWindow, thresholds: Thresholds, _: Case) -> None:
    for name, check in REGISTRY.items():
        answer(check, alone, thresholds.get(name))


def _reasons(window: StageWindow, thresholds: Thresholds) -> Iterator[str]:
    try:
        excused = window.excused if violations(window) and window.busy_times else window
        for found in violations(excused):
            yield f"{found.invariant}: {found.first}"
    except Exception:
        pass
    for name in _TRIGGERS:
        result = answer(REGISTRY[name], window, thresholds.get(name))
        if result.state is State.FAIL:
            yield f"{name}: {result.reason} (by {result.origin})"


def load(run_dir: Path, baseline_dir: Path | None = None, began: str | None = None, ended: str | None = None) -> StageWindow:
    """Load the window of a stage's folder, with that of stage 0 as its baseline. `began` and `ended`: times as in its files.

    Their defaults are those of the last hold since it started or restarted. Without a hold: the first and the last snapshot of
    the baseline. Without both: the start of the stage and the last snapshot. Raises `EvidenceError`.
    """
    plan = evidence.read_plan(run_dir)
    events, snapshots = evidence.read_lines(run_dir / records.HOLD, HoldEvent), sampler.read(run_dir)
    since, until = _span(plan, events, snapshots)
    since, until = began or since, ended or until
    if from_iso(until) < from_iso(since):
        raise EvidenceError(f"{run_dir}: a window from {since} to {until} ends before it begins.")
    inside = tuple(each for each in snapshots if from_iso(since) <= from_iso(each.at) <= from_iso(until))
    window = _CanaryChecks(run_dir, since, until, plan.target, plan.target_kind).window(plan.snapshot_interval_s)
    consumers = [each.metrics[_CONSUMERS] for each in inside if each.ok and _CONSUMERS in each.metrics]
    return replace(
        window,
        snapshots=inside,
        baseline=load(baseline_dir) if baseline_dir else None,
        clients=round(max([*consumers, *(check.clients for check in window.canary_checks)], default=0)),
        control=_control(run_dir, plan, since, until),
    )


def _control(run_dir: Path, plan: StagePlan, since: str, until: str) -> StageWindow | None:
    """The window of the control's canary checks in the same time; None without a control."""
    if plan.control is None:
        return None
    found = _CanaryChecks(run_dir, since, until, plan.control.target, plan.target_kind, plan.control.revisions)
    return found.window(plan.snapshot_interval_s)


def _span(plan: StagePlan, events: Sequence[HoldEvent], snapshots: Sequence[Snapshot]) -> tuple[str, str]:
    started = [each.at for each in events if each.kind in ("started", "restarted")]
    over = [each.at for each in events if each.kind in ("aborted", "ended")]
    baseline = [each.at for each in snapshots if each.phase == "baseline"]
    last = snapshots[-1].at if snapshots else plan.began
    if started:
        ended = [at for at in over if from_iso(at) >= from_iso(started[-1])]
        return started[-1], ended[-1] if ended else max(last, started[-1], key=from_iso)
    return (baseline[0], baseline[-1]) if baseline else (plan.began, last)


class _CanaryChecks:
    """The readable canary checks of a folder that began between two times, and the problems of the unreadable ones.

    With `revisions`, reads the control's canary checks and leaves out those that failed or have unknown revisions.
    """

    def __init__(
        self, run_dir: Path, since: str, until: str, target: str, kind: TargetKind, revisions: Revisions | None = None
    ) -> None:
        self._run_dir, self._target, self._kind = run_dir, target, kind
        self._began_s, self._ended_s = from_iso(since).timestamp(), from_iso(until).timestamp()
        self._found: list[CanaryCheck] = []
        self._problems: list[str] = []
        self._cut_short = 0
        listed = records.CANARY_CHECK_LIST if revisions is None else records.CONTROL_LIST
        for done in evidence.read_lines(run_dir / listed, CanaryCheckDone):
            if from_iso(since) <= from_iso(done.at) <= from_iso(until) and self._counts(done, revisions):
                self._add(done)

    def window(self, interval_s: float) -> StageWindow:
        """A window with only these canary checks."""
        return StageWindow(
            began_s=self._began_s,
            ended_s=self._ended_s,
            interval_s=interval_s,
            snapshots=(),
            canary_checks=tuple(self._found),
            expected_canary_checks=len(self._found),
            problems=tuple(self._problems),
            cut_short=self._cut_short,
        )

    def _counts(self, done: CanaryCheckDone, control: Revisions | None) -> bool:
        if control is None or done.revisions == control:
            self._cut_short += (is_left_out := control is not None and done.status == State.FAIL)
            return not is_left_out
        if done.revisions.known:
            what = f"the control had other revisions ({done.revisions}) than at the start of this stage"
            self._problems.append(f"at {done.at} {what}")
        else:
            self._cut_short += 1
        return False

    def _add(self, done: CanaryCheckDone) -> None:
        try:
            if not done.run:
                raise EvidenceError(f"a canary check at {done.at} could not start ({done.reason})")
            folders = results.drill_folders(self._run_dir / done.run)
        except StormgateError as error:
            if done.status == "not_run":  # it did not start, or was killed before its drill started
                self._cut_short += 1
            else:
                self._problems.append(str(error).rstrip("."))
            return
        for folder in folders:
            self._add_drill(folder, done)

    def _add_drill(self, folder: Path, done: CanaryCheckDone) -> None:
        try:
            header = run_header.read_header(folder)
            if not header.complete:
                self._cut_short += 1
                return
            path, began_s = folder.relative_to(self._run_dir).as_posix(), from_iso(done.at).timestamp()
            check = _canary_check(folder, path, began_s, header.observations_sha256)
        except StormgateError as error:
            self._problems.append(str(error).rstrip("."))
            return
        if self._kind != "mock" and (header.target, header.target_kind) != (self._target, self._kind):
            where = f"{header.target} ({header.target_kind})"
            self._problems.append(f"{path}: ran against {where}, not {self._target} ({self._kind})")
        elif done.build and done.build != check.build:
            self._problems.append(f"{path}: is recorded with build {done.build}, but its clients reported {check.build}")
        else:
            self._found.append(check)


@lru_cache(maxsize=_CACHED)
def _canary_check(folder: Path, path: str, began_s: float, sha256: str) -> CanaryCheck:
    """A finished canary check. `sha256` is that of its observations: changed ones are read again. Raises `EvidenceError`."""
    drill, _ = _recorded(folder, sha256)
    return CanaryCheck(began_s, lambda: _recorded(folder, sha256)[1], drill, path)


@lru_cache(maxsize=2)
def _recorded(folder: Path, sha256: str) -> tuple[Drill, History]:
    return results.recorded(folder)
