"""The fault plan: what acts on whom, when, and the end of it all.

A plan is a function of (drill, seed), so that every engine breaks the same things for the same clients.
Faults that act through the runtime's switches are described by `switches_during`; healing is then only
the switches of no fault at all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from sim.contract.chance import part_of, share_of
from sim.contract.settings import Switches
from sim.drill import (
    AnyFault,
    Drill,
    DropSockets,
    KillRuntime,
    ShrinkReplayBudget,
    SkipDeliveries,
    SlowMint,
)


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault with everything decided. Times are seconds from the beginning of the fault phase."""

    index: int
    fault: AnyFault
    begins_s: float
    ends_s: float
    clients: tuple[int, ...]  # whose sockets it cuts; empty when it acts on the runtime

    @property
    def kind(self) -> str:
        """The name that drill files use."""
        return self.fault.kind

    def describe(self) -> dict[str, object]:
        """For a run's header: the parameters, and how many clients it picks."""
        parameters: dict[str, object] = msgspec.to_builtins(self.fault)
        return {**parameters, "ends_s": self.ends_s, "clients": len(self.clients)}


def plan(drill: Drill, seed: int) -> tuple[PlannedFault, ...]:
    """All faults of a drill, in the order of its file."""
    return tuple(_planned(index, fault, drill, seed) for index, fault in enumerate(drill.faults))


def _planned(index: int, fault: AnyFault, drill: Drill, seed: int) -> PlannedFault:
    clients: tuple[int, ...] = ()
    lasts_s = 0.0
    if isinstance(fault, DropSockets):
        clients = _cut_by(fault, index, list(range(drill.fleet.clients)), seed)
        lasts_s = fault.offline_s
    elif isinstance(fault, SlowMint | SkipDeliveries | ShrinkReplayBudget):
        lasts_s = fault.for_s
    elif isinstance(fault, KillRuntime):
        lasts_s = fault.down_s
    return PlannedFault(index, fault, fault.at_s, fault.at_s + lasts_s, clients)


def _cut_by(fault: DropSockets, index: int, fleet: list[int], seed: int) -> tuple[int, ...]:
    """Whom a fault cuts. Waves draw alike, so that no client is in two of them; other faults draw each by itself."""
    purpose = "drop_sockets:waves" if fault.waves > 1 else f"drop_sockets:{index}"
    chosen = share_of(fleet, fault.share, seed, purpose)
    return tuple(part_of(chosen, fault.wave, fault.waves, seed, "drop_sockets:wave"))


def switches_during(healthy: Switches, active: Iterable[AnyFault]) -> Switches:
    """The runtime's switches while these faults act, on top of those it has without any."""
    changes: dict[str, float | int] = {}
    for fault in active:
        if isinstance(fault, SlowMint):
            changes |= {"mint_delay_ms": fault.delay_ms, "mint_concurrency": fault.concurrency}
        elif isinstance(fault, SkipDeliveries):
            changes |= {"skip_live_clients": fault.clients_share, "skip_live_events": fault.events_share}
        elif isinstance(fault, ShrinkReplayBudget):
            changes |= {"shrunk_budget_events": fault.events}
    return msgspec.structs.replace(healthy, **changes)
