"""Read one side of a comparison: a run with its replications, a folder of runs, or a stage of a rollout."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from drills.comparison import conditions, intervals
from drills.comparison.intervals import Samples
from drills.judging.checks.verdicts import State, worst
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import CanaryCheckDone, DrillDone
from drills.rollout.verdict import window
from drills.rollout.verdict.judging import judge_stage
from drills.rollout.verdict.window_data.stage_window import CanaryCheck
from drills.runs import recorded_runs, results
from drills.runs.run_files import DRILLS, PLAN_NAME, read_plan
from sim.analysis import machine
from sim.analysis.metrics import Metric, percentile, run_metrics
from sim.base.errors import EvidenceError, UsageError
from sim.drill.model import Drill
from sim.record.history import History
from sim.record.ledger import Ledger

_OURS = "generator_lag"  # metrics of the load generator, not of the service
_COUNTED_WHEN_SEEN = "disconnects."  # a run lacks these metrics if their count is zero


@dataclass(frozen=True)
class Measured:
    """One run of a drill. `shortest` are its samples without the times in which our own machine may have delayed them."""

    conditions: Mapping[str, str]
    drill: Mapping[str, str]  # its keys
    seed: int
    clock: str
    metrics: Mapping[str, Metric]
    samples: tuple[Samples, ...]
    shortest: tuple[Samples, ...]
    busy: str  # those times in words; empty: none
    observations_sha256: str

    @cached_property
    def shortest_values(self) -> Mapping[str, float]:
        """The metrics that `shortest` gives."""
        return {name: percentile(each.values, share) for each in self.shortest for name, share in each.shares.items()}

    def value(self, name: str) -> float:
        """A metric as measured; NaN without one."""
        if name in self.metrics:
            return self.metrics[name].value
        return 0.0 if name.startswith(_COUNTED_WHEN_SEEN) else np.nan


@dataclass
class DrillRuns:
    """The runs of one drill. `problems`: runs that cannot be read, and why."""

    runs: list[Measured] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def state(self) -> State:
        """The worst verdict on its runs."""
        return worst(self.states)


@dataclass
class Side:
    """One side. `checks`: the checks and requirements of a stage, with their states."""

    path: Path
    kind: str  # run, runs or stage
    decision: str
    reason: str
    drills: dict[str, DrillRuns] = field(default_factory=dict)
    checks: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> DrillRuns:
        """The runs of a drill, new at first."""
        return self.drills.setdefault(name, DrillRuns())


def read(path: Path, drill: str | None = None) -> Side:
    """Read a side; `drill` selects one. Raises `UsageError` for a folder without runs, `EvidenceError` for a damaged plan."""
    if path.parent.name == DRILLS and (path.parents[1] / PLAN_NAME).exists():
        return read(path.parents[1], path.name)
    side = _read(path, drill)
    if not side.drills:
        raise UsageError(f"{path}: has no recorded run{f' of drill {drill!r}' if drill else ''} to compare.")
    return side


def _read(path: Path, drill: str | None) -> Side:
    if (path / records.PLAN).exists():
        return _stage(path, drill)
    if (path / PLAN_NAME).exists():
        side = Side(path, "run", "", "")
        verdict = _add_run(side, path, drill)
        side.decision, side.reason = verdict
        return side
    if not path.is_dir():
        raise UsageError(f"{path}: there is no such folder. Give a run's folder, such as results/<run id>.")
    folders = sorted(found.parent for found in path.glob(f"*/{PLAN_NAME}"))
    if not folders:
        raise UsageError(f"{path}: is neither a run's folder nor a stage's, and has no folders of runs.")
    side = Side(path, "runs", "", "")
    verdicts = [_add_run(side, folder, drill) for folder in folders]
    side.decision, side.reason = next((each for each in verdicts if each[0] != "go"), ("go", ""))
    return side


# --- runs ---------------------------------------------------------------------------------------------


def _add_run(side: Side, run_dir: Path, drill: str | None) -> tuple[str, str]:
    """Add the runs of one run's folder; returns its decision and the reason for it."""
    plan, verdict = read_plan(run_dir), results.judge_run(run_dir)
    about = {
        "thresholds": plan.thresholds_sha256,
        "target configuration": plan.target_sha256,
    }
    for judged in verdict.drills:
        if drill not in (None, judged.name) or not any(each.name == judged.name for each in plan.drills):
            continue
        side.of(judged.name).states.append(judged.status)
        if judged.not_run:
            side.of(judged.name).problems.append(f"it was not run: {judged.not_run}")
            continue
        if not results.drill_folder(run_dir, judged.name).is_dir():
            side.of(judged.name).problems.append(f"{run_dir}: has no folder of it")
            continue
        _add_drill(side, run_dir, judged.name, judged.status, about)
    return verdict.decision, verdict.decision_reason


def _add_drill(side: Side, run_dir: Path, name: str, state: State, about: Mapping[str, str]) -> None:
    for run_name, folder in recorded_runs.folders_in(run_dir, name):
        runs = side.of(name)
        if not recorded_runs.is_replication(folder) and run_name != name:  # a variant is compared with the same variant
            runs = side.of(run_name)
            runs.states.append(state)
        try:
            found = recorded_runs.read(run_name, folder)
        except EvidenceError as error:
            runs.problems.append(str(error).rstrip("."))
            continue
        runs.runs.append(measured(found.drill, found.history, about))
    if not side.drills[name].runs and not side.drills[name].problems:
        del side.drills[name]  # it has only variants


def measured(drill: Drill, history: History, about: Mapping[str, str]) -> Measured:
    """Everything that a comparison needs of a run, without its observations."""
    ledger, header = Ledger(history), history.header
    busy = machine.busy_times(history)
    samples = tuple(intervals.within(history, ledger))
    found = {each.name: each for each in run_metrics(history, ledger) if not each.name.startswith(_OURS)}
    return Measured(
        conditions={**conditions.of_run(header), **about},
        drill=conditions.of_drill(drill),
        seed=header.seed,
        clock=header.clock,
        metrics=found,
        samples=samples,
        shortest=tuple(intervals.within(history, ledger, machine.busy_spans(busy))) if busy else samples,
        busy=machine.in_words(busy) if busy else "",
        observations_sha256=header.observations_sha256,
    )


# --- stages -------------------------------------------------------------------------------------------


def _stage(run_dir: Path, drill: str | None) -> Side:
    """A stage: its canary checks in the judged window, those of its control, and the drills of a preflight."""
    report, plan = judge_stage(run_dir), evidence.read_plan(run_dir)
    side = Side(run_dir, "stage", report.decision, report.reason)
    side.checks = {f"{each.gate}.{each.check}": each.state for gate in report.gates for each in gate.checks}
    side.checks |= {each.name: each.state for each in report.requirements}
    about = {"thresholds": plan.thresholds_sha256, "target configuration": plan.configuration_sha256}
    found = window.load(run_dir)
    for listed, kind, checks in (
        (records.CANARY_CHECK_LIST, "canary", found.canary_checks),
        (records.CONTROL_LIST, "control", found.control.canary_checks if found.control else ()),
    ):
        states = {each.run: State(each.status) for each in evidence.read_lines(run_dir / listed, CanaryCheckDone) if each.run}
        for check in checks:
            _add_canary_check(side, f"{kind}:{check.drill.name}", check, states, about, drill)
    for each in _problems(found.problems, drill, side):
        each.problems += found.problems
    for done in evidence.read_lines(run_dir / records.DRILL_RESULTS, DrillDone):
        if drill in (None, done.name) and done.run:
            side.of(done.name).states.append(State(done.status))
            _add_drill(side, run_dir / records.DRILLS / Path(done.run).name, done.name, State(done.status), about)
    return side


def _problems(problems: tuple[str, ...], drill: str | None, side: Side) -> Iterator[DrillRuns]:
    yield from (runs for name, runs in side.drills.items() if problems and drill in (None, name))


def _add_canary_check(
    side: Side, name: str, check: CanaryCheck, states: Mapping[str, State], about: Mapping[str, str], drill: str | None
) -> None:
    if drill not in (None, name):
        return
    state = next((state for run, state in states.items() if check.path.startswith(f"{run}/")), State.ERROR)
    side.of(name).states.append(state)
    side.of(name).runs.append(measured(check.drill, check.history, about))
