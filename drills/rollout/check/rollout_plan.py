"""The calendar of a whole rollout: when each stage begins and ends at the earliest, and by when it must begin."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from drills.rollout.hold import rollouts, status, times
from drills.rollout.hold.stage_plan import Asked
from drills.rollout.hold.status import StageStatus
from drills.rollout.preflight import drill_runs
from drills.rollout.setup import journal
from drills.rollout.setup.calendar import Calendar
from drills.rollout.setup.records import Stage
from drills.rollout.setup.stages import FULL_ROLLOUT, PREFLIGHT, StageRules, Stages
from sim.base.clocks import from_iso, iso
from sim.drill import model as drill_file
from sim.drill.target_rules import TargetKind

if TYPE_CHECKING:
    from rich.console import Console

_DONE = "go, signed"


class PlannedStage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage. Times are in UTC; those of a finished stage are empty."""

    stage: Stage
    title: str
    cohort: str
    state: str  # as in `stage status`
    begins: str = ""  # at the earliest
    ends: str = ""  # at the earliest
    begin_by: str = ""  # the last time for its command, as the signature before it is valid no longer
    lasts_s: float = 0.0
    notes: tuple[str, ...] = ()


class RolloutPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The calendar of a rollout. `zone` is that of its business days."""

    rollout: str
    target: str
    target_kind: TargetKind
    at: str
    zone: str
    stages: tuple[PlannedStage, ...]
    notes: tuple[str, ...] = ()


def plan(asked: Asked, kind: TargetKind, stages: Stages, now: datetime) -> RolloutPlan:
    """Plan the stages that are left, each as soon as the one before it is signed. Raises `UsageError`."""
    folder = rollouts.folder_of(asked.out, asked.rollout)
    there = (folder / journal.NAME).exists()
    states = {each.stage: each for each in status.of(folder, now, stages).stages} if there else {}
    planner = _Planner(asked, kind, stages, now, states)
    planned = tuple(planner.stages_in_order())
    return RolloutPlan(
        rollout=asked.rollout,
        target=asked.target,
        target_kind=kind,
        at=iso(now),
        zone=stages.calendar.zone,
        stages=planned,
        notes=tuple(_notes(planned, kind, stages)),
    )


class _Planner:
    def __init__(self, asked: Asked, kind: TargetKind, stages: Stages, now: datetime, states: dict[Stage, StageStatus]) -> None:
        self._asked, self._kind, self._stages, self._states = asked, kind, stages, states
        self._calendar = Calendar(stages.calendar)
        self._at = now
        self._begin_by = ""  # of the next stage

    def stages_in_order(self) -> Iterator[PlannedStage]:
        """Plan each stage after the one before it."""
        for stage, rules in self._stages.stages.items():
            known = self._states.get(stage)
            if known is not None and known.state == _DONE:
                yield PlannedStage(stage=stage, title=rules.title, cohort=rules.cohort, state=_DONE)
                continue
            begins, ends, notes = self._span(stage, rules, known)
            yield PlannedStage(
                stage=stage,
                title=rules.title,
                cohort=rules.cohort,
                state=known.state if known else "not_started",
                begins=iso(begins),
                ends=iso(ends),
                begin_by=self._begin_by,
                lasts_s=(ends - begins).total_seconds(),
                notes=tuple(notes),
            )
            self._at, self._begin_by = ends, iso(ends + timedelta(hours=self._stages.signoff.valid_h))

    def _span(self, stage: Stage, rules: StageRules, known: StageStatus | None) -> tuple[datetime, datetime, list[str]]:
        """Begin, end and notes of a stage."""
        hold = known.hold if known is not None and known.state == "under_way" else None
        if hold is not None and hold.began:
            return from_iso(hold.began), from_iso(hold.earliest_end), ["it is under way"]
        notes = []
        if rules.business_day is not None:
            hours = self._calendar.next_hours(self._at, rules.business_day)
            begins, ends = hours.begin, hours.end
            if free := self._calendar.free_days(self._at, begins):
                notes.append(f"not on {', '.join(free)}")
        elif stage == PREFLIGHT:
            begins, ends = self._at, self._at + timedelta(seconds=self._preflight_s(rules))
            notes.append("its length is an estimate")
        else:
            begins, ends = self._at, self._at + timedelta(seconds=rules.hold_s or 0.0)
        if off := self._calendar.why_free(self._calendar.day_of(ends)):
            notes.append(f"it ends on a free day ({off}), and then somebody must sign")
        return begins, ends, notes

    def _preflight_s(self, rules: StageRules) -> float:
        paths = drill_runs.chosen(rules.drills.of(self._kind), self._asked.stages.parent, self._kind) if rules.drills else {}
        drills = [drill_file.load(path) for path in paths.values()]
        return times.preflight(self._stages, self._kind, drills, self._asked.target == "mock").total_s


def _notes(planned: tuple[PlannedStage, ...], kind: TargetKind, stages: Stages) -> Iterator[str]:
    if kind == "mock":
        yield "A mock unlocks no stage but 0: this calendar shows what a target of kind staging or production would take."
    yield f"Each stage begins as soon as the one before it is signed. A signature is valid for {stages.signoff.valid_h:g} h."
    first, last = planned[0], next(each for each in planned if each.stage == FULL_ROLLOUT)
    if first.ends and last.ends:
        age_h = (from_iso(last.ends) - from_iso(first.ends)).total_seconds() / 3600
        if age_h > stages.signoff.rehearsal_valid_h:
            yield (
                f"At the end of stage {last.stage} the rollback rehearsal will be {age_h:.0f} h old; at most "
                f"{stages.signoff.rehearsal_valid_h:g} h are allowed, so rehearse it again."
            )


def show(found: RolloutPlan, rules: Stages, console: "Console") -> None:
    """Print the calendar as a table, in the zone of the business days."""
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    from drills.reports.terminal import say

    local = Calendar(rules.calendar).local

    def shown(at: str) -> str:
        return local(from_iso(at)) if at else "-"

    heads = ("stage", Column("begins", overflow="fold"), Column("ends", overflow="fold"), Column("what", overflow="fold"))
    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False)
    for each in found.stages:
        what = [f"{each.title} (cohort: {each.cohort})" + (f", {times.words(each.lasts_s)}" if each.lasts_s else "")]
        what += [each.state.replace("_", " ")] if each.state != "not_started" else []
        what += [f"its command by {shown(each.begin_by)}"] if each.begin_by else []
        table.add_row(*map(Text, (each.stage, shown(each.begins), shown(each.ends), "; ".join([*what, *each.notes]))))
    say(console, f"rollout {found.rollout} on {found.target}, at the earliest:")
    console.print(table)
    for sentence in found.notes:
        say(console, sentence)
