"""Capacity ramp: run a drill with more and more clients until a gate fails; the last green load is the answer."""

import argparse
from dataclasses import dataclass, replace

import msgspec

from drills.judging.checks.verdicts import RunVerdict, State
from drills.judging.gates import GENERATOR
from locustfiles.load.run.options import Plan
from sim.base.errors import UsageError
from sim.base.exit_codes import ExitCode
from sim.drill import model as drills


@dataclass(frozen=True)
class Step:
    """One judged run of a ramp."""

    clients: int
    exit_code: ExitCode
    run_id: str
    saturated: bool  # the load generator could not keep up, so the run does not measure the service


class CapacityRamp:
    """Chooses the next load, and sums up the result."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Raises `UsageError` for a growth factor of 1 or less."""
        self.steps: list[Step] = []
        self._growth, self._max_clients = options.growth, options.max_clients
        if self._growth <= 1:
            raise UsageError(f"--growth {self._growth:g}: a capacity ramp needs a factor above 1.")

    def after(self, plan: Plan, verdict: RunVerdict) -> Plan | None:
        """Return the plan of the next run; None when the ramp is over."""
        clients = plan.drill.fleet.clients
        checks = [check for drill in verdict.drills for check in drill.checks]
        saturated = any(check.name == GENERATOR and check.state is State.ERROR for check in checks)
        self.steps.append(Step(clients, verdict.exit_code, verdict.run_id, saturated))
        if verdict.exit_code != ExitCode.GO or clients >= self._max_clients:
            return None
        fleet = msgspec.structs.replace(
            plan.drill.fleet, clients=min(max(round(clients * self._growth), clients + 1), self._max_clients)
        )
        drill = msgspec.structs.replace(plan.drill, fleet=fleet)
        drills.check(drill, f"drill '{drill.name}' with {fleet.clients} clients")
        return replace(plan, drill=drill)

    @property
    def last_green(self) -> Step | None:
        """The largest run whose gates were all green."""
        return next((step for step in reversed(self.steps) if step.exit_code == ExitCode.GO), None)

    @property
    def exit_code(self) -> ExitCode:
        """Go if the limit lies between two loads, inconclusive if it was not reached, else the code of the failed run."""
        if not self.steps:
            return ExitCode.TOOL
        last = self.steps[-1]
        if last.exit_code == ExitCode.GO:
            return ExitCode.INCONCLUSIVE
        return ExitCode.GO if self.last_green is not None and last.exit_code == ExitCode.NO_GO else last.exit_code

    def in_words(self) -> str:
        """Return one sentence on how many clients the service took so far."""
        green, last = self.last_green, self.steps[-1] if self.steps else None
        if last is None:
            return "nothing was judged"
        so_far = f"green up to {green.clients} clients ({green.run_id})" if green else "no load was green"
        if last.exit_code == ExitCode.GO:
            return f"{so_far}; the limit was not reached, raise --max-clients"
        why = {ExitCode.NO_GO: "red", ExitCode.INCONCLUSIVE: "not decided"}.get(last.exit_code, "not measured")
        whose = " because the load generator was saturated: this is its limit, not the service's" if last.saturated else ""
        return f"{so_far}; {last.clients} clients were {why}{whose} ({last.run_id})"
