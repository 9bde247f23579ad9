"""What the caps and stop conditions of a target do to a drill, computed before it starts. The values are estimates."""

from collections.abc import Iterator
from dataclasses import dataclass

from sim.drill.fault_bases import ClientFault
from sim.drill.fault_kinds import (
    AnyFault,
    CloseConnections,
    DropSockets,
    ExpireTokens,
    FailPublishes,
    ForgetTokens,
    KillRuntime,
    MintOutage,
    RestartClients,
    RevokeSessions,
    StopDelivery,
)
from sim.drill.model import Drill
from sim.drill.target_rules import Caps, Rules
from sim.protocols.endings import FIRST_CLOSE_CODE

# Faults that disconnect all clients of the service, not only the drill's.
HITS_ALL_CLIENTS = (KillRuntime, ExpireTokens, StopDelivery)
_FIRST_S, _MAX_S = 0.125, 4.0  # mean of the first and of the longest delay of full jitter over 250 ms, at most 8 s


def returning(drill: Drill) -> list[int]:
    """Return how many clients each fault lets reconnect at once."""
    return [_returning(fault, drill.fleet.clients) for fault in drill.faults]


def _returning(fault: AnyFault, clients: int) -> int:
    if isinstance(fault, ClientFault):
        return round(fault.share * clients / getattr(fault, "waves", 1))
    return clients if isinstance(fault, HITS_ALL_CLIENTS) else 0


def paced_share(drill: Drill, caps: Caps) -> float:
    """Return the share of a drill's reconnects that its target's connect rate delays."""
    storms = returning(drill)
    return sum(max(n - caps.connects_per_s, 0.0) for n in storms) / max(sum(storms), 1)


@dataclass(frozen=True)
class _Outage:
    """How a fault makes requests fail: the affected share of the clients and of the publishes, for some seconds."""

    clients: float
    publishes: float
    for_s: float


def _outage(fault: AnyFault, drill: Drill) -> _Outage | None:
    match fault:
        case MintOutage():
            shares = [getattr(other, "share", 1.0) for other in drill.faults if isinstance(other, ForgetTokens | ExpireTokens)]
            return _Outage(max(shares, default=0.0), 0.0, fault.for_s)
        case KillRuntime():
            return _Outage(1.0, 1.0, fault.down_s)
        case StopDelivery():
            return _Outage(1.0, 0.0, fault.for_s)
        case FailPublishes():
            return _Outage(0.0, fault.share, fault.for_s)
        case RevokeSessions():
            return _Outage(fault.share, 0.0, fault.for_s)
        case CloseConnections():
            refused = sum(code < FIRST_CLOSE_CODE for code in fault.codes) / len(fault.codes)
            return _Outage(fault.share * refused, 0.0, fault.for_s)
        case _:
            return None


def _away(fault: AnyFault, drill: Drill) -> _Outage | None:
    """The share of the clients that cannot be live, and how long."""
    match fault:
        case DropSockets():
            return _Outage(fault.share / fault.waves, 0.0, fault.offline_s)
        case RestartClients():
            return _Outage(fault.share, 0.0, fault.down_s)
        case _:
            return _outage(fault, drill)


def _tries(outage_s: float) -> int:
    """The number of connects that a client with full jitter attempts in an outage, on average."""
    delay_s, at_s, n = _FIRST_S, _FIRST_S, 1
    while (at_s := at_s + (delay_s := min(2 * delay_s, _MAX_S))) < outage_s:
        n += 1
    return n


def error_ratio(drill: Drill, fault: AnyFault, window_s: float) -> tuple[float, float]:
    """Return the highest share of failed mints, connects and publishes in a window, and the number of requests in it."""
    outage = _outage(fault, drill)
    if outage is None or not outage.for_s:
        return 0.0, 0.0
    clients, per_s = drill.fleet.clients, drill.load.events_per_s
    bad_s = min(outage.for_s, window_s)
    failed = outage.clients * clients * _tries(bad_s) + outage.publishes * per_s * bad_s
    fine = (1 - outage.publishes) * per_s * bad_s + per_s * (window_s - bad_s)
    before_s = drill.phases.steady_s + fault.at_s + bad_s
    if before_s < window_s:  # the first connects, each with a token, are in the window, too
        fine += 2 * clients * min((window_s - before_s) / max(drill.fleet.arrival_s, 0.1), 1.0)
    return failed / max(failed + fine, 1.0), failed + fine


def rises(drill: Drill) -> dict[str, float]:
    """Return by how much a drill alone raises those of the service's counters that can be predicted."""
    per_s, failed = drill.load.events_per_s, 0.0
    for fault in drill.faults:
        if isinstance(fault, FailPublishes):
            failed += fault.share * per_s * fault.for_s
    lost = sum(outage.publishes * outage.for_s for fault in drill.faults if (outage := _outage(fault, drill)))
    published = per_s * max(drill.phases.steady_s + drill.phases.fault_s - lost, 0.0)
    readers = drill.fleet.clients * (drill.fleet.topics_per_client + int(drill.load.worker_events)) / drill.streams
    counters = ("mirror.published_total", "mirror.failed_total", "delivery.served_messages")
    return dict(zip(counters, (published, failed, published * readers), strict=True))


def stops(drill: Drill, rules: Rules) -> Iterator[str]:
    """Yield a sentence for each stop condition that the drill itself will meet, so that it cannot end as planned."""
    stop = rules.stop
    for name, rise in rises(drill).items():
        if (limit := stop.metrics_above.get(name)) is not None and rise > limit:
            yield f"stop.metrics_above.{name} is {limit:g}, but drill '{drill.name}' itself raises it by about {rise:.0f}"
    for fault in drill.faults:
        outage, away = _outage(fault, drill), _away(fault, drill)
        ratio, n = error_ratio(drill, fault, stop.error_window_s)
        if stop.error_ratio is not None and n >= stop.error_minimum_n and ratio > stop.error_ratio:
            yield (
                f"stop.error_ratio is {stop.error_ratio:g}, but {fault.kind} of drill '{drill.name}' makes about {ratio:.0%} "
                f"of the requests within {stop.error_window_s:g} s fail"
            )
        if stop.live_share is not None and away and away.for_s >= stop.live_share_for_s and 1 - away.clients < stop.live_share:
            yield (
                f"stop.live_share is {stop.live_share:g} for {stop.live_share_for_s:g} s, but {fault.kind} of drill "
                f"'{drill.name}' disconnects {away.clients:.0%} of the clients for {away.for_s:g} s"
            )
        limit, every_s = stop.metrics_unreachable_polls, rules.metrics_every_s
        if limit is not None and isinstance(fault, KillRuntime) and outage and outage.for_s > limit * every_s:
            yield (
                f"stop.metrics_unreachable_polls is {limit}, one every {every_s:g} s, but {fault.kind} of drill '{drill.name}' "
                f"lasts {outage.for_s:g} s"
            )
