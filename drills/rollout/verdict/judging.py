"""Judge a stage from the files of its folder: the state of every gate and requirement, and the decision.

A gate has the worst state of its required checks. The decision is the worst of gates and requirements. Only a pass counts as a
pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from drills.judging import gates
from drills.judging.checks.thresholds import Thresholds
from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, State, worst
from drills.rollout.servers import sampler
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import Gate, GateCheck, HoldEvent, Requirement, Snapshot, StagePlan, StageReport
from drills.rollout.verdict import armed, blockers, chain, requirements, splits, stage_drills
from drills.rollout.verdict import window as windows
from drills.rollout.verdict.stage_drills import DrillEvidence
from sim.base.clocks import from_iso
from sim.base.errors import EvidenceError, StormgateError

T = TypeVar("T")
# No operator document requires this check. If no source has the data, it is for information only.
OPTIONAL_WITHOUT_DATA = frozenset({"delivery.slow_consumer_growth"})
OF_WINDOW = ("coverage", "canary_checks", "invariants")  # checks of the window itself, which are also requirements


@dataclass
class _Stage:
    """The evidence of a stage while it is judged. `problems` are sentences on invalid files."""

    run_dir: Path
    plan: StagePlan
    files: tuple[records.Evidence, ...]
    events: list[HoldEvent] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    thresholds: Thresholds = field(default_factory=dict)
    window: windows.StageWindow | None = None
    splits: tuple[CheckResult, ...] = ()
    problems: list[str] = field(default_factory=list)


def judge_stage(run_dir: Path) -> StageReport:
    """Judge a stage from its files; writes nothing.

    Raises `UsageError` for a folder that is not a stage's, and `EvidenceError` if its plan cannot be read.
    """
    plan = evidence.read_plan(run_dir)
    stage = _read(run_dir, plan)
    drills = stage_drills.of_stage(run_dir, plan)
    answers = _window_checks(stage)
    judged = _gates(answers, stage, drills)
    asked_of = "the window cannot be judged by build and against the control"
    stage.splits = _of_window(stage, lambda window: splits.of(window, stage.thresholds, plan), (), asked_of)
    covered = _of_window(stage, lambda window: window.coverage, None, "the window's coverage cannot be determined")
    required = tuple(_requirements(stage, drills, answers))
    decision, reason = decide(judged, required)
    report = StageReport(
        plan=plan,
        ended=_ended(stage),
        hold_observed_s=_held_s(stage.events),
        coverage=covered,
        gates=judged,
        requirements=required,
        decision=decision,
        reason=reason,
        why=tuple(_why(judged, required)),
        blockers=(),
        skipped=tuple(_skipped(plan, judged, required)),
        notes=tuple(_notes(plan)),
        evidence=stage.files,
        changes=chain.changes(run_dir, plan, judged),
        splits=tuple(stage_drills.gate_check(result) for result in stage.splits),
    )
    return msgspec.structs.replace(report, blockers=blockers.of(report))


def decide(judged: Sequence[Gate], required: Sequence[Requirement]) -> tuple[records.Decision, records.Reason]:
    """The decision, and the most severe reason for a no-go. A gate without a required check does not count."""
    deciding = [gate for gate in judged if any(check.required for check in gate.checks)]
    state = worst(State(said) for said in [*(gate.state for gate in deciding), *(each.state for each in required)])
    if state is State.PASS:
        return "go", ""
    if state is State.FAIL:
        return "no_go", "breach"
    if state is State.ERROR:
        return "no_go", "error"
    is_only_old = all(each.state == "pass" or each.reason.startswith(chain.EXPIRED) for each in required)
    gates_pass = all(gate.state == "pass" for gate in deciding)
    return "no_go", "expired" if is_only_old and gates_pass else "insufficient_evidence"


def _read(run_dir: Path, plan: StagePlan) -> _Stage:
    """Read all evidence. An unreadable file is a problem; all other files are still judged."""
    stage = _Stage(run_dir, plan, evidence.files(run_dir))
    for read in (_require_sealed, _require_records, _read_events, _read_thresholds, _read_window):
        try:
            read(stage)
        except StormgateError as error:
            stage.problems.append(str(error))
        except Exception as error:  # the other files are still judged
            stage.problems.append(f"{run_dir}: cannot be read ({error or type(error).__name__}).")
    return stage


def _require_sealed(stage: _Stage) -> None:
    evidence.require_sealed(stage.run_dir, stage.files)


def _require_records(stage: _Stage) -> None:
    for name, wanted in ((records.THRESHOLDS, stage.plan.thresholds_sha256), (records.STAGES, stage.plan.stages_sha256)):
        if evidence.sha256(stage.run_dir / name) != wanted:
            raise EvidenceError(f"{stage.run_dir / name}: is not the file with which this stage began (its SHA-256 differs).")


def _read_events(stage: _Stage) -> None:
    stage.events = evidence.read_lines(stage.run_dir / records.HOLD, HoldEvent)
    stage.snapshots = sampler.read(stage.run_dir)


def _read_thresholds(stage: _Stage) -> None:
    stage.thresholds = gates.load_thresholds(stage.run_dir / records.THRESHOLDS, is_record=True)


def _read_window(stage: _Stage) -> None:
    if stage.plan.stage == "0":
        stage.window = windows.load(stage.run_dir)
        return
    preflight = chain.preflight(stage.run_dir, stage.plan)
    chain.require_unchanged(preflight)
    stage.window = windows.load(stage.run_dir, preflight.run_dir)


def _gates(answers: Mapping[str, GateCheck], stage: _Stage, drills: DrillEvidence) -> tuple[Gate, ...]:
    """All five gates, each with its results of the window and of the drills."""
    missing = [_unjudged(name, stage) for name in windows.REGISTRY if name not in answers]
    found = [*answers.values(), *missing, *stage_drills.checks(drills)]
    return tuple(_gate(name, tuple(check for check in found if check.gate == name)) for name in gates.GATES)


def _window_checks(stage: _Stage) -> dict[str, GateCheck]:
    """The results of the window, by name of the check."""
    results: tuple[CheckResult, ...] = _of_window(
        stage, lambda window: windows.judge(window, stage.thresholds), (), "the window cannot be judged"
    )
    return {result.name: stage_drills.gate_check(result, counts(result.name, result.state, stage.plan)) for result in results}


def _of_window(stage: _Stage, compute: Callable[[windows.StageWindow], T], otherwise: T, problem: str) -> T:
    """Compute a value from the window. Returns `otherwise` without a window or after an exception, which becomes a problem."""
    if stage.window is None:
        return otherwise
    try:
        return compute(stage.window)
    except Exception as error:  # a missing result cannot pass
        stage.problems.append(f"{problem}: {error or type(error).__name__}.")
        return otherwise


def counts(name: str, state: State, plan: StagePlan) -> bool:
    """Whether a result counts. In a preflight, and for optional checks without data, only a failure counts."""
    is_absent = state is State.NO_DATA and name in OPTIONAL_WITHOUT_DATA
    return state is State.FAIL or (plan.stage != "0" and not is_absent)


def _unjudged(name: str, stage: _Stage) -> GateCheck:
    """The result for a check of the window that could not be judged."""
    spec, origins = windows.REGISTRY[name].spec, windows.REGISTRY[name].origins
    why = stage.problems[-1] if stage.problems else "the window was not judged"
    found = stage_drills.unanswered(spec, origins[0], spec.window, records.SNAPSHOTS, why, is_error=bool(stage.problems))
    return msgspec.structs.replace(found, required=stage.plan.stage != "0")


def _gate(name: str, checks: tuple[GateCheck, ...]) -> Gate:
    """The most severe state of its required checks; of all its checks if it has no required one."""
    states = {State(check.state) for check in checks if check.required} or {State(check.state) for check in checks}
    return Gate(name=name, state=next((state for state in GRAVEST_FIRST if state in states), State.NOT_RUN), checks=checks)


def _requirements(stage: _Stage, drills: DrillEvidence, answers: Mapping[str, GateCheck]) -> Iterator[Requirement]:
    """Every requirement of a go of this stage. The requirements that no plan can remove come first."""
    run_dir, plan = stage.run_dir, stage.plan
    problem = "; ".join(dict.fromkeys(text.rstrip(".") for text in stage.problems))
    state, reason = (State.ERROR, problem) if problem else (State.PASS, "every file is complete and belongs to this stage")
    yield Requirement(name="evidence", state=state, reason=reason)
    if plan.stage != "0":
        yield chain.previous_stage(run_dir, plan)
        yield requirements.judged("target", records.PLAN, lambda: _target(plan))
    yield requirements.judged("revisions", records.PLAN, lambda: requirements.revisions(plan, stage.snapshots))
    how: dict[str, tuple[str, Callable[[], requirements.Found]]] = {
        "preconditions": (records.PRECONDITIONS, lambda: requirements.preconditions(run_dir, plan)),
        "commands": (records.COMMANDS, lambda: requirements.commands(run_dir, plan)),
        "drills": (records.DRILL_RESULTS, lambda: stage_drills.requirement(run_dir, plan, drills)),
        "rollback": (records.ROLLBACK, lambda: requirements.rollback(run_dir, plan)),
        "baseline": (records.HOLD, lambda: requirements.hold(stage.events, plan, stage.snapshots)),
        "hold": (records.HOLD, lambda: requirements.hold(stage.events, plan, stage.snapshots)),
        "cohort": (records.ROUTING_CHECKS, lambda: requirements.cohort(run_dir, plan, stage.events)),
        "armed": (records.ARMED, lambda: armed.requirement(run_dir, plan, stage.events)),
        splits.BUILDS: (records.CANARY_CHECK_LIST, lambda: splits.builds(plan, stage.splits)),
        splits.CANARY: (records.CONTROL_LIST, lambda: splits.canary(run_dir, plan, stage.splits)),
    }
    for name in splits.asked(plan):
        proof, judge = how.get(name, ("", lambda: (State.ERROR, "this version cannot judge this requirement")))
        yield requirements.judged(name, proof, judge)
    for name in OF_WINDOW:
        answer = answers.get(f"window.{name}")
        found = (State(answer.state), answer.reason) if answer else (State.NO_DATA, "there is no window to judge")
        yield _as_requirement(name, found, answer.evidence if answer else records.SNAPSHOTS, stage)


def _as_requirement(name: str, found: requirements.Found, proof: str, stage: _Stage) -> Requirement:
    """A check of the window itself, as a requirement. For canary checks, they must also match the recorded ones."""
    if name == "canary_checks":
        return requirements.judged(name, proof, lambda: requirements.canary_checks(stage.run_dir, stage.events, found))
    return Requirement(name=name, state=found[0], reason=found[1], evidence=proof)


def _target(plan: StagePlan) -> requirements.Found:
    if plan.target_kind == "mock":
        return State.FAIL, f"a mock unlocks no stage, so stage {plan.stage} needs a real target"
    return State.PASS, f"{plan.target}, of kind {plan.target_kind}"


def _why(judged: Sequence[Gate], required: Sequence[Requirement]) -> Iterator[str]:
    """A sentence per blocker, the most severe first."""
    found = [(State(each.state), f"{each.name}: {each.reason}") for each in required]
    found += [
        (State(check.state), f"{check.gate}.{check.check}: {check.reason}")
        for gate in judged
        for check in gate.checks
        if check.required
    ]
    for state, sentence in sorted(found, key=lambda each: GRAVEST_FIRST.index(each[0])):
        if state is not State.PASS:
            yield f"{state.replace('_', ' ')}: {sentence.rstrip('.')}."


def _skipped(plan: StagePlan, judged: Sequence[Gate], required: Sequence[Requirement]) -> Iterator[str]:
    """Sentences on everything that was not done, or done for information only."""
    for name in plan.left_out:
        yield f"drill {name}: was not required"
    for each in required:
        if each.state == State.NOT_RUN:
            yield f"{each.name}: {each.reason}"
    for gate in judged:
        for check in gate.checks:
            if not check.required and check.state != State.PASS:
                yield f"{gate.name}.{check.check} ({check.state}) is for information only: {check.reason}"


def _notes(plan: StagePlan) -> Iterator[str]:
    if plan.target_kind == "mock":
        yield "The target was the embedded mock, so this says nothing about a deployed runtime and unlocks no stage."
    if plan.synthetic_load:
        yield f"Synthetic load was added: {plan.synthetic_load}. Results that depend on it are labelled synthetic."
    if plan.stage == "0":
        yield "The gates of a preflight judge its baseline. Of the checks of the window, only a failure counts against it."


def _held_s(events: Sequence[HoldEvent]) -> float:
    began, ended = requirements.hold_span(events)
    return (from_iso(ended or events[-1].at) - from_iso(began)).total_seconds() if began else 0.0


def _ended(stage: _Stage) -> str:
    """The time of the last evidence; without evidence, the start of the stage."""
    moments = [event.at for event in stage.events] + [snapshot.at for snapshot in stage.snapshots]
    return max([*moments, stage.plan.began], key=from_iso)
