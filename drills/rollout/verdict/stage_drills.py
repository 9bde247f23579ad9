"""The drills of a stage: each an ordinary run, judged again from its own files, and what they say to the gates."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec

from drills.judging.checks.registry import OF_RUNS, CheckSpec
from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, DrillVerdict, RunVerdict, State
from drills.rollout.setup import evidence, records
from drills.rollout.setup import stages as stages_file
from drills.rollout.setup.records import DrillDone, GateCheck, StagePlan
from drills.rollout.verdict import chain
from drills.rollout.verdict.requirements import Found, gravest
from drills.runs import results
from drills.runs.request import SIMULATED
from sim.base.clocks import from_iso
from sim.base.errors import StormgateError

# What only a drill can show of a gate: somebody has to break something first.
CHECKS = (
    "reconnect.live_again_99_s",
    "reconnect.backoff_bounded",
    "reconnect.backoff_unjittered",
    "reconnect.backoff_never_resets",
)


@dataclass(frozen=True)
class Shown:
    """The drills that speak for a stage, its own or an earlier one's; `trouble` says why there are none to believe."""

    of: str  # in words
    verdicts: Mapping[str, RunVerdict]  # by the run's folder, below the stage's
    trouble: str = ""
    breaking: "Shown | None" = None  # those of a staging, where nothing may be broken on the target itself


def of_stage(run_dir: Path, plan: StagePlan) -> Shown:
    """Its own drills where it has to run some, else those of the nearest stage before that had to, of the same revisions."""
    try:
        if "drills" in plan.required or not plan.previous_run:
            return Shown("drills of this stage", dict(_judged(run_dir)), breaking=_elsewhere(run_dir, plan))
        for before in chain.earlier(run_dir, plan):
            if "drills" in before.report.plan.required:
                return _carried(before, plan)
        return Shown("drills", {})
    except StormgateError as error:
        return Shown("drills", {}, str(error))


def _carried(before: chain.Earlier, plan: StagePlan) -> Shown:
    old = before.report.plan
    of = f"drills of stage {old.stage} ({old.run_id})"
    if old.revisions != plan.revisions or not plan.revisions.known:
        return Shown(of, {}, f"the {of} were run on other revisions, or on unknown ones")
    chain.unspoilt(before)
    return Shown(of, dict(_judged(before.run_dir)), breaking=_elsewhere(before.run_dir, old))


def _elsewhere(run_dir: Path, plan: StagePlan) -> "Shown | None":
    """What a staging has shown of the same revisions, for a target of kind production, which nothing may be broken on.

    It counts as the stage before does: the last signed go of a preflight that was over before this began, under the same
    thresholds, with every file as it was.
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
                return Shown(of, {}, f"the {of} ended {age} before this preflight began; {valid} are allowed")
            chain.unspoilt(before)
            return Shown(of, dict(_judged(before.run_dir)))
    return None


def _judged(run_dir: Path) -> Iterator[tuple[str, RunVerdict]]:
    folder = run_dir / records.DRILLS
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir():
            yield f"{records.DRILLS}/{path.name}", results.judge_run(path)


def requirement(run_dir: Path, plan: StagePlan, shown: Shown) -> Found:
    """Whether every drill of this stage is green, and each is what `results.jsonl` tells of it."""
    if shown.trouble:
        return State.ERROR, shown.trouble
    told = evidence.read_lines(run_dir / records.DRILL_RESULTS, DrillDone)
    absent = sorted(set(plan.drills) - {each.name for each in told})
    found: list[Found] = [(State.NOT_RUN, f"{name}: was not run") for name in absent]
    found += [*_missing(told, shown), *(_run(plan, run, verdict) for run, verdict in shown.verdicts.items())]
    found += [(State(each.status), f"{each.name}: {each.reason or each.status}") for each in told if each.status != "pass"]
    if not shown.verdicts:
        return gravest(found) if found else (State.NOT_RUN, "no drill was run")
    if wrong := [each for each in found if each[0] is not State.PASS]:
        return gravest(wrong)
    count = sum(len(verdict.drills) for verdict in shown.verdicts.values())
    return State.PASS, f"Failures: 0, of {count} drills"


def _missing(told: list[DrillDone], shown: Shown) -> Iterator[Found]:
    """Drills that are told of but not there, or there and not told of."""
    there = {(run, drill.name): drill for run, verdict in shown.verdicts.items() for drill in verdict.drills}
    named = {(_below(each.run), each.name): each for each in told}
    for run, name in sorted(there.keys() - named.keys()):
        yield State.ERROR, f"{name}: {run} is there, but {records.DRILL_RESULTS} does not tell of it"
    for run, name in sorted(named.keys() - there.keys()):
        if named[run, name].status not in ("not_run", "error"):
            yield State.ERROR, f"{name}: {records.DRILL_RESULTS} tells of {run or 'no run'}, which is not there"
    for key in sorted(named.keys() & there.keys()):
        if named[key].status != str(there[key].status):
            yield State.ERROR, f"{key[1]}: is told to be {named[key].status}, but its files say {there[key].status}"


def _below(run: str) -> str:
    """A run's folder below the stage's, also where only the run itself was named."""
    return run if not run or "/" in run else f"{records.DRILLS}/{run}"


def _run(plan: StagePlan, run: str, verdict: RunVerdict) -> Found:
    """One run of drills: whether it is this stage's, and what it says."""
    where = f"{verdict.target} ({verdict.target_kind})"
    same_place = plan.target_kind == "mock" or verdict.target == plan.target  # each drill may have a mock of its own
    if verdict.target_kind != plan.target_kind or not same_place:
        return State.ERROR, f"{run}: ran against {where}, not {plan.target} ({plan.target_kind})"
    if verdict.engine in SIMULATED:
        return State.ERROR, f"{run}: is a simulation, which opens no gate"
    if {verdict.thresholds_sha256, verdict.recorded_thresholds_sha256} != {plan.thresholds_sha256}:
        return State.ERROR, f"{run}: was judged by other thresholds than this stage"
    return gravest([(drill.status, _said(drill)) for drill in verdict.drills] or [(State.NOT_RUN, f"{run}: has no drill")])


def _said(drill: DrillVerdict) -> str:
    wrong = [check for check in drill.checks if check.state is not State.PASS]
    worst = min(wrong, key=lambda check: GRAVEST_FIRST.index(check.state), default=None)
    return f"{drill.name}: {worst.name} {worst.state} ({worst.reason})" if worst else f"{drill.name}: {drill.status}"


def checks(shown: Shown) -> Iterator[GateCheck]:
    """What the drills say to the gates: of each check the gravest answer of any drill, and of equal ones the largest value."""
    for name in CHECKS:
        if answers := _answers(name, shown):
            yield _gravest(answers, shown)
        elif shown.breaking is not None and (answers := _answers(name, shown.breaking)):
            yield _gravest(answers, shown.breaking)
        else:
            yield _unasked(name, shown)


def _answers(name: str, shown: Shown) -> list[tuple[DrillVerdict, CheckResult, str]]:
    return [
        (drill, check, run)
        for run, verdict in shown.verdicts.items()
        for drill in verdict.drills
        for check in drill.checks
        if check.name == name
    ]


def _gravest(answers: list[tuple[DrillVerdict, CheckResult, str]], shown: Shown) -> GateCheck:
    def order(answer: tuple[DrillVerdict, CheckResult, str]) -> tuple[int, float]:
        value = answer[1].value
        return GRAVEST_FIRST.index(answer[1].state), -value if not math.isnan(value) else -math.inf

    drill, check, run = min(answers, key=order)
    found = gate_check(check)
    window, proof = f"{shown.of}: worst of {len(answers)}, {drill.name}", f"{run}/{check.evidence}"
    return msgspec.structs.replace(found, window=window, evidence=proof)


def _unasked(name: str, shown: Shown) -> GateCheck:
    check = OF_RUNS[name]
    elsewhere = shown.breaking.trouble if shown.breaking else ""
    why = shown.trouble or elsewhere or "no drill was run that asks this"
    return unanswered(check, check.origin, shown.of, records.DRILLS, why, is_error=bool(shown.trouble))


def unanswered(check: CheckSpec, origin: str, window: str, proof: str, reason: str, *, is_error: bool) -> GateCheck:
    """A check that nobody has answered, as a stage keeps it."""
    return GateCheck(
        gate=check.gate,
        check=check.check,
        state=State.ERROR if is_error else State.NOT_RUN,
        value=None,
        unit=check.unit,
        n=0,
        interval=None,
        comparator="",
        threshold=None,
        source="",
        window=window,
        method=check.method,
        origin=origin,
        reason=reason,
        evidence=proof,
    )


def gate_check(found: CheckResult, required: bool = True) -> GateCheck:
    """A check's answer as a stage keeps it, with null for every number that is none."""
    sound = found.sound()
    return GateCheck(
        gate=sound.gate,
        check=sound.check,
        state=str(sound.state),
        value=finite(sound.value),
        unit=sound.unit,
        n=sound.n,
        interval=(finite(sound.interval[0]), finite(sound.interval[1])) if sound.interval else None,
        comparator=sound.comparator,
        threshold=finite(sound.threshold) if sound.threshold is not None else None,
        source=sound.source,
        window=sound.window,
        method=sound.method,
        origin=sound.origin,
        reason=sound.reason,
        evidence=sound.evidence,
        required=required,
    )


def finite(value: float) -> float | None:
    """The value, None for infinity and for no number at all: JSON knows neither."""
    return value if math.isfinite(value) else None
