"""Carrying out a fault plan against real processes and sockets, seeing that each fault acts, and taking everything back."""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from sim.base.clocks import WallClock
from sim.base.errors import TargetError, UsageError
from sim.client.session import ClientSession
from sim.drill.fault_kinds import (
    DropSockets,
    ExpireTokens,
    ForgetTokens,
    KillRuntime,
    LinkFault,
    RestartClients,
    RevokeSessions,
    RollingDeploy,
    RotateKeys,
    ShrinkWindow,
    SkewClocks,
    StopReading,
    SwitchFault,
)
from sim.drill.schedule import PlannedFault, switches_during
from sim.engines.shared import client_setup, service_api
from sim.engines.sockets.client import ClientDriver
from sim.engines.sockets.hooks import Hooks
from sim.engines.sockets.http import ServiceHttp
from sim.engines.sockets.links import LinkActions
from sim.mock.process import MockProcess
from sim.record.parquet import Recorder
from sim.server.settings import Switches

_READY_POLL_S = 0.05
_READY_LIMIT_S = 20.0


class FaultActions:
    """All faults of one run. `process` is None when the runtime is not ours to kill."""

    def __init__(
        self,
        http: ServiceHttp,
        process: MockProcess | None,
        healthy: Switches,
        clients: Sequence[ClientDriver],
        links: LinkActions,
        run_topics: Sequence[str],
        other_topics: Sequence[str],
        clock: WallClock,
        recorder: Recorder,
        hooks: Hooks,
    ) -> None:
        self._hooks = hooks
        self._http = http
        self._process = process
        self._healthy = healthy
        self._clients = clients
        self._links = links
        self._run_topics, self._other_topics = run_topics, other_topics
        self._clock = clock
        self._recorder = recorder
        self._active: dict[int, PlannedFault] = {}
        self._keys_overlap = False
        self._revoked: list[ClientSession] = []  # that have not signed in anew
        self._switched = False
        self._switching = asyncio.Lock()  # two requests under way at once could arrive in the other order

    async def run(self, fault: PlannedFault, began: float) -> None:
        """Carry out one fault at its time; `began` is when the fault phase did."""
        await self._sleep_until(began + fault.begins_s)
        self._note("fault_injected", fault)
        self._active[fault.index] = fault
        observed = await self._act(fault, began)
        del self._active[fault.index]
        if observed:
            self._note("fault_observed", fault, observed)
        self._note("fault_reverted", fault)

    async def _act(self, planned: PlannedFault, began: float) -> int:
        """Break it, keep it broken, mend it; returns how often it was seen to act."""
        ends = began + planned.ends_s
        if self._hooks.has(planned.kind):
            return await self._hooks.act(planned, lambda: self._sleep_until(ends))
        match planned.fault:
            case SwitchFault():
                return await self._switch(planned, ends)
            case DropSockets(offline_s=offline_s):
                cut = sum(self._clients[client].cut(offline_s) for client in planned.clients)
                await self._sleep_until(ends)
                return cut
            case RestartClients() as fault:
                died = [client for client in planned.clients if self._clients[client].die(fault)]
                await self._sleep_until(ends)
                for client in died:
                    self._clients[client].revive()
                return len(died)
            case SkewClocks(by_s=by_s):
                self._skew_clocks(planned.clients, by_s)
                await self._sleep_until(ends)
                self._skew_clocks(planned.clients, 0.0)
                return len(planned.clients)
            case ForgetTokens():
                return self._forget_tokens(planned.clients)
            case RotateKeys():
                return await self._rotate_keys(ends)
            case RevokeSessions():
                return await self._revoke(planned, ends)
            case StopReading():
                return await self._stop_reading(planned, ends)
            case LinkFault():
                return await self._break_links(planned, began)
            case RollingDeploy():
                return await self._http.ask(service_api.hang_up, planned.clients)
            case KillRuntime():
                return await self._kill(ends)
            case ShrinkWindow() as fault:
                topics = [*self._run_topics[: fault.streams], *(self._other_topics if fault.worker_events else [])]
                return sum([await self._http.ask(service_api.shrink_window, topic, fault.keep_events) for topic in topics])
            case ExpireTokens():
                return await self._set_switches(tokens_void_before=time.time())

    async def _break_links(self, planned: PlannedFault, began: float) -> int:
        acted, left = await self._links.act(planned, began, self._clock)
        if left is not None:
            self._note("half_open_left", planned, left)
        return acted

    async def _stop_reading(self, planned: PlannedFault, ends: float) -> int:
        clients = [self._clients[client] for client in planned.clients]
        stopped = sum(client.read(False) for client in clients)
        await self._sleep_until(ends)
        for client in clients:
            client.read(True)
        return stopped

    async def _switch(self, planned: PlannedFault, ends: float) -> int:
        """A fault that is a switch of the mock: on, and at its end off again."""
        before = await self._acted(planned)
        await self._set_switches()
        await self._sleep_until(ends)
        await self._set_switches(without=planned)
        after = await self._acted(planned)  # once it is off, so that every time it acted is counted
        return after - before if after >= before else after  # a restarted mock counts from nothing

    async def _acted(self, planned: PlannedFault) -> int:
        """How often the mock says that it acted, since it was started."""
        return int((await self._http.ask(service_api.mock_state))["acted"].get(planned.kind, 0))

    def _skew_clocks(self, clients: Sequence[int], by_s: float) -> None:
        for client in clients:
            self._clients[client].clock_ahead_s = client_setup.clock_ahead_s(client, by_s)

    def _forget_tokens(self, clients: Sequence[int]) -> int:
        for client in clients:
            client_setup.forget_token(self._clients[client].session)
            self._note_client("token_forgotten", client)
        return len(clients)

    async def _rotate_keys(self, ends: float) -> int:
        """A new key, and for a while the old one beside it; returns 1."""
        self._keys_overlap = True
        self._note_client("keys_rotated", detail=await self._http.ask(service_api.change_keys, rotate=True))
        await self._sleep_until(ends)
        await self._retire_keys()
        return 1

    async def _retire_keys(self) -> None:
        if self._keys_overlap:
            self._keys_overlap = False
            await self._http.ask(service_api.change_keys, rotate=False)

    async def _revoke(self, planned: PlannedFault, ends: float) -> int:
        """Revoke sessions, and in the end let their clients sign in anew."""
        sessions = [client.session for client in self._clients]
        concerned = [each for each in sessions if client_setup.revoked_with(each, each.client in planned.clients)]
        for session in concerned:
            self._note_client("session_revoked", session.client)
        self._revoked += concerned
        done = await self._http.ask(service_api.revoke, [session.token.session_id for session in concerned if session.token])
        await self._sleep_until(ends)
        self._sign_in()
        return done

    def _sign_in(self) -> None:
        for session in self._revoked:
            client_setup.forget_token(session, sign_in=True)
            self._note_client("signed_in", session.client)
        self._revoked.clear()

    async def _kill(self, ends: float) -> int:
        if self._process is None:
            raise UsageError("this runtime was not started here, so it cannot be killed; leave --target out for that drill.")
        self._note_death()
        code = await self._process.kill()
        gone = code < 0 and not await self._http.ask(service_api.is_ready)
        await self._sleep_until(ends)
        await self._process.start()
        await self._wait_ready()
        await self._set_switches()
        return int(gone)

    async def _wait_ready(self) -> None:
        limit = self._clock.now() + _READY_LIMIT_S
        while not await self._http.ask(service_api.is_ready):
            if self._clock.now() > limit:
                raise TargetError("the runtime did not become ready again after it was killed; see its runtime.log.")
            await asyncio.sleep(_READY_POLL_S)

    async def _set_switches(self, without: PlannedFault | None = None, **for_good: float) -> int:
        """Put in force what acts now, and what stays; returns how many sockets were told to authenticate again."""
        async with self._switching:
            self._switched = True
            self._healthy = msgspec.structs.replace(self._healthy, **for_good)
            active = [planned.fault for planned in self._active.values() if planned is not without]
            return await self._http.ask(service_api.set_switches, switches_during(self._healthy, active))

    async def revert(self) -> None:
        """Take back whatever still acts, after all faults or in the middle of them."""
        try:
            await self._hooks.revert()
        finally:
            await self._revert_our_own()

    async def _revert_our_own(self) -> None:
        for client in self._clients:
            client.come_online()
            client.read(True)
        self._links.revert()
        self._sign_in()
        if self._process is not None and not self._process.pid:
            if not any(isinstance(planned.fault, KillRuntime) for planned in self._active.values()):
                self._note_death()
            await self._process.start()
            await self._wait_ready()
        await self._retire_keys()
        left = list(self._active.values())
        self._active.clear()
        if self._switched:
            await self._set_switches()
        for fault in left:
            self._note("fault_reverted", fault)

    def _note_death(self) -> None:
        """The runtime may have died before it was killed, or without: then the storm was more than it could take."""
        if self._process is not None and not self._process.pid:
            self._recorder.add(self._clock.now() - self._clock.began, "runtime_died")

    async def _sleep_until(self, moment: float) -> None:
        await asyncio.sleep(max(moment - self._clock.now(), 0))

    def _note_client(self, kind: str, client: int = -1, detail: str = "") -> None:
        self._recorder.add(self._clock.now() - self._clock.began, kind, client, detail=detail)

    def _note(self, kind: str, fault: PlannedFault, value: float = float("nan")) -> None:
        t = self._clock.now() - self._clock.began
        self._recorder.add(t, kind, attempt=fault.index, value=value, detail=fault.kind)
