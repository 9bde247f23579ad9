"""What people say of a stage: one signature on its report, and waivers, which change nothing that was found."""

import hashlib
from pathlib import Path

import msgspec

from drills.rollout.hold import rollouts, unlock
from drills.rollout.hold.rollouts import SIGNED, WAIVED, RunRecord
from drills.rollout.setup import evidence, records
from drills.rollout.setup.journal import Entry, Journal
from drills.rollout.setup.records import Decision, Signoff, StageReport, Waiver
from drills.rollout.verdict import chain
from sim.base.atomic_files import write_whole
from sim.base.clocks import Clock, iso
from sim.base.errors import EvidenceError, UsageError


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks, and what they say. Raises `UsageError` where one of them says nothing."""

    owner: str
    role: str
    statement: str

    def __post_init__(self) -> None:
        for name in ("owner", "role", "statement"):
            if not getattr(self, name).strip():
                raise UsageError(f"--{name} is empty, and a signature without it counts for nothing.")


def signable(folder: Path, entries: list[Entry], run_id: str = "") -> RunRecord:
    """The run that is to be signed: the latest with a report, or the one that is named. Raises `UsageError`."""
    found = [run for run in rollouts.runs(entries) if run.is_finished and (not run_id or run.run_id == run_id)]
    if not found:
        raise UsageError(f"{folder}: there is no {f'run {run_id} with a' if run_id else ''} report to sign.".replace("  ", " "))
    if found[-1].signed is not None:
        by = found[-1].signed.body.get("owner", "somebody")
        raise UsageError(
            f"{found[-1].run_id}: was signed by {by} already; a report has one signature. Run the stage again instead."
        )
    return found[-1]


def sign(folder: Path, run: RunRecord, person: Person, decision: Decision, journal: Journal, clock: Clock) -> Signoff:
    """Write `signoff.json`. Raises `UsageError` for a go on what is none, and `EvidenceError` where evidence was changed."""
    run_dir = rollouts.run_dir(folder, run.run_id)
    report = unlock.recorded_report(run_dir, run)
    if decision == "go" and report.decision != "go":
        why = next(iter(report.why), "it does not say why")
        raise UsageError(f"{run.run_id}: its report is a no-go, and no signature makes it a go: {why}")
    chain.unspoilt(chain.Earlier(run_dir, report))
    signoff = Signoff(
        run_id=run.run_id,
        owner=person.owner.strip(),
        role=person.role.strip(),
        at=iso(clock.now()),
        decision=decision,
        statement=person.statement.strip(),
        report_sha256=evidence.sha256(run_dir / records.REPORT),
    )
    content = msgspec.json.format(msgspec.json.encode(signoff), indent=2) + b"\n"
    write_whole(run_dir / records.SIGNOFF, content)
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
    """Add to `waivers.json` that somebody lives with what a check says. Raises `UsageError` for a check that did pass."""
    run_dir = rollouts.run_dir(folder, run.run_id)
    report = unlock.recorded_report(run_dir, run)
    open_ones = not_passed(report)
    if check not in open_ones:
        raise UsageError(f"{check}: there is nothing to waive; what did not pass: {', '.join(open_ones) or 'nothing'}.")
    waiver = Waiver(
        check=check,
        owner=person.owner.strip(),
        role=person.role.strip(),
        at=iso(clock.now()),
        statement=person.statement.strip(),
        report_sha256=evidence.sha256(run_dir / records.REPORT),
    )
    write_whole(
        run_dir / records.WAIVERS, msgspec.json.format(msgspec.json.encode([*read_waivers(run_dir), waiver]), indent=2) + b"\n"
    )
    journal.append(WAIVED, run=run.run_id, check=check, owner=waiver.owner, waiver_sha256=_digest(waiver))
    return waiver


def not_passed(report: StageReport) -> list[str]:
    """What did not pass, by name: checks as `gate.check`, then parts."""
    checks = [f"{check.gate}.{check.check}" for gate in report.gates for check in gate.checks if check.state != "pass"]
    return [*checks, *(part.name for part in report.requirements if part.state != "pass")]


def read_waivers(run_dir: Path) -> list[Waiver]:
    """All entries of `waivers.json`, signed or not. Raises `EvidenceError`."""
    path = run_dir / records.WAIVERS
    if not path.exists():
        return []
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Waiver])
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    except msgspec.DecodeError as error:
        raise EvidenceError(f"{path}: is damaged ({error}).") from None


def unsigned(waiver: Waiver, entries: list[Entry], report_sha256: str) -> str:
    """Why a waiver counts for nothing; empty for one that somebody stands by."""
    if not (waiver.owner.strip() and waiver.role.strip() and waiver.statement.strip()):
        return "nobody has signed it"
    if waiver.report_sha256 != report_sha256:
        return "it is of another report"
    told = {entry.body.get("waiver_sha256") for entry in entries if entry.kind == WAIVED}
    return "" if _digest(waiver) in told else "the journal does not tell of it"


def _digest(waiver: Waiver) -> str:
    return hashlib.sha256(msgspec.json.encode(waiver, order="deterministic")).hexdigest()
