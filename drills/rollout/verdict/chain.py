"""The previous stages, and what changed since the nearest one, check by check.

Each report names the previous one by run and hash, so that no report can be replaced.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from drills.judging.checks.verdicts import GRAVEST_FIRST, State
from drills.rollout.setup import evidence, journal, records
from drills.rollout.setup import stages as stages_file
from drills.rollout.setup.records import Change, Gate, GateCheck, Requirement, Stage, StagePlan, StageReport
from drills.rollout.setup.stages import PREFLIGHT, Stages
from sim.base import atomic_files
from sim.base.clocks import from_iso
from sim.base.errors import EvidenceError, StormgateError

SAME = (
    "rollout",
    "target",
    "target_kind",
    "configuration_sha256",
    "revisions",
    "thresholds_sha256",
)  # equal in a stage and the previous one
EXPIRED = "expired: "  # the reason of a requirement begins with this if only its age is wrong
_MAX_STAGES = 20


@dataclass(frozen=True)
class Earlier:
    """A previous stage, by its report."""

    run_dir: Path
    report: StageReport


def earlier(run_dir: Path, plan: StagePlan) -> Iterator[Earlier]:
    """The previous stages, the nearest first. Raises `EvidenceError` for a missing or replaced report."""
    for _ in range(_MAX_STAGES):
        if not plan.previous_run:
            return
        run_dir = run_dir.parent / plan.previous_run
        path = run_dir / records.REPORT
        if not path.is_file():
            raise EvidenceError(f"{path}: is missing, so the previous stage cannot be verified.")
        if evidence.sha256(path) != plan.previous_report_sha256:
            raise EvidenceError(f"{path}: is not the report that unlocked the next stage (its SHA-256 differs).")
        report = atomic_files.read_struct(path, StageReport)
        yield Earlier(run_dir, report)
        plan = report.plan
    raise EvidenceError(f"{run_dir}: its previous stages form a circle.")


def preflight(run_dir: Path, plan: StagePlan) -> Earlier:
    """The stage 0 that a stage is based on. Raises `EvidenceError` without one."""
    found = [before for before in earlier(run_dir, plan) if before.report.plan.stage == PREFLIGHT]
    if not found:
        raise EvidenceError(f"{run_dir}: it has no stage 0, so there is no baseline to compare with and no rehearsal.")
    return found[0]


def signed_preflights(run_dir: Path, plan: StagePlan) -> Iterator[Earlier]:
    """Every stage 0 that was a signed go before this stage began, from all rollouts in the same folder.

    Leaves out unreadable ones, and those whose journal does not record the report and its signature.
    """
    began = from_iso(plan.began)
    for path in sorted(run_dir.resolve().parents[2].glob(f"*/runs/*/{records.REPORT}")):
        try:
            report, signoff = atomic_files.read_struct(path, StageReport), evidence.read_signoff(path.parent)
        except EvidenceError:
            continue
        is_go = signoff is not None and (report.plan.stage, report.decision, signoff.decision) == ("0", "go", "go")
        if is_go and _is_recorded(path.parent) and signoff is not None and from_iso(signoff.at) <= began:
            yield Earlier(path.parent, report)


def later_no_go(run_dir: Path, plan: StagePlan, good: Earlier) -> StageReport | None:
    """The latest stage 0 of the same target and revisions that ended no-go after `good`, and before this stage began."""
    found = []
    for path in run_dir.resolve().parents[2].glob(f"*/runs/*/{records.REPORT}"):
        try:
            report = atomic_files.read_struct(path, StageReport)
        except EvidenceError:
            continue
        old, ours = report.plan, good.report.plan
        same = (old.stage, old.target, old.revisions) == (ours.stage, ours.target, ours.revisions)
        is_between = from_iso(good.report.ended) < from_iso(report.ended) <= from_iso(plan.began)
        if same and is_between and report.decision != "go":
            found.append(report)
    return max(found, key=lambda each: each.ended, default=None)


def _is_recorded(run_dir: Path) -> bool:
    """Whether the journal of a run's rollout records its report and signature unchanged."""
    try:
        bodies = [
            entry.body for entry in journal.read(run_dir.parents[1] / journal.NAME) if entry.body.get("run") == run_dir.name
        ]
        report, signoff = evidence.sha256(run_dir / records.REPORT), evidence.sha256(run_dir / records.SIGNOFF)
    except EvidenceError:
        return False
    of_report = [body["report_sha256"] for body in bodies if "report_sha256" in body]
    return set(of_report) == {report} and [body["signoff_sha256"] for body in bodies if "signoff_sha256" in body] == [signoff]


def require_unchanged(stage: Earlier) -> None:
    """Raise `EvidenceError` if a file changed that an earlier report is based on."""
    wanted = {each.path: each.sha256 for each in stage.report.evidence}
    found = {each.path: each.sha256 for each in evidence.files(stage.run_dir)}
    for path in sorted(wanted.keys() | found.keys()):
        if wanted.get(path) != found.get(path):
            raise EvidenceError(f"{stage.run_dir / path}: is not the file that the report of that stage is based on.")


def previous_stage(run_dir: Path, plan: StagePlan, rules: Stages | None = None) -> Requirement:
    """Whether the previous stage is a signed go, with the same revisions and thresholds, and not too old.

    `rules` is the stages file; without it, the run's own copy.
    """
    proof = f"../{plan.previous_run}/{records.REPORT}" if plan.previous_run else ""
    try:
        state, reason = _unlocked(run_dir, plan, rules or stages_file.load(run_dir / records.STAGES))
    except (StormgateError, ValueError) as error:
        state, reason = State.ERROR, str(error)
    return Requirement(name="previous_stage", state=state, reason=reason, evidence=proof)


def _unlocked(run_dir: Path, plan: StagePlan, rules: Stages) -> tuple[State, str]:
    before = next(earlier(run_dir, plan), None)
    if before is None:
        return State.NOT_RUN, f"stage {plan.stage} began without stage {rules.before(plan.stage)}"
    old, signoff = before.report, evidence.read_signoff(before.run_dir)
    named = f"stage {old.plan.stage} ({old.plan.run_id})"
    if signoff is None:
        return State.NOT_RUN, f"{named} is not signed"
    if signoff.report_sha256 != plan.previous_report_sha256 or signoff.run_id != old.plan.run_id:
        return State.FAIL, f"the signature of {named} is of another report"
    if wrong := next(_differences(plan, old, named, rules.before(plan.stage)), ""):
        return State.FAIL, wrong
    if (old.decision, signoff.decision) != ("go", "go"):
        return State.FAIL, f"{named} is not a signed go: its report says {old.decision}, its signature {signoff.decision}"
    age = from_iso(plan.began) - from_iso(signoff.at)
    if age < timedelta(0):
        return State.FAIL, f"{named} was signed at {signoff.at}, after this stage began ({plan.began})"
    valid = timedelta(hours=rules.signoff.valid_h)
    if (old_age := from_iso(plan.began) - from_iso(old.ended)) > valid:
        return State.INCONCLUSIVE, f"{EXPIRED}{named} ended {old_age} before this stage began; at most {valid} are allowed"
    if age > valid:
        return State.INCONCLUSIVE, f"{EXPIRED}{named} was signed {age} before this stage began; at most {valid} are allowed"
    return State.PASS, f"{named} is a go that {signoff.owner} signed {age} before, with the same revisions and thresholds"


def _differences(plan: StagePlan, old: StageReport, named: str, before: Stage | None) -> Iterator[str]:
    """The values that differ between two stages but must be equal."""
    if old.plan.stage != before:
        yield f"{named} is not the previous stage of stage {plan.stage}, which is {before}"
    for what in SAME:
        was, now = getattr(old.plan, what), getattr(plan, what)
        if was != now:
            yield f"{what.replace('_', ' ')} changed since {named}: {was}, now {now}"


def changes(run_dir: Path, plan: StagePlan, judged: Sequence[Gate]) -> tuple[Change, ...]:
    """Compare with the previous stage's report, worse checks first. Empty if there is no valid previous report."""
    try:
        before = next(earlier(run_dir, plan), None)
    except EvidenceError:  # the requirement previous_stage reports it
        return ()
    return compare(before.report.gates, judged) if before else ()


def compare(before: Sequence[Gate], now: Sequence[Gate]) -> tuple[Change, ...]:
    """Compare every check of either report, worse checks first."""
    old, new = ({(check.gate, check.check): check for gate in gates for check in gate.checks} for gates in (before, now))
    found = [_change(name, old.get(name), new.get(name)) for name in dict.fromkeys((*new, *old))]
    return tuple(sorted(found, key=lambda each: ("worse", "better", "same").index(each.verdict)))


def _change(name: tuple[str, str], old: GateCheck | None, new: GateCheck | None) -> Change:
    was, now = (old.value if old else None), (new.value if new else None)
    known = next(check for check in (new, old) if check)
    return Change(
        gate=name[0],
        check=name[1],
        unit=known.unit,
        before_state=old.state if old else "",
        state=new.state if new else "",
        before=was,
        now=now,
        change=now - was if was is not None and now is not None else None,
        verdict=_verdict(old, new),
    )


def _verdict(old: GateCheck | None, new: GateCheck | None) -> Literal["better", "worse", "same"]:
    if old is None or new is None or old.state == new.state:
        return "same"
    is_worse = GRAVEST_FIRST.index(State(new.state)) < GRAVEST_FIRST.index(State(old.state))
    return "worse" if is_worse else "better"
