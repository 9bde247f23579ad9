"""Searches that keep the gates green: each value is simulated under common seeds, and judged by the gates."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from drills.judging.checks.verdicts import DrillVerdict, State
from drills.planning import sweeps
from drills.planning.gates import Gates, states
from drills.planning.sweeps import Execute
from sim.analysis.statistics import CONFIDENCE, Mean
from sim.base.errors import UsageError
from sim.drill.model import Drill
from sim.planning import designs, runs, search, tables
from sim.planning.designs import Point
from sim.planning.runs import Job
from sim.planning.search import Found, Trial, Word
from sim.planning.store import Row, Store
from sim.planning.sweeps import Find, Plan, Value

_COURSE = "drill."  # checks of the drill's course: whatever is kept, these must not have gone wrong
_MAX_REASONS = 2


@dataclass(frozen=True)
class Searched:
    """A search that came to its end."""

    plan: Plan
    find: Find
    folder: Path
    found: Found
    rows: tuple[Sequence[Row], ...]  # of each trial

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each value and measure, as `tables.tidy` has it: the number of a trial is its point's."""
        points = [designs.point(self.plan, {self.find.key: trial.value}, n) for n, trial in enumerate(self.found.trials)]
        return tables.tidy(points, dict(enumerate(self.rows)))

    @property
    def sentence(self) -> str:
        """The answer in words."""
        find, found = self.find, self.found
        if found.answer is None:
            return f"{find.want} {find.key}: none found; {found.why}"
        said = f"{find.want} {find.key} with green gates: {shown(found.answer)}"
        if find.want == "best":
            said = f"best {find.key} by {find.by} with green gates: {shown(found.answer)}"
            ties = ", ".join(map(str, found.ties))
            return f"{said}; but it cannot be told from {ties}" if ties else said
        if found.at_bound:
            return f"{said}, the very bound of the search: further was not looked"
        return f"{said}; {self._beyond}"

    @property
    def _beyond(self) -> str:
        found = self.found
        if found.beyond is None:
            return "beyond it nothing was shown to be red, only not to be green"
        return f"{shown(found.beyond)} was shown to be red, and what lies between was not shown to be either"

    @property
    def confidence(self) -> str:
        """What its certainty is, in words."""
        limits = " Its engine delivers nothing and looks at no law." if self.plan.sweep.engine == "fleet" else ""
        return (
            f"Each value was judged by {self._counts} replications under common seeds, each check "
            f"with {CONFIDENCE:.0%} confidence, in simulation.{limits}"
        )

    @property
    def _counts(self) -> str:
        counts = [trial.replications for trial in self.found.trials]
        return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def find(plan: Plan, out: Path, execute: Execute, judge: Gates | None = None) -> Searched:
    """Search as the plan's `[find]` says. Raises `UsageError`, `StorageError`, `CutShortError`."""
    wanted = plan.sweep.find
    if wanted is None:
        raise UsageError(f"{plan.where}: has no [find]; `stormgate plan sweep` reads its [[parameters]].")
    folder = sweeps.folder_of(out, plan)
    for value in (wanted.low, wanted.high, *wanted.values):  # what cannot be run is refused before anything begins
        if value is not None:
            _check(plan, wanted, value)
    judge = judge or Gates()
    mark, store = sweeps.open_folder(folder, plan, judge)
    try:
        searched = _search(_Asking(plan, wanted, store, execute, judge, folder))
        write_found(searched)
    finally:
        mark.remove()
    return searched


def read(folder: Path) -> Searched:
    """A search that is complete, gone through again with the rows that its folder kept.

    Raises `UsageError`, and `EvidenceError` for what is not whole.
    """
    plan, judge = sweeps.read_kept(folder)
    wanted = plan.sweep.find
    if wanted is None:
        raise UsageError(f"{folder}: its plan has no [find], so it is no search.")
    return _search(_Asking(plan, wanted, Store(folder), sweeps.nothing(folder), judge, folder))


def _search(asking: "_Asking") -> Searched:
    plan, wanted = asking.plan, asking.wanted
    if wanted.want == "best":
        asking.simulate(wanted.values, plan.sweep.replications)  # all at once, as all of them will be asked for
        found = search.best(wanted, plan.sweep.replications, asking.ask, asking.compare)
    else:
        found = search.number(wanted, plan.sweep.replications, asking.ask)
    rows = tuple(asking.rows(trial.value, trial.replications)[0] for trial in found.trials)
    return Searched(plan, wanted, asking.folder, found, rows)


def write_found(searched: Searched) -> None:
    """The answer for programs. Raises `StorageError`."""
    body = msgspec.json.encode(summary(searched)) + b"\n"
    sweeps.write(searched.folder / sweeps.FOUND_NAME, lambda partial: partial.write_bytes(body))


def _check(plan: Plan, wanted: Find, value: Value) -> None:
    drill = designs.point(plan, {wanted.key: value}).drill
    runs.check(plan.sweep.engine, drill)
    if strangers := [name for name in wanted.keep if name not in drill.checks]:
        raise UsageError(f"{plan.where}: 'find.keep' has {strangers[0]}, but the drill asks: {', '.join(drill.checks)}.")


@dataclass(frozen=True)
class _Asking:
    """What a search asks, with what it takes to answer."""

    plan: Plan
    wanted: Find
    store: Store
    execute: Execute
    judge: Gates
    folder: Path

    def ask(self, value: Value, replications: int) -> Trial:
        rows, drill = self.rows(value, replications)
        word, reason = judged(self.judge.together(drill, rows), self.wanted.keep)
        return Trial(value, word, replications, reason)

    def compare(self, one: Value, other: Value, replications: int, confidence: float) -> Mean:
        by = self.wanted.by
        rows = [self.rows(value, replications)[0] for value in (one, other)]
        if by not in {metric.name for metric in rows[0][0].metrics}:
            raise UsageError(f"{self.plan.where}: 'find.by' is {by}, which no run measures.")
        return tables.difference(rows[0], rows[1], by, confidence)

    def rows(self, value: Value, replications: int) -> tuple[Sequence[Row], Drill]:
        """The runs of a value, simulated if they are not there yet."""
        self.simulate([value], replications)
        jobs = self._jobs([value], replications)
        return [row for job in jobs if (row := self.store.get(job.digest)) is not None], self._point(value).drill

    def simulate(self, values: Sequence[Value], replications: int) -> None:
        """See that the runs of these values are there. Raises `CutShortError`."""
        jobs = self._jobs(values, replications)
        why = self.execute(jobs, self.store)
        missing = [job for job in jobs if self.store.get(job.digest) is None]
        if why or missing:
            raise sweeps.cut_short(self.folder, why, len(jobs) - len(missing), len(jobs))

    def _jobs(self, values: Sequence[Value], replications: int) -> list[Job]:
        points = [self._point(value) for value in values]
        return runs.jobs(self.plan.sweep.engine, points, sweeps.seeds(self.plan, replications), self.judge)

    def _point(self, value: Value) -> Point:
        return designs.point(self.plan, {self.wanted.key: value})


def judged(verdict: DrillVerdict, keep: Sequence[str]) -> tuple[Word, str]:
    """What the gates make of one value: of all checks, or of those to keep with the drill's own course."""
    found = dict(states(verdict, keep))
    if keep:
        found |= {check.name: State.PASS if check.state not in (State.FAIL, State.ERROR) else check.state
                  for check in verdict.checks if check.name.startswith(_COURSE)}  # fmt: skip
    if verdict.violations:
        return Word.RED, f"broken laws: {', '.join(violation.invariant for violation in verdict.violations)}"
    order = ((State.ERROR, Word.ERROR), (State.FAIL, Word.RED))
    for state, word in order:
        if those := [name for name, each in found.items() if each is state]:
            return word, _reasons(verdict, those)
    unsure = [name for name, each in found.items() if each is not State.PASS]
    return (Word.UNSURE, _reasons(verdict, unsure)) if unsure or not found else (Word.GREEN, "")


def _reasons(verdict: DrillVerdict, names: Sequence[str]) -> str:
    said = [f"{check.name} {check.state} ({check.reason})" for check in verdict.checks if check.name in names]
    more = f", and {len(names) - _MAX_REASONS} more" if len(names) > _MAX_REASONS else ""
    return "; ".join(said[:_MAX_REASONS]) + more


def summary(searched: Searched) -> dict[str, Any]:
    """`found.json`, and what `--json` prints."""
    found, wanted = searched.found, searched.find
    return {
        "name": searched.plan.sweep.name,
        "key": wanted.key,
        "want": wanted.want,
        "word": str(found.word),
        "answer": found.answer,
        "beyond": found.beyond,
        "at_bound": found.at_bound,
        "ties": list(found.ties),
        "sentence": searched.sentence,
        "confidence": searched.confidence,
        "trials": [msgspec.to_builtins(trial) for trial in found.trials],
    }


def lines(searched: Searched) -> list[list[str]]:
    """A line for each value that was judged, in the order of the search."""
    trials = searched.found.trials
    return [[shown(trial.value), str(trial.word), str(trial.replications), trial.reason] for trial in trials]


def shown(value: Value) -> str:
    """A value for people."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
