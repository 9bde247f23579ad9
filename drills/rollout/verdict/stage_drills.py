"""Judge the drills of a stage again from their own files, and return their results for the gates."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec

from drills.judging.checks.base import NAN, Answer, result
from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.specs import CheckSpec, Origin
from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, DrillVerdict, RunVerdict, State
from drills.rollout.setup import evidence, records
from drills.rollout.setup import stages as stages_file
from drills.rollout.setup.records import DrillDone, GateCheck, StagePlan
from drills.rollout.verdict import chain
from drills.rollout.verdict.requirements import Found, all_passed, most_severe
from drills.runs import results
from drills.runs.request import SIMULATED
from sim.base.clocks import from_iso
from sim.base.errors import StormgateError

# The gate checks that need a fault, so only drills can decide them.
CHECKS = (
    "reconnect.live_again_99_s",
    "reconnect.backoff_bounded",
    "reconnect.backoff_unjittered",
    "reconnect.backoff_never_resets",
)


@dataclass(frozen=True)
class DrillEvidence:
    """The drills that count for a stage, its own or those of an earlier one. `problem`: why they cannot count, or empty."""

    of: str  # in words
    verdicts: Mapping[str, RunVerdict]  # by the run's folder, relative to the stage's
    problem: str = ""
    with_faults: "DrillEvidence | None" = None  # drills on a staging target, if this target allows no faults


def of_stage(run_dir: Path, plan: StagePlan) -> DrillEvidence:
    """The stage's own drills if it requires any; else those of the nearest previous stage that did, with the same revisions."""
    try:
        if "drills" in plan.required or not plan.previous_run:
            return DrillEvidence("drills of this stage", dict(_judged(run_dir)), with_faults=_elsewhere(run_dir, plan))
        for before in chain.earlier(run_dir, plan):
            if "drills" in before.report.plan.required:
                return _carried(before, plan)
        return DrillEvidence("drills", {})
    except StormgateError as error:
        return DrillEvidence("drills", {}, str(error))


def _carried(before: chain.Earlier, plan: StagePlan) -> DrillEvidence:
    old = before.report.plan
    of = f"drills of stage {old.stage} ({old.run_id})"
    if old.revisions != plan.revisions or not plan.revisions.known:
        return DrillEvidence(of, {}, f"the {of} ran on other or unknown revisions")
    chain.require_unchanged(before)
    return DrillEvidence(of, dict(_judged(before.run_dir)), with_faults=_elsewhere(before.run_dir, old))


def _elsewhere(run_dir: Path, plan: StagePlan) -> "DrillEvidence | None":
    """The drills of a staging target on the same revisions, for a production target, which allows no faults.

    They count if they belong to the last signed go of a preflight that ended before this one began, not too long ago, with the
    same thresholds and unchanged files, and no later one there was a no-go.
    """
    if plan.target_kind != "production" or not plan.revisions.known:
        return None
    for before in sorted(chain.signed_preflights(run_dir, plan), key=lambda each: each.report.ended, reverse=True):
        old = before.report.plan
        same = (old.revisions, old.thresholds_sha256) == (plan.revisions, plan.thresholds_sha256)
        if old.target_kind == "staging" and same and from_iso(before.report.ended) <= from_iso(plan.began):
            of = f"drills of stage 0 on {old.target} ({old.run_id} of rollout {old.rollout})"
            valid = timedelta(hours=stages_file.load(run_dir / records.STAGES).signoff.staging_valid_h)
            if (age := from_iso(plan.began) - from_iso(before.report.ended)) > valid:
                return DrillEvidence(of, {}, f"the {of} ended {age} before this preflight began; at most {valid} are allowed")
            if (worse := chain.later_no_go(run_dir, plan, before)) is not None:
                later = f"{worse.plan.run_id} of rollout {worse.plan.rollout}"
                return DrillEvidence(of, {}, f"the {of} were a go, but a later preflight there was none ({later})")
            chain.require_unchanged(before)
            return DrillEvidence(of, dict(_judged(before.run_dir)))
    return None


def _judged(run_dir: Path) -> Iterator[tuple[str, RunVerdict]]:
    folder = run_dir / records.DRILLS
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir():
            yield f"{records.DRILLS}/{path.name}", results.judge_run(path)


def requirement(run_dir: Path, plan: StagePlan, drills: DrillEvidence) -> Found:
    """Whether every drill of this stage passed and matches its record in `results.jsonl`."""
    if drills.problem:
        return State.ERROR, drills.problem
    recorded = evidence.read_lines(run_dir / records.DRILL_RESULTS, DrillDone)
    absent = sorted(set(plan.drills) - {each.name for each in recorded})
    found: list[Found] = [(State.NOT_RUN, f"{name}: was not run") for name in absent]
    found += [*_mismatches(recorded, drills), *(_run(plan, run, verdict) for run, verdict in drills.verdicts.items())]
    found += [(State(each.status), f"{each.name}: {each.reason or each.status}") for each in recorded if each.status != "pass"]
    if not drills.verdicts:
        return most_severe(found) if found else (State.NOT_RUN, "no drill was run")
    return all_passed(found, f"Failures: 0, of {sum(len(verdict.drills) for verdict in drills.verdicts.values())} drills")


def _mismatches(recorded: list[DrillDone], drills: DrillEvidence) -> Iterator[Found]:
    """Drills that are recorded but missing, not recorded, or recorded with another state."""
    there = {(run, drill.name): drill for run, verdict in drills.verdicts.items() for drill in verdict.drills}
    named = {(_below(each.run), each.name): each for each in recorded}
    for run, name in sorted(there.keys() - named.keys()):
        yield State.ERROR, f"{name}: {run} is not recorded in {records.DRILL_RESULTS}"
    for run, name in sorted(named.keys() - there.keys()):
        if named[run, name].status not in ("not_run", "error"):
            yield State.ERROR, f"{name}: {run or 'its run'} is recorded in {records.DRILL_RESULTS}, but it is missing"
    for key in sorted(named.keys() & there.keys()):
        if named[key].status != str(there[key].status):
            yield State.ERROR, f"{key[1]}: is recorded as {named[key].status}, but its files say {there[key].status}"


def _below(run: str) -> str:
    """The path of a run's folder relative to the stage's; a bare name is in the drills folder."""
    return run if not run or "/" in run else f"{records.DRILLS}/{run}"


def _run(plan: StagePlan, run: str, verdict: RunVerdict) -> Found:
    """Judge one run of drills: whether it belongs to this stage, and its verdict."""
    where = f"{verdict.target} ({verdict.target_kind})"
    same_place = plan.target_kind == "mock" or verdict.target == plan.target  # each drill may have its own mock
    if verdict.target_kind != plan.target_kind or not same_place:
        return State.ERROR, f"{run}: ran against {where}, not {plan.target} ({plan.target_kind})"
    if verdict.engine in SIMULATED:
        return State.ERROR, f"{run}: is a simulation, which passes no gate"
    if {verdict.thresholds_sha256, verdict.recorded_thresholds_sha256} != {plan.thresholds_sha256}:
        return State.ERROR, f"{run}: was judged by other thresholds than this stage"
    return most_severe(
        [(drill.full_status, _summary(drill)) for drill in verdict.drills] or [(State.NOT_RUN, f"{run}: has no drill")]
    )


def _summary(drill: DrillVerdict) -> str:
    wrong = [check for check in drill.checks if check.state is not State.PASS]
    worst = min(wrong, key=lambda check: GRAVEST_FIRST.index(check.state), default=None)
    return f"{drill.name}: {worst.name} {worst.state} ({worst.reason})" if worst else f"{drill.name}: {drill.status}"


def checks(drills: DrillEvidence) -> Iterator[GateCheck]:
    """The drills' results for the gates: per check the most severe one; of equal ones the largest value."""
    for name in CHECKS:
        asked = [drills, *([drills.with_faults] if drills.with_faults else [])]
        answered = [(answers, each) for each in asked if (answers := _answers(name, each))]
        yield _most_severe(*answered[0]) if answered else _not_run(name, drills)


def _answers(name: str, drills: DrillEvidence) -> list[tuple[DrillVerdict, CheckResult, str]]:
    return [
        (drill, check, run)
        for run, verdict in drills.verdicts.items()
        for drill in verdict.drills
        for check in drill.checks
        if check.name == name
    ]


def _most_severe(answers: list[tuple[DrillVerdict, CheckResult, str]], drills: DrillEvidence) -> GateCheck:
    def order(answer: tuple[DrillVerdict, CheckResult, str]) -> tuple[int, float]:
        value = answer[1].value
        return GRAVEST_FIRST.index(answer[1].state), -value if not math.isnan(value) else -math.inf

    drill, check, run = min(answers, key=order)
    found = gate_check(check)
    window, proof = f"{drills.of}: worst of {len(answers)}, {drill.name}", f"{run}/{check.evidence}"
    return msgspec.structs.replace(found, window=window, evidence=proof)


def _not_run(name: str, drills: DrillEvidence) -> GateCheck:
    check = OF_RUNS[name]
    other_problem = drills.with_faults.problem if drills.with_faults else ""
    why = drills.problem or other_problem or "no drill with this check was run"
    return unanswered(check, check.origin, drills.of, records.DRILLS, why, is_error=bool(drills.problem))


def unanswered(spec: CheckSpec, origin: Origin, window: str, proof: str, reason: str, *, is_error: bool) -> GateCheck:
    """A check without a result, as a stage records it."""
    state = State.ERROR if is_error else State.NOT_RUN
    found = result(spec, Answer(state, NAN, 0, reason), proof, origin=origin)
    return gate_check(dataclasses.replace(found, source="", window=window))


def gate_check(found: CheckResult, required: bool = True) -> GateCheck:
    """A check's result as a stage records it. Infinity and NaN become null."""
    fields = dataclasses.asdict(found.sound()) | {"required": required}
    return msgspec.json.decode(msgspec.json.encode(fields), type=GateCheck)
