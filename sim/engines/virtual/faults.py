"""The effect of faults on the simulated service."""

from collections.abc import Callable, Sequence

from sim.drill.fault_bases import SwitchFault
from sim.drill.fault_kinds import (
    CloseConnections,
    ExpireTokens,
    KillRuntime,
    LinkFault,
    RecreateLog,
    RevokeSessions,
    RollingDeploy,
    RotateKeys,
    ShrinkWindow,
    StopReading,
)
from sim.drill.fault_lifecycle import Completion, Done
from sim.drill.fault_schedule import PlannedFault, Timing
from sim.engines.shared.fault_actions import CLIENT_FAULTS, PUBLISH_FAULTS, SessionFaultActions, Steps, at_once
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.service import SimulatedService
from sim.server.settings import Switches

SIMULATED = (
    *(*CLIENT_FAULTS, *PUBLISH_FAULTS),
    *(CloseConnections, ExpireTokens, KillRuntime, RecreateLog, RevokeSessions, RollingDeploy, RotateKeys, ShrinkWindow),
    *(LinkFault, StopReading, SwitchFault),
)


class SimulatedServiceControl:
    """`WholeService` for the simulated service: every request completes at once."""

    def __init__(self, clock: VirtualClock, service: SimulatedService) -> None:
        self._clock = clock
        self._service = service
        self.revoke = service.revoke
        self.revokes_singly = False
        self.hang_up = service.hang_up
        self.close_connections = service.close_connections

    def now(self) -> float:
        """See `Service`."""
        return self._clock.now

    def acted(self, kind: str) -> int:
        """See `Service`."""
        return self._service.runtime.counters.acted.get(kind, 0)

    def set_switches(self, switches: Callable[[], Switches]) -> int:
        """See `Service`."""
        return self._service.set_switches(switches())

    def shrink_window(self, topic: str, keep_events: int) -> int:
        """See `Service`."""
        return self._service.runtime.shrink_window(topic, keep_events)

    def recreate_log(self, topic: str) -> int:
        """See `Service`."""
        return self._service.recreate_log(topic)

    def change_keys(self, *, rotate: bool) -> str:
        """See `WholeService`."""
        if rotate:
            return self._service.rotate_keys()
        self._service.retire_keys()
        return ""

    def kill(self) -> int:
        """See `WholeService`."""
        self._service.kill()
        return 1

    def restart(self, _: Callable[[], Switches]) -> None:
        """See `WholeService`; its switches survive the restart."""
        self._service.restart()

    def restart_if_down(self) -> None:
        """See `WholeService`."""
        if not self._service.is_up:
            self._service.restart()


class VirtualFaultActions(SessionFaultActions):
    """All faults of one run. A killed runtime is up after its cold start, which the schedule does not include."""

    cold_start_s = 0.0
    first_fault_t = 0.0  # moment of the first fault; 0: none so far

    def announce(self, planned: Sequence[PlannedFault], now: float) -> float:
        """See `FaultActions`."""
        self.first_fault_t = self.first_fault_t or now
        return super().announce(planned, now)

    def timing(self, planned: PlannedFault) -> Timing:
        """See `FaultActions`."""
        if isinstance(planned.fault, KillRuntime):
            return Timing(planned.fault.down_s + self.cold_start_s)
        return planned.timing


def completed(steps: Steps) -> Completion:
    """Carry out all steps at once."""
    return Done(at_once(steps))
