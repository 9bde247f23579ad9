"""How long the parts of a stage take. The values are estimates, except those of the stages file."""

from collections.abc import Iterable
from dataclasses import dataclass

from drills.reports import terminal
from drills.rollout.rollback import rehearsal_steps
from drills.rollout.setup import commands
from drills.rollout.setup.stages import PREFLIGHT, Stages
from drills.runs import variants
from sim.drill.model import Drill, expected_duration_s
from sim.drill.target_rules import TargetKind

_START_S = 5.0  # [ours] of a drill: its process, its report and its figures
_COMMAND_S = 60.0  # [ours] of a verification command, which may take as long as its own limit
_CHANGE_S = 45.0  # [ours] of one step of a rollback and its end, with the observations


@dataclass(frozen=True)
class PreflightTime:
    """The parts of stage 0, in seconds and in their order."""

    commands_s: float
    drills_s: float
    rehearsal_s: float
    baseline_s: float

    @property
    def parts(self) -> dict[str, float]:
        """The parts by name."""
        return {
            "commands": self.commands_s,
            "drills": self.drills_s,
            "rollback": self.rehearsal_s,
            "baseline": self.baseline_s,
        }

    @property
    def total_s(self) -> float:
        """The whole stage."""
        return sum(self.parts.values())


def drill_s(drill: Drill) -> float:
    """One drill, with all its variants."""
    return expected_duration_s(drill) * max(len(variants.variants_of(drill)), 1) + _START_S


def preflight(stages: Stages, kind: TargetKind, drills: Iterable[Drill], is_embedded: bool) -> PreflightTime:
    """The time that stage 0 takes."""
    at_once = stages.stages[PREFLIGHT].side_by_side if is_embedded else 1
    stable_s = rehearsal_steps.MOCK_STABLE_S if kind == "mock" else rehearsal_steps.STABLE_S
    return PreflightTime(
        commands_s=sum(min(_COMMAND_S, each.timeout_s) for each in stages.commands if not commands.missing(each)),
        drills_s=sum(map(drill_s, drills)) / at_once,
        rehearsal_s=3 * _CHANGE_S + stable_s,
        baseline_s=stages.baseline_s(kind),
    )


words = terminal.length
