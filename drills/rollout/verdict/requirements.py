"""What a go needs beside the gates: each part judged from its own files, and only a pass is a pass."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from drills.judging.checks.verdicts import GRAVEST_FIRST, State
from drills.rollout.servers import routing_checks
from drills.rollout.setup import evidence, records
from drills.rollout.setup import stages as stages_file
from drills.rollout.setup.records import (
    CanaryCheckDone,
    CommandDone,
    HoldEvent,
    Precondition,
    Requirement,
    Rollback,
    RollbackStep,
    RoutingCheck,
    Snapshot,
    StagePlan,
)
from drills.rollout.setup.stages import MAX_HOLE_INTERVALS
from sim.base import atomic_files
from sim.base.clocks import from_iso
from sim.base.errors import StormgateError

ROLLBACK_LIMIT_S = 300.0  # within which a rehearsal must have recovered, whatever it allowed itself
ROLLBACK_STABLE_S = 900.0  # for which recovery must have been watched, but on a mock
_ORDER = ("traffic", "throttle", "cohort", "recovery")

Found = tuple[State, str]


def judged(name: str, proof: str, decide: Callable[[], Found]) -> Requirement:
    """One part's answer; whatever goes wrong on the way to it makes it an error that says what."""
    try:
        state, reason = decide()
    except StormgateError as error:
        state, reason = State.ERROR, str(error)
    except Exception as error:  # what cannot be judged must not pass, and must still be reported
        state, reason = State.ERROR, f"it cannot be judged: {error or type(error).__name__}"
    return Requirement(name=name, state=state, reason=reason, evidence=proof)


def gravest(found: Sequence[Found]) -> Found:
    """The gravest of several, with its reason, and how many more did not pass."""
    order = sorted(found, key=lambda each: GRAVEST_FIRST.index(each[0]))
    others = sum(state is not State.PASS for state, _ in order) - 1
    state, reason = order[0]
    return state, f"{reason}; and {others} more" if others > 0 else reason


def preconditions(run_dir: Path, plan: StagePlan) -> Found:
    """Whether all that must be so before a rollout begins was so."""
    lines = {each.name: each for each in evidence.read_lines(run_dir / records.PRECONDITIONS, Precondition)}
    found = [_precondition(name, lines.get(name), plan) for name in dict.fromkeys((*records.PRECONDITION_NAMES, *lines))]
    if trouble := [each for each in found if each[0] is not State.PASS]:
        return gravest(trouble)
    met = sum(each.state == "pass" for each in lines.values())
    return State.PASS, f"{met} of {len(lines)} are met{_spared(lines.values())}"


def _precondition(name: str, line: Precondition | None, plan: StagePlan) -> Found:
    if line is None:
        return State.NOT_RUN, f"{name}: nobody looked"
    if line.state == "not_run" and _is_spared(line, plan):
        return State.PASS, name
    return State(line.state), f"{name}: {line.reason}"


def _is_spared(line: Precondition | CommandDone, plan: StagePlan) -> bool:
    """Whether it need not be run: only where the target is the embedded mock, which opens no other stage."""
    return not line.required and plan.target_kind == "mock"


def _spared(lines: Iterable[Precondition | CommandDone]) -> str:
    names = [each.name for each in lines if each.state == "not_run"]
    return f"; not asked of a mock: {', '.join(names)}" if names else ""


def commands(run_dir: Path, plan: StagePlan) -> Found:
    """Whether every command was run, ran tests, and said that all was well."""
    done = evidence.read_lines(run_dir / records.COMMANDS, CommandDone)
    if not done:
        return State.NOT_RUN, "no command was run"
    named = {each.name for each in done}
    missing = [(State.NOT_RUN, f"{name}: was not run") for name in plan.commands if name not in named]
    trouble = missing + [found for each in done if (found := _command(run_dir, each, plan))[0] is not State.PASS]
    if trouble:
        return gravest(trouble)
    tests, passed = sum(each.tests or 0 for each in done), sum(each.state == "pass" for each in done)
    if not passed:
        return State.NOT_RUN, "no command was run"
    ran = f"{tests} tests ran in them" if tests else "none of which is a run of tests"
    return State.PASS, f"{passed} commands passed, {ran}{_spared(done)}"


def _command(run_dir: Path, done: CommandDone, plan: StagePlan) -> Found:
    log = run_dir / done.log
    if done.state == "not_run" and _is_spared(done, plan):
        return State.PASS, done.name
    if done.state != "pass":
        return State(done.state), f"{done.name}: {done.reason}"
    if done.exit_code != 0:
        return State.ERROR, f"{done.name}: is told to have passed, with exit code {done.exit_code}"
    if done.runner and done.tests is None:
        return State.ERROR, f"{done.name}: {done.runner} ran it, and nobody counted its tests"
    if done.tests is not None and done.tests <= 0:
        return State.FAIL, f"{done.name}: ran no test"
    if not done.log or not log.is_file() or evidence.sha256(log) != done.sha256:
        return State.ERROR, f"{done.name}: what it printed ({done.log or 'no file'}) is missing or was changed"
    return State.PASS, done.name


def rollback(run_dir: Path, plan: StagePlan) -> Found:
    """Whether the whole way back was gone, in order, on this target, in time, and undone again."""
    path = run_dir / records.ROLLBACK
    if not path.is_file():
        return State.NOT_RUN, "no rollback was rehearsed"
    found = atomic_files.read_struct(path, Rollback)
    if trouble := next(_another(found, plan), ""):
        return State.ERROR, trouble
    if found.dry_run:
        return State.NOT_RUN, "the rehearsal was a dry run, which shows nothing"
    if found.state != "pass":
        return State(found.state), found.reason
    return _rehearsed(found)


def _another(found: Rollback, plan: StagePlan) -> Iterator[str]:
    """Why a rehearsal is not this stage's."""
    for name in ("run_id", "target", "target_kind"):
        if getattr(found, name) != getattr(plan, name):
            yield f"the rehearsal is of {name} {getattr(found, name)}, but this stage's is {getattr(plan, name)}"
    if from_iso(found.began) < from_iso(plan.began):
        yield f"the rehearsal is of {found.began}, before this stage began"


def _rehearsed(found: Rollback) -> Found:
    if tuple(step.name for step in found.steps) != _ORDER or [step.n for step in found.steps] != [1, 2, 3, 4]:
        said = ", ".join(step.name for step in found.steps) or "none"
        return State.ERROR, f"the steps were {said}; they are {', '.join(_ORDER)}, in this order"
    moments = [from_iso(moment) for step in found.steps for moment in (step.began, step.ended)]
    if moments != sorted(moments):
        return State.ERROR, "the steps were not taken one after the other"
    if wrong := [step for step in found.steps if step.state != "pass"]:
        return gravest([(State(step.state), f"step {step.n} ({step.name}): {step.reason}") for step in wrong])
    if unseen := [step.name for step in found.steps if not _is_seen(step)]:
        return State.ERROR, f"{unseen[0]}: no observation verified it, or what it changed was not restored"
    limit_s = min(found.limit_s, ROLLBACK_LIMIT_S)
    if found.seconds is None or not 0 <= found.seconds <= limit_s:
        took = "never" if found.seconds is None else f"{found.seconds:.0f} s"
        return State.FAIL, f"recovered: {took}; {limit_s:.0f} s are allowed"
    if found.target_kind != "mock" and (found.stable_s is None or not found.stable_s >= ROLLBACK_STABLE_S):
        watched = f"for {found.stable_s:g} s" if found.stable_s is not None else "no longer"
        return State.INCONCLUSIVE, f"recovered, and then watched {watched}; {ROLLBACK_STABLE_S:g} s are needed"
    return State.PASS, f"recovered in {found.seconds:.0f} s of {limit_s:.0f} s, every step seen to act and undone"


def _is_seen(step: RollbackStep) -> bool:
    return bool(step.verified_by) and step.restored is not False


def hold_span(events: Sequence[HoldEvent]) -> tuple[str, str]:
    """When the last hold began and ended; empty where it did not."""
    began = [each.at for each in events if each.kind in ("started", "restarted")]
    ended = events[-1].at if events and events[-1].kind == "ended" else ""
    return (began[-1] if began else "", ended)


def hold(events: Sequence[HoldEvent], plan: StagePlan, snapshots: Sequence[Snapshot]) -> Found:
    """Whether the stage was held to its end, for as long as it must be, over one pair of revisions."""
    began, ended = hold_span(events)
    if not began:
        return State.NOT_RUN, "nothing was held"
    if aborted := [each for each in events if each.kind == "aborted"]:
        return State.FAIL, f"it was stopped at {aborted[-1].at}: {aborted[-1].reason}"
    if not ended:
        return State.ERROR, f"it was cut short; its last word is '{events[-1].kind}', at {events[-1].at}"
    if changed := next(_changed(snapshots, plan, began, ended), ""):
        return State.FAIL, changed
    if untold := next(_untold(snapshots, plan, began, ended), ""):
        return State.INCONCLUSIVE, untold
    held_s = (from_iso(ended) - from_iso(began)).total_seconds()
    if held_s < plan.hold_required_s:
        return State.INCONCLUSIVE, f"held for {held_s:.0f} s of {plan.hold_required_s:.0f} s"
    if missed := [found for h in plan.gates_at_h if (found := _gate_at(events, h))[0] is not State.PASS]:
        return gravest(missed)
    restarts = sum(each.kind == "restarted" for each in events)
    return State.PASS, f"held for {held_s:.0f} s of {plan.hold_required_s:.0f} s, begun anew {restarts} times"


def _gate_at(events: Sequence[HoldEvent], after_h: float) -> Found:
    """What the gates said so many hours into the last hold."""
    latest = max(n for n, each in enumerate(events) if each.kind in ("started", "restarted"))
    said = [each for each in events[latest:] if each.kind == "gate" and each.gate_h == after_h]
    if not said:
        return State.NOT_RUN, f"the gates were not judged {after_h:g} h into the hold"
    return State(said[-1].state), f"the gates {after_h:g} h into the hold: {said[-1].reason or said[-1].state}"


def _changed(snapshots: Sequence[Snapshot], plan: StagePlan, began: str, ended: str) -> Iterator[str]:
    """Revisions that a server said of itself within the hold, and that are not the stage's."""
    for each in snapshots:
        if not from_iso(began) <= from_iso(each.at) <= from_iso(ended):
            continue
        for what in ("control", "runtime"):
            was, now = getattr(plan.revisions, what), getattr(each.revisions, what)
            if was and now and now != was:
                yield f"the {what}'s revision was {now} at {each.at}, but this stage is about {was}"


def _untold(snapshots: Sequence[Snapshot], plan: StagePlan, began: str, ended: str) -> Iterator[str]:
    """Services that did not say for too long which revision they were: what is unknown is not unchanged."""
    for service, source in (("control", "control"), ("runtime", "metrics")):
        silent = 0
        for each in snapshots:
            if each.source != source or not each.ok or not from_iso(began) <= from_iso(each.at) <= from_iso(ended):
                continue
            silent = 0 if getattr(each.revisions, service) else silent + 1
            if silent > MAX_HOLE_INTERVALS and getattr(plan.revisions, service):
                yield f"the {service}'s revision was unknown in {silent} snapshots in a row, the last at {each.at}"


def baseline(run_dir: Path, plan: StagePlan, snapshots: Sequence[Snapshot]) -> Found:
    """Whether the metrics were watched for as long as a baseline needs."""
    events = evidence.read_lines(run_dir / records.HOLD, HoldEvent)
    if events:
        return hold(events, plan, snapshots)
    moments = [from_iso(each.at) for each in snapshots if each.phase == "baseline" and each.ok]
    if not moments:
        return State.NOT_RUN, "no baseline was taken"
    seconds = (max(moments) - min(moments)).total_seconds() + plan.snapshot_interval_s
    state = State.PASS if seconds >= plan.hold_required_s else State.INCONCLUSIVE
    return state, f"watched for {seconds:.0f} s of {plan.hold_required_s:.0f} s"


def revisions(plan: StagePlan, snapshots: Sequence[Snapshot]) -> Found:
    """Whether it is known what was deployed, and, of a preflight, whether that was so until its last snapshot."""
    known = plan.revisions
    if plan.stage == "0" and snapshots and (changed := next(_changed(snapshots, plan, plan.began, snapshots[-1].at), "")):
        return State.FAIL, changed
    said = f"control {known.control or 'unknown'}, runtime {known.runtime or 'unknown'}"
    return (State.PASS if known.known else State.NO_DATA), said


def cohort(run_dir: Path, plan: StagePlan, events: Sequence[HoldEvent]) -> Found:
    """Whether the routing service lets in whom it should, and nobody else, each time that it was asked; to the hold's end."""
    if plan.cohort_percent is None:
        return State.ERROR, "the plan does not say how large the cohort is"
    probes = evidence.read_lines(run_dir / records.ROUTING_CHECKS, RoutingCheck)
    found = routing_checks.judge(probes, plan.cohort_percent)
    rules, (_, ended) = stages_file.load(run_dir / records.STAGES), hold_span(events)
    max_s = (
        rules.routing_check.every_s + rules.sampling.judge_every_s + plan.snapshot_interval_s
    )  # it is asked when it is judged
    if found.state == State.PASS and ended and probes:
        silent_s = (from_iso(ended) - max(from_iso(each.at) for each in probes)).total_seconds()
        if silent_s > max_s:
            return (
                State.INCONCLUSIVE,
                f"nobody asked for the cohort in the hold's last {silent_s:.0f} s; {max_s:.0f} s may be",
            )
    return State(found.state), found.reason


def canary_checks(run_dir: Path, events: Sequence[HoldEvent], judged: Found) -> Found:
    """Whether the drills that ran beside the last hold are those that are told of, and none failed.

    `judged` is what the window says to all of them together. One that is too short to tell by itself is no trouble.
    """
    told = evidence.read_lines(run_dir / records.CANARY_CHECK_LIST, CanaryCheckDone)
    began, _ = hold_span(events)
    folder, runs = run_dir / records.CANARY_CHECKS, {each.run for each in told}
    there = sorted(f"{records.CANARY_CHECKS}/{path.name}" for path in folder.iterdir()) if folder.is_dir() else []
    found = [
        judged,
        *((State.ERROR, f"{run}: {records.CANARY_CHECK_LIST} does not tell of it") for run in there if run not in runs),
    ]
    for each in told:
        if each.run and each.run not in there:
            found.append((State.ERROR, f"{each.run}: {records.CANARY_CHECK_LIST} tells of it, but it is not there"))
        if each.status == State.FAIL and (not began or from_iso(each.at) >= from_iso(began)):
            found.append((State.FAIL, f"{each.run} failed at {each.at}: {each.reason}"))
    wrong = [each for each in found if each[0] is not State.PASS]
    return gravest(wrong) if wrong else judged
