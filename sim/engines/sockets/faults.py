"""The actions of faults on real processes and sockets, and on a live target through the operators' commands."""

import asyncio
from collections.abc import Callable

from sim.base.clocks import WallClock
from sim.base.errors import TargetError, UsageError
from sim.client.session import Session
from sim.drill.fault_kinds import AnyFault, RevokeSessions, RotateKeys
from sim.drill.fault_lifecycle import Completion, Record
from sim.drill.fault_schedule import PlannedFault, Timing
from sim.engines.shared import service_api
from sim.engines.shared.fault_actions import (
    ClientFaults,
    PublishFaults,
    RequestedService,
    SessionFaultActions,
    WholeServiceFaults,
)
from sim.engines.sockets.driver import AsyncioDriver, carried_out
from sim.engines.sockets.hooks import HookClient, Hooks
from sim.engines.sockets.http import ServiceHttp
from sim.engines.sockets.links import LinkActions
from sim.mock.process import MockProcess
from sim.server.settings import Switches
from sim.server.tokens import device_id

_READY_POLL_S = 0.05
_READY_LIMIT_S = 20.0


class ServiceProcess(RequestedService):
    """The service over HTTP. `process` is None for a service that this run did not start and cannot kill."""

    def __init__(self, http: ServiceHttp, process: MockProcess | None, clock: WallClock, record: Record) -> None:
        form = http.endpoints.forms.revoke
        super().__init__(http.ask, clock.now, revokes_singly=form is not None and form.is_for_one)
        self._http = http
        self._process = process
        self._record = record
        self._is_killed = False
        self._switching = asyncio.Lock()  # two concurrent requests could arrive in the wrong order

    async def set_switches(self, switches: Callable[[], Switches]) -> int:
        """See `Service`."""
        async with self._switching:
            return await self._http.ask(service_api.set_switches, switches())

    async def kill(self) -> int:
        """See `WholeService`."""
        if self._process is None:
            raise UsageError("this runtime was not started here, so it cannot be killed; leave --target out for that drill.")
        self._note_death()
        self._is_killed = True
        code = await self._process.kill()
        return int(code < 0 and not await self._http.ask(service_api.is_ready))

    async def restart(self, switches: Callable[[], Switches]) -> None:
        """See `WholeService`. Set the switches again, because the new process does not have those of the old one."""
        await self._start()
        await self.set_switches(switches)

    async def restart_if_down(self) -> None:
        """See `WholeService`."""
        if self._process is not None and not self._process.pid:
            if not self._is_killed:
                self._note_death()
            await self._start()

    async def _start(self) -> None:
        assert self._process is not None
        await self._process.start()
        limit = self.now() + _READY_LIMIT_S
        while not await self._http.ask(service_api.is_ready):
            if self.now() > limit:
                raise TargetError("the runtime did not become ready again after it was killed; see its runtime.log.")
            await asyncio.sleep(_READY_POLL_S)
        self._is_killed = False

    def _note_death(self) -> None:
        """Record that the runtime has died without a fault that killed it, for example under the load of a storm."""
        if self._process is not None and not self._process.pid:
            self._record("runtime_died")


def described(session: Session) -> HookClient:
    """Return what a hook gets to know of a client."""
    token = session.token
    return HookClient(device_id(session.client), session.token_request.account, token.session_id if token else "")


class SocketsFaultActions(SessionFaultActions):
    """Injects and reverts all faults of one run. If the target has a hook for a kind, the operators' command does it."""

    def __init__(
        self,
        clients: ClientFaults,
        links: LinkActions,
        publishing: PublishFaults,
        service: WholeServiceFaults,
        driver: AsyncioDriver,
        hooks: Hooks,
        is_withheld: Callable[[AnyFault], bool],
    ) -> None:
        super().__init__(clients, links, publishing, service, driver.carry_out, is_withheld)
        self._driver = driver
        self._hooks = hooks

    def timing(self, planned: PlannedFault) -> Timing:
        """See `FaultActions`."""
        return Timing(planned.ends_s - planned.begins_s) if self._is_hooked(planned) else planned.timing

    def _is_hooked(self, planned: PlannedFault) -> bool:
        return self._hooks.has(planned.kind) and not self._is_withheld(planned.fault)

    def inject(self, planned: PlannedFault) -> Completion:
        """See `FaultActions`."""
        if self._is_hooked(planned):
            return self._driver.carry_out(self._inject_by_hook(planned))
        return super().inject(planned)

    def revert(self, planned: PlannedFault) -> Completion:
        """See `FaultActions`."""
        if self._is_hooked(planned):
            return self._driver.carry_out(self._revert_by_hook(planned))
        return super().revert(planned)

    async def _inject_by_hook(self, planned: PlannedFault) -> float:
        sessions = self._service.concerned(planned)
        began, asked = self._service.now(), {described(session): session for session in sessions}
        reported = await self._hooks.inject(planned, list(asked))
        match planned.fault:
            case RevokeSessions():
                affected = [session for client, session in asked.items() if reported.effect and reported.names(client)]
                self._service.note_revoked(affected, began)
                return float(len(affected))
            case RotateKeys() if reported.key_id:
                self._service.note_rotated(reported.key_id)
        return reported.effect

    async def _revert_by_hook(self, planned: PlannedFault) -> float:
        await self._hooks.revert(planned)
        if isinstance(planned.fault, RevokeSessions):
            self._service.sign_in()
        return 0

    def revert_all(self) -> Completion:
        """See `FaultActions`."""
        return self._driver.carry_out(self._revert_hooks_and_all())

    async def _revert_hooks_and_all(self) -> float:
        try:
            await self._hooks.revert_all()
        finally:
            await carried_out(self._revert_all())
        return 0
