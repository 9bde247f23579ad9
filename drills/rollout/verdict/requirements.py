"""The requirements of a go in addition to its gates, each judged from its own files. Only a pass counts as a pass."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
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
    RoutingCheck,
    Snapshot,
    StagePlan,
)
from drills.rollout.setup.stages import MAX_HOLE_INTERVALS
from sim.analysis.machine import MAX_CLOCK_OFF_S
from sim.base import atomic_files
from sim.base.clocks import from_iso
from sim.base.errors import StormgateError

MAX_RECOVERY_S = 300.0  # maximum for a rehearsal, even if its own limit is higher
MIN_STABLE_S = 900.0  # minimum time observed after the recovery, except on a mock
_ORDER = ("traffic", "throttle", "cohort", "recovery")

Found = tuple[State, str]


def judged(name: str, proof: str, decide: Callable[[], Found]) -> Requirement:
    """Judge one requirement. An exception becomes an error with its text."""
    try:
        state, reason = decide()
    except StormgateError as error:
        state, reason = State.ERROR, str(error)
    except Exception as error:  # a requirement that cannot be judged must not pass, but is still reported
        state, reason = State.ERROR, f"it cannot be judged: {error or type(error).__name__}"
    return Requirement(name=name, state=state, reason=reason, evidence=proof)


def most_severe(found: Sequence[Found]) -> Found:
    """The most severe state with its reason, and the number of others that did not pass."""
    order = sorted(found, key=lambda each: GRAVEST_FIRST.index(each[0]))
    others = sum(state is not State.PASS for state, _ in order) - 1
    state, reason = order[0]
    return state, f"{reason}; and {others} more" if others > 0 else reason


def all_passed(found: Sequence[Found], reason: str) -> Found:
    """A pass with this reason; if some did not pass, the most severe of them."""
    wrong = [each for each in found if each[0] is not State.PASS]
    return most_severe(wrong) if wrong else (State.PASS, reason)


def preconditions(run_dir: Path, plan: StagePlan) -> Found:
    """Whether all preconditions of a rollout were met."""
    lines = {each.name: each for each in evidence.read_lines(run_dir / records.PRECONDITIONS, Precondition)}
    found = [_precondition(name, lines.get(name), plan) for name in dict.fromkeys((*records.PRECONDITION_NAMES, *lines))]
    met = sum(each.state == "pass" for each in lines.values())
    return all_passed(found, f"{met} of {len(lines)} are met{_exempt_names(lines.values())}")


def _precondition(name: str, line: Precondition | None, plan: StagePlan) -> Found:
    if line is None:
        return State.NOT_RUN, f"{name}: was not checked"
    if line.state == "not_run" and _is_exempt(line, plan):
        return State.PASS, name
    return State(line.state), f"{name}: {line.reason}"


def _is_exempt(line: Precondition | CommandDone, plan: StagePlan) -> bool:
    """Whether a command need not run. Only the embedded mock is exempt, because it unlocks no other stage."""
    return not line.required and plan.target_kind == "mock"


def _exempt_names(lines: Iterable[Precondition | CommandDone]) -> str:
    names = [each.name for each in lines if each.state == "not_run"]
    return f"; not required on a mock: {', '.join(names)}" if names else ""


def commands(run_dir: Path, plan: StagePlan) -> Found:
    """Whether every verification command ran, ran its tests, and passed."""
    done = evidence.read_lines(run_dir / records.COMMANDS, CommandDone)
    if not done:
        return State.NOT_RUN, "no command was run"
    named = {each.name for each in done}
    found: list[Found] = [(State.NOT_RUN, f"{name}: was not run") for name in plan.commands if name not in named]
    found += [_command(run_dir, each, plan) for each in done]
    tests, passed = sum(each.tests or 0 for each in done), sum(each.state == "pass" for each in done)
    ran = f"with {tests} tests" if tests else "without tests"
    verdict = all_passed(found, f"{passed} commands passed, {ran}{_exempt_names(done)}")
    return (State.NOT_RUN, "no command was run") if verdict[0] is State.PASS and not passed else verdict


def _command(run_dir: Path, done: CommandDone, plan: StagePlan) -> Found:
    log = run_dir / done.log
    if done.state == "not_run" and _is_exempt(done, plan):
        return State.PASS, done.name
    if done.state != "pass":
        return State(done.state), f"{done.name}: {done.reason}"
    if done.exit_code != 0:
        return State.ERROR, f"{done.name}: is recorded as a pass with exit code {done.exit_code}"
    if done.runner and done.tests is None:
        return State.ERROR, f"{done.name}: {done.runner} ran it, but its tests were not counted"
    if done.tests is not None and done.tests <= 0:
        return State.FAIL, f"{done.name}: ran no test"
    if not done.log or not log.is_file() or evidence.sha256(log) != done.sha256:
        return State.ERROR, f"{done.name}: its output ({done.log or 'no file'}) is missing or was changed"
    return State.PASS, done.name


def rollback(run_dir: Path, plan: StagePlan) -> Found:
    """Whether the complete rollback was rehearsed on this target, in order and in time, and then restored."""
    path = run_dir / records.ROLLBACK
    if not path.is_file():
        return State.NOT_RUN, "no rollback was rehearsed"
    found = atomic_files.read_struct(path, Rollback)
    if wrong := next(_not_this_stage(found, plan), ""):
        return State.ERROR, wrong
    if found.dry_run:
        return State.NOT_RUN, "the rehearsal was a dry run, so nothing was executed"
    if found.state != "pass":
        return State(found.state), found.reason
    return _rehearsed(found)


def _not_this_stage(found: Rollback, plan: StagePlan) -> Iterator[str]:
    """Why a rehearsal does not belong to this stage."""
    for name in ("run_id", "target", "target_kind"):
        if getattr(found, name) != getattr(plan, name):
            yield f"the rehearsal has {name} {getattr(found, name)}, but this stage has {getattr(plan, name)}"
    if from_iso(found.began) < from_iso(plan.began):
        yield f"the rehearsal began at {found.began}, before this stage"


def _rehearsed(found: Rollback) -> Found:
    if tuple(step.name for step in found.steps) != _ORDER or [step.n for step in found.steps] != [1, 2, 3, 4]:
        steps = ", ".join(step.name for step in found.steps) or "missing"
        return State.ERROR, f"the steps are {steps}; expected {', '.join(_ORDER)}, in this order"
    moments = [from_iso(moment) for step in found.steps for moment in (step.began, step.ended)]
    if moments != sorted(moments):
        return State.ERROR, "the steps overlap in time"
    if wrong := [step for step in found.steps if step.state != "pass"]:
        return most_severe([(State(step.state), f"step {step.n} ({step.name}): {step.reason}") for step in wrong])
    if unverified := [step.name for step in found.steps if not step.verified_by or step.restored is False]:
        return State.ERROR, f"{unverified[0]}: no observation verified it, or its change was not restored"
    limit_s = min(found.limit_s, MAX_RECOVERY_S)
    if found.seconds is None or not 0 <= found.seconds <= limit_s:
        took = "never" if found.seconds is None else f"{found.seconds:.0f} s"
        return State.FAIL, f"recovered: {took}; at most {limit_s:.0f} s are allowed"
    if found.target_kind != "mock" and (found.stable_s is None or not found.stable_s >= MIN_STABLE_S):
        stable_s = found.stable_s or 0.0
        return State.INCONCLUSIVE, f"recovered, and then observed for {stable_s:g} s; {MIN_STABLE_S:g} s are needed"
    return State.PASS, f"recovered in {found.seconds:.0f} s of {limit_s:.0f} s, every step took effect and was restored"


def hold_span(events: Sequence[HoldEvent]) -> tuple[str, str]:
    """Start and end of the last hold; each is empty if it did not happen."""
    began = [each.at for each in events if each.kind in ("started", "restarted")]
    ended = events[-1].at if events and events[-1].kind == "ended" else ""
    return (began[-1] if began else "", ended)


def unknown_time(events: Sequence[HoldEvent]) -> str:
    """Why it is unknown how much time passed between some events of a hold; empty if it is known.

    Their dates are of a clock that can be set. Another clock runs with the machine, and starts again with it.
    """
    elapsed_s = [each.elapsed_s for each in events if each.elapsed_s is not None]
    if len(elapsed_s) != len(events):
        return "an event of the hold lacks the time of the clock that nobody can set"
    boots, is_resumed = {each.boot for each in events}, any(each.kind == "resumed" for each in events)
    if len(boots) > 1 or (is_resumed and "" in boots):
        return "the machine was started again, or may have been, so only a clock that can be set counted the time in between"
    offsets_s = [from_iso(each.at).timestamp() - s for each, s in zip(events, elapsed_s, strict=True)]
    if (set_s := max(offsets_s) - min(offsets_s)) > MAX_CLOCK_OFF_S:
        return f"the clock was set by {set_s:.0f} s; at most {MAX_CLOCK_OFF_S:g} s are allowed"
    return ""


def hold(events: Sequence[HoldEvent], plan: StagePlan, snapshots: Sequence[Snapshot]) -> Found:
    """Whether the stage was held to its end, long enough, and with unchanged revisions."""
    began, ended = hold_span(events)
    if not began:
        return State.NOT_RUN, "nothing was held"
    if aborted := [each for each in events if each.kind == "aborted"]:
        return State.FAIL, f"it was stopped at {aborted[-1].at}: {aborted[-1].reason}"
    if not ended:
        return State.ERROR, f"it was cut short; its last event is '{events[-1].kind}', at {events[-1].at}"
    if changed := next(_changed(snapshots, plan, began, ended), ""):
        return State.FAIL, changed
    if unknown := unknown_time(events[_latest(events) :]):
        return State.ERROR, unknown
    if unknown := next(_unknown(snapshots, plan, began, ended), ""):
        return State.INCONCLUSIVE, unknown
    held_s = (from_iso(ended) - from_iso(began)).total_seconds()
    if held_s < plan.hold_required_s:
        return State.INCONCLUSIVE, f"held for {held_s:.0f} s of {plan.hold_required_s:.0f} s"
    restarts = sum(each.kind == "restarted" for each in events)
    held = f"held for {held_s:.0f} s of {plan.hold_required_s:.0f} s, restarted {restarts} times"
    return all_passed([_gate_at(events, hour) for hour in plan.gates_at_h], held)


def _latest(events: Sequence[HoldEvent]) -> int:
    """The place of the event with which the last hold began."""
    return max(n for n, each in enumerate(events) if each.kind in ("started", "restarted"))


def _gate_at(events: Sequence[HoldEvent], after_h: float) -> Found:
    """The state of the gates `after_h` hours into the last hold."""
    found = [each for each in events[_latest(events) :] if each.kind == "gate" and each.gate_h == after_h]
    if not found:
        return State.NOT_RUN, f"the gates were not judged {after_h:g} h into the hold"
    return State(found[-1].state), f"the gates {after_h:g} h into the hold: {found[-1].reason or found[-1].state}"


def _changed(snapshots: Sequence[Snapshot], plan: StagePlan, began: str, ended: str) -> Iterator[str]:
    """Revisions that a server reported during the hold and that are not the stage's."""
    for each in snapshots:
        if not from_iso(began) <= from_iso(each.at) <= from_iso(ended):
            continue
        for what in ("control", "runtime"):
            was, now = getattr(plan.revisions, what), getattr(each.revisions, what)
            if was and now and now != was:
                yield f"the {what}'s revision was {now} at {each.at}, but this stage is for {was}"


def _unknown(snapshots: Sequence[Snapshot], plan: StagePlan, began: str, ended: str) -> Iterator[str]:
    """Services that did not report their revision for too long. An unknown revision may have changed."""
    for service, source in (("control", "control"), ("runtime", "metrics")):
        silent = 0
        for each in snapshots:
            if each.source != source or not each.ok or not from_iso(began) <= from_iso(each.at) <= from_iso(ended):
                continue
            silent = 0 if getattr(each.revisions, service) else silent + 1
            if silent > MAX_HOLE_INTERVALS and getattr(plan.revisions, service):
                yield f"the {service}'s revision was unknown in {silent} snapshots in a row, the last at {each.at}"


def revisions(plan: StagePlan, snapshots: Sequence[Snapshot]) -> Found:
    """Whether the deployed revisions are known and, for a preflight, did not change until its last snapshot."""
    if plan.stage == "0" and snapshots and (changed := next(_changed(snapshots, plan, plan.began, snapshots[-1].at), "")):
        return State.FAIL, changed
    return State.PASS if plan.revisions.known else State.NO_DATA, str(plan.revisions)


def cohort(run_dir: Path, plan: StagePlan, events: Sequence[HoldEvent]) -> Found:
    """Whether every routing check up to the end of the hold found exactly the planned cohort."""
    if plan.cohort_percent is None:
        return State.ERROR, "the plan does not say how large the cohort is"
    checks = evidence.read_lines(run_dir / records.ROUTING_CHECKS, RoutingCheck)
    found = routing_checks.judge(checks, plan.cohort_percent)
    rules, (began, ended) = stages_file.load(run_dir / records.STAGES), hold_span(events)
    # A routing check is due when the hold is evaluated.
    max_s = rules.routing_check.every_s + rules.sampling.judge_every_s + plan.snapshot_interval_s
    if found.state == State.PASS and ended and checks:
        since, until = from_iso(began), from_iso(ended)
        inside = sorted(moment for each in checks if since <= (moment := from_iso(each.at)) <= until)
        silent_s = max((later - before).total_seconds() for before, later in pairwise([since, *inside, until]))
        if silent_s > max_s:
            return (
                State.INCONCLUSIVE,
                f"there was no routing check for {silent_s:.0f} s of the hold; at most {max_s:.0f} s are allowed",
            )
    return State(found.state), found.reason


def canary_checks(run_dir: Path, events: Sequence[HoldEvent], judged: Found) -> Found:
    """Whether the canary checks of the last hold match the recorded ones and none of them failed.

    `judged` is the window's result for all of them. A single inconclusive canary check does not matter.
    """
    recorded = evidence.read_lines(run_dir / records.CANARY_CHECK_LIST, CanaryCheckDone)
    began, _ = hold_span(events)
    folder, runs = run_dir / records.CANARY_CHECKS, {each.run for each in recorded}
    there = sorted(f"{records.CANARY_CHECKS}/{path.name}" for path in folder.iterdir()) if folder.is_dir() else []
    found = [
        judged,
        *((State.ERROR, f"{run}: is not recorded in {records.CANARY_CHECK_LIST}") for run in there if run not in runs),
    ]
    for each in recorded:
        if each.run and [other.run for other in recorded].count(each.run) > 1:
            found.append((State.ERROR, f"{each.run}: is recorded in {records.CANARY_CHECK_LIST} more than once"))
        if each.run and each.run not in there:
            found.append((State.ERROR, f"{each.run}: is recorded in {records.CANARY_CHECK_LIST}, but it is missing"))
        if each.status == State.FAIL and (not began or from_iso(each.at) >= from_iso(began)):
            found.append((State.FAIL, f"{each.run} failed at {each.at}: {each.reason}"))
    return all_passed(found, judged[1])
