"""Calibration drills: small drills, each of which measures a few numbers of a service.

They run on the same engine as all drills, with the same limits, stop conditions and records.

| drill | does | measures |
|---|---|---|
| quiet | few clients connect one after the other, some events | latencies without a queue: mint, handshake, publish, delivery |
| mints | all clients connect at once | time per token when many clients wait |
| burst_small, burst_large | all sockets are cut, all clients reconnect at once | time per client in a queue of reconnects |
| burst_busy | half of a double fleet is cut during many publishes | time per frame, and whether frames delay handshakes |
| replay | some clients are offline while many events are published | time per event of a replay |
"""

from typing import Annotated

import msgspec

from sim.drill.fault_kinds import DropSockets
from sim.drill.model import Drill, Fleet, Load, Phases, PolicyName
from sim.server.settings import Count

# Both policies wait without jitter, so that all clients are in one queue.
BURST_POLICY: PolicyName = "phoenix_js"
REPLAY_POLICY: PolicyName = "sdk"
REPLAY_EVENTS_PER_S = 150.0  # below the limit of the sync service for one stream (240)
REPLAY_OFFLINE_S = 4.0
BUSY_DELIVERIES_PER_S = 16_000.0  # [ours] what one load generator process handles without lag
_CHECK = ("delivery.dropped_deliveries",)


class Sizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the calibration drills; [ours]: small enough for any target, large enough for a queue."""

    quiet_clients: Count = 20
    mint_clients: Count = 200
    small_burst: Count = 150
    large_burst: Count = 400
    replay_clients: Count = 40
    rounds: Annotated[int, msgspec.Meta(ge=2, le=50)] = 3  # of all drills but the quiet one; at least two for an interval
    seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 3.0  # of the quiet drill, and the limit of a burst


def quiet(sizes: Sizes) -> Drill:
    """No fault, and no client waits for another."""
    phases = Phases(steady_s=sizes.seconds, fault_s=0.1, recovery_s=0.0, settle_s=10.0)
    load = Load(events_per_s=10.0)
    fleet = Fleet(sizes.quiet_clients, connects_per_s=10.0)
    return _drill("quiet", "How long does each step take without a queue?", fleet, load, phases)


def mints(sizes: Sizes) -> Drill:
    """All clients request their tokens at once."""
    phases = Phases(steady_s=1.0, fault_s=0.1, recovery_s=0.0, settle_s=10.0)
    fleet = Fleet(sizes.mint_clients, connects_per_s=10_000.0)
    return _drill("mints", "How fast are tokens minted when many clients wait?", fleet, Load(events_per_s=2.0), phases)


def burst(name: str, clients: int, sizes: Sizes, events_per_s: float = 2.0, share: float = 1.0) -> Drill:
    """All sockets or a share of them are cut, and the clients reconnect at once."""
    phases = Phases(steady_s=2.0, fault_s=sizes.seconds, recovery_s=0.0, settle_s=20.0)
    fleet, load = Fleet(clients, policy=BURST_POLICY), Load(events_per_s=events_per_s)
    fault = DropSockets(at_s=0.0, share=share)
    return _drill(name, "How fast does a queue of clients become live?", fleet, load, phases, fault)


def replay(sizes: Sizes) -> Drill:
    """Clients are offline while many events are published, and then replay them."""
    phases = Phases(steady_s=1.0, fault_s=REPLAY_OFFLINE_S + sizes.seconds, recovery_s=0.0, settle_s=20.0)
    fleet = Fleet(sizes.replay_clients, policy=REPLAY_POLICY)
    fault = DropSockets(at_s=0.0, offline_s=REPLAY_OFFLINE_S)
    return _drill(
        "replay", "How long does an event take in a replay?", fleet, Load(events_per_s=REPLAY_EVENTS_PER_S), phases, fault
    )


def one_round(sizes: Sizes) -> tuple[Drill, ...]:
    """All drills that are repeated."""
    small, large = sizes.small_burst, sizes.large_burst
    events_per_s = min(BUSY_DELIVERIES_PER_S / (2 * large), REPLAY_EVENTS_PER_S)
    busy = burst("burst_busy", 2 * large, sizes, events_per_s, share=0.5)
    return (mints(sizes), burst("burst_small", small, sizes), burst("burst_large", large, sizes), busy, replay(sizes))


def _drill(name: str, summary: str, fleet: Fleet, load: Load, phases: Phases, *faults: DropSockets) -> Drill:
    return Drill(f"calibrate_{name}", summary, _CHECK, fleet, load, phases, faults)
