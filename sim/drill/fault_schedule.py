"""The fault plan: what acts on whom, when, and the end of it all.

A plan is a function of (drill, seed), so that every engine breaks the same things for the same clients.
Faults that act through the runtime's switches are described by `switches_during`; healing is then only
the switches of no fault at all. So are those that act on clients' links, by `link_during`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from sim.base.randomness import part_of, share_of
from sim.drill.fault_kinds import (
    AnyFault,
    ClientFault,
    CutAfterBytes,
    DropSockets,
    LinkFault,
    RefuseConnects,
    ResetLinks,
    RollingDeploy,
    SlowClose,
    SlowLinks,
    StallLinks,
    SwitchFault,
    SwitchValue,
)
from sim.drill.model import Drill
from sim.server.settings import Switches


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a fault acts, in seconds."""

    lasts_s: float | None  # from its last injection until it is reverted; None: there is nothing to revert
    times: int = 1  # it is injected
    every_s: float = 0.0


@dataclass(frozen=True)
class PlannedFault:
    """One fault with everything decided. Times are seconds from the beginning of the fault phase."""

    index: int
    fault: AnyFault
    begins_s: float
    ends_s: float
    clients: tuple[int, ...]  # whom it concerns, in no order; empty when it acts on the runtime

    @property
    def kind(self) -> str:
        """The name that drill files use."""
        return self.fault.kind

    @property
    def timing(self) -> Timing:
        """How long it acts, as planned."""
        match self.fault:
            case RollingDeploy():  # each wave is over at once
                return Timing(None)
            case ResetLinks(times=times, every_s=every_s):
                return Timing(None, times, every_s)
            case fault:
                return Timing(fault.lasts_s if fault.duration_key else None)

    def describe(self) -> dict[str, object]:
        """For a run's header: the parameters, and how many clients it picks."""
        parameters: dict[str, object] = msgspec.to_builtins(self.fault)
        return {**parameters, "ends_s": self.ends_s, "clients": len(self.clients)}


def plan(drill: Drill, seed: int) -> tuple[PlannedFault, ...]:
    """All faults of a drill, in the order of its file; of a deploy the first wave, and the others at the end."""
    planned = [_parts(fault, number, drill, seed) for number, fault in enumerate(drill.faults)]
    in_order = [parts[0] for parts in planned] + [part for parts in planned for part in parts[1:]]
    return tuple(PlannedFault(index, *part) for index, part in enumerate(in_order))


def _parts(fault: AnyFault, number: int, drill: Drill, seed: int) -> list[tuple[AnyFault, float, float, tuple[int, ...]]]:
    """A fault, when it begins and ends, and whom it concerns; of a deploy, each wave, over at once."""
    chosen = _concerned(fault, number, drill, seed)
    if not isinstance(fault, RollingDeploy):
        return [(fault, fault.at_s, fault.at_s + fault.lasts_s, chosen)]
    purpose = f"rolling_deploy:{number}:wave"
    waves = [tuple(part_of(list(chosen), wave, fault.waves, seed, purpose)) for wave in range(1, fault.waves + 1)]
    times_s = [fault.at_s + wave * fault.wave_s for wave in range(fault.waves)]
    return [(fault, at_s, at_s, clients) for at_s, clients in zip(times_s, waves, strict=True)]


def _concerned(fault: AnyFault, index: int, drill: Drill, seed: int) -> tuple[int, ...]:
    """Whom a fault concerns. Waves draw alike, so that no client is in two of them; other faults draw each by itself."""
    if not isinstance(fault, ClientFault):
        return ()
    fleet = list(range(drill.fleet.clients))
    if not isinstance(fault, DropSockets):
        return tuple(share_of(fleet, fault.share, seed, f"{fault.kind}:{index}"))
    purpose = "drop_sockets:waves" if fault.waves > 1 else f"drop_sockets:{index}"
    chosen = share_of(fleet, fault.share, seed, purpose)
    return tuple(part_of(chosen, fault.wave, fault.waves, seed, "drop_sockets:wave"))


def switches_during(healthy: Switches, active: Iterable[AnyFault]) -> Switches:
    """The runtime's switches while these faults act, on top of those it has without any."""
    changes: dict[str, SwitchValue] = {}
    for fault in active:
        if isinstance(fault, SwitchFault):
            changes |= fault.switches()
    return msgspec.structs.replace(healthy, **changes)


@dataclass(frozen=True, slots=True)
class Way:
    """What one direction of a link is like; the defaults are one that nothing is wrong with."""

    latency_s: float = 0.0  # on top of what it takes anyway
    jitter_s: float = 0.0  # at most, on top of that
    bytes_per_s: float = math.inf
    stalled: bool = False
    cut_after_bytes: float = math.inf
    close_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """What a link is like, in both directions."""

    to_runtime: Way = Way()
    to_client: Way = Way()
    refuses: bool = False


CALM = LinkConditions()


def link_during(active: Iterable[AnyFault]) -> LinkConditions:
    """What a link is like while these faults concern it. Delays add up; of limits the strictest holds."""
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
    """For each client whose link some fault concerns, which faults do, by their index."""
    found: dict[int, frozenset[int]] = {}
    for each in planned:
        if isinstance(each.fault, LinkFault):
            for client in each.clients:
                found[client] = found.get(client, frozenset()) | {each.index}
    return found
