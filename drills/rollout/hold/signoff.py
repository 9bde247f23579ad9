"""Statements of people on a stage: one signature on its report, and waivers, which change no result."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from drills.rollout.hold import rollouts, unlock
from drills.rollout.hold.rollouts import SIGNED, WAIVED, RunRecord
from drills.rollout.setup import evidence, records
from drills.rollout.setup.journal import Entry, Journal
from drills.rollout.setup.records import Decision, Signoff, StageReport, Waiver
from drills.rollout.verdict import chain
from sim.base.clocks import Clock, iso
from sim.base.errors import UsageError


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A person and their statement. Raises `UsageError` if one of the fields is empty."""

    owner: str
    role: str
    statement: str

    @property
    def stripped(self) -> dict[str, Any]:
        """The fields without spaces around them."""
        return {name: getattr(self, name).strip() for name in self.__struct_fields__}

    def __post_init__(self) -> None:
        for name, text in self.stripped.items():
            if not text:
                raise UsageError(f"--{name} is empty; a signature without it does not count.")


def signable(folder: Path, entries: Sequence[Entry], run_id: str = "") -> RunRecord:
    """The run to sign: the named one, or the latest with a report. Raises `UsageError`."""
    found = [run for run in rollouts.runs(entries) if run.is_finished and (not run_id or run.run_id == run_id)]
    if not found:
        raise UsageError(f"{folder}: there is no {f'run {run_id} with a ' if run_id else ''}report to sign.")
    if found[-1].signed is not None:
        by = found[-1].signed.body.get("owner", "somebody")
        raise UsageError(
            f"{found[-1].run_id}: was signed by {by} already; a report has one signature. Run the stage again instead."
        )
    return found[-1]


def sign(folder: Path, run: RunRecord, person: Person, decision: Decision, journal: Journal, clock: Clock) -> Signoff:
    """Write `signoff.json`. Raises `UsageError` for a go on a no-go report, and `EvidenceError` if evidence was changed."""
    run_dir = rollouts.run_dir(folder, run.run_id)
    report = unlock.recorded_report(run_dir, run)
    if decision == "go" and report.decision != "go":
        why = next(iter(report.why), "it gives no reason")
        raise UsageError(f"{run.run_id}: its report is a no-go, and no signature makes it a go: {why}")
    chain.require_unchanged(chain.Earlier(run_dir, report))
    signoff = Signoff(
        run_id=run.run_id,
        at=iso(clock.now()),
        decision=decision,
        report_sha256=evidence.sha256(run_dir / records.REPORT),
        **person.stripped,
    )
    content = evidence.write_json(run_dir / records.SIGNOFF, signoff)
    journal.append(
        SIGNED,
        run=run.run_id,
        decision=decision,
        owner=signoff.owner,
        role=signoff.role,
        report_sha256=signoff.report_sha256,
        signoff_sha256=hashlib.sha256(content).hexdigest(),
    )
    return signoff


def waive(folder: Path, run: RunRecord, check: str, person: Person, journal: Journal, clock: Clock) -> Waiver:
    """Add an entry to `waivers.json`: a person accepts that a check did not pass. Raises `UsageError` if it passed."""
    run_dir = rollouts.run_dir(folder, run.run_id)
    open_ones = not_passed(unlock.recorded_report(run_dir, run))
    if check not in open_ones:
        raise UsageError(f"{check}: there is nothing to waive; what did not pass: {', '.join(open_ones) or 'nothing'}.")
    digest = evidence.sha256(run_dir / records.REPORT)
    waiver = Waiver(check=check, at=iso(clock.now()), report_sha256=digest, **person.stripped)
    evidence.write_json(run_dir / records.WAIVERS, [*evidence.read_waivers(run_dir), waiver])
    journal.append(WAIVED, run=run.run_id, check=check, owner=waiver.owner, waiver_sha256=waiver.sha256)
    return waiver


def not_passed(report: StageReport) -> list[str]:
    """The checks (as `gate.check`) and then the requirements that did not pass, by name."""
    checks = [f"{check.gate}.{check.check}" for gate in report.gates for check in gate.checks if check.state != "pass"]
    return [*checks, *(each.name for each in report.requirements if each.state != "pass")]


def invalid_reason(waiver: Waiver, entries: Sequence[Entry], report_sha256: str) -> str:
    """Why a waiver does not count; empty for a valid one."""
    if not (waiver.owner.strip() and waiver.role.strip() and waiver.statement.strip()):
        return "it is not signed"
    if waiver.report_sha256 != report_sha256:
        return "it is of another report"
    recorded = {entry.body.get("waiver_sha256") for entry in entries if entry.kind == WAIVED}
    return "" if waiver.sha256 in recorded else "the journal lacks it"
