"""The faults of a load test: on clients, here and on workers, and on the mock through its switches.

A drill with other faults (network faults, killed runtimes, revoked sessions, rotated keys, clocks) is refused with a message
that names them. `stormgate drill run` runs such a drill.
"""

from collections.abc import Callable, Sequence

from gevent.lock import BoundedSemaphore

from locustfiles.load.clients.client_pool import CLIENT_FAULTS, ClientPool
from locustfiles.load.workers.workers import Workers
from sim.base.clocks import WallClock
from sim.base.errors import UsageError
from sim.drill.fault_bases import Fault, SwitchFault
from sim.drill.fault_kinds import CloseConnections, ExpireTokens, RecreateLog, RollingDeploy, ShrinkWindow
from sim.drill.fault_lifecycle import Completion, Done
from sim.drill.fault_schedule import PlannedFault, Timing
from sim.drill.model import Drill
from sim.engines.greenlets.http import GreenletHttp
from sim.engines.shared.fault_actions import PUBLISH_FAULTS, PublishFaults, RequestedService, ServiceFaults, Steps
from sim.server.settings import Switches

POSSIBLE: tuple[type[Fault], ...] = (
    *CLIENT_FAULTS,
    *PUBLISH_FAULTS,
    CloseConnections,
    ExpireTokens,
    RecreateLog,
    RollingDeploy,
    ShrinkWindow,
    SwitchFault,
)


def require_possible(drill: Drill) -> None:
    """Raise `UsageError` for a drill that needs something which load tests do not support."""
    wanted = [fault.kind for fault in drill.faults if not isinstance(fault, POSSIBLE)]
    wanted += ["retired routes"] if drill.expect.retired_routes else []
    wanted += ["surfaces to compare"] if drill.variants else []
    wanted += ["a fixed number of events"] if drill.load.events else []
    if "sockets" not in drill.engines:
        raise UsageError(f"drill '{drill.name}' is not for real sockets; its key 'engines' has: {', '.join(drill.engines)}.")
    if wanted:
        raise UsageError(
            f"drill '{drill.name}' has {', '.join(dict.fromkeys(wanted))}, which load tests do not do; "
            f"use `stormgate drill run {drill.name}`."
        )


class MockService(RequestedService):
    """The mock's service over HTTP, with requests in greenlets."""

    def __init__(self, http: GreenletHttp, clock: WallClock) -> None:
        super().__init__(http.ask, clock.now)
        self._switching = BoundedSemaphore()  # two concurrent requests could arrive in the wrong order

    def set_switches(self, switches: Callable[[], Switches]) -> int:
        """See `Service`."""
        with self._switching:
            return int(super().set_switches(switches))


class LoadTestFaultActions:
    """Injects and reverts all faults of one run: on clients here and on workers, and on the service."""

    def __init__(
        self,
        client_pool: ClientPool,
        workers: Workers,
        publishing: PublishFaults,
        service: ServiceFaults,
        carry_out: Callable[[Steps], Completion],
        reverted: Callable[[], None],
    ) -> None:
        """`reverted` is called when all faults are reverted."""
        self._client_pool = client_pool
        self._client_faults = client_pool.faults
        self._workers = workers
        self._publishing = publishing
        self._service = service
        self._carry_out = carry_out
        self._reverted = reverted
        self._orders: dict[int, int] = {}  # by index of the fault: the order that was sent to the workers

    def timing(self, planned: PlannedFault) -> Timing:
        """See `FaultActions`."""
        return planned.timing

    def announce(self, planned: Sequence[PlannedFault], now: float) -> float:
        """See `FaultActions`. Workers get the order before the fault starts, so that it starts everywhere at once."""
        at = now + self._workers.lead_s
        for each in planned:
            if self._is_on_clients(each):
                self._orders[each.index] = self._workers.inject(each, at, at + (each.timing.lasts_s or 0.0))
        return at

    def inject(self, planned: PlannedFault) -> Completion:
        """See `FaultActions`."""
        if isinstance(planned.fault, PUBLISH_FAULTS):
            return Done(self._publishing.inject(planned.fault))
        if not self._is_on_clients(planned):
            return self._carry_out(self._service.inject(planned))
        count = self._client_faults.inject(planned)
        return Done(count) if planned.timing.lasts_s is not None else self._carry_out(self._affected(planned, count))

    def revert(self, planned: PlannedFault) -> Completion:
        """See `FaultActions`."""
        if isinstance(planned.fault, PUBLISH_FAULTS):
            return Done(self._publishing.revert(planned.fault))
        if not self._is_on_clients(planned):
            return self._carry_out(self._service.revert(planned))
        return self._carry_out(self._affected(planned, self._client_faults.revert(planned)))

    def _is_on_clients(self, planned: PlannedFault) -> bool:
        return isinstance(planned.fault, CLIENT_FAULTS) or self._client_pool.withholds(planned.fault)

    def _affected(self, planned: PlannedFault, here: int = 0) -> Steps:
        """Return the number of affected clients, here and on workers, once the workers have answered."""
        return here + float((yield self._workers.affected(self._orders.pop(planned.index))))

    def end_early(self) -> None:
        """See `FaultActions`."""
        self._workers.end_faults()

    def revert_all(self) -> Completion:
        """See `FaultActions`."""
        return self._carry_out(self._revert_all())

    def _revert_all(self) -> Steps:
        self._client_faults.revert_all()
        self._workers.revert()
        self._publishing.revert_all()
        yield from self._service.revert_all()
        self._reverted()
        return 0
