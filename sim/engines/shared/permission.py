"""What a target allows: every drill is held against it before anything is started, and told what caps cannot do."""

from collections.abc import Iterator

from sim.base.errors import UsageError
from sim.drill.fault_kinds import (
    AnyFault,
    ClientFault,
    DropSockets,
    ExpireTokens,
    Fault,
    ForgetTokens,
    KillRuntime,
    LinkFault,
    RestartClients,
    StopDelivery,
    StopReading,
)
from sim.drill.model import Drill
from sim.drill.target_rules import Caps
from sim.engines.shared.endpoints import Endpoints
from sim.server.settings import RuntimeSettings

# Done by our own clients or in front of them, so possible on any target. Whatever is not listed is taken to need the server.
ACTS_FROM_HERE: tuple[type[Fault], ...] = (DropSockets, RestartClients, StopReading, LinkFault, ForgetTokens)
# They disconnect everybody, and not only the drill's clients.
_HITS_EVERYBODY = (KillRuntime, ExpireTokens, StopDelivery)

_ROUNDING = 1e-9


def needs_server(fault: AnyFault) -> bool:
    """Whether only the server can do it: on a live target, that is an operator's hook."""
    return not isinstance(fault, ACTS_FROM_HERE)


def connections(drill: Drill) -> int:
    """The most connections a drill has open at once: the fleet, a client for each probe, and the auditor."""
    return drill.fleet.clients + len(drill.expect.negative_clients) + 1


def require_allowed(drill: Drill, endpoints: Endpoints) -> None:
    """Raise `UsageError`, one sentence that says what to do, for a drill that a target does not allow or cannot do."""
    if drill.variants:
        raise UsageError(f"drill '{drill.name}' runs on several surfaces, which start their own runtimes; leave --target out.")
    if endpoints.kind == "production":
        _require_harmless(drill, endpoints)
    _require_usual_tokens(drill)
    if endpoints.rules.caps is not None:
        _require_capped(drill, endpoints, endpoints.rules.caps)
    for fault in drill.faults:
        _require_possible(drill, fault, endpoints)


def _require_harmless(drill: Drill, endpoints: Endpoints) -> None:
    refused = [*(fault.kind for fault in drill.faults), *(f"the probe {probe}" for probe in drill.expect.negative_clients)]
    if refused:
        raise UsageError(
            f"drill '{drill.name}' has {', '.join(dict.fromkeys(refused))}, and target '{endpoints.name}' is production: "
            "only drills without faults and probes, such as 'observation', are run there."
        )


def _require_usual_tokens(drill: Drill) -> None:
    wanted, usual = drill.runtime, RuntimeSettings()
    own = [key for key in usual.__struct_fields__ if key.startswith("token_") and getattr(wanted, key) != getattr(usual, key)]
    if own:
        raise UsageError(
            f"drill '{drill.name}' needs a runtime whose tokens live as its file says ('runtime.{own[0]}' and others), "
            "which only the embedded mock can be told; leave --target out."
        )


def _require_capped(drill: Drill, endpoints: Endpoints, caps: Caps) -> None:
    where = f"of target '{endpoints.name}', but drill '{drill.name}'"
    if (needed := connections(drill)) > caps.clients:
        spare = needed - drill.fleet.clients
        if caps.clients <= spare:
            raise UsageError(
                f"caps.clients is {caps.clients} {where} needs {spare} connections for its probes and auditor and at least one "
                "client; raise the cap."
            )
        raise UsageError(
            f"caps.clients is {caps.clients} {where} opens {needed} connections ({drill.fleet.clients} clients, {spare} for "
            f"probes and auditor); use --clients {caps.clients - spare}."
        )
    arrival_per_s = drill.fleet.clients / drill.fleet.arrival_s
    if arrival_per_s > caps.connects_per_s * (1 + _ROUNDING):
        raise UsageError(
            f"caps.connects_per_s is {caps.connects_per_s:g} {where} lets clients arrive at {arrival_per_s:g}/s; "
            f"use --set fleet.connects_per_s={caps.connects_per_s:g}."
        )
    if drill.load.events_per_s > caps.events_per_s:
        raise UsageError(
            f"caps.events_per_s is {caps.events_per_s:g} {where} publishes {drill.load.events_per_s:g}/s; "
            f"use --set load.events_per_s={caps.events_per_s:g}."
        )


def _require_possible(drill: Drill, fault: AnyFault, endpoints: Endpoints) -> None:
    if fault.kind in endpoints.rules.hooks or not needs_server(fault):
        return
    if not endpoints.is_mock:
        raise UsageError(
            f"drill '{drill.name}' has the fault {fault.kind}, which needs the server, and target '{endpoints.name}' has no "
            f"hook for it; add [targets.{endpoints.name}.hooks.{fault.kind}] to the targets file, or run another drill."
        )
    if isinstance(fault, KillRuntime):
        raise UsageError(
            f"drill '{drill.name}' kills the runtime's process, which only works on the embedded mock; leave --target out."
        )


def remarks(drill: Drill, endpoints: Endpoints) -> list[str]:
    """What caps cannot do, or will do to the measurement, in sentences."""
    return list(_remarks(drill, endpoints))


def _remarks(drill: Drill, endpoints: Endpoints) -> Iterator[str]:
    for fault in {fault.kind: fault for fault in drill.faults}.values():
        if fault.kind in endpoints.rules.hooks and isinstance(fault, _HITS_EVERYBODY):
            yield (
                f"{fault.kind} disconnects every client of the runtime and not only this drill's: the others' reconnects are "
                "bounded by no cap."
            )
    caps = endpoints.rules.caps
    returning = max((_returning(fault, drill.fleet.clients) for fault in drill.faults), default=0)
    if caps is not None and returning > caps.connects_per_s:
        yield (
            f"Up to {returning} clients may want to return at once, and are let through at {caps.connects_per_s:g}/s "
            "(caps.connects_per_s): a paced storm measures less than a real one, so checks of times cannot pass; "
            f"--clients {max(int(caps.connects_per_s), 1)} would not be paced."
        )


def _returning(fault: AnyFault, clients: int) -> int:
    if isinstance(fault, ClientFault):
        return round(fault.share * clients / getattr(fault, "waves", 1))
    return clients if isinstance(fault, _HITS_EVERYBODY) else 0
