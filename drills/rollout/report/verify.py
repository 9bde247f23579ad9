"""Whether a stage's folder is what its report says: every hash, every word, and the verdict itself, worked out again.

Nothing is trusted but the rules: what is there is hashed, judged and rendered anew, and held against what was written then.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from drills.rollout.report import stage_files
from drills.rollout.setup import evidence, journal, records
from drills.rollout.setup.records import Evidence, Signoff, StageReport, Waiver
from drills.rollout.verdict import judging
from sim.base.clocks import from_iso
from sim.base.errors import EvidenceError

_MAX_DIFFERENCES = 5  # told of a report that is not what its evidence says


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What verifying found; `troubles` are sentences that say what and where, none when all holds."""

    run_id: str
    decision: str  # as worked out again; empty when it cannot be
    files: int  # that were hashed
    signed_by: str
    troubles: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether all of it is as it was."""
        return not self.troubles


def verify(run_dir: Path) -> Verified:
    """Work everything out again; writes nothing.

    Raises `UsageError` for a folder that is none of a stage, and `EvidenceError` where not even its plan can be read.
    """
    plan = evidence.read_plan(run_dir)
    troubles: list[str] = []
    written = _report(run_dir, troubles)
    signoff = _signoff(run_dir, plan.run_id, troubles)
    waivers = _waivers(run_dir, troubles)
    troubles += _journal(run_dir, plan.run_id, waivers)
    now = judging.judge_stage(run_dir)
    if written is not None:
        troubles += _files(written.evidence, now.evidence)
        troubles += _rendered(run_dir, written)
        troubles += _verdict(run_dir, written, now)
    return Verified(
        run_id=plan.run_id,
        decision=now.decision,
        files=len(now.evidence) + (len(written.rendered) + 1 if written else 0),
        signed_by=f"{signoff.owner} ({signoff.role}), {signoff.at}" if signoff else "",
        troubles=tuple(dict.fromkeys(troubles)),
    )


def _report(run_dir: Path, troubles: list[str]) -> StageReport | None:
    """The report as it was written, once it is sure that these are its own bytes."""
    path = run_dir / records.REPORT
    try:
        report = evidence.read_report(run_dir)
    except EvidenceError as error:
        troubles.append(str(error))
        return None
    if report is None:
        troubles.append(f"{path}: is missing; this stage was not concluded.")
    elif stage_files.encoded(report) != path.read_bytes():
        troubles.append(f"{path}: is not as stormgate writes it; it was edited.")
    return report


def _signoff(run_dir: Path, run_id: str, troubles: list[str]) -> Signoff | None:
    """The signature, which must be of this very report."""
    path = run_dir / records.SIGNOFF
    try:
        signoff = evidence.read_signoff(run_dir)
        if signoff is None:
            return None
        from_iso(signoff.at)
        if msgspec.json.decode(path.read_bytes()) != msgspec.to_builtins(signoff):
            raise EvidenceError(f"{path}: has more in it than a signature has.")
    except EvidenceError as error:
        troubles.append(str(error))
        return None
    except ValueError as error:
        troubles.append(f"{path}: is damaged ({error}).")
        return None
    report = run_dir / records.REPORT
    if not report.is_file() or hashlib.sha256(report.read_bytes()).hexdigest() != signoff.report_sha256:
        troubles.append(f"{report}: was changed after {signoff.owner} signed it at {signoff.at} (its SHA-256 differs).")
    if signoff.run_id != run_id:
        troubles.append(f"{path}: is a signature of run {signoff.run_id}, not of {run_id}.")
    return signoff


def _waivers(run_dir: Path, troubles: list[str]) -> list[Waiver]:
    """Waivers decide nothing, but they must be readable, and of this report."""
    path, report = run_dir / records.WAIVERS, run_dir / records.REPORT
    if not path.exists():
        return []
    try:
        waivers = msgspec.json.decode(path.read_bytes(), type=list[Waiver])
        wanted = hashlib.sha256(report.read_bytes()).hexdigest()
    except (OSError, msgspec.DecodeError, ValueError) as error:
        troubles.append(f"{path}: is damaged ({error}).")
        return []
    others = [waiver for waiver in waivers if waiver.report_sha256 != wanted]
    troubles += [f"{path}: the waiver of {each.check} by {each.owner} is of another report." for each in others]
    return waivers


def _journal(run_dir: Path, run_id: str, waivers: list[Waiver]) -> Iterator[str]:
    """What the rollout's journal tells of this run, where there is one: its report, its signature, its waivers."""
    path = run_dir.resolve().parent.parent / journal.NAME
    if not path.exists():
        return
    try:
        told = [entry for entry in journal.read(path) if entry.body.get("run") == run_id]
    except EvidenceError as error:
        yield str(error)
        return
    planned = [entry.body["plan_sha256"] for entry in told if "plan_sha256" in entry.body]
    if planned and evidence.sha256(run_dir / records.PLAN) != planned[-1]:
        yield f"{run_dir / records.PLAN}: is not the one that the journal tells of."
    for name, key in ((records.REPORT, "report_sha256"), (records.SIGNOFF, "signoff_sha256")):
        wanted = [entry.body[key] for entry in told if key in entry.body]
        here = (run_dir / name).is_file()
        if wanted and (not here or evidence.sha256(run_dir / name) != wanted[-1]):
            yield f"{run_dir / name}: is not the one that the journal tells of."
        elif here and not wanted:
            yield f"{run_dir / name}: the journal does not tell of it."
    known = {entry.body.get("waiver_sha256") for entry in told}
    for waiver in waivers:
        if hashlib.sha256(msgspec.json.encode(waiver, order="deterministic")).hexdigest() not in known:
            yield f"{run_dir / records.WAIVERS}: the journal does not tell of the waiver of {waiver.check} by {waiver.owner}."


def _files(written: tuple[Evidence, ...], now: tuple[Evidence, ...]) -> Iterator[str]:
    """Evidence that is missing, changed, or was not there when the report was written."""
    was, found = {each.path: each for each in written}, {each.path: each for each in now}
    for path in sorted(was.keys() | found.keys()):
        if path not in found:
            yield f"{path}: is missing."
        elif path not in was:
            yield f"{path}: was not there when the report was written."
        elif was[path] != found[path]:
            yield f"{path}: was changed (its SHA-256 differs)."


def _rendered(run_dir: Path, written: StageReport) -> Iterator[str]:
    """The report's other files: by their hashes, and, but for the figures in one, by rendering them again."""
    again = stage_files.render(written, ())
    for each in written.rendered:
        try:
            found = evidence.described(run_dir, run_dir / each.path)
        except EvidenceError as error:
            yield str(error)
            continue
        if found != each:
            yield f"{each.path}: was changed (its SHA-256 differs)."
        elif each.path != records.REPORT_HTML and (run_dir / each.path).read_bytes() != again.get(each.path):
            yield f"{each.path}: is not what this version of stormgate writes of the report."
    if {each.path for each in written.rendered} != set(again):
        yield f"{records.REPORT}: does not name the files that belong to it."
    for name in evidence.RENDERED:
        if name not in again and (run_dir / name).exists():
            yield f"{name}: does not belong to this report."


def _verdict(run_dir: Path, written: StageReport, now: StageReport) -> Iterator[str]:
    """What the evidence says now against what the report says."""
    if written.decision != now.decision or written.reason != now.reason:
        said = f"{written.decision} {written.reason}".strip()
        yield f"{records.REPORT}: says {said}, but the evidence says {f'{now.decision} {now.reason}'.strip()}."
    own = msgspec.structs.replace(now, rendered=written.rendered, evidence=written.evidence)
    differences = list(_differences("", msgspec.to_builtins(written), msgspec.to_builtins(own)))
    for where in differences[:_MAX_DIFFERENCES]:
        yield f"{records.REPORT}: {where} is not what the evidence says."
    if len(differences) > _MAX_DIFFERENCES:
        yield f"{records.REPORT}: and {len(differences) - _MAX_DIFFERENCES} more places are not what the evidence says."


def _differences(where: str, one: object, other: object) -> Iterator[str]:
    """The places in which two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from _differences(f"{where}.{key}".lstrip("."), one.get(key), other.get(key))
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for n, (mine, yours) in enumerate(zip(one, other, strict=True)):
            yield from _differences(f"{where}[{_named(mine, n)}]", mine, yours)
    elif one != other:
        yield where or "all of it"


def _named(value: object, n: int) -> str:
    """An entry by its name, where it has one."""
    found = next((value[key] for key in ("check", "name", "id") if value.get(key)), n) if isinstance(value, dict) else n
    return str(found)
