"""What changed since the previous stage, check by check."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from drills.judging.checks.verdicts import GRAVEST_FIRST, State
from drills.rollout.setup.records import Change, Gate, GateCheck, StagePlan
from drills.rollout.verdict import chain
from sim.base.errors import EvidenceError


def changes(run_dir: Path, plan: StagePlan, judged: Sequence[Gate]) -> tuple[Change, ...]:
    """Compare with the previous stage's report, worse checks first. Empty if there is no valid previous report."""
    try:
        before = next(chain.earlier(run_dir, plan), None)
    except EvidenceError:  # the requirement previous_stage reports it
        return ()
    return compare(before.report.gates, judged) if before else ()


def compare(before: Sequence[Gate], now: Sequence[Gate]) -> tuple[Change, ...]:
    """Compare every check of either report, worse checks first."""
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
    is_worse = GRAVEST_FIRST.index(State(new.state)) < GRAVEST_FIRST.index(State(old.state))
    return "worse" if is_worse else "better"
