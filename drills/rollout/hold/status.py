"""The status of a rollout: each stage, what the next stage needs, and the earliest end of a hold."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from drills.rollout.hold import rollouts, signoff, unlock
from drills.rollout.hold.rollouts import RunRecord
from drills.rollout.setup import evidence, records
from drills.rollout.setup.journal import NAME, Entry
from drills.rollout.setup.journal import read as read_journal
from drills.rollout.setup.records import Evaluated, HoldEvent, Stage, StagePlan
from drills.rollout.setup.stages import Stages, command_for
from drills.rollout.verdict import chain, splits
from drills.runs import targets
from sim.base import atomic_files
from sim.base.clocks import from_iso, iso
from sim.base.errors import StormgateError, UsageError
from sim.engines.shared.endpoints import EMBEDDED_MOCK

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {"go, signed": "green", "go": "green", "no_go": "red", "no_go, signed": "red"}


class HoldStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A hold that has no report yet."""

    began: str  # of the last start or restart; empty without one
    held_s: float
    required_s: float
    earliest_end: str  # if nothing breaks it again; empty while it waits
    restarts: int
    last: str  # the last event
    evaluated: Evaluated | None = None  # the latest evaluation since it began
    is_overdue: bool = False  # the next evaluation should have come: perhaps the hold no longer runs


class StageStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One stage by its latest run."""

    stage: Stage
    state: str  # not_begun, under_way, no_go, go, outdated; followed by `, signed` if it is signed
    run: str = ""
    target: str = ""
    why: tuple[str, ...] = ()
    signed: str = ""  # by whom and when
    waivers: tuple[str, ...] = ()  # each with its effect
    hold: HoldStatus | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole rollout. `next_stage` is empty if every stage is a signed go."""

    rollout: str
    folder: str
    at: str
    stages: tuple[StageStatus, ...]
    next_stage: str
    missing: tuple[str, ...]
    command: str


def of(folder: Path, now: datetime, rules: Stages) -> Status:
    """Determine the status, with the problems of the stages file for the next stage.

    Raises `UsageError` for a rollout that does not exist, `EvidenceError` for a journal that was changed.
    """
    if not (folder / NAME).exists():
        raise UsageError(f"{folder}: there is no such rollout; start one with `stormgate stage run 0 --rollout {folder.name}`.")
    entries = read_journal(folder / NAME)
    stages = tuple(_stage(folder, entries, stage, now) for stage in rules.stages)
    stage = _next(stages)
    missing = tuple(unlock.missing(folder, entries, stage, now, rules)) if stage else ()
    if stage:
        missing += tuple(_lacking(stage, rules))
    target = next((each.target for each in stages if each.target not in ("", EMBEDDED_MOCK)), targets.EMBEDDED)
    return Status(
        rollout=folder.name,
        folder=str(folder),
        at=iso(now),
        stages=stages,
        next_stage=stage or "",
        missing=missing,
        command=_command(stage, folder.name, target, missing, stages) if stage else "",
    )


def _lacking(stage: Stage, stages: Stages) -> Iterator[str]:
    rules = stages.stages[stage]
    if splits.CANARY in rules.required and not rules.control:
        yield f'no control is named, so its canary cannot be compared: write control = "NAME" into [stages.{stage}]'


def _stage(folder: Path, entries: list[Entry], stage: Stage, now: datetime) -> StageStatus:
    run = rollouts.latest(entries, stage)
    if run is None:
        return StageStatus(stage=stage, state="not_started")
    run_dir, target = rollouts.run_dir(folder, run.run_id), str(run.started.body.get("target", ""))
    if run.reported is None:
        hold = _hold(run_dir, now)
        return StageStatus(stage=stage, state="under_way", run=run.run_id, target=target, hold=hold)
    try:
        found = _reported(run_dir, run, target, entries)
        if outdated := tuple(unlock.superseded(folder, entries, run)):
            return msgspec.structs.replace(found, state="outdated", why=outdated)
        return found
    except StormgateError as error:
        return StageStatus(stage=stage, state="no_go", run=run.run_id, target=target, why=(str(error),))


def _reported(run_dir: Path, run: RunRecord, target: str, entries: list[Entry]) -> StageStatus:
    report = unlock.recorded_report(run_dir, run)
    signed = unlock.recorded_signoff(run_dir, run)
    chain.require_unchanged(chain.Earlier(run_dir, report))
    sha256 = evidence.sha256(run_dir / records.REPORT)
    waivers = [(waiver, signoff.invalid_reason(waiver, entries, sha256)) for waiver in evidence.read_waivers(run_dir)]
    return StageStatus(
        stage=run.stage,
        state=f"{signed.decision}, signed" if signed else report.decision,
        run=run.run_id,
        target=target,
        why=report.why,
        signed=f"{signed.owner} ({signed.role}), {signed.at}" if signed else "",
        waivers=tuple(
            f"{waiver.check}: {f'does not count, as {why}' if why else f'waived by {waiver.owner}; the decision stays'}"
            for waiver, why in waivers
        ),
    )


def _hold(run_dir: Path, now: datetime) -> HoldStatus | None:
    try:
        plan = atomic_files.read_struct(run_dir / records.PLAN, StagePlan)
        events = evidence.read_lines(run_dir / records.HOLD, HoldEvent)
        evaluations = evidence.read_lines(run_dir / records.EVALUATIONS, Evaluated)
    except StormgateError:
        return None
    starts = [event for event in events if event.kind in ("started", "restarted")]
    began = starts[-1].at if starts and not starts[-1].waits else ""  # after a waiting event it has not restarted yet
    end = from_iso(began) + timedelta(seconds=plan.hold_required_s) if began else None
    latest = evaluations[-1] if evaluations and began and from_iso(evaluations[-1].at) >= from_iso(began) else None
    return HoldStatus(
        began=began,
        held_s=max((now - from_iso(began)).total_seconds(), 0.0) if began else 0.0,
        required_s=plan.hold_required_s,
        earliest_end=iso(max(end, now)) if end else "",
        restarts=sum(event.kind == "restarted" for event in events),
        last=f"{events[-1].kind} {events[-1].reason}".strip() if events else "",
        evaluated=latest,
        is_overdue=latest is not None and _is_overdue(latest, now),
    )


def _is_overdue(latest: Evaluated, now: datetime) -> bool:
    """Whether the next evaluation is late by more than the time between two."""
    due = from_iso(latest.next)
    return now - due > due - from_iso(latest.at)


def _next(stages: Sequence[StageStatus]) -> Stage | None:
    """The first stage that is not a signed go; None without one."""
    return next((each.stage for each in stages if each.state != "go, signed"), None)


def _command(stage: Stage, rollout: str, target: str, missing: Sequence[str], stages: Sequence[StageStatus]) -> str:
    """The command of the next step; empty while something is missing."""
    found = {each.stage: each for each in stages}[stage]
    if found.state == "go":
        return f'stormgate stage sign --rollout {rollout} --owner "..." --role "..." --statement "..."'
    if missing and found.state != "no_go":
        return ""
    return f"stormgate stage {command_for(stage)} --rollout {rollout} --target {target}"


def show(status: Status, console: "Console") -> None:
    """Print the status on one screen."""
    from rich.markup import escape
    from rich.table import Table

    from drills.reports.terminal import say

    say(console, f"{status.rollout} at {status.at}", "bold")
    table = Table("stage", "state", "signed", "run")
    for each in status.stages:
        colour = _COLOURS.get(each.state, "yellow")
        table.add_row(each.stage, f"[{colour}]{each.state.replace('_', ' ')}[/]", escape(each.signed or "-"), each.run or "-")
    console.print(table)
    for each in status.stages:
        for line in _lines(each):
            say(console, f"  {each.stage}: {line}")
    if not status.next_stage:
        console.print("every stage is a signed go")
    for sentence in status.missing:
        say(console, f"stage {status.next_stage} waits: {sentence}")
    if status.command:
        console.print(f"next: {escape(status.command)}", soft_wrap=True)


def _lines(status: StageStatus) -> list[str]:
    hold = status.hold
    lines = [] if status.state.startswith("go") else list(status.why[:3])
    if hold is not None and hold.began:
        lines.append(
            f"held {hold.held_s:.0f} s of {hold.required_s:.0f} s since {hold.began}, restarted {hold.restarts} times; "
            f"earliest end {hold.earliest_end}"
        )
    if hold is not None and hold.evaluated is not None:
        found = hold.evaluated
        overdue = "; it is overdue, so the hold may have been killed" if hold.is_overdue else ""
        lines.append(f"evaluated {found.at}: coverage {found.coverage}; {found.worst}; next evaluation {found.next}{overdue}")
    if hold is not None and hold.last:
        lines.append(f"last: {hold.last}")
    return [*lines, *status.waivers]
