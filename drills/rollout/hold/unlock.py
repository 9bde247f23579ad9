"""Decide whether a stage may begin: the previous stage must be a signed, recent go for the deployed revisions."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from drills.judging.checks.verdicts import State
from drills.rollout.hold import rollouts
from drills.rollout.hold.rollouts import RunRecord
from drills.rollout.setup import evidence, records
from drills.rollout.setup.journal import Entry
from drills.rollout.setup.records import Signoff, Stage, StagePlan, StageReport
from drills.rollout.setup.stages import Stages
from drills.rollout.verdict import chain
from sim.base.clocks import from_iso
from sim.base.errors import StormgateError, UsageError


def require_unlocked(folder: Path, entries: Sequence[Entry], plan: StagePlan, now: datetime, rules: Stages) -> None:
    """Raise `UsageError`, all reasons in one sentence, unless the planned stage may begin."""
    trouble = list(missing(folder, entries, plan.stage, now, rules))
    if plan.target_kind == "mock":
        trouble.insert(0, f"target '{plan.target}' is a mock, and a mock unlocks no stage but 0")
    if not trouble and plan.stage != "0":
        found = chain.previous_stage(rollouts.run_dir(folder, plan.run_id), plan, rules)
        trouble += [found.reason] if found.state != State.PASS else []
    if not plan.revisions.known:
        trouble.append("the revisions of control service and runtime cannot be found out, so a change would go unnoticed")
    if trouble:
        raise UsageError(f"stage {plan.stage} cannot begin: {'; '.join(text.rstrip('.') for text in trouble)}.")


def missing(folder: Path, entries: Sequence[Entry], stage: Stage, now: datetime, rules: Stages) -> Iterator[str]:
    """Sentences on what a stage still needs, as far as the rollout's own files show."""
    before = rules.before(stage)
    if before is None:
        return
    if strange := rollouts.unrecorded(folder, entries):
        yield f"the journal lacks the run {strange[0]}, which exists: the journal's end was cut off, or it is an older copy"
    run = rollouts.latest(entries, before)
    if run is None:
        yield f"stage {before} has not been run"
    elif run.reported is None:
        yield f"stage {run.stage} ({run.run_id}) has no report yet"
    else:
        try:
            yield from _reported(rollouts.run_dir(folder, run.run_id), run, now, rules.signoff.valid_h)
            yield from superseded(folder, entries, run)
        except (StormgateError, ValueError) as error:
            yield str(error)


def _reported(run_dir: Path, run: RunRecord, now: datetime, valid_h: float) -> Iterator[str]:
    named = f"stage {run.stage} ({run.run_id})"
    report = recorded_report(run_dir, run)
    if report.plan.target_kind == "mock":
        yield f"{named} ran on a mock, which unlocks no stage, whatever its result"
    if report.decision != "go":
        yield f"{named} is a no-go ({report.reason.replace('_', ' ')}): {next(iter(report.why), 'it gives no reason')}"
        return
    chain.require_unchanged(chain.Earlier(run_dir, report))
    if (old := now - from_iso(report.ended)) > timedelta(hours=valid_h):
        yield f"{named} ended {old.total_seconds() / 3600:.1f} h ago, and {valid_h:g} h are allowed: run it again"
    signoff = recorded_signoff(run_dir, run)
    if signoff is None:
        yield f"{named} is not signed"
        return
    if signoff.decision != "go":
        yield f"{signoff.owner} signed {named} as a no-go"
    if (age := now - from_iso(signoff.at)) > timedelta(hours=valid_h):
        yield f"{named} was signed {age.total_seconds() / 3600:.1f} h ago, and {valid_h:g} h are allowed: run it again"
    if age < timedelta(0):
        yield f"{named} was signed at {signoff.at}, which is in the future: a clock was set back"


def superseded(folder: Path, entries: Sequence[Entry], run: RunRecord) -> Iterator[str]:
    """Sentences on earlier stages of a run that were run again without a signed go for the same target and revisions.

    Raises `EvidenceError` if an earlier stage cannot be read.
    """
    run_dir = rollouts.run_dir(folder, run.run_id)
    for before in chain.earlier(run_dir, evidence.read_plan(run_dir)):
        old = before.report.plan
        newest = rollouts.latest(entries, old.stage)
        if newest is None:
            yield f"stage {run.stage} ({run.run_id}) rests on {old.run_id}, which the journal lacks"
        elif newest.run_id != old.run_id and not _is_same_go(folder, newest, old):
            yield (
                f"stage {run.stage} ({run.run_id}) rests on {old.run_id}; stage {old.stage} was run again since "
                f"({newest.run_id}), which is no signed go of the same"
            )


def _is_same_go(folder: Path, run: RunRecord, old: StagePlan) -> bool:
    if run.reported is None:
        return False
    run_dir = rollouts.run_dir(folder, run.run_id)
    report, signoff = recorded_report(run_dir, run), recorded_signoff(run_dir, run)
    same = all(getattr(report.plan, name) == getattr(old, name) for name in chain.SAME)
    return same and signoff is not None and (report.decision, signoff.decision) == ("go", "go")


def recorded_report(run_dir: Path, run: RunRecord) -> StageReport:
    """A run's report. Raises `UsageError` if it is missing or not the one in the journal, and `EvidenceError`."""
    path = run_dir / records.REPORT
    report = evidence.read_report(run_dir)
    if report is None or run.reported is None:
        raise UsageError(f"{run_dir}: has no report.")
    rollouts.require_plan(run_dir, run)
    if evidence.sha256(path) != run.reported.body["report_sha256"]:
        raise UsageError(f"{path}: is not the report that was made (its SHA-256 differs); it was changed afterwards.")
    return report


def recorded_signoff(run_dir: Path, run: RunRecord) -> Signoff | None:
    """A run's signature; None without one. Raises `UsageError` for a signature that is missing from the journal or changed."""
    signoff = evidence.read_signoff(run_dir)
    path = run_dir / records.SIGNOFF
    if run.signed is None:
        if signoff is not None:
            raise UsageError(f"{path}: the journal lacks this signature; sign with `stormgate stage sign`.")
        return None
    if signoff is None or evidence.sha256(path) != run.signed.body["signoff_sha256"]:
        raise UsageError(f"{path}: is not the signature that was made (its SHA-256 differs); it was changed afterwards.")
    if signoff.report_sha256 != evidence.sha256(run_dir / records.REPORT):
        raise UsageError(f"{path}: is of another report than the one beside it, which was changed afterwards.")
    return signoff
