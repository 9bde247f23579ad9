"""Which faults the fleet engine can represent, whom they concern, and how they are done to its world."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from sim.drill import Drill
from sim.engines import fleet_kernel
from sim.engines.fleet_chance import bits_of_all, draw_all, key_of
from sim.engines.fleet_world import Array, World
from sim.fault_kinds import AnyFault, DropSockets

REPRESENTED = (DropSockets,)
NOTICE_S = 1.0  # as `sim.reconnects` has it: a cut is noticed a moment after the fault that made it


@dataclass(frozen=True)
class FleetFault:
    """One fault with everything decided. Times are seconds from the beginning of the fault phase."""

    fault: AnyFault
    index: int
    begins_s: float
    clients: Array  # whether it concerns each; empty when it acts on the runtime

    @property
    def kind(self) -> str:
        """The name that drill files use."""
        return self.fault.kind

    @property
    def ends_s(self) -> float:
        """When it is taken back."""
        return self.begins_s + self.fault.lasts_s

    def describe(self) -> dict[str, object]:
        """As `PlannedFault.describe`."""
        parameters: dict[str, object] = msgspec.to_builtins(self.fault)
        return {**parameters, "ends_s": self.ends_s, "clients": int(self.clients.sum())}


def plan(drill: Drill, seed: int) -> list[FleetFault]:
    """As `sim.faults.plan`: the same clients for the same seed."""
    return list(_planned(drill, seed))


def _planned(drill: Drill, seed: int) -> Iterator[FleetFault]:
    for index, fault in enumerate(drill.faults):
        chosen = np.zeros(0, np.bool_)
        if isinstance(fault, DropSockets):
            chosen = _dropped(fault, index, drill.fleet.clients, seed)
        yield FleetFault(fault, index, fault.at_s, chosen)


def _dropped(fault: DropSockets, index: int, clients: int, seed: int) -> Array:
    purpose = "drop_sockets:waves" if fault.waves > 1 else f"drop_sockets:{index}"
    chosen = share_of(clients, fault.share, seed, purpose)
    return part_of(chosen, fault.wave, fault.waves, seed, "drop_sockets:wave")


def share_of(clients: int, share: float, seed: int, purpose: str) -> Array:
    """As `sim.contract.chance.share_of`, as a mask."""
    count = round(share * clients)
    chosen = np.ones(clients, np.bool_)
    if count < clients:
        bits = np.empty(clients, np.uint64)
        bits_of_all(key_of(seed, purpose), bits)
        chosen[:] = False
        chosen[np.argsort(bits, kind="stable")[:count]] = True
    return chosen


def part_of(chosen: Array, part: int, parts: int, seed: int, purpose: str) -> Array:
    """As `sim.contract.chance.part_of`, as a mask."""
    if parts == 1:
        return chosen
    draws = np.empty(len(chosen))
    draw_all(key_of(seed, purpose), draws, 0)
    return chosen & ((draws * parts).astype(np.int64) == part - 1)


def begin(world: World, planned: FleetFault) -> int:
    """Do it now; returns how often it was seen to act at once."""
    match planned.fault:
        case DropSockets(offline_s=offline_s):
            return int(fleet_kernel.cut(world.lane, planned.clients, offline_s))
        case _:
            raise TypeError(f"a fault that is not represented: {planned.kind}")
