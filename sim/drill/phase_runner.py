"""The phases of a drill, the same on every engine: steady state, fault, recovery, settle, end.

The runner is a generator that yields each `Wait`. Only this module reads phase lengths, limits and poll periods.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from sim.drill.fault_kinds import KillRuntime
from sim.drill.fault_lifecycle import FaultActions, FaultLifecycle, Record, Steps
from sim.drill.fault_schedule import PlannedFault
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.drill.waiting import Wait, Woke

POLL_S = 0.1  # between two checks of the steady state, of unfinished publishes, or of convergence
DRAIN_LIMIT_S = 20.0  # for publishes whose outcome is unknown when publishing ends


class World(Protocol):
    """The operations of an engine that `PhaseRunner` needs. No method blocks: the runner yields each wait."""

    @property
    def actions(self) -> FaultActions:
        """The actions that inject and revert faults."""

    @property
    def record(self) -> Record:
        """The function that adds an observation of the run or of a fault."""

    def now(self) -> float:
        """Return the time on the run's clock, in seconds."""

    def entered(self, phase: str) -> None:
        """Handle the start of a phase, after it is recorded."""

    def start(self) -> None:
        """Start the arrival of clients and the publishing."""

    def unready_reason(self) -> str:
        """Return why the steady state does not hold; empty if it holds."""

    def end_load(self) -> None:
        """End all load on the target, because the run is being stopped."""

    def finish_publishing(self) -> None:
        """Stop publishing new events."""

    def is_publishing(self) -> bool:
        """Return whether the outcome of any published event is still unknown."""

    def abandon_publishing(self) -> None:
        """Record a failure for every event whose outcome is still unknown."""

    def is_settled(self) -> bool:
        """Return whether every client has converged."""

    def conclude(self) -> None:
        """Record which clients have converged, and the reason for each client that has not."""

    def add_auditor(self) -> None:
        """Add a client that reads all retained events, if the engine has an auditor."""

    def is_audited(self) -> bool:
        """Return whether the auditor has read everything; also true without an auditor."""

    def conclude_audit(self) -> None:
        """Record the same for the auditor as `conclude` for the clients."""


def latest_end_s(drill: Drill, model: SystemModel) -> float:
    """Return the latest possible end of a simulated run, in seconds."""
    phases = drill.phases
    limits = (phases.steady_s, phases.steady_limit_s, phases.fault_s, phases.recovery_s, DRAIN_LIMIT_S, 2 * phases.settle_s)
    starts = sum(isinstance(fault, KillRuntime) for fault in drill.faults)
    return drill.fleet.arrival_s + sum(limits) + starts * model.server.cold_start_s + 1.0


class PhaseRunner:
    """Runs one drill on an engine.

    If `is_open_ended`, the steady state lasts until `end_steady_state`, or until an operator starts a fault by hand.
    """

    def __init__(self, drill: Drill, faults: Sequence[PlannedFault], world: World, *, is_open_ended: bool = False) -> None:
        self._phases = drill.phases
        self._arrival_s = drill.fleet.arrival_s
        self._is_open_ended = is_open_ended
        self._must_end_steady = False
        self._world = world
        self.faults = FaultLifecycle(faults, world.actions, world.record)
        self.phase = "start"
        self.is_steady = False  # the steady state held before the fault phase
        self.is_stopped = False

    def run(self) -> Steps:
        """Run all phases. An error before recovery is raised after all faults are reverted."""
        failure: Exception | None = None
        try:
            yield from self._reach_steady_state()
            self._enter("fault")
            if self.is_steady:
                yield from self._inject_faults()
        except Exception as error:
            failure, self.is_stopped = error, True
        try:
            self._enter("recovery")
            if self.is_stopped:
                self._world.end_load()
        finally:
            yield from self.faults.revert()
        if failure is not None:
            raise failure
        yield from self._wait_until(self._world.now() + self._phases.recovery_s)
        self._enter("settle")
        yield from self._settle()
        self._enter("end")

    # --- by hand ------------------------------------------------------------------------------------

    def bring_forward(self) -> PlannedFault:
        """Start the next waiting fault now and return it. The caller must wake the driver."""
        planned = min(self.faults.waiting, key=lambda each: each.begins_s)
        self.faults.bring_forward(planned, self._world.now())
        return planned

    def end_steady_state(self) -> None:
        """End the steady state now. The caller must wake the driver."""
        self._must_end_steady = True

    def revert_by_hand(self) -> None:
        """End the fault phase now. The caller must wake the driver."""
        self.faults.end_by_hand(self._world.now())

    # --- phases -------------------------------------------------------------------------------------

    def _reach_steady_state(self) -> Steps:
        """Let all clients arrive, then check that the steady state holds before the first fault."""
        self._enter("steady")
        self._world.start()
        length_s = math.inf if self._is_open_ended else self._arrival_s + self._phases.steady_s
        yield from self._wait_until(
            self._world.now() + length_s, may_end=lambda: self._must_end_steady or len(self.faults.brought_forward) > 0
        )
        limit = self._world.now() + self._phases.steady_limit_s
        while (unready := self._world.unready_reason()) and self._world.now() < limit and not self.is_stopped:
            yield from self._wait(self._world.now() + POLL_S)
        self._world.record("steady", value=0.0 if unready else 1.0, detail=unready or "all clients live")
        self.is_steady = not unready and not self.is_stopped

    def _inject_faults(self) -> Steps:
        """Run the fault phase until every fault has ended, even if that takes longer than planned."""
        now, faults = self._world.now, self.faults
        ends = now() + self._phases.fault_s
        faults.start(now())
        while not self.is_stopped and not (faults.is_over and (now() >= ends or faults.is_ended_by_hand)):
            yield from self._wait(*(() if now() >= ends else (ends,)), *faults.moments(), condition=faults.has_news)
            if not self.is_stopped:
                faults.advance(now())
        yield from self._wait(now())  # other actions due at this moment still belong to the fault phase

    def _settle(self) -> Steps:
        """Wait for all clients to converge by themselves, then for an auditor that reads everything.

        The auditor comes last: a new connection may repair what is broken.
        """
        world = self._world
        if not self.is_stopped:
            yield from self._drain()
        yield from self._wait_for(world.is_settled)
        world.conclude()
        if not self.is_stopped:
            world.add_auditor()
            yield from self._wait_for(world.is_audited)
            world.conclude_audit()

    def _drain(self) -> Steps:
        """Stop publishing, and wait for the outcome of every published event."""
        world = self._world
        world.finish_publishing()
        limit = world.now() + DRAIN_LIMIT_S
        while world.is_publishing() and world.now() < limit and not self.is_stopped:
            yield from self._wait(world.now() + POLL_S)
        world.abandon_publishing()

    # --- waiting ------------------------------------------------------------------------------------

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self._world.record("phase", detail=phase)
        self._world.entered(phase)

    def _wait_until(self, moment: float, may_end: Callable[[], bool] = lambda: False) -> Steps:
        """Wait until a moment, a stop of the run, or an operator's action that makes `may_end` true."""
        while not self.is_stopped and not may_end():
            yield from self._wait(moment)
            if self._world.now() >= moment:
                return

    def _wait_for(self, is_over: Callable[[], bool]) -> Steps:
        """Wait until this is true, at most `settle_s`."""
        limit, done = self._world.now() + self._phases.settle_s, False
        while not done and self._world.now() < limit and not self.is_stopped:
            yield from self._wait(self._world.now() + POLL_S)
            done = is_over()

    def _wait(self, *moments: float, condition: Callable[[], bool] | None = None) -> Steps:
        """Wait once, unless the run is stopped."""
        if not self.is_stopped:
            woke = yield Wait(moments, condition)
            self.is_stopped = woke is Woke.STOPPED
