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
from sim.drill import Drill
from sim.fault_kinds import AnyFault, ClientFault, DropSockets, SwitchFault


@dataclass(frozen=True, slots=True)
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

    def describe(self) -> dict[str, object]:
        """For a run's header: the parameters, and how many clients it picks."""
        parameters: dict[str, object] = msgspec.to_builtins(self.fault)
        return {**parameters, "ends_s": self.ends_s, "clients": len(self.clients)}


def plan(drill: Drill, seed: int) -> tuple[PlannedFault, ...]:
    """All faults of a drill, in the order of its file."""
    return tuple(
        PlannedFault(index, fault, fault.at_s, fault.at_s + fault.lasts_s, _concerned(fault, index, drill, seed))
        for index, fault in enumerate(drill.faults)
    )


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
    changes: dict[str, float | int | bool | str] = {}
    for fault in active:
        if isinstance(fault, SwitchFault):
            changes |= fault.switches()
    return msgspec.structs.replace(healthy, **changes)
