"""What changed since the stage before, check by check."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from drills.judging.checks.verdicts import GRAVEST_FIRST, State
from drills.rollout.setup.records import Change, Gate, GateCheck, StagePlan
from drills.rollout.verdict import chain
from sim.base.errors import EvidenceError


def changes(run_dir: Path, plan: StagePlan, judged: Sequence[Gate]) -> tuple[Change, ...]:
    """Every check of both reports, those that got worse first; none where there is no stage before, or none to believe."""
    try:
        before = next(chain.earlier(run_dir, plan), None)
    except EvidenceError:  # the part previous_stage says so
        return ()
    return compare(before.report.gates, judged) if before else ()


def compare(before: Sequence[Gate], now: Sequence[Gate]) -> tuple[Change, ...]:
    """Every check of either, those that got worse first."""
    old, new = _checks(before), _checks(now)
    found = [_change(name, old.get(name), new.get(name)) for name in dict.fromkeys((*new, *old))]
    return tuple(sorted(found, key=lambda each: ("worse", "better", "same").index(each.verdict)))


def _checks(gates: Sequence[Gate]) -> dict[tuple[str, str], GateCheck]:
    return {(check.gate, check.check): check for gate in gates for check in gate.checks}


def _change(name: tuple[str, str], old: GateCheck | None, new: GateCheck | None) -> Change:
    was, now = (old.value if old else None), (new.value if new else None)
    known = next(check for check in (new, old) if check)
    return Change(
        gate=name[0],
        check=name[1],
        unit=known.unit,
        before_state=old.state if old else "",
        state=new.state if new else "",
        before=was,
        now=now,
        change=now - was if was is not None and now is not None else None,
        verdict=_verdict(old, new),
    )


def _verdict(old: GateCheck | None, new: GateCheck | None) -> Literal["better", "worse", "same"]:
    if old is None or new is None or old.state == new.state:
        return "same"
    graver = GRAVEST_FIRST.index(State(new.state)) < GRAVEST_FIRST.index(State(old.state))
    return "worse" if graver else "better"
