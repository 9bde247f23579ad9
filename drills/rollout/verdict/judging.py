"""A stage's verdict, from the files of its folder alone: what every gate and every part says, and the decision they make.

A gate is the worst of its required checks, the decision the worst of gates and parts. Nothing but a pass is read as a pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from drills.judging import gates
from drills.judging.checks.thresholds import Thresholds
from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, State, worst
from drills.rollout.servers import sampler
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import Coverage, Gate, GateCheck, HoldEvent, Requirement, Snapshot, StagePlan, StageReport
from drills.rollout.verdict import armed, blockers, chain, comparison, requirements, splits, stage_drills
from drills.rollout.verdict import window as windows
from drills.rollout.verdict.stage_drills import Shown
from sim.base.clocks import from_iso
from sim.base.errors import EvidenceError, StormgateError

# No operator document asks for it where nothing says it: then it is told, and decides nothing.
TOLD_IF_ABSENT = frozenset({"delivery.slow_consumer_growth"})
OF_WINDOW = {
    "coverage": "coverage",
    "canary_checks": "canary_checks",
    "invariants": "invariants",
}  # checks of the window itself -> parts


@dataclass
class _Stage:
    """What is known of a stage while it is judged; `trouble` keeps what is wrong with its files."""

    run_dir: Path
    plan: StagePlan
    events: list[HoldEvent] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    thresholds: Thresholds = field(default_factory=dict)
    window: windows.StageWindow | None = None
    splits: tuple[CheckResult, ...] = ()
    trouble: list[str] = field(default_factory=list)


def judge_stage(run_dir: Path) -> StageReport:
    """Judge a stage from its files; writes nothing.

    Raises `UsageError` for a folder that is none of a stage, and `EvidenceError` where not even its plan can be read.
    """
    plan = evidence.read_plan(run_dir)
    stage = _read(run_dir, plan)
    shown = stage_drills.of_stage(run_dir, plan)
    answers = _window_checks(stage)
    judged = _gates(answers, stage, shown)
    stage.splits = _splits(stage)
    covered = _coverage(stage)
    stated = tuple(_parts(stage, shown, answers))
    decision, reason = decide(judged, stated)
    report = StageReport(
        plan=plan,
        ended=_ended(stage),
        hold_observed_s=_held_s(stage.events),
        coverage=covered,
        gates=judged,
        requirements=stated,
        decision=decision,
        reason=reason,
        why=tuple(_why(judged, stated)),
        blockers=(),
        skipped=tuple(_skipped(plan, judged, stated)),
        notes=tuple(_notes(plan)),
        evidence=evidence.files(run_dir),
        changes=comparison.changes(run_dir, plan, judged),
        splits=tuple(stage_drills.gate_check(result) for result in stage.splits),
    )
    return msgspec.structs.replace(report, blockers=blockers.of(report))


def decide(judged: Sequence[Gate], stated: Sequence[Requirement]) -> tuple[records.Decision, records.Reason]:
    """The decision, and why not: of several reasons the gravest. A gate of which nothing is required decides nothing."""
    deciding = [gate for gate in judged if any(check.required for check in gate.checks)]
    state = worst(State(said) for said in [*(gate.state for gate in deciding), *(part.state for part in stated)])
    if state is State.PASS:
        return "go", ""
    if state is State.FAIL:
        return "no_go", "breach"
    if state is State.ERROR:
        return "no_go", "error"
    only_old = all(each.state == "pass" or each.reason.startswith(chain.EXPIRED) for each in stated)
    gates_pass = all(gate.state == "pass" for gate in deciding)
    return "no_go", "expired" if only_old and gates_pass else "insufficient_evidence"


def _read(run_dir: Path, plan: StagePlan) -> _Stage:
    """All that judging needs; what cannot be read is told as trouble, and judged without."""
    stage = _Stage(run_dir, plan)
    for read in (_require_records, _read_events, _read_thresholds, _read_window):
        try:
            read(stage)
        except StormgateError as error:
            stage.trouble.append(str(error))
        except Exception as error:  # whatever is wrong with a file, the others are still judged
            stage.trouble.append(f"{run_dir}: cannot be read ({error or type(error).__name__}).")
    return stage


def _require_records(stage: _Stage) -> None:
    for name, wanted in ((records.THRESHOLDS, stage.plan.thresholds_sha256), (records.STAGES, stage.plan.stages_sha256)):
        if evidence.sha256(stage.run_dir / name) != wanted:
            raise EvidenceError(f"{stage.run_dir / name}: is not the file that this stage began with (its SHA-256 differs).")


def _read_events(stage: _Stage) -> None:
    stage.events = evidence.read_lines(stage.run_dir / records.HOLD, HoldEvent)
    stage.snapshots = sampler.read(stage.run_dir)


def _read_thresholds(stage: _Stage) -> None:
    stage.thresholds = gates.load_thresholds(stage.run_dir / records.THRESHOLDS, is_record=True)


def _read_window(stage: _Stage) -> None:
    if stage.plan.stage == "0":
        stage.window = windows.load(stage.run_dir)
        return
    first = [before for before in chain.earlier(stage.run_dir, stage.plan) if before.report.plan.stage == "0"]
    if not first:
        raise EvidenceError(f"{stage.run_dir}: no stage 0 comes before it, so there is no baseline to compare with.")
    chain.unspoilt(first[0])
    stage.window = windows.load(stage.run_dir, first[0].run_dir)


def _gates(answers: Mapping[str, GateCheck], stage: _Stage, shown: Shown) -> tuple[Gate, ...]:
    """All five, each with what the window and the drills say to it."""
    missing = [_unjudged(name, stage) for name in windows.REGISTRY if name not in answers]
    found = [*answers.values(), *missing, *stage_drills.checks(shown)]
    return tuple(_gate(name, tuple(check for check in found if check.gate == name)) for name in gates.GATES)


def _window_checks(stage: _Stage) -> dict[str, GateCheck]:
    """What the window says to each of its checks, by name."""
    if stage.window is None:
        return {}
    try:
        results = windows.judge(stage.window, stage.thresholds)
    except Exception as error:  # without them no gate passes
        stage.trouble.append(f"the window cannot be judged: {error or type(error).__name__}.")
        return {}
    return {result.name: stage_drills.gate_check(result, counts(result.name, result.state, stage.plan)) for result in results}


def _splits(stage: _Stage) -> tuple[CheckResult, ...]:
    """What the window says of each build, and of the canary against its control."""
    if stage.window is None:
        return ()
    try:
        return splits.of(stage.window, stage.thresholds, stage.plan)
    except Exception as error:  # without them neither of the two parts passes
        stage.trouble.append(f"the window cannot be taken apart: {error or type(error).__name__}.")
        return ()


def counts(name: str, state: State, plan: StagePlan) -> bool:
    """Whether an answer counts: a failure always does; of a preflight's baseline, and of what is only told, nothing else."""
    is_absent = state is State.NO_DATA and name in TOLD_IF_ABSENT
    return state is State.FAIL or (plan.stage != "0" and not is_absent)


def _unjudged(name: str, stage: _Stage) -> GateCheck:
    """A check of the window that was not answered at all."""
    spec, origins = windows.REGISTRY[name].spec, windows.REGISTRY[name].origins
    why = stage.trouble[-1] if stage.trouble else "it was not asked"
    found = stage_drills.unanswered(spec, origins[0], spec.window, records.SNAPSHOTS, why, is_error=bool(stage.trouble))
    return msgspec.structs.replace(found, required=stage.plan.stage != "0")


def _gate(name: str, checks: tuple[GateCheck, ...]) -> Gate:
    """The gravest of its required checks; of those that are only told where none is required."""
    states = {State(check.state) for check in checks if check.required} or {State(check.state) for check in checks}
    return Gate(name=name, state=next((state for state in GRAVEST_FIRST if state in states), State.NOT_RUN), checks=checks)


def _coverage(stage: _Stage) -> Coverage | None:
    if stage.window is None:
        return None
    try:
        return windows.coverage(stage.window)
    except Exception as error:  # no window is believed that was not seen to be whole
        stage.trouble.append(f"the window's coverage cannot be worked out: {error or type(error).__name__}.")
        return None


def _parts(stage: _Stage, shown: Shown, answers: Mapping[str, GateCheck]) -> Iterator[Requirement]:
    """Every part that a go of this stage needs; those that no plan can take away come first."""
    run_dir, plan = stage.run_dir, stage.plan
    trouble = "; ".join(dict.fromkeys(text.rstrip(".") for text in stage.trouble))
    whole = (State.ERROR, trouble) if trouble else (State.PASS, "every file is whole and is this stage's")
    yield Requirement(name="evidence", state=whole[0], reason=whole[1])
    if plan.stage != "0":
        yield chain.opened_rightly(run_dir, plan)
        yield requirements.judged("target", records.PLAN, lambda: _target(plan))
    yield requirements.judged("revisions", records.PLAN, lambda: requirements.revisions(plan, stage.snapshots))
    how: dict[str, tuple[str, Callable[[], requirements.Found]]] = {
        "preconditions": (records.PRECONDITIONS, lambda: requirements.preconditions(run_dir, plan)),
        "commands": (records.COMMANDS, lambda: requirements.commands(run_dir, plan)),
        "drills": (records.DRILL_RESULTS, lambda: stage_drills.requirement(run_dir, plan, shown)),
        "rollback": (records.ROLLBACK, lambda: requirements.rollback(run_dir, plan)),
        "baseline": (records.SNAPSHOTS, lambda: requirements.baseline(run_dir, plan, stage.snapshots)),
        "hold": (records.HOLD, lambda: requirements.hold(stage.events, plan, stage.snapshots)),
        "cohort": (records.ROUTING_CHECKS, lambda: requirements.cohort(run_dir, plan, stage.events)),
        "armed": (records.ARMED, lambda: armed.requirement(run_dir, plan, stage.events)),
        splits.BUILDS: (records.CANARY_CHECK_LIST, lambda: splits.builds(plan, stage.splits)),
        splits.CANARY: (records.CONTROL_LIST, lambda: splits.canary(run_dir, plan, stage.splits)),
    }
    for name in splits.asked(plan):
        proof, decide_part = how.get(name, ("", lambda: (State.ERROR, "nobody knows how to judge this part")))
        yield requirements.judged(name, proof, decide_part)
    for check, name in OF_WINDOW.items():
        said = answers.get(f"window.{check}")
        found = (State(said.state), said.reason) if said else (State.NO_DATA, "there is no window that could be judged")
        yield _of_window(name, found, said.evidence if said else records.SNAPSHOTS, stage)


def _of_window(name: str, found: requirements.Found, proof: str, stage: _Stage) -> Requirement:
    """A check of the window itself, as a part; what is told of the watches is held against what is there."""
    if name == "canary_checks":
        return requirements.judged(name, proof, lambda: requirements.canary_checks(stage.run_dir, stage.events, found))
    return Requirement(name=name, state=found[0], reason=found[1], evidence=proof)


def _target(plan: StagePlan) -> requirements.Found:
    if plan.target_kind == "mock":
        return State.FAIL, f"a mock opens no stage, so nothing of stage {plan.stage} can be shown on one"
    return State.PASS, f"{plan.target}, of kind {plan.target_kind}"


def _why(judged: Sequence[Gate], stated: Sequence[Requirement]) -> Iterator[str]:
    """A sentence for each thing that stands in the way, the gravest first."""
    found = [(State(part.state), f"{part.name}: {part.reason}") for part in stated]
    found += [
        (State(check.state), f"{check.gate}.{check.check}: {check.reason}")
        for gate in judged
        for check in gate.checks
        if check.required
    ]
    for state, sentence in sorted(found, key=lambda each: GRAVEST_FIRST.index(each[0])):
        if state is not State.PASS:
            yield f"{state.replace('_', ' ')}: {sentence.rstrip('.')}."


def _skipped(plan: StagePlan, judged: Sequence[Gate], stated: Sequence[Requirement]) -> Iterator[str]:
    """What was not done, or was done and decides nothing."""
    for name in plan.left_out:
        yield f"drill {name}: was not asked for"
    for each in stated:
        if each.state == State.NOT_RUN:
            yield f"{each.name}: {each.reason}"
    for gate in judged:
        for check in gate.checks:
            if not check.required and check.state != State.PASS:
                yield f"{gate.name}.{check.check} ({check.state}) is told and decides nothing here: {check.reason}"


def _notes(plan: StagePlan) -> Iterator[str]:
    if plan.target_kind == "mock":
        yield "The target was the embedded mock, so this says nothing about a deployed runtime, and opens no stage."
    if plan.synthetic_load:
        yield f"Load of our own was added: {plan.synthetic_load}. What it shows is labelled synthetic."
    if plan.stage == "0":
        yield "A preflight's gates are told of its baseline; of the window's checks only a failure counts against it."


def _held_s(events: Sequence[HoldEvent]) -> float:
    began, ended = requirements.hold_span(events)
    return (from_iso(ended or events[-1].at) - from_iso(began)).total_seconds() if began else 0.0


def _ended(stage: _Stage) -> str:
    """The last moment that any evidence is of; when the stage began, where there is none."""
    moments = [event.at for event in stage.events] + [snapshot.at for snapshot in stage.snapshots]
    return max([*moments, stage.plan.began], key=from_iso)
