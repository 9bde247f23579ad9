"""The faults that the fleet engine can represent, their clients, and their injection into its world."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sim.drill.fault_kinds import (
    AnyFault,
    DropSockets,
    ExpireTokens,
    ForgetTokens,
    KillRuntime,
    MintOutage,
    RollingDeploy,
    ShrinkReplayBudget,
    ShrinkWindow,
    SlowMint,
)
from sim.drill.fault_schedule import PlannedFault
from sim.drill.model import Drill
from sim.engines.fleet.kernel import entry
from sim.engines.fleet.kernel import world as fleet_world
from sim.engines.fleet.kernel.randomness import bits_of_all, draw_all, key_of
from sim.engines.fleet.kernel.world import Array, World

REPRESENTED = (
    *(DropSockets, ExpireTokens, ForgetTokens, KillRuntime, MintOutage, RollingDeploy, ShrinkReplayBudget, ShrinkWindow),
    SlowMint,
)
NOTICE_S = 1.0  # as in `sim.analysis.reconnects`: clients notice a cut shortly after the fault that caused it
_NOBODY = np.zeros(0, np.bool_)


@dataclass(frozen=True)
class FleetFault(PlannedFault):
    """A planned fault whose clients are a mask."""

    chosen: Array  # whether it concerns each client; empty if it acts on the runtime

    def describe(self) -> dict[str, object]:
        """See `PlannedFault`."""
        return {**super().describe(), "clients": int(self.chosen.sum())}


def plan(drill: Drill, seed: int) -> list[FleetFault]:
    """Return the plan of `sim.drill.fault_schedule.plan`, with the same clients; later waves of a deploy are at the end."""
    planned = [list(_parts(fault, number, drill.fleet.clients, seed)) for number, fault in enumerate(drill.faults)]
    in_order = [parts[0] for parts in planned] + [part for parts in planned for part in parts[1:]]
    return [FleetFault(index, fault, *times, (), chosen) for index, (fault, times, chosen) in enumerate(in_order)]


def _parts(fault: AnyFault, number: int, clients: int, seed: int) -> Iterator[tuple[AnyFault, tuple[float, float], Array]]:
    if isinstance(fault, RollingDeploy):
        chosen = share_of(clients, fault.share, seed, f"{fault.kind}:{number}")
        for wave in range(fault.waves):
            at_s = fault.at_s + wave * fault.wave_s
            yield fault, (at_s, at_s), part_of(chosen, wave + 1, fault.waves, seed, f"{fault.kind}:{number}:wave")
        return
    chosen = _NOBODY
    if isinstance(fault, DropSockets):
        chosen = _dropped(fault, number, clients, seed)
    elif isinstance(fault, ForgetTokens):
        chosen = share_of(clients, fault.share, seed, f"{fault.kind}:{number}")
    yield fault, (fault.at_s, fault.at_s + fault.lasts_s), chosen


def _dropped(fault: DropSockets, number: int, clients: int, seed: int) -> Array:
    purpose = "drop_sockets:waves" if fault.waves > 1 else f"drop_sockets:{number}"
    chosen = share_of(clients, fault.share, seed, purpose)
    return part_of(chosen, fault.wave, fault.waves, seed, "drop_sockets:wave")


def share_of(clients: int, share: float, seed: int, purpose: str) -> Array:
    """Return the result of `sim.base.randomness.share_of` as a mask."""
    count = round(share * clients)
    chosen = np.ones(clients, np.bool_)
    if count < clients:
        bits = np.empty(clients, np.uint64)
        bits_of_all(key_of(seed, purpose), bits)
        chosen[:] = False
        chosen[np.argsort(bits, kind="stable")[:count]] = True
    return chosen


def part_of(chosen: Array, part: int, parts: int, seed: int, purpose: str) -> Array:
    """Return the result of `sim.base.randomness.part_of` as a mask."""
    if parts == 1:
        return chosen
    draws = np.empty(len(chosen))
    draw_all(key_of(seed, purpose), draws, 0)
    return chosen & ((draws * parts).astype(np.int64) == part - 1)


def begin(world: World, planned: FleetFault) -> int:
    """Inject a fault now; return how often it took effect at once."""
    service = world.service
    match planned.fault:
        case DropSockets(offline_s=offline_s):
            return _inject(world, fleet_world.CUT, planned.chosen, offline_s)
        case RollingDeploy():
            return _inject(world, fleet_world.HANG_UP, planned.chosen)
        case KillRuntime():
            _inject(world, fleet_world.KILL)
            return 1
        case ExpireTokens():
            return _inject(world, fleet_world.EXPEL)
        case ForgetTokens():
            return _inject(world, fleet_world.FORGET, planned.chosen)
        case ShrinkWindow() as fault:
            return _trim(world, fault)
        case MintOutage():
            service["mint_outage"], service["refused_mints"] = 1, 0
        case ShrinkReplayBudget(events=events):
            service["shrunk_budget"], service["limited_subscribes"] = events, 0
        case SlowMint(delay_ms=delay_ms, concurrency=concurrency):
            service["held_mint_s"], service["held_mints"] = delay_ms / 1000, 0
            world["holders"] = np.full(concurrency, service["now"][0])
        case _:
            raise TypeError(f"a fault that is not represented: {planned.kind}")
    return 0


def end(world: World, planned: PlannedFault) -> int:
    """Revert a fault; return how often it took effect, if that is counted only while it lasts."""
    service = world.service
    match planned.fault:
        case KillRuntime():
            service["is_up"] = 1
        case MintOutage():
            service["mint_outage"] = 0
            return int(service["refused_mints"][0])
        case ShrinkReplayBudget():
            service["shrunk_budget"] = 0
            return int(service["limited_subscribes"][0])
        case SlowMint(delay_ms=delay_ms):
            service["held_mint_s"] = 0.0
            _inject(world, fleet_world.MINT_FREELY, value=delay_ms / 1000)
            return int(service["held_mints"][0])
    return 0


def _inject(world: World, how: int, chosen: Array = _NOBODY, value: float = 0.0) -> int:
    return int(entry.inject(world.service, how, chosen, value))


def _trim(world: World, fault: ShrinkWindow) -> int:
    """Remove all but the newest events of some streams; return how many were removed."""
    service, gone = world.service[0], 0
    other = [int(service["run_streams"])] if fault.worker_events else []
    for stream in [*range(fault.streams), *other]:
        head = int(np.searchsorted(world["published"][stream], service["now"], side="right"))
        oldest = max(1, head - int(service["window"]) + 1, int(world["floors"][stream]) + 1)
        gone += max(head - oldest + 1 - fault.keep_events, 0)
        world["floors"][stream] = max(head - fault.keep_events, oldest - 1)
    return gone
