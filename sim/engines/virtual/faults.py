"""Carrying out a fault plan in virtual time, and seeing that each fault acts."""

from collections.abc import Generator, Sequence

import msgspec
import simpy

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
from sim.drill.system_model import SystemModel
from sim.engines.shared import client_setup
from sim.engines.virtual.client import VirtualClient
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.link_faults import VirtualLinkFaults
from sim.engines.virtual.service import SimulatedService
from sim.record.observations import NAN
from sim.record.parquet import Recorder

SIMULATED = (
    *(DropSockets, ExpireTokens, ForgetTokens, KillRuntime, RestartClients, RevokeSessions, RollingDeploy, RotateKeys),
    ShrinkWindow,
    *(LinkFault, SkewClocks, StopReading, SwitchFault),
)
Steps = Generator[simpy.Event, object, None]


class VirtualFaults:
    """All faults of one run; each is a process of the environment."""

    def __init__(
        self,
        env: VirtualClock,
        service: SimulatedService,
        clients: Sequence[VirtualClient],
        topics: tuple[Sequence[str], Sequence[str]],
        model: SystemModel,
        recorder: Recorder,
        began: float,
    ) -> None:
        self._env = env
        self._service = service
        self._clients = clients
        self._run_topics, self._other_topics = topics
        self._model = model
        self._recorder = recorder
        self._began = began
        self._healthy = service.switches
        self._active: dict[int, PlannedFault] = {}
        self._keys_overlap = False
        self._revoked: list[ClientSession] = []  # that have not signed in anew
        self._links = VirtualLinkFaults(env, service, clients, model, recorder, began)

    def run(self, planned: PlannedFault) -> Steps:
        """One fault, from now on."""
        yield self._env.timeout(planned.begins_s)
        self._note("fault_injected", planned)
        self._active[planned.index] = planned
        observed = yield from self._act(planned)
        self._active.pop(planned.index, None)
        if observed:
            self._note("fault_observed", planned, observed)
        self._note("fault_reverted", planned)

    def _act(self, planned: PlannedFault) -> Generator[simpy.Event, object, float]:
        """Break it, keep it broken, mend it; returns how often it was seen to act."""
        match planned.fault:
            case SwitchFault():
                return (yield from self._switch_on(planned))
            case DropSockets(offline_s=offline_s):
                cut = sum(self._clients[client].cut(offline_s) for client in planned.clients)
                yield self._env.timeout(offline_s)
                return cut
            case RestartClients(down_s=down_s) as fault:
                died = [client for client in planned.clients if self._clients[client].die(fault)]
                yield self._env.timeout(down_s)
                for client in died:
                    self._clients[client].revive()
                return len(died)
            case SkewClocks(by_s=by_s, for_s=for_s):
                self._skew_clocks(planned.clients, by_s)
                yield self._env.timeout(for_s)
                self._skew_clocks(planned.clients, 0.0)
                return len(planned.clients)
            case ForgetTokens():
                return self._forget_tokens(planned.clients)
            case RotateKeys(for_s=for_s):
                self._keys_overlap = True
                self._note_client("keys_rotated", detail=self._service.rotate_keys())
                yield self._env.timeout(for_s)
                self._retire_keys()
                return 1
            case RevokeSessions(for_s=for_s):
                done = self._revoke(planned)
                yield self._env.timeout(for_s)
                self._sign_in()
                return done
            case LinkFault() | StopReading():
                return (yield from self._links.act(planned))
            case RollingDeploy():
                return self._service.hang_up(planned.clients)
            case KillRuntime(down_s=down_s):
                self._service.kill()
                yield self._env.timeout(down_s + self._model.server.cold_start_s)
                self._service.restart()
                return 1
            case ShrinkWindow() as fault:
                topics = [*self._run_topics[: fault.streams], *(self._other_topics if fault.worker_events else [])]
                return sum(self._service.runtime.shrink_window(topic, fault.keep_events) for topic in topics)
            case ExpireTokens():
                self._healthy = msgspec.structs.replace(self._healthy, tokens_void_before=self._env.now)
                return self._switch()

    def _skew_clocks(self, clients: Sequence[int], by_s: float) -> None:
        for client in clients:
            self._clients[client].clock_ahead_s = client_setup.clock_ahead_s(client, by_s)

    def _forget_tokens(self, clients: Sequence[int]) -> int:
        for client in clients:
            client_setup.forget_token(self._clients[client].session)
            self._note_client("token_forgotten", client)
        return len(clients)

    def _retire_keys(self) -> None:
        if self._keys_overlap:
            self._keys_overlap = False
            self._service.retire_keys()

    def _revoke(self, planned: PlannedFault) -> int:
        """Revoke sessions; in the end their clients are to sign in anew."""
        sessions = [client.session for client in self._clients]
        concerned = [each for each in sessions if client_setup.revoked_with(each, each.client in planned.clients)]
        for session in concerned:
            self._note_client("session_revoked", session.client)
        self._revoked += concerned
        return self._service.revoke([session.token.session_id for session in concerned if session.token])

    def _sign_in(self) -> None:
        for session in self._revoked:
            client_setup.forget_token(session, sign_in=True)
            self._note_client("signed_in", session.client)
        self._revoked.clear()

    def _switch_on(self, planned: PlannedFault) -> Generator[simpy.Event, object, float]:
        """A fault that is a switch of the runtime: on, and at its end off again."""
        before = self._acted(planned)
        self._switch()
        yield self._env.timeout(planned.fault.lasts_s)
        del self._active[planned.index]
        self._switch()
        return self._acted(planned) - before

    def _acted(self, planned: PlannedFault) -> int:
        return self._service.runtime.counters.acted.get(planned.kind, 0)

    def _switch(self) -> int:
        active = [planned.fault for planned in self._active.values()]
        return self._service.set_switches(switches_during(self._healthy, active))

    def revert(self) -> None:
        """Take back whatever still acts."""
        for client in self._clients:
            client.come_online()
        self._sign_in()
        self._links.revert()
        if not self._service.is_up:
            self._service.restart()
        self._retire_keys()
        left = list(self._active.values())
        self._active.clear()
        self._switch()
        for planned in left:
            self._note("fault_reverted", planned)

    def _note_client(self, kind: str, client: int = -1, detail: str = "") -> None:
        self._recorder.add(self._env.now - self._began, kind, client, detail=detail)

    def _note(self, kind: str, planned: PlannedFault, value: float = NAN) -> None:
        self._recorder.add(self._env.now - self._began, kind, attempt=planned.index, value=value, detail=planned.kind)
