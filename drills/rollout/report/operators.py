"""The operators' forms of a verdict, in a folder of their own:

    results.jsonl           a line for each drill: scenario, status, duration_seconds, log_file
    gate-results.jsonl      a line for each gate: gate, status, duration_seconds, log_file
    cohort-results.jsonl    a line for a stage's cohort: cohort_percent, status, reason
    slo-snapshot.json       p95_latency_ms and error_budget_ratio
    SUMMARY.md              with `- Failures: N` and `- Decision: allow` or `block`
    logs/                   the checks of each drill and gate, with their reasons

`status` is `passed` only for a pass. It is `skipped` for a drill that the target cannot run, and for a gate that is for
information only. The decision is `allow` only for a go against a deployed target: a go against a mock or in simulation says
nothing about one. The summary says of an interrupted stage that it was, and counts it as a failure. A number of the snapshot is
the upper 95 % bound of a check that was decided. Any other is left out, and then the operators' scripts block.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from drills.judging.checks.registry import GATES
from drills.judging.checks.verdicts import CheckResult, DrillVerdict, RunVerdict, State, worst
from drills.reports.report import reasons
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import DrillDone, Gate, GateCheck, StageReport
from sim.base.atomic_files import write_whole
from sim.base.errors import StorageError, UsageError

RESULTS, GATES_FILE, COHORTS = "results.jsonl", "gate-results.jsonl", "cohort-results.jsonl"
SNAPSHOT, SUMMARY, LOGS = "slo-snapshot.json", "SUMMARY.md", "logs"
LATENCY, BUDGET = "ux.publish_to_apply_ms", "error.error_budget_ratio"
_FIELDS = {LATENCY: "p95_latency_ms", BUDGET: "error_budget_ratio"}
_DECIDED = (State.PASS, State.FAIL)


@dataclass(frozen=True)
class _Step:
    """One drill, gate or requirement."""

    name: str
    status: str  # passed, failed or skipped
    seconds: float
    log: tuple[str, ...]  # lines

    @property
    def file(self) -> str:
        """Its log file, below `logs/`."""
        return f"{''.join(letter if letter.isalnum() or letter in '._-' else '_' for letter in self.name)}.log"


@dataclass(frozen=True)
class _Export:
    """Everything that is written."""

    evidence: Path
    target_kind: str
    decision: str  # go or no_go
    why: str
    drills: Sequence[_Step]
    gates: Sequence[_Step]
    cohorts: Sequence[dict[str, str | float]]
    checks: Sequence[CheckResult | GateCheck]  # of which the snapshot is made
    is_interrupted: bool = False

    @property
    def is_allowed(self) -> bool:
        """Whether the rollout may go on, as far as this evidence says."""
        return self.decision == "go" and self.target_kind != "mock" and not self.failures

    @property
    def failures(self) -> int:
        """Drills, gates and cohorts that failed."""
        failed = sum(step.status == "failed" for step in (*self.drills, *self.gates))
        failed += sum(each["status"] == "failed" for each in self.cohorts)
        return max(failed, int(self.is_interrupted))


def prepare(folder: Path) -> None:
    """Create the folder before anything runs. Raises `UsageError` if it has files, and `StorageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (found := next(folder.iterdir(), None)) is None:
            probe = folder / ".probe"
            probe.touch()
            probe.unlink()
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); give --export-operators another folder.") from None
    if found is not None:
        raise UsageError(f"{folder}: has files already, such as {found.name}; give --export-operators a new or empty folder.")


def of_run(verdict: RunVerdict, run_dir: Path, folder: Path) -> None:
    """Write the verdict on a run. Raises `StorageError`."""
    checks = [check for drill in verdict.drills for check in drill.checks]
    names = [name for name in GATES if any(check.gate == name for check in checks)]
    _write(
        folder,
        _Export(
            evidence=run_dir.resolve(),
            target_kind=verdict.target_kind,
            decision=verdict.decision,
            why=verdict.decision_reason.replace("_", " "),
            drills=[_drill(drill) for drill in verdict.drills],
            gates=[_gate(name, [check for check in checks if check.gate == name and check.is_required]) for name in names],
            cohorts=(),
            checks=checks,
        ),
    )


def of_stage(report: StageReport, run_dir: Path, folder: Path, *, is_interrupted: bool = False) -> None:
    """Write the verdict on a stage. Raises `StorageError`, and `EvidenceError` for damaged evidence."""
    drills = evidence.read_lines(run_dir / records.DRILL_RESULTS, DrillDone)
    checks = [check for gate in report.gates for check in gate.checks]
    steps = [_stage_gate(gate) for gate in report.gates]
    for each in report.requirements:
        steps.append(_Step(each.name, _status([each.state]), 0.0, (f"{each.state}: {each.reason}",)))
    _write(
        folder,
        _Export(
            evidence=run_dir.resolve(),
            target_kind=report.plan.target_kind,
            decision=report.decision,
            why=report.reason.replace("_", " "),
            drills=[_Step(each.name, _status([each.status]), each.duration_s, _log(each)) for each in drills],
            gates=steps,
            cohorts=[*_cohorts(report)],
            checks=checks,
            is_interrupted=is_interrupted,
        ),
    )


def _status(states: Iterable[str]) -> str:
    return "passed" if worst(State(state) for state in states) is State.PASS else "failed"


def _drill(drill: DrillVerdict) -> _Step:
    status = "skipped" if drill.not_run else _status([drill.status])
    lines = [f"{drill.status}: {drill.summary}", *reasons(drill), *map(_line, drill.checks), *drill.remarks]
    return _Step(drill.name, status, drill.duration_s, tuple(lines))


def _gate(name: str, checks: Sequence[CheckResult]) -> _Step:
    return _Step(name, _status(check.state for check in checks), 0.0, tuple(map(_line, checks)))


def _stage_gate(gate: Gate) -> _Step:
    """A gate of a stage; one without a required check is for information, and decides nothing."""
    status = _status([gate.state]) if any(check.required for check in gate.checks) else "skipped"
    return _Step(gate.name, status, 0.0, tuple(map(_line, gate.checks)))


def _line(check: CheckResult | GateCheck) -> str:
    return f"{check.gate}.{check.check} {check.state}: {check.reason}"


def _log(done: DrillDone) -> tuple[str, ...]:
    reason = [done.reason] if done.reason else []
    return (f"{done.status}: {done.run or 'no run'}", *reason, *(f"{name} {state}" for name, state in done.assertions))


def _cohorts(report: StageReport) -> Iterator[dict[str, str | float]]:
    for each in report.requirements:
        if each.name == "cohort" and report.plan.cohort_percent is not None:
            yield {
                "cohort_percent": report.plan.cohort_percent,
                "status": _status([each.state]),
                "reason": each.reason,
            }


# --- files --------------------------------------------------------------------------------------------


def _write(folder: Path, export: _Export) -> None:
    folder = folder.resolve()
    steps = (*export.drills, *export.gates)
    try:
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder / LOGS}: cannot be written ({error.strerror}).") from None
    for step in steps:
        write_whole(folder / LOGS / step.file, "\n".join((*step.log, f"evidence: {export.evidence}", "")).encode())
    write_whole(folder / RESULTS, _lines(_row("scenario", step, folder) for step in export.drills))
    write_whole(folder / GATES_FILE, _lines(_row("gate", step, folder) for step in export.gates))
    if export.cohorts:
        write_whole(folder / COHORTS, _lines(export.cohorts))
    write_whole(folder / SNAPSHOT, msgspec.json.format(msgspec.json.encode(_snapshot(export)), indent=2) + b"\n")
    write_whole(folder / SUMMARY, _summary(folder, export).encode())


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def _row(kind: str, step: _Step, folder: Path) -> dict[str, Any]:
    seconds = round(step.seconds) if math.isfinite(step.seconds) else 0
    return {
        kind: step.name,
        "status": step.status,
        "duration_seconds": seconds,
        "log_file": str(folder / LOGS / step.file),
    }


def _snapshot(export: _Export) -> dict[str, Any]:
    """The numbers that were decided, and why others are missing."""
    found: dict[str, Any] = {"generated_at": datetime.now(UTC).isoformat(timespec="seconds"), "evidence": str(export.evidence)}
    missing = {}
    for name, field in _FIELDS.items():
        checks = [check for check in export.checks if f"{check.gate}.{check.check}" == name]
        values = [_bound(check) for check in checks]
        if export.target_kind == "mock":
            missing[field] = "the target was a mock or simulated, so this says nothing about a deployed service"
        elif not values:
            missing[field] = f"no check {name} was judged"
        elif undecided := [check for check, value in zip(checks, values, strict=True) if value is None]:
            missing[field] = f"{name} {undecided[0].state}: {undecided[0].reason}"
        else:
            found[field] = max(value for value in values if value is not None)
    return {**found, **({"missing": missing} if missing else {})}


def _bound(check: CheckResult | GateCheck) -> float | None:
    """The upper 95 % bound of a check that was decided, or its value; None without a finite one."""
    if check.state not in _DECIDED:
        return None
    upper = check.interval[1] if check.interval is not None else None
    known = [value for value in (upper, check.value) if value is not None and not math.isnan(value)]
    return max(known) if known and all(math.isfinite(value) for value in known) else None


def _summary(folder: Path, export: _Export) -> str:
    about = "a mock or simulated, which never allows a rollout" if export.target_kind == "mock" else export.target_kind
    steps = [("", step) for step in export.drills] + [("gate:", step) for step in export.gates]
    rows = [
        f"| {kind}{step.name} | {step.status} | {round(step.seconds) if math.isfinite(step.seconds) else 0}s |"
        for kind, step in steps
    ]
    rows += [f"| cohort:{each['cohort_percent']:g}% | {each['status']} | 0s |" for each in export.cohorts]
    skipped = sum(step.status == "skipped" for step in (*export.drills, *export.gates))
    why = f" ({export.why})" if export.why else ""
    lines = [
        "# Chaos Drill Summary",
        "",
        f"- Timestamp (UTC): {datetime.now(UTC):%Y%m%dT%H%M%SZ}",
        f"- Output directory: {folder}",
        f"- Evidence: {export.evidence}",
        f"- Target: {about}",
        f"- Scenario count: {len(export.drills)}",
        *(["- Interrupted: yes, so this is what was done until then"] if export.is_interrupted else []),
        f"- Failures: {export.failures}",
        f"- Skipped: {skipped}",
        f"- Verdict: {export.decision.replace('_', '-')}{why}",
        f"- Decision: {'allow' if export.is_allowed else 'block'}",
        "",
        "| Step | Status | Duration |",
        "| --- | --- | --- |",
        *rows,
        "",
    ]
    return "\n".join(lines)
