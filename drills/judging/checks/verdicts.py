"""The results of judging, for a check, a drill and a run, and how several results combine.

The worst state counts: fail, then error, then the inconclusive ones. Only `pass` counts as a pass.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from sim.analysis.endings import Ending
from sim.analysis.invariants.evidence import Violation
from sim.analysis.metrics import Metric
from sim.analysis.server_metrics import ServerMetric
from sim.base.exit_codes import ExitCode
from sim.record.predictions import Prediction


class State(StrEnum):
    """The result state of a check."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"  # measured, but with too few samples to decide
    NO_DATA = "no_data"  # nothing was measured
    ERROR = "error"  # the drill or the check itself did not work
    NOT_RUN = "not_run"  # the drill stopped before this check, or the target cannot run the drill


GRAVEST_FIRST = (State.FAIL, State.ERROR, State.NOT_RUN, State.NO_DATA, State.INCONCLUSIVE, State.PASS)
_GRAVITY = (State.FAIL, State.ERROR)
Reason = Literal["", "breach", "insufficient_evidence", "error", "expired"]
"""The reason for a no-go; empty for a go. Only a stage can expire."""
_REASONS: Mapping[State, Reason] = {
    State.PASS: "",
    State.FAIL: "breach",
    State.ERROR: "error",
    State.INCONCLUSIVE: "insufficient_evidence",
    State.NO_DATA: "insufficient_evidence",
    State.NOT_RUN: "insufficient_evidence",
}
EXIT_CODES: Mapping[Reason, ExitCode] = {
    "": ExitCode.GO,
    "breach": ExitCode.NO_GO,
    "expired": ExitCode.NO_GO,
    "insufficient_evidence": ExitCode.INCONCLUSIVE,
    "error": ExitCode.TOOL,
}


def exit_code(state: State) -> ExitCode:
    """The exit code of a command with this result."""
    return EXIT_CODES[_REASONS[state]]


def worst(states: Iterable[State]) -> State:
    """The most severe of several states; inconclusive for an empty sequence."""
    found = set(states)
    for state in _GRAVITY:
        if state in found:
            return state
    return State.PASS if found == {State.PASS} else State.INCONCLUSIVE


@dataclass(frozen=True)
class CheckResult:
    """The result of one check, with everything that a reader needs to verify it."""

    gate: str
    check: str
    state: State
    value: float
    unit: str
    n: int
    interval: tuple[float, float] | None  # one-sided 95 % bounds, lower and upper
    comparator: str
    threshold: float | None
    source: str  # of the threshold
    window: str  # the part of the evidence that it covers
    method: str
    origin: str  # server, client or synthetic
    reason: str
    evidence: str  # the file that was judged
    is_required: bool = True  # for the drill's decision; false if its protocol cannot tell

    @property
    def name(self) -> str:
        """`gate.check`."""
        return f"{self.gate}.{self.check}"

    def sound(self) -> "CheckResult":
        """Return the result, changed to an error if it passes with a value that is not finite."""
        if self.state is State.PASS and not math.isfinite(self.value):
            return replace(self, state=State.ERROR, reason=f"the value is {self.value}, which is not finite and cannot pass")
        return self


@dataclass(frozen=True)
class Spread:
    """One metric over replications, of which `n` had a value. The interval of the mean is two-sided, 95 %."""

    name: str
    unit: str
    n: int
    mean: float
    interval: tuple[float, float] | None  # None for a single value, and for an infinite one
    least: float
    median: float
    p95: float
    most: float


@dataclass(frozen=True)
class ServerView:
    """The runtime's own metrics. No check reads them. `absent`: metrics of its profile that it did not expose."""

    polls: int
    failed: dict[str, int]  # polls without an answer, by reason
    figures: tuple[ServerMetric, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class DrillVerdict:
    """The verdict on one drill. With several replications, `metrics` are means, and `spreads` their intervals and quantiles."""

    name: str
    clients: int
    duration_s: float
    checks: tuple[CheckResult, ...]
    violations: tuple[Violation, ...] = ()
    metrics: tuple[Metric, ...] = ()
    summary: str = ""  # the question that the drill answers
    policy: str = ""
    defects: tuple[str, ...] = ()
    replications: int = 1  # number of runs that were combined
    spreads: tuple[Spread, ...] = ()
    remarks: tuple[str, ...] = ()  # sentences on how it was run
    prediction: Prediction | None = None  # by a fitted model, made before the run
    server: ServerView | None = None  # the runtime's own metrics, if they were polled
    not_run: str = ""  # why the target cannot run it; empty: it can
    endings: tuple[Ending, ...] = ()  # how the fleet's connections ended

    @property
    def status(self) -> State:
        """The worst state of its required checks; a violated invariant is always a failure."""
        if self.not_run:
            return State.NOT_RUN
        return State.FAIL if self.violations else worst(check.state for check in self.checks if check.is_required)

    @property
    def full_status(self) -> State:
        """The same with the checks that its protocol cannot tell: what a stage decides by."""
        if self.not_run:
            return State.NOT_RUN
        return State.FAIL if self.violations else worst(check.state for check in self.checks)


def merged_violations(verdicts: Mapping[str, DrillVerdict]) -> tuple[Violation, ...]:
    """Merge the violations of several runs of a drill: total counts and the first occurrence. The keys name the runs."""
    found: dict[str, Violation] = {}
    for where, verdict in verdicts.items():
        for each in verdict.violations:
            before = found.get(each.invariant)
            first = before.first if before else f"{where}: {each.first}"
            found[each.invariant] = replace(each, count=each.count + (before.count if before else 0), first=first)
    return tuple(found.values())


@dataclass(frozen=True)
class RunVerdict:
    """The verdict on a run. `notes` are sentences that a reader must see first."""

    run_id: str
    engine: str
    target: str
    target_kind: str
    seed: int  # of the first replication
    drills: tuple[DrillVerdict, ...]
    thresholds_sha256: str
    recorded_thresholds_sha256: str
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)  # that were judged: path in the run's folder -> hex SHA-256
    target_sha256: str = ""  # of the target's configuration when the run was made, without secrets
    tool_version: str = ""  # of stormgate when the run was made

    @property
    def status(self) -> State:
        """The worst state of its drills, without those that the target cannot run; `not_run` if it can run none of them."""
        if self.drills and self.not_run == len(self.drills):
            return State.NOT_RUN
        return worst(drill.status for drill in self.drills if not drill.not_run)

    @property
    def decision(self) -> str:
        """`go` if at least one drill ran and all that ran pass, else `no_go`."""
        return "go" if self.status is State.PASS else "no_go"

    @property
    def decision_reason(self) -> Reason:
        """The reason for a no-go; empty for a go."""
        return _REASONS[self.status]

    @property
    def failures(self) -> int:
        """The number of drills that ran and did not pass."""
        return sum(drill.status is not State.PASS for drill in self.drills if not drill.not_run)

    @property
    def not_run(self) -> int:
        """The number of drills that the target cannot run. The decision does without them."""
        return sum(bool(drill.not_run) for drill in self.drills)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command that ends with this verdict."""
        return EXIT_CODES[self.decision_reason]
