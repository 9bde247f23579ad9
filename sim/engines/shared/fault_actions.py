"""The actions of faults on clients and on the service, shared by all engines with sessions.

Actions on clients complete at once. Actions on the service are generators (steps): they yield each request's outcome, or an
awaitable for it, and receive the outcome. An engine carries them out at once, in a task, or in a greenlet.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from sim.client.actions import Token
from sim.client.session import Session
from sim.client.transitions import State
from sim.drill.fault_bases import SwitchFault
from sim.drill.fault_kinds import (
    AnyFault,
    CloseConnections,
    ConcurrentAppends,
    DropSockets,
    ExpireTokens,
    ForgetTokens,
    KillRuntime,
    LinkFault,
    LosePublishAnswers,
    RecreateLog,
    RestartClients,
    RevokeSessions,
    RollingDeploy,
    RotateKeys,
    ShrinkWindow,
    SkewClocks,
    SkipDeliveries,
    StopReading,
)
from sim.drill.fault_lifecycle import Completion, Done, Record
from sim.drill.fault_schedule import PlannedFault, Timing, switches_during
from sim.engines.shared import client_setup, service_api
from sim.engines.shared.publishing import Publishing
from sim.engines.shared.withholding import Withholding
from sim.server.closing import CloseOrder
from sim.server.settings import Switches
from sim.server.tokens import device_id

Steps = Generator[Any, Any, float]
"""Steps of an action. They return how often the fault took effect."""


def at_once(steps: Steps) -> float:
    """Carry out steps whose requests return their outcomes at once."""
    outcome: Any = None
    while True:
        try:
            outcome = steps.send(outcome)
        except StopIteration as end:
            return float(end.value)


def close_order(planned: PlannedFault, fault: CloseConnections) -> CloseOrder:
    """Return what the service does to each device of the affected clients."""
    codes = {device_id(client): fault.code_of(place) for place, client in enumerate(sorted(planned.clients))}
    return CloseOrder(planned.index, codes, fault.after_ms, float(fault.retry_after_ms))


CLIENT_FAULTS = (DropSockets, RestartClients, SkewClocks, ForgetTokens)
LINK_FAULTS = (LinkFault, StopReading)
PUBLISH_FAULTS = (ConcurrentAppends, LosePublishAnswers)


class Client(Protocol):
    """The operations on a client that faults need."""

    session: Session
    clock_ahead_s: float

    def start(self) -> None: ...
    def cut(self, offline_s: float) -> bool: ...
    def withhold(self, withholding: Withholding | None) -> None: ...
    def die(self, fault: RestartClients) -> bool: ...
    def revive(self) -> None: ...
    def come_online(self) -> None: ...


class Links(Protocol):
    """Faults of clients' links. `inject` and `revert` return how often the fault took effect, or on how many links."""

    def inject(self, planned: PlannedFault) -> float: ...
    def revert(self, planned: PlannedFault) -> float: ...
    def revert_all(self) -> None: ...


class Service(Protocol):
    """Requests that change the service. Each returns its outcome, or an awaitable for it."""

    def now(self) -> float: ...
    def acted(self, kind: str) -> Any: ...
    def set_switches(self, switches: Callable[[], Switches]) -> Any: ...
    def shrink_window(self, topic: str, keep_events: int) -> Any: ...
    def recreate_log(self, topic: str) -> Any: ...
    def hang_up(self, clients: tuple[int, ...]) -> Any: ...
    def close_connections(self, order: CloseOrder) -> Any: ...


class WholeService(Service, Protocol):
    """A service that an engine may also kill. It may also change the service's keys and sessions."""

    revokes_singly: bool  # one session with each request

    def change_keys(self, *, rotate: bool) -> Any: ...
    def revoke(self, tokens: Sequence[Token]) -> Any: ...
    def kill(self) -> Any: ...
    def restart(self, switches: Callable[[], Switches]) -> Any: ...
    def restart_if_down(self) -> Any: ...


class RequestedService:
    """A service behind its HTTP API. `ask` returns the outcome of an operation of `service_api`, or an awaitable for it."""

    def __init__(self, ask: Callable[..., Any], now: Callable[[], float], *, revokes_singly: bool = False) -> None:
        self._ask = ask
        self.revokes_singly = revokes_singly
        self.now = now

    def acted(self, kind: str) -> Any:
        """See `Service`."""
        return self._ask(service_api.acted, kind)

    def set_switches(self, switches: Callable[[], Switches]) -> Any:
        """See `Service`."""
        return self._ask(service_api.set_switches, switches())

    def shrink_window(self, topic: str, keep_events: int) -> Any:
        """See `Service`."""
        return self._ask(service_api.shrink_window, topic, keep_events)

    def recreate_log(self, topic: str) -> Any:
        """See `Service`."""
        return self._ask(service_api.recreate_log, topic)

    def hang_up(self, clients: tuple[int, ...]) -> Any:
        """See `Service`."""
        return self._ask(service_api.hang_up, clients)

    def close_connections(self, order: CloseOrder) -> Any:
        """See `Service`."""
        return self._ask(service_api.close_connections, order)

    def change_keys(self, *, rotate: bool) -> Any:
        """See `WholeService`."""
        return self._ask(service_api.change_keys, rotate=rotate)

    def revoke(self, tokens: Sequence[Token]) -> Any:
        """See `WholeService`."""
        return self._ask(service_api.revoke, tokens)


class PublishFaults:
    """Injects faults of stormgate's own publisher."""

    def __init__(self, publishing: Publishing) -> None:
        self._publishing = publishing
        self._overlapped_before = self._lost_before = 0

    def inject(self, fault: AnyFault) -> int:
        """Publish in groups, or drop answers, from now on."""
        match fault:
            case ConcurrentAppends(at_once=at_once):
                self._overlapped_before = self._publishing.overlapped
                self._publishing.at_once = at_once
            case LosePublishAnswers(share=share):
                self._lost_before = self._publishing.lost_answers
                self._publishing.answer_loss_share = share
        return 0

    def revert(self, fault: AnyFault) -> int:
        """End the fault; return the number of appends that overlapped an earlier one, or of dropped answers."""
        if isinstance(fault, ConcurrentAppends):
            self._publishing.at_once = 1
            return self._publishing.overlapped - self._overlapped_before
        self._publishing.answer_loss_share = 0.0
        return self._publishing.lost_answers - self._lost_before

    def revert_all(self) -> None:
        """End all faults of the publisher."""
        self._publishing.at_once, self._publishing.answer_loss_share = 1, 0.0


class ClientFaults:
    """Injects client faults. Clients that are missing from `clients` belong to another process."""

    def __init__(self, clients: Mapping[int, Client], record: Record) -> None:
        self._clients = clients
        self._record = record
        self._died: dict[int, list[int]] = {}
        self._withheld: dict[int, Withholding] = {}

    def inject(self, planned: PlannedFault) -> int:
        """Inject the fault into its clients; return how many clients it affected."""
        here = [number for number in planned.clients if number in self._clients]
        match planned.fault:
            case DropSockets(offline_s=offline_s):
                return sum(self._clients[number].cut(offline_s) for number in here)
            case RestartClients() as fault:
                self._died[planned.index] = [number for number in here if self._clients[number].die(fault)]
                return len(self._died[planned.index])
            case SkipDeliveries() as fault:
                withheld = self._withheld[planned.index] = Withholding(fault, planned.index)
                for client in self._clients.values():
                    client.withhold(withheld)
                return 0
            case SkewClocks(by_s=by_s):
                self._skew_clocks(here, by_s)
            case ForgetTokens():
                for number in here:
                    client_setup.forget_token(self._clients[number].session)
                    self._record("token_forgotten", number)
        return len(here)

    def revert(self, planned: PlannedFault) -> int:
        """Revert the fault on its clients; return how often it took effect while it lasted."""
        if isinstance(planned.fault, SkewClocks):
            self._skew_clocks([number for number in planned.clients if number in self._clients], 0.0)
        for number in self._died.pop(planned.index, ()):
            self._clients[number].revive()
        if (withheld := self._withheld.pop(planned.index, None)) is None:
            return 0
        for client in self._clients.values():
            client.withhold(None)
        return withheld.count

    def revert_all(self) -> None:
        """Revert all faults of all clients."""
        self._died.clear()
        self._withheld.clear()
        for client in self._clients.values():
            client.come_online()

    def _skew_clocks(self, numbers: Iterable[int], by_s: float) -> None:
        for number in numbers:
            self._clients[number].clock_ahead_s = client_setup.clock_ahead_s(number, by_s)


class ServiceFaults:
    """Injects faults of a service that stormgate cannot kill. `topics` are the run topics and the other topics."""

    def __init__(self, service: Service, healthy: Switches, topics: tuple[Sequence[str], Sequence[str]]) -> None:
        self._service = service
        self._healthy = healthy
        self._run_topics, self._other_topics = topics
        self._switched_on: dict[int, AnyFault] = {}
        self._acted_before: dict[int, int] = {}
        self._closing: set[int] = set()  # indices of faults that close connections
        self._has_switched = False

    def inject(self, planned: PlannedFault) -> Steps:
        """Inject the fault into the service."""
        match planned.fault:
            case SwitchFault() as fault:
                self._acted_before[planned.index] = yield self._service.acted(planned.kind)
                self._switched_on[planned.index] = fault
                yield self._switch()
                return 0
            case CloseConnections() as fault:
                self._acted_before[planned.index] = yield self._service.acted(planned.kind)
                self._closing.add(planned.index)
                return float((yield self._service.close_connections(close_order(planned, fault))))
            case RollingDeploy():
                return float((yield self._service.hang_up(planned.clients)))
            case ShrinkWindow() as fault:
                topics = [*self._run_topics[: fault.streams], *(self._other_topics if fault.worker_events else [])]
                forgotten = 0
                for topic in topics:
                    forgotten += yield self._service.shrink_window(topic, fault.keep_events)
                return forgotten
            case RecreateLog():
                gone = 0
                for topic in (*self._run_topics, *self._other_topics):
                    gone += yield self._service.recreate_log(topic)
                return gone
            case ExpireTokens():
                self._healthy = msgspec.structs.replace(self._healthy, tokens_void_before=self._service.now())
                return float((yield self._switch()))
        raise TypeError(f"nothing injects {planned.kind}")

    def revert(self, planned: PlannedFault) -> Steps:
        """Revert a switch fault, or one that closes connections. End it before counting its effects, so that none is missed."""
        if planned.index in self._closing:
            yield from self._end_closing(planned.index)
        else:
            del self._switched_on[planned.index]
            yield self._switch()
        acted, before = (yield self._service.acted(planned.kind)), self._acted_before[planned.index]
        return float(acted - before if acted >= before else acted)  # a restarted service counts from zero

    def revert_all(self) -> Steps:
        """Revert all faults of the service."""
        self._switched_on.clear()
        for index in sorted(self._closing):
            yield from self._end_closing(index)
        if self._has_switched:
            yield self._switch()
        return 0

    def _end_closing(self, index: int) -> Steps:
        self._closing.discard(index)
        yield self._service.close_connections(CloseOrder(index))
        return 0

    def _switch(self) -> Any:
        self._has_switched = True
        return self._service.set_switches(self._switches)

    def _switches(self) -> Switches:
        return switches_during(self._healthy, self._switched_on.values())


class WholeServiceFaults(ServiceFaults):
    """Injects faults of a service that stormgate controls, including its process, its keys and its sessions."""

    def __init__(
        self,
        service: WholeService,
        healthy: Switches,
        topics: tuple[Sequence[str], Sequence[str]],
        clients: Mapping[int, Client],
        record: Record,
    ) -> None:
        super().__init__(service, healthy, topics)
        self._whole = service
        self._clients = clients
        self._record = record
        self._has_old_keys = False
        self._revoked: list[Session] = []  # that have not signed in again

    def inject(self, planned: PlannedFault) -> Steps:
        """See `ServiceFaults`."""
        match planned.fault:
            case RotateKeys():
                self._has_old_keys = True
                self.note_rotated((yield self._whole.change_keys(rotate=True)))
                return 1
            case RevokeSessions():
                return (yield from self._revoke(self.concerned(planned)))
            case KillRuntime():
                return float((yield self._whole.kill()))
        return (yield from super().inject(planned))

    def revert(self, planned: PlannedFault) -> Steps:
        """See `ServiceFaults`."""
        match planned.fault:
            case RotateKeys():
                yield from self._retire_keys()
            case RevokeSessions():
                self.sign_in()
            case KillRuntime():
                yield self._whole.restart(self._switches)
            case _:
                return (yield from super().revert(planned))
        return 0

    def revert_all(self) -> Steps:
        """See `ServiceFaults`."""
        yield self._whole.restart_if_down()
        yield from self._retire_keys()
        return (yield from super().revert_all())

    def now(self) -> float:
        """Return the time on the run's clock."""
        return self._whole.now()

    def concerned(self, planned: PlannedFault) -> list[Session]:
        """Return the sessions of a fault's clients; where it revokes them, also those of negative clients that ask for it."""
        sessions = [client.session for client in self._clients.values()]
        if isinstance(planned.fault, RevokeSessions):
            return [each for each in sessions if client_setup.revoked_with(each, each.client in planned.clients)]
        return [each for each in sessions if each.client in planned.clients]

    def note_rotated(self, key_id: str) -> None:
        """Record that tokens are signed with another key from now on."""
        self._record("keys_rotated", detail=key_id)

    def _revoke(self, sessions: Sequence[Session]) -> Steps:
        concerned = [each for each in sessions if each.token is not None]
        client_setup.require_own_sessions(concerned, [client.session for client in self._clients.values()])
        groups = [[each] for each in concerned] if self._whole.revokes_singly else [concerned]
        count = 0.0
        for group in filter(None, groups):
            began = self._whole.now()
            count += yield self._whole.revoke([each.token for each in group if each.token is not None])
            self.note_revoked(group, began)
        return count

    def note_revoked(self, sessions: Sequence[Session], began: float) -> None:
        """Record sessions whose revocation began at `began`, and that are now revoked."""
        for session in sessions:
            took_s = self._whole.now() - began
            self._record("session_revoked", session.client, value=took_s, at=began)
        self._revoked += sessions

    def sign_in(self) -> None:
        """Make the clients of revoked sessions sign in again; those that gave up start again."""
        for session in self._revoked:
            client_setup.forget_token(session, sign_in=True)
            self._record("signed_in", session.client)
            client = self._clients[session.client]
            if client.session is session and session.state is State.ENDED:
                client.start()
        self._revoked.clear()

    def _retire_keys(self) -> Steps:
        if self._has_old_keys:
            self._has_old_keys = False
            yield self._whole.change_keys(rotate=False)
        return 0


class SessionFaultActions:
    """Actions for an engine with sessions, links and a whole service. `carry_out` runs steps in the engine's own way."""

    def __init__(
        self,
        clients: ClientFaults,
        links: Links,
        publishing: PublishFaults,
        service: WholeServiceFaults,
        carry_out: Callable[[Steps], Completion],
        is_withheld: Callable[[AnyFault], bool],
    ) -> None:
        """`is_withheld`: whether the clients withhold a fault's deliveries themselves."""
        self._clients = clients
        self._publishing = publishing
        self._links = links
        self._service = service
        self._carry_out = carry_out
        self._is_withheld = is_withheld

    def timing(self, planned: PlannedFault) -> Timing:
        """See `FaultActions`."""
        return planned.timing

    def announce(self, planned: Sequence[PlannedFault], now: float) -> float:
        """See `FaultActions`."""
        return now

    def inject(self, planned: PlannedFault) -> Completion:
        """See `FaultActions`."""
        if isinstance(planned.fault, CLIENT_FAULTS) or self._is_withheld(planned.fault):
            return Done(self._clients.inject(planned))
        if isinstance(planned.fault, LINK_FAULTS):
            return Done(self._links.inject(planned))
        if isinstance(planned.fault, PUBLISH_FAULTS):
            return Done(self._publishing.inject(planned.fault))
        return self._carry_out(self._service.inject(planned))

    def revert(self, planned: PlannedFault) -> Completion:
        """See `FaultActions`."""
        if isinstance(planned.fault, CLIENT_FAULTS) or self._is_withheld(planned.fault):
            return Done(self._clients.revert(planned))
        if isinstance(planned.fault, LINK_FAULTS):
            return Done(self._links.revert(planned))
        if isinstance(planned.fault, PUBLISH_FAULTS):
            return Done(self._publishing.revert(planned.fault))
        return self._carry_out(self._service.revert(planned))

    def end_early(self) -> None:
        """See `FaultActions`."""

    def revert_all(self) -> Completion:
        """See `FaultActions`."""
        return self._carry_out(self._revert_all())

    def _revert_all(self) -> Steps:
        self._clients.revert_all()
        self._service.sign_in()
        self._links.revert_all()
        self._publishing.revert_all()
        return (yield from self._service.revert_all())
