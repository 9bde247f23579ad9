"""Verify a stage's folder against its report: every hash, every rendered file, and the verdict.

It hashes, judges and renders the evidence again, and compares the results with the files.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from drills.rollout.report import stage_files
from drills.rollout.report.stage_page import Kept
from drills.rollout.setup import evidence, journal, records
from drills.rollout.setup.records import Evidence, Signoff, StageReport, Waiver
from drills.rollout.verdict import judging
from sim.base import bounded_reads
from sim.base.clocks import from_iso
from sim.base.errors import EvidenceError

_MAX_DIFFERENCES = 5  # differences that are listed


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a verification. `problems` are sentences that name the problem and its place."""

    run_id: str
    decision: str  # of the new judgement
    files: int  # number of hashed files
    signed_by: str
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether everything matches."""
        return not self.problems


def verify(run_dir: Path) -> Verified:
    """Verify a stage's folder. Writes nothing.

    Raises `UsageError` for a folder that is not a stage's, and `EvidenceError` if its plan cannot be read.
    """
    plan = evidence.read_plan(run_dir)
    problems: list[str] = []
    written = _report(run_dir, problems)
    signoff = _signoff(run_dir, plan.run_id, problems)
    waivers = _waivers(run_dir, problems)
    problems += _journal(run_dir, plan.run_id, waivers)
    now = judging.judge_stage(run_dir)
    if written is not None:
        problems += _files(written.evidence, now.evidence)
        problems += _rendered(run_dir, written)
        problems += _verdict(run_dir, written, now)
    return Verified(
        run_id=plan.run_id,
        decision=now.decision,
        files=len(now.evidence) + (len(written.rendered) + 1 if written else 0),
        signed_by=f"{signoff.owner} ({signoff.role}), {signoff.at}" if signoff else "",
        problems=tuple(dict.fromkeys(problems)),
    )


def _report(run_dir: Path, problems: list[str]) -> StageReport | None:
    """Read the report, and check that its bytes are those that stormgate writes."""
    path = run_dir / records.REPORT
    try:
        report = evidence.read_report(run_dir)
    except EvidenceError as error:
        problems.append(str(error))
        return None
    if report is None:
        problems.append(f"{path}: is missing; this stage has no verdict yet.")
    elif evidence.encoded(report) != bounded_reads.file_bytes(path):
        problems.append(f"{path}: was edited: stormgate writes it differently.")
    return report


def _signoff(run_dir: Path, run_id: str, problems: list[str]) -> Signoff | None:
    """Read the signature, if any, and check that it belongs to this report."""
    path = run_dir / records.SIGNOFF
    try:
        signoff = evidence.read_signoff(run_dir)
        if signoff is None:
            return None
        from_iso(signoff.at)
        if msgspec.json.decode(bounded_reads.file_bytes(path)) != msgspec.to_builtins(signoff):
            raise EvidenceError(f"{path}: has unknown keys.")
    except EvidenceError as error:
        problems.append(str(error))
        return None
    except ValueError as error:
        problems.append(f"{path}: is damaged ({error}).")
        return None
    report = run_dir / records.REPORT
    if not report.is_file() or bounded_reads.file_sha256(report) != signoff.report_sha256:
        problems.append(f"{report}: was changed after {signoff.owner} signed it at {signoff.at} (its SHA-256 differs).")
    if signoff.run_id != run_id:
        problems.append(f"{path}: signs run {signoff.run_id}, not {run_id}.")
    return signoff


def _waivers(run_dir: Path, problems: list[str]) -> list[Waiver]:
    """Read the waivers, and check that they belong to this report. They decide nothing."""
    try:
        waivers = evidence.read_waivers(run_dir)
        wanted = evidence.sha256(run_dir / records.REPORT) if waivers else ""
    except EvidenceError as error:
        problems.append(str(error))
        return []
    others = [waiver for waiver in waivers if waiver.report_sha256 != wanted]
    problems += [
        f"{run_dir / records.WAIVERS}: the waiver of {each.check} by {each.owner} is for another report." for each in others
    ]
    return waivers


def _journal(run_dir: Path, run_id: str, waivers: list[Waiver]) -> Iterator[str]:
    """Compare plan, report, signature and waivers with the rollout's journal, if there is one."""
    path = run_dir.resolve().parent.parent / journal.NAME
    if not path.exists():
        return
    try:
        entries = [entry for entry in journal.read(path) if entry.body.get("run") == run_id]
    except EvidenceError as error:
        yield str(error)
        return
    planned = [entry.body["plan_sha256"] for entry in entries if "plan_sha256" in entry.body]
    if planned and evidence.sha256(run_dir / records.PLAN) != planned[-1]:
        yield f"{run_dir / records.PLAN}: is not the one that the journal records."
    for name, key in ((records.REPORT, "report_sha256"), (records.SIGNOFF, "signoff_sha256")):
        wanted = [entry.body[key] for entry in entries if key in entry.body]
        here = (run_dir / name).is_file()
        if wanted and (not here or evidence.sha256(run_dir / name) != wanted[-1]):
            yield f"{run_dir / name}: is not the one that the journal records."
        elif here and not wanted:
            yield f"{run_dir / name}: the journal does not record it."
    known = {entry.body.get("waiver_sha256") for entry in entries}
    for waiver in waivers:
        if waiver.sha256 not in known:
            yield f"{run_dir / records.WAIVERS}: the journal does not record the waiver of {waiver.check} by {waiver.owner}."


def _files(written: tuple[Evidence, ...], now: tuple[Evidence, ...]) -> Iterator[str]:
    """List evidence that is missing, changed, or newer than the report."""
    was, found = {each.path: each for each in written}, {each.path: each for each in now}
    for path in sorted(was.keys() | found.keys()):
        if path not in found:
            yield f"{path}: is missing."
        elif path not in was:
            yield f"{path}: did not exist when the report was written."
        elif was[path] != found[path]:
            yield f"{path}: was changed (its SHA-256 differs)."


def _rendered(run_dir: Path, written: StageReport) -> Iterator[str]:
    """Check the report's other files by their hashes and by rendering them again, except the page with figures."""
    again = stage_files.render(written, Kept())
    for each in written.rendered:
        try:
            found = evidence.described(run_dir, run_dir / each.path)
        except EvidenceError as error:
            yield str(error)
            continue
        if found != each:
            yield f"{each.path}: was changed (its SHA-256 differs)."
        elif each.path != records.REPORT_HTML and bounded_reads.file_bytes(run_dir / each.path) != again.get(each.path):
            yield f"{each.path}: differs from what this version of stormgate writes."
    if {each.path for each in written.rendered} != set(again):
        yield f"{records.REPORT}: does not list the files that belong to it."
    for name in evidence.RENDERED:
        if name not in again and (run_dir / name).exists():
            yield f"{name}: does not belong to this report."


def _verdict(run_dir: Path, written: StageReport, now: StageReport) -> Iterator[str]:
    """Compare the verdict on the evidence with that of the report."""
    if written.decision != now.decision or written.reason != now.reason:
        was, is_now = (f"{each.decision} {each.reason}".strip() for each in (written, now))
        yield f"{records.REPORT}: says {was}, but the evidence says {is_now}."
    own = msgspec.structs.replace(now, rendered=written.rendered, evidence=written.evidence)
    differences = list(_differences("", msgspec.to_builtins(written), msgspec.to_builtins(own)))
    for where in differences[:_MAX_DIFFERENCES]:
        yield f"{records.REPORT}: {where} differs from the evidence."
    if len(differences) > _MAX_DIFFERENCES:
        yield f"{records.REPORT}: and {len(differences) - _MAX_DIFFERENCES} more places differ from the evidence."


def _differences(where: str, one: object, other: object) -> Iterator[str]:
    """The places where two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from _differences(f"{where}.{key}".lstrip("."), one.get(key), other.get(key))
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for n, (mine, yours) in enumerate(zip(one, other, strict=True)):
            yield from _differences(f"{where}[{_named(mine, n)}]", mine, yours)
    elif one != other:
        yield where or "everything"


def _named(value: object, n: int) -> str:
    """An entry's name, or its number."""
    found = next((value[key] for key in ("check", "name", "id") if value.get(key)), n) if isinstance(value, dict) else n
    return str(found)
