"""What of that which an engine recorded can be believed."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from drills.judging import gates
from drills.judging.checks.verdicts import DrillVerdict
from drills.runs import intent
from drills.runs.intent import PlannedDrill, RunPlan
from sim.analysis import invariants
from sim.base.atomic_files import read_struct
from sim.base.errors import EvidenceError
from sim.drill.model import Drill
from sim.record import parquet, run_header
from sim.record.history import History
from sim.record.ledger import Ledger


def recorded(folder: Path) -> tuple[Drill, History]:
    """The drill of a folder and what was observed, once it is sure that this is all of it and just as it was recorded.

    Raises `EvidenceError`.
    """
    header, table = run_header.read_verified(folder)
    drill = read_struct(folder / intent.DRILL_NAME, Drill)
    if header.drill_sha256 != intent.digest(folder / intent.DRILL_NAME):
        raise EvidenceError(f"{folder / intent.DRILL_NAME}: is not the drill that was run (its digest differs from run.json).")
    return drill, History(header, table)


def recorded_of(folder: Path, plan: RunPlan, planned: PlannedDrill, seed: int, drill: Drill) -> History:
    """What an engine recorded, once it is sure that it did so for this run. Raises `EvidenceError`."""
    header, table = run_header.read_verified(folder)
    _require_same_run(header, plan, planned, seed, drill, folder)
    return History(header, table)


def _require_same_run(
    header: run_header.RunHeader, plan: RunPlan, planned: PlannedDrill, seed: int, drill: Drill, folder: Path
) -> None:
    """Evidence of another run, drill, engine, target or seed proves nothing about this run."""
    claims = {
        "run_id": (header.run_id, plan.run_id),
        "drill": (header.drill, drill.name),
        "drill_sha256": (header.drill_sha256, planned.sha256),
        "clients": (header.clients, drill.fleet.clients),
        "policy": (header.policy, drill.fleet.policy),
        "engine": (header.engine, plan.engine),
        "target": (header.target, plan.target),
        "target_kind": (header.target_kind, plan.target_kind),
        "seed": (header.seed, seed),
    }
    for name, (found, wanted) in claims.items():
        if found != wanted:
            where = folder / run_header.HEADER_NAME
            raise EvidenceError(f"{where}: says {name} {found!r}, but this run's is {wanted!r}.")
    if not _is_after(header.started_at, plan.created_at):
        raise EvidenceError(
            f"{folder}: this began before this run did ({header.started_at}, {plan.created_at}); it is another's."
        )


def _is_after(moment: str, other: str) -> bool:
    try:
        return datetime.fromisoformat(moment) >= datetime.fromisoformat(other)
    except (ValueError, TypeError):  # no moment at all, or one without its time zone
        return False


def salvage(folder: Path, verdict: DrillVerdict) -> DrillVerdict:
    """Add what a run that was cut short already shows to have gone wrong; it stays an error or becomes a failure."""
    try:
        header = run_header.read_header(folder)
    except EvidenceError:
        return verdict
    if header.complete:
        return verdict  # its files were changed or damaged: nothing in them can be believed
    if header.stop_condition:
        met = gates.stopped(verdict.checks[0].evidence, header.stop_condition)
        verdict = replace(verdict, checks=(*verdict.checks, met), remarks=tuple(header.remarks))
    try:
        history = History(header, parquet.read(folder))
        broken = tuple(invariants.violations(history, Ledger(history), complete=False))
    except Exception:  # it was unreadable anyway, and the verdict says why
        return verdict
    return replace(verdict, clients=header.clients, duration_s=history.duration_s, policy=header.policy, violations=broken)
