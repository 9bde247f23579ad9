"""The probes of a calibration: small drills, each of which shows a few numbers of a lane by itself.

They run by the engine that any drill runs by, so whatever bounds a drill on a target (caps, stop conditions, who may be broken)
bounds them, and what they leave is an ordinary run's observations.

| probe | does | shows |
|---|---|---|
| quiet | few clients, one after the other, some events | latencies without a queue: mint, handshake, publish, delivery |
| mints | a fleet arrives at once | how quickly tokens are minted when many wait |
| burst_small, burst_large | a fleet is cut, and all come back at the same moment | how quickly a queue of clients gets live |
| burst_busy | half of twice the fleet is, while much is published | what a frame costs, and whether it holds up handshakes |
| replay | a few are cut and stay away while much is published | what an event costs in a replay |
"""

from typing import Annotated

import msgspec

from sim.drill.fault_kinds import DropSockets
from sim.drill.model import Drill, Fleet, Load, Phases, PolicyName
from sim.server.settings import Count

# Both wait without jitter, so that all clients stand in one queue; 10 ms, so that a burst pays for the sockets that went, too.
BURST_POLICY: PolicyName = "phoenix_js"
REPLAY_POLICY: PolicyName = "sdk"
REPLAY_EVENTS_PER_S = 150.0  # below what the sync lane takes for one stream (240)
REPLAY_OFFLINE_S = 4.0
BUSY_DELIVERIES_PER_S = 16_000.0  # [ours] what one process of a load generator takes without being late itself
_CHECK = ("delivery.dropped_deliveries",)


class Sizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How large the probes are; [ours]: small enough for any target that may be drilled, large enough for a queue."""

    quiet_clients: Count = 20
    mint_clients: Count = 200
    small_burst: Count = 150
    large_burst: Count = 400
    replay_clients: Count = 40
    rounds: Annotated[int, msgspec.Meta(ge=2, le=50)] = 3  # of all but the quiet ones; of one there is no interval
    seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 3.0  # a quiet probe, and the limit of a burst


def quiet(sizes: Sizes) -> Drill:
    """Nothing is broken, and nobody waits for anyone."""
    phases = Phases(steady_s=sizes.seconds, fault_s=0.1, recovery_s=0.0, settle_s=10.0)
    load = Load(events_per_s=10.0)
    fleet = Fleet(sizes.quiet_clients, connects_per_s=10.0)
    return _drill("quiet", "How long does each step take when nobody waits?", fleet, load, phases)


def mints(sizes: Sizes) -> Drill:
    """The whole fleet asks for its tokens at once."""
    phases = Phases(steady_s=1.0, fault_s=0.1, recovery_s=0.0, settle_s=10.0)
    fleet = Fleet(sizes.mint_clients, connects_per_s=10_000.0)
    return _drill("mints", "How quickly are tokens minted when many wait?", fleet, Load(events_per_s=2.0), phases)


def burst(name: str, clients: int, sizes: Sizes, events_per_s: float = 2.0, share: float = 1.0) -> Drill:
    """All are cut, or a share, and come back at the same moment."""
    phases = Phases(steady_s=2.0, fault_s=sizes.seconds, recovery_s=0.0, settle_s=20.0)
    fleet, load = Fleet(clients, policy=BURST_POLICY), Load(events_per_s=events_per_s)
    fault = DropSockets(at_s=0.0, share=share)
    return _drill(name, "How quickly does a queue of clients get live?", fleet, load, phases, fault)


def replay(sizes: Sizes) -> Drill:
    """Some are away while much is published, and read it all when they come back."""
    phases = Phases(steady_s=1.0, fault_s=REPLAY_OFFLINE_S + sizes.seconds, recovery_s=0.0, settle_s=20.0)
    fleet = Fleet(sizes.replay_clients, policy=REPLAY_POLICY)
    fault = DropSockets(at_s=0.0, offline_s=REPLAY_OFFLINE_S)
    return _drill(
        "replay", "What does an event cost in a replay?", fleet, Load(events_per_s=REPLAY_EVENTS_PER_S), phases, fault
    )


def one_round(sizes: Sizes) -> tuple[Drill, ...]:
    """Every probe that is repeated."""
    small, large = sizes.small_burst, sizes.large_burst
    events_per_s = min(BUSY_DELIVERIES_PER_S / (2 * large), REPLAY_EVENTS_PER_S)
    busy = burst("burst_busy", 2 * large, sizes, events_per_s, share=0.5)
    return (mints(sizes), burst("burst_small", small, sizes), burst("burst_large", large, sizes), busy, replay(sizes))


def _drill(name: str, summary: str, fleet: Fleet, load: Load, phases: Phases, *faults: DropSockets) -> Drill:
    return Drill(f"calibrate_{name}", summary, _CHECK, fleet, load, phases, faults)
