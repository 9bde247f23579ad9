"""A climb: the same drill with more clients each time, until a gate is not green; the last green load is the answer."""

import argparse
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from drills.judging.checks.verdicts import RunVerdict, State
from drills.judging.gates import GENERATOR
from locustfiles.load.run.options import Plan
from sim.base.errors import UsageError
from sim.drill import model as drills

_GO, _INCONCLUSIVE, _EXIT_INTERNAL = 0, 2, 4


def add_to(parser: Any) -> None:
    """The fields of a climb; where it begins is `--clients`."""
    parser.add_argument("--growth", type=float, default=1.5, help="Each step has so many times the clients of the one before.")
    parser.add_argument("--max-clients", type=int, default=5000, help="The climb ends here at the latest.")


@dataclass(frozen=True)
class Step:
    """One run of a climb, judged."""

    clients: int
    exit_code: int
    run_id: str
    saturated: bool  # the load generator itself could not keep up, so this says nothing about the lane


class CapacityRamp:
    """Which load is next, and what came of it all."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Raises `UsageError` for a climb that goes nowhere."""
        self.steps: list[Step] = []
        self._growth, self._most = options.growth, options.max_clients
        if self._growth <= 1:
            raise UsageError(f"--growth {self._growth:g}: a climb needs more than 1.")

    def after(self, plan: Plan, verdict: RunVerdict) -> Plan | None:
        """The plan of the next step; None when the climb is over."""
        clients = plan.drill.fleet.clients
        checks = [check for drill in verdict.drills for check in drill.checks]
        saturated = any(check.name == GENERATOR and check.state is State.ERROR for check in checks)
        self.steps.append(Step(clients, verdict.exit_code, verdict.run_id, saturated))
        if verdict.exit_code != _GO or clients >= self._most:
            return None
        fleet = msgspec.structs.replace(
            plan.drill.fleet, clients=min(max(round(clients * self._growth), clients + 1), self._most)
        )
        drill = msgspec.structs.replace(plan.drill, fleet=fleet)
        drills.check(drill, f"drill '{drill.name}' with {fleet.clients} clients")
        return replace(plan, drill=drill)

    @property
    def last_green(self) -> Step | None:
        """The most clients of whom everything asked was green."""
        return next((step for step in reversed(self.steps) if step.exit_code == _GO), None)

    @property
    def exit_code(self) -> int:
        """0 when the lane's limit was found between two loads, 2 when it was not reached, else that of the step in the way."""
        if not self.steps:
            return _EXIT_INTERNAL
        last = self.steps[-1]
        if last.exit_code == _GO:
            return _INCONCLUSIVE
        return _GO if self.last_green is not None and last.exit_code == 1 else last.exit_code

    def in_words(self) -> str:
        """What is known now of how much the lane takes."""
        green, last = self.last_green, self.steps[-1] if self.steps else None
        if last is None:
            return "nothing was judged"
        so_far = f"green up to {green.clients} clients ({green.run_id})" if green else "no load was green"
        if last.exit_code == _GO:
            return f"{so_far}, and no limit was found; climb further with --max-clients"
        why = {1: "red", 2: "not decided"}.get(last.exit_code, "not measured")
        whose = ", because the load generator itself was late: this is its limit, not the lane's" if last.saturated else ""
        return f"{so_far}; {last.clients} clients were {why}{whose} ({last.run_id})"
