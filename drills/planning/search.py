"""Search for a value at which the gates pass: simulate each value with common seeds, and judge it by the gates."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from drills.judging.checks.verdicts import DrillVerdict, State
from drills.planning import sweeps
from drills.planning.gates import Gates
from drills.planning.sweeps import Execute
from sim.analysis.statistics import CONFIDENCE, Mean
from sim.base.atomic_files import write_whole
from sim.base.errors import UsageError
from sim.drill.model import Drill
from sim.planning import designs, runs, search, tables
from sim.planning.designs import Point
from sim.planning.runs import Job
from sim.planning.search import Found, Outcome, Trial
from sim.planning.store import Row, Store
from sim.planning.sweep_file import Find, Plan, Value

_PHASES = "drill."  # checks of the run phases; these must never fail
_MAX_REASONS = 2


@dataclass(frozen=True)
class Searched:
    """A complete search."""

    plan: Plan
    find: Find
    folder: Path
    found: Found
    rows: tuple[Sequence[Row], ...]  # of each trial

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per value and metric (see `tables.summary`)."""
        return tables.summary(self.points, dict(enumerate(self.rows)))

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """The tried values as points; the number of a trial is the number of its point."""
        trials = enumerate(self.found.trials)
        return tuple(designs.point(self.plan, {self.find.key: trial.value}, number) for number, trial in trials)

    @property
    def sentence(self) -> str:
        """The answer as a sentence."""
        find, found = self.find, self.found
        if found.answer is None:
            return f"{find.want} {find.key}: none found; {found.why}"
        sentence = f"{find.want} {find.key} with green gates: {shown(found.answer)}"
        if find.want == "best":
            sentence = f"best {find.key} by {find.by} with green gates: {shown(found.answer)}"
            ties = ", ".join(map(str, found.ties))
            return f"{sentence}; it does not differ significantly from {ties}" if ties else sentence
        if found.at_bound:
            return f"{sentence}, the bound of the search"
        return f"{sentence}; {self._beyond}"

    @property
    def _beyond(self) -> str:
        found = self.found
        assert found.answer is not None
        if found.beyond is None:
            return "values beyond it are inconclusive, none is red"
        low, high = sorted((float(found.answer), float(found.beyond)))
        between = [trial for trial in found.trials if low < float(trial.value) < high]
        if not between:
            return (
                f"{shown(found.beyond)} is red, and no value in between was tried (find.tolerance is {self.find.tolerance:.0%})"
            )
        return f"{shown(found.beyond)} is red, and in between {', '.join(f'{shown(t.value)} is {t.outcome}' for t in between)}"

    @property
    def confidence(self) -> str:
        """The confidence of the answer, as a sentence."""
        limits = (
            " The fleet engine does not simulate delivery and checks no invariant." if self.plan.sweep.engine == "fleet" else ""
        )
        return (
            f"Each value was judged with {self._counts} replications and common seeds, each check "
            f"with {CONFIDENCE:.0%} confidence, in simulation.{limits}"
        )

    @property
    def _counts(self) -> str:
        counts = [trial.replications for trial in self.found.trials]
        return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def find(plan: Plan, out: Path, execute: Execute, judge: Gates | None = None) -> Searched:
    """Run the search of the plan's `[find]`. Raises `UsageError`, `StorageError`, `CutShortError`."""
    wanted = plan.sweep.find
    if wanted is None:
        raise UsageError(f"{plan.where}: has no [find]. `stormgate plan sweep` uses its [[parameters]].")
    folder = sweeps.folder_of(out, plan)
    for value in (wanted.low, wanted.high, *wanted.values):  # refuse an invalid value before the first run
        if value is not None:
            _check(plan, wanted, value)
    judge = judge or Gates()
    mark, store = sweeps.open_folder(folder, plan, judge)
    try:
        searched = _search(_Search(plan, wanted, store, execute, judge, folder))
        write_found(searched)
    finally:
        mark.remove()
    return searched


def read(folder: Path) -> Searched:
    """Read a complete search: repeat it with its stored rows. Raises `UsageError`, and `EvidenceError` for missing rows."""
    plan, judge = sweeps.read_kept(folder)
    wanted = plan.sweep.find
    if wanted is None:
        raise UsageError(f"{folder}: its plan has no [find], so it is not a search.")
    return _search(_Search(plan, wanted, Store(folder), sweeps.only_stored(folder), judge, folder))


def _search(task: "_Search") -> Searched:
    plan, wanted = task.plan, task.wanted
    if wanted.want == "best":
        task.simulate(wanted.values, plan.sweep.replications)  # in parallel, because all of them are needed
        found = search.best(wanted, plan.sweep.replications, task.ask, task.compare)
    else:
        found = search.number(wanted, plan.sweep.replications, task.ask)
    rows = tuple(task.rows(trial.value, trial.replications)[0] for trial in found.trials)
    return Searched(plan, wanted, task.folder, found, rows)


def write_found(searched: Searched) -> None:
    """Write `found.json` and `stations.parquet`. Raises `StorageError`."""
    sweeps.write_stations(searched.folder, searched.points, dict(enumerate(searched.rows)))
    write_whole(searched.folder / sweeps.FOUND_NAME, msgspec.json.encode(summary(searched)) + b"\n")


def _check(plan: Plan, wanted: Find, value: Value) -> None:
    drill = designs.point(plan, {wanted.key: value}).drill
    runs.check(plan.sweep.engine, drill)
    if unknown := [name for name in wanted.keep if name not in drill.checks]:
        raise UsageError(f"{plan.where}: 'find.keep' has {unknown[0]}, but the drill's checks are: {', '.join(drill.checks)}.")


@dataclass(frozen=True)
class _Search:
    """A search in progress: simulates and judges values."""

    plan: Plan
    wanted: Find
    store: Store
    execute: Execute
    judge: Gates
    folder: Path

    def ask(self, value: Value, replications: int) -> Trial:
        rows, drill = self.rows(value, replications)
        outcome, reason = judged(self.judge.together(drill, rows), self.wanted.keep)
        return Trial(value, outcome, replications, reason)

    def compare(self, one: Value, other: Value, replications: int, confidence: float) -> Mean:
        by = self.wanted.by
        rows = [self.rows(value, replications)[0] for value in (one, other)]
        if by not in {metric.name for metric in rows[0][0].metrics}:
            raise UsageError(f"{self.plan.where}: 'find.by' is {by}, but no run has this metric.")
        return tables.difference(rows[0], rows[1], by, confidence)

    def rows(self, value: Value, replications: int) -> tuple[Sequence[Row], Drill]:
        """The rows of a value, simulated if they are missing."""
        self.simulate([value], replications)
        jobs = self._jobs([value], replications)
        return self.store.rows(jobs), self._point(value).drill

    def simulate(self, values: Sequence[Value], replications: int) -> None:
        """Simulate the missing runs of these values. Raises `CutShortError`."""
        sweeps.complete(self.folder, self._jobs(values, replications), self.store, self.execute)

    def _jobs(self, values: Sequence[Value], replications: int) -> list[Job]:
        points = [self._point(value) for value in values]
        return runs.jobs(self.plan.sweep.engine, points, sweeps.seeds(self.plan, replications), self.judge)

    def _point(self, value: Value) -> Point:
        return designs.point(self.plan, {self.wanted.key: value})


def judged(verdict: DrillVerdict, keep: Sequence[str]) -> tuple[Outcome, str]:
    """Outcome and reason of one value: by all checks, or by those of `keep` and of the run phases."""
    found = {check.name: check.state for check in verdict.checks}
    if keep:
        required = {name: found.get(name, State.NOT_RUN) for name in keep}
        of_phases = {name: state for name, state in found.items() if name.startswith(_PHASES)}
        is_bad = (State.FAIL, State.ERROR)
        found = required | {name: state if state in is_bad else State.PASS for name, state in of_phases.items()}
    if verdict.violations:
        return Outcome.RED, f"violated invariants: {', '.join(violation.invariant for violation in verdict.violations)}"
    for state, outcome in ((State.ERROR, Outcome.ERROR), (State.FAIL, Outcome.RED)):
        if names := [name for name, each in found.items() if each is state]:
            return outcome, _reasons(verdict, names)
    others = [name for name, each in found.items() if each is not State.PASS]
    return (Outcome.INCONCLUSIVE, _reasons(verdict, others)) if others or not found else (Outcome.GREEN, "")


def _reasons(verdict: DrillVerdict, names: Sequence[str]) -> str:
    reasons = [f"{check.name} {check.state} ({check.reason})" for check in verdict.checks if check.name in names]
    more = f", and {len(names) - _MAX_REASONS} more" if len(names) > _MAX_REASONS else ""
    return "; ".join(reasons[:_MAX_REASONS]) + more


def summary(searched: Searched) -> dict[str, Any]:
    """The content of `found.json`, also printed by `--json`."""
    found, wanted = searched.found, searched.find
    return {
        "name": searched.plan.sweep.name,
        "key": wanted.key,
        "want": wanted.want,
        "outcome": str(found.outcome),
        "answer": found.answer,
        "beyond": found.beyond,
        "at_bound": found.at_bound,
        "ties": list(found.ties),
        "sentence": searched.sentence,
        "confidence": searched.confidence,
        "trials": [msgspec.to_builtins(trial) for trial in found.trials],
    }


def lines(searched: Searched) -> list[list[str]]:
    """A line of a table per judged value, in the order of the search."""
    trials = searched.found.trials
    return [[shown(trial.value), str(trial.outcome), str(trial.replications), trial.reason] for trial in trials]


def shown(value: Value) -> str:
    """A value as text."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
