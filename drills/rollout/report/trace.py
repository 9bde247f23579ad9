"""The trace of a stage, made from its files: a span for the baseline or the hold, each evaluation, command and drill in it.

Its drills and canary checks have the spans of any run, with their phases and faults. Events of the hold and preconditions are
events of the stage's span.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from drills.exports import otlp
from drills.exports.otlp import Event, Span, Value
from drills.judging.checks.verdicts import State
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import (
    CanaryCheckDone,
    CommandDone,
    DrillDone,
    Evaluated,
    HoldEvent,
    Precondition,
    Rollback,
    StageReport,
)
from drills.runs import recorded_runs
from sim.base.atomic_files import read_struct
from sim.base.clocks import from_iso
from sim.base.errors import StormgateError

_BEGINS, _ENDS = ("started", "restarted", "resumed"), ("interrupted", "aborted", "ended")


def of_stage(run_dir: Path, report: StageReport) -> Span:
    """The trace of a stage. A drill without a complete record has no phases. Raises `EvidenceError` for damaged files."""
    plan = report.plan
    events = evidence.read_lines(run_dir / records.HOLD, HoldEvent)
    children = (*_commands(run_dir), *_drills(run_dir), *_rollback(run_dir), *_holds(run_dir, report, events))
    about: dict[str, Value] = {
        "stormgate.run_id": plan.run_id,
        "stormgate.rollout": plan.rollout,
        "stormgate.stage": plan.stage,
        "stormgate.target": plan.target,
        "stormgate.decision": report.decision,
        **{f"stormgate.status.{gate.name}": gate.state for gate in report.gates},
        **{f"stormgate.status.{each.name}": each.state for each in report.requirements},
    }
    last = max((span.end_t for span in children), default=0.0)
    return Span(
        name=f"stage {plan.stage}",
        start_t=_t(plan.began),
        end_t=max(_t(report.ended), last),
        attributes=about,
        events=(*_preconditions(run_dir), *map(_event, events)),
        children=children,
        error=report.reason,
    )


def _t(at: str) -> float:
    return from_iso(at).timestamp()


def _error(state: str, reason: str) -> str:
    """What the span's status says; empty for a pass."""
    return "" if state == State.PASS else reason or state


def _event(event: HoldEvent) -> Event:
    return Event(f"hold {event.kind}", _t(event.at), {"reason": event.reason})


def _preconditions(run_dir: Path) -> Iterator[Event]:
    for each in evidence.read_lines(run_dir / records.PRECONDITIONS, Precondition):
        yield Event(f"precondition {each.name}", _t(each.at), {"state": each.state, "reason": each.reason})


def _commands(run_dir: Path) -> Iterator[Span]:
    for each in evidence.read_lines(run_dir / records.COMMANDS, CommandDone):
        if each.began:
            began_t = _t(each.began)
            about: dict[str, Value] = {"stormgate.command": each.name, "stormgate.status": each.state}
            error = _error(each.state, each.reason)
            yield Span(f"command {each.name}", began_t, began_t + each.duration_s, about, error=error)


def _drills(run_dir: Path) -> Iterator[Span]:
    for each in evidence.read_lines(run_dir / records.DRILL_RESULTS, DrillDone):
        if each.run:
            yield from _runs(run_dir / records.DRILLS / each.run, each.status, each.reason)


def _runs(folder: Path, status: str, reason: str) -> list[Span]:
    """The spans of the runs in a folder; none without complete records."""
    try:
        found = list(recorded_runs.runs_in(folder))
    except StormgateError:
        return []
    return [otlp.of_drill(each.name, each.history, status, _error(status, reason)) for each in found]


def _rollback(run_dir: Path) -> Iterator[Span]:
    if not (path := run_dir / records.ROLLBACK).exists():
        return
    found = read_struct(path, Rollback)
    steps = tuple(
        Span(
            f"step {step.name}",
            _t(step.began),
            _t(step.ended),
            {"stormgate.step": step.name, "stormgate.status": step.state},
            error=_error(step.state, step.reason),
        )
        for step in found.steps
        if step.began and step.ended
    )
    about: dict[str, Value] = {"stormgate.status": found.state, "stormgate.target": found.target}
    error = _error(found.state, found.reason)
    yield Span("rollback rehearsal", _t(found.began), _t(found.ended), about, children=steps, error=error)


def _holds(run_dir: Path, report: StageReport, events: Sequence[HoldEvent]) -> Iterator[Span]:
    """A span for each time between two events that begin or end the hold, with its evaluations and canary checks."""
    name = "baseline" if report.plan.stage == "0" else "hold"
    inside = [*_canary_checks(run_dir)]
    evaluations = evidence.read_lines(run_dir / records.EVALUATIONS, Evaluated)
    edges = [event for event in events if event.kind in (*_BEGINS, *_ENDS)]
    ends = [*(_t(event.at) for event in edges[1:]), _t(report.ended)]
    for event, end_t in zip(edges, ends[: len(edges)], strict=True):
        if event.kind in _ENDS:
            continue
        start_t = _t(event.at)
        part = Span(f"{name} waiting" if event.waits else name, start_t, end_t, {"stormgate.began_as": event.kind})
        mine = [span for span in inside if start_t <= span.start_t < end_t]
        inside = [span for span in inside if not start_t <= span.start_t < end_t]
        judged = [line for line in evaluations if start_t <= _t(line.at) <= end_t]
        yield replace(part, children=(*mine, *_evaluations(judged, start_t)))
    yield from inside


def _evaluations(lines: Sequence[Evaluated], start_t: float) -> Iterator[Span]:
    """A span for each evaluation: the time since the one before it."""
    for line in lines:
        at_t = _t(line.at)
        about: dict[str, Value] = {"stormgate.coverage": line.coverage, "stormgate.worst_check": line.worst}
        yield Span("evaluation", start_t, at_t, about)
        start_t = at_t


def _canary_checks(run_dir: Path) -> Iterator[Span]:
    for list_name in (records.CANARY_CHECK_LIST, records.CONTROL_LIST):
        side = "canary" if list_name == records.CANARY_CHECK_LIST else "control"
        for each in evidence.read_lines(run_dir / list_name, CanaryCheckDone):
            runs = _runs(run_dir / each.run, each.status, each.reason) if each.run else []
            about: dict[str, Value] = {
                "stormgate.drill": each.drill,
                "stormgate.status": each.status,
                "stormgate.side": side,
                "stormgate.build": each.build,
            }
            error = _error(each.status, each.reason)
            yield Span("canary check", _t(each.at), _t(each.ended), about, children=tuple(runs), error=error)
