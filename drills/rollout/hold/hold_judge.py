"""What the gates say of a hold while it lasts, by the same code that judges it afterwards."""

from datetime import datetime

from drills.judging import gates
from drills.judging.checks.verdicts import State
from drills.rollout.hold.hold import Judge, Look
from drills.rollout.hold.rollouts import StageRun
from drills.rollout.setup import records
from drills.rollout.verdict import chain, judging, splits, window
from sim.base.clocks import iso
from sim.base.errors import EvidenceError


def judge_of(run: StageRun) -> Judge:
    """A judge of this stage's folder. Raises `EvidenceError` where stage 0's baseline cannot be had."""
    run_dir, plan = run.run_dir, run.plan
    thresholds = gates.load_thresholds(run_dir / records.THRESHOLDS, is_record=True)
    first = [before for before in chain.earlier(run_dir, plan) if before.report.plan.stage == "0"]
    if not first:
        raise EvidenceError(f"{run_dir}: no stage 0 comes before it, so there is no baseline to compare with.")

    def judge(began: datetime, ended: datetime) -> Look:
        found = window.load(run_dir, first[0].run_dir, iso(began), iso(ended))
        checks = tuple(check for check in window.judge(found, thresholds) if judging.counts(check.name, check.state, plan))
        checks += splits.of(found, thresholds, plan)
        covered = window.coverage(found)
        return Look(checks, State(covered.state), covered.reason, window.abort_reason(found, thresholds))

    return judge
