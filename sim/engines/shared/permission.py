"""Checks whether a target allows a drill, before anything is started."""

from collections.abc import Iterator

from sim.base.errors import NotRunnableError, UsageError
from sim.client.checkpoints import can_damage
from sim.drill import target_limits
from sim.drill.fault_bases import ClientFault, Fault
from sim.drill.fault_kinds import (
    AnyFault,
    ConcurrentAppends,
    DelayDeliveries,
    DropSockets,
    ForgetTokens,
    JumbleDeliveries,
    KillRuntime,
    LinkFault,
    LosePublishAnswers,
    ReorderDeliveries,
    RestartClients,
    RevokeSessions,
    SkipDeliveries,
    StopReading,
)
from sim.drill.model import Drill
from sim.drill.target_rules import Caps
from sim.engines.shared.endpoints import Endpoints
from sim.protocols import registry
from sim.protocols.adapter import Positions
from sim.server.settings import RuntimeSettings

# Faults of the drill's own clients, their links and its publisher. They work on any target. Other faults need the server.
ACTS_FROM_HERE: tuple[type[Fault], ...] = (
    *(DropSockets, RestartClients, StopReading, LinkFault, ForgetTokens),
    *(ConcurrentAppends, LosePublishAnswers),
)
_ROUNDING = 1e-9


def needs_server(fault: AnyFault) -> bool:
    """Return whether only the server can inject the fault. A live target then needs an operator's hook."""
    return not isinstance(fault, ACTS_FROM_HERE)


def connections(drill: Drill, endpoints: Endpoints) -> int:
    """Return the maximum of connections that a drill opens at once.

    The fleet, its negative clients, the auditor, and the publisher, if it publishes over the clients' protocol.
    """
    clients = drill.fleet.clients + len(drill.expect.negative_clients)
    has_one = registry.get(endpoints.protocol).capabilities.is_one_connection
    auditor = 1 if has_one else drill.load.run_streams + drill.load.worker_events
    return clients * _of_each(drill, endpoints) + auditor + (endpoints.forms.publish.over == "protocol")


def arrivals_per_s(drill: Drill, endpoints: Endpoints) -> float:
    """Return the rate at which a drill's clients first connect."""
    return drill.fleet.clients * _of_each(drill, endpoints) / drill.fleet.arrival_s


def _of_each(drill: Drill, endpoints: Endpoints) -> int:
    """Return the connections of one client."""
    if registry.get(endpoints.protocol).capabilities.is_one_connection:
        return 1
    return min(drill.fleet.topics_per_client, drill.load.run_streams) + drill.load.worker_events


def require_allowed(drill: Drill, endpoints: Endpoints) -> None:
    """Raise `NotRunnableError` for a drill that the target cannot run, `UsageError` for one that it does not allow."""
    if endpoints.kind == "production":
        _require_harmless(drill, endpoints)
    if drill.variants:
        raise NotRunnableError(
            f"drill '{drill.name}' runs several variants, which start their own services. Leave --target out."
        )
    _require_usual_tokens(drill)
    require_no_polls(drill)
    if not endpoints.has_socket:
        _require_no_clients(drill, endpoints)
    if drill.expect.retired_routes and not endpoints.retired_routes:
        raise NotRunnableError(
            f"drill '{drill.name}' asks the retired routes, and 'retired_routes' of target '{endpoints.name}' is empty. "
            "Name some, or run another drill."
        )
    require_meaning(drill, endpoints.protocol)
    for fault in drill.faults:
        _require_possible(drill, fault, endpoints)
    if endpoints.rules.caps is not None:
        _require_capped(drill, endpoints, endpoints.rules.caps)


def _require_harmless(drill: Drill, endpoints: Endpoints) -> None:
    refused = [
        *(fault.kind for fault in drill.faults),
        *(f"the negative client {client}" for client in drill.expect.negative_clients),
    ]
    if refused:
        raise UsageError(
            f"drill '{drill.name}' has {', '.join(dict.fromkeys(refused))}, and target '{endpoints.name}' is production: "
            "only drills without faults and negative clients, such as 'observation', may run there."
        )


def _require_no_clients(drill: Drill, endpoints: Endpoints) -> None:
    """Raise `NotRunnableError` for a drill whose question is about clients, on a target without a socket."""
    wanted = [
        *(f"the fault {fault.kind}" for fault in drill.faults if isinstance(fault, ClientFault)),
        *(f"the negative client {client}" for client in drill.expect.negative_clients),
    ]
    if wanted:
        raise NotRunnableError(
            f"drill '{drill.name}' has {', '.join(dict.fromkeys(wanted))}, which needs clients, and target "
            f"'{endpoints.name}' has no socket ('socket = false'). Run a drill of publishes, such as 'concurrent_appends'."
        )


def _require_usual_tokens(drill: Drill) -> None:
    wanted, usual = drill.runtime, RuntimeSettings()
    own = [key for key in usual.__struct_fields__ if key.startswith("token_") and getattr(wanted, key) != getattr(usual, key)]
    if own:
        raise NotRunnableError(
            f"drill '{drill.name}' sets token lifetimes of the service ('runtime.{own[0]}'), "
            "which only the embedded mock can do. Leave --target out."
        )


def require_no_polls(drill: Drill) -> None:
    """Raise `NotRunnableError` for a drill with long polls that only simulation has."""
    if drill.runtime.long_polls:
        raise NotRunnableError(
            f"drill '{drill.name}' sets 'runtime.long_polls', which only simulation can do: the mock has no long polls, and "
            "clients of a target wait as its [protocol_options] say. Use --engine virtual, or leave the key out."
        )


def _require_capped(drill: Drill, endpoints: Endpoints, caps: Caps) -> None:
    where = f"of target '{endpoints.name}', but drill '{drill.name}'"
    if endpoints.has_socket:
        _require_connects_capped(drill, endpoints, caps, where)
    if drill.load.events_per_s > caps.events_per_s:
        raise UsageError(
            f"caps.events_per_s is {caps.events_per_s:g} {where} publishes {drill.load.events_per_s:g}/s. "
            f"Use --set load.events_per_s={caps.events_per_s:g}."
        )


def _require_connects_capped(drill: Drill, endpoints: Endpoints, caps: Caps, where: str) -> None:
    of_each = _of_each(drill, endpoints)
    if (needed := connections(drill, endpoints)) > caps.clients:
        spare = needed - drill.fleet.clients * of_each
        if caps.clients < spare + of_each:
            raise UsageError(
                f"caps.clients is {caps.clients} {where} needs {spare} connections for its negative clients, "
                "auditor and publisher, and at least one client. Raise the cap."
            )
        each = f" with {of_each} connections each" if of_each > 1 else ""
        raise UsageError(
            f"caps.clients is {caps.clients} {where} opens {needed} connections ({drill.fleet.clients} clients{each}, {spare} "
            f"for negative clients, auditor and publisher). Use --clients {(caps.clients - spare) // of_each}."
        )
    if (arrival_per_s := arrivals_per_s(drill, endpoints)) > caps.connects_per_s * (1 + _ROUNDING):
        raise UsageError(
            f"caps.connects_per_s is {caps.connects_per_s:g} {where} lets clients arrive at {arrival_per_s:g}/s. "
            f"Use --set fleet.connects_per_s={caps.connects_per_s / of_each:g}."
        )


def require_meaning(drill: Drill, protocol: str) -> None:
    """Raise `NotRunnableError` for a drill with a fault that has no meaning in a protocol, or that no client can notice."""
    spoken = registry.get(protocol)
    able = spoken.capabilities
    habits = spoken.server.profile.streams if spoken.server else None
    if drill.runtime.long_polls and (habits is None or habits.polls is None):
        raise NotRunnableError(
            f"drill '{drill.name}' wants clients that wait by long polls ('runtime.long_polls'), and the simulated server of "
            f"protocol '{protocol}' has none. Leave the key out."
        )
    for fault in drill.faults:
        if isinstance(fault, RestartClients) and not can_damage(able.positions, fault.checkpoint):
            raise NotRunnableError(
                f"drill '{drill.name}' gives clients checkpoints that are '{fault.checkpoint}', and positions of protocol "
                f"'{protocol}' can only be read by their server. Use kept, lost or torn."
            )
        if isinstance(fault, JumbleDeliveries) and not able.hash_form:
            raise NotRunnableError(
                f"drill '{drill.name}' has the fault {fault.kind}, and protocol '{protocol}' has no hashes: no client can "
                "notice that a payload was changed. Malformed frames (malform_frames) are noticed."
            )
        if isinstance(fault, ReorderDeliveries | DelayDeliveries) and able.positions is Positions.OPAQUE:
            raise NotRunnableError(
                f"drill '{drill.name}' has the fault {fault.kind}, and positions of protocol '{protocol}' are opaque: all that "
                "a client knows is in which order events come."
            )


def missing_hooks(drill: Drill, endpoints: Endpoints) -> list[str]:
    """Return the kinds of a drill's faults for which a live target lacks a hook."""
    found = []
    for fault in drill.faults:
        try:
            _require_possible(drill, fault, endpoints)
        except NotRunnableError:
            found.append(fault.kind)
    return [] if endpoints.is_mock else list(dict.fromkeys(found))


def _require_possible(drill: Drill, fault: AnyFault, endpoints: Endpoints) -> None:
    if isinstance(fault, RevokeSessions) and fault.kind not in endpoints.rules.hooks and endpoints.forms.revoke is not None:
        _require_own_sessions(drill, endpoints)
        return
    is_withheld = isinstance(fault, SkipDeliveries) and endpoints.has_socket  # between adapter and session
    if fault.kind in endpoints.rules.hooks or is_withheld or not needs_server(fault):
        return
    if not endpoints.is_mock:
        raise NotRunnableError(
            f"drill '{drill.name}' has the fault {fault.kind}, which needs the server, and target '{endpoints.name}' has no "
            f"hook for it. Add [targets.{endpoints.name}.hooks.{fault.kind}] to the targets file"
            f"{_or_request(fault, endpoints)}, or run another drill."
        )
    if isinstance(fault, KillRuntime):
        raise NotRunnableError(
            f"drill '{drill.name}' kills the service's process, which only works on the embedded mock. Leave --target out."
        )


def _or_request(fault: AnyFault, endpoints: Endpoints) -> str:
    return f", or [targets.{endpoints.name}.revoke]" if isinstance(fault, RevokeSessions) else ""


def _require_own_sessions(drill: Drill, endpoints: Endpoints) -> None:
    """Raise `NotRunnableError` where to revoke one client's session would revoke that of all, or of nobody."""
    forms = endpoints.forms
    if forms.token.source == "none" or (forms.shares_session and endpoints.session):
        raise NotRunnableError(
            f"drill '{drill.name}' revokes the sessions of some clients, and on target '{endpoints.name}' no client has a "
            f"session of its own. Describe in [[targets.{endpoints.name}.sign_in]] how a client signs in."
        )


def remarks(drill: Drill, endpoints: Endpoints) -> list[str]:
    """Return sentences about what the caps do not limit, and how they change the measurement."""
    return list(_remarks(drill, endpoints))


def _remarks(drill: Drill, endpoints: Endpoints) -> Iterator[str]:
    for fault in {fault.kind: fault for fault in drill.faults}.values():
        if fault.kind in endpoints.rules.hooks and isinstance(fault, target_limits.HITS_ALL_CLIENTS):
            yield (
                f"{fault.kind} disconnects every client of the service, not only this drill's: no cap limits the "
                "reconnects of the other clients."
            )
    caps, returning = endpoints.rules.caps, max(target_limits.returning(drill), default=0)
    if caps is not None and returning > caps.connects_per_s:
        yield (
            f"Up to {returning} clients may reconnect at once, but caps.connects_per_s lets through {caps.connects_per_s:g}/s: "
            "a paced storm measures less than a real one, so checks of times cannot pass. "
            f"--clients {max(int(caps.connects_per_s), 1)} is not paced."
        )
    yield from (f"The run will end early: {sentence}." for sentence in target_limits.stops(drill, endpoints.rules))
