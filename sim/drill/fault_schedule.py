"""The fault schedule: when each fault starts and ends, and which clients it affects.

It is a function of (drill, seed), so that every engine injects the same faults into the same clients.
`switches_during` returns the runtime's switches while some faults are active, and `link_during` the conditions of a link.
To revert a fault, an engine applies what these functions return without it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from sim.base.randomness import part_of, share_of
from sim.drill.fault_bases import ClientFault, SwitchFault, SwitchValue
from sim.drill.fault_kinds import (
    AnyFault,
    CutAfterBytes,
    DropSockets,
    LinkFault,
    RefuseConnects,
    ResetLinks,
    RollingDeploy,
    SlowClose,
    SlowLinks,
    StallLinks,
)
from sim.drill.model import Drill
from sim.server.settings import Switches


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a fault lasts, in seconds."""

    lasts_s: float | None  # from its last injection until it is reverted; None: there is nothing to revert
    times: int = 1  # number of injections
    every_s: float = 0.0  # between two injections


@dataclass(frozen=True)
class PlannedFault:
    """One fault with its times and its clients. Times are seconds from the start of the fault phase."""

    index: int
    fault: AnyFault
    begins_s: float
    ends_s: float
    clients: tuple[int, ...]  # that are affected, in no order; empty for a fault of the runtime

    @property
    def kind(self) -> str:
        """The name that drill files use."""
        return self.fault.kind

    @property
    def timing(self) -> Timing:
        """The planned duration and number of injections."""
        match self.fault:
            case RollingDeploy():  # each wave ends at once
                return Timing(None)
            case ResetLinks(times=times, every_s=every_s):
                return Timing(None, times, every_s)
            case fault:
                return Timing(fault.lasts_s if fault.duration_key else None)

    def describe(self) -> dict[str, object]:
        """Return the fault for a run's header: its parameters and the number of affected clients."""
        parameters: dict[str, object] = msgspec.to_builtins(self.fault)
        return {**parameters, "ends_s": self.ends_s, "clients": len(self.clients)}


def plan(drill: Drill, seed: int) -> tuple[PlannedFault, ...]:
    """Return all faults of a drill in the order of its file. The later waves of a rolling deploy follow at the end."""
    planned = [_parts(fault, number, drill, seed) for number, fault in enumerate(drill.faults)]
    in_order = [parts[0] for parts in planned] + [part for parts in planned for part in parts[1:]]
    return tuple(PlannedFault(index, *part) for index, part in enumerate(in_order))


def _parts(fault: AnyFault, number: int, drill: Drill, seed: int) -> list[tuple[AnyFault, float, float, tuple[int, ...]]]:
    """Return (fault, start, end, affected clients); for a rolling deploy one entry for each wave, which ends at once."""
    chosen = _concerned(fault, number, drill, seed)
    if not isinstance(fault, RollingDeploy):
        return [(fault, fault.at_s, fault.at_s + fault.lasts_s, chosen)]
    purpose = f"rolling_deploy:{number}:wave"
    waves = [tuple(part_of(list(chosen), wave, fault.waves, seed, purpose)) for wave in range(1, fault.waves + 1)]
    times_s = [fault.at_s + wave * fault.wave_s for wave in range(fault.waves)]
    return [(fault, at_s, at_s, clients) for at_s, clients in zip(times_s, waves, strict=True)]


def _concerned(fault: AnyFault, index: int, drill: Drill, seed: int) -> tuple[int, ...]:
    """Return the affected clients. All waves share one random draw, so no client is in two; other faults draw separately."""
    if not isinstance(fault, ClientFault):
        return ()
    fleet = list(range(drill.fleet.clients))
    if not isinstance(fault, DropSockets):
        return tuple(share_of(fleet, fault.share, seed, f"{fault.kind}:{index}"))
    purpose = "drop_sockets:waves" if fault.waves > 1 else f"drop_sockets:{index}"
    chosen = share_of(fleet, fault.share, seed, purpose)
    return tuple(part_of(chosen, fault.wave, fault.waves, seed, "drop_sockets:wave"))


def switches_during(healthy: Switches, active: Iterable[AnyFault]) -> Switches:
    """Return the runtime's switches while these faults are active: `healthy` with the changes of each fault."""
    changes: dict[str, SwitchValue] = {}
    for fault in active:
        if isinstance(fault, SwitchFault):
            changes |= fault.switches()
    return msgspec.structs.replace(healthy, **changes)


@dataclass(frozen=True, slots=True)
class Way:
    """The conditions of one direction of a link. The defaults are those of a healthy link."""

    latency_s: float = 0.0  # added to the normal latency
    jitter_s: float = 0.0  # longest random delay added to that
    bytes_per_s: float = math.inf
    stalled: bool = False
    cut_after_bytes: float = math.inf
    close_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """The conditions of a link in both directions."""

    to_runtime: Way = Way()
    to_client: Way = Way()
    refuses: bool = False


CALM = LinkConditions()


def link_during(active: Iterable[AnyFault]) -> LinkConditions:
    """Return the conditions of a link while these faults affect it. Delays add up; the strictest limit applies."""
    faults = [fault for fault in active if isinstance(fault, LinkFault)]
    to_runtime, to_client = (_way([f for f in faults if _goes(f, way)]) for way in ("to_runtime", "to_client"))
    return LinkConditions(to_runtime, to_client, any(isinstance(fault, RefuseConnects) for fault in faults))


def _goes(fault: LinkFault, way: str) -> bool:
    return getattr(fault, "direction", "both") in ("both", way)


def _way(faults: Sequence[LinkFault]) -> Way:
    slow = [fault for fault in faults if isinstance(fault, SlowLinks)]
    return Way(
        latency_s=sum(fault.latency_ms for fault in slow) / 1000,
        jitter_s=sum(fault.jitter_ms for fault in slow) / 1000,
        bytes_per_s=min((fault.kib_per_s * 1024 for fault in slow if fault.kib_per_s), default=math.inf),
        stalled=any(isinstance(fault, StallLinks) for fault in faults),
        cut_after_bytes=min((fault.after_bytes for fault in faults if isinstance(fault, CutAfterBytes)), default=math.inf),
        close_delay_s=sum(fault.delay_ms for fault in faults if isinstance(fault, SlowClose)) / 1000,
    )


def links_concerned(planned: Iterable[PlannedFault]) -> dict[int, frozenset[int]]:
    """Return the indices of the faults that affect a client's link, for each client with at least one."""
    found: dict[int, frozenset[int]] = {}
    for each in planned:
        if isinstance(each.fault, LinkFault):
            for client in each.clients:
                found[client] = found.get(client, frozenset()) | {each.index}
    return found
