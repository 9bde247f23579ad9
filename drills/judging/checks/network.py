"""Checks of drills that disturb the network or the clients' reading. Each counts forbidden events and has no threshold."""

from collections.abc import Mapping, Sequence

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case, Decide
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.record.history import Floats, Rows
from sim.record.observations import Kind

_EVICTED_WITHIN_S = 5.0  # [ours] a client that reads again gets the queued events first, then the eviction


def _none_of(hits: int, n: int, what: str, among: str) -> Answer:
    """Fail on any hit. Pass only if the sample is not empty."""
    if hits:
        return Answer(State.FAIL, hits, n, f"{hits} {what} among {n} {among}")
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, f"there were no {among}")
    return Answer(State.PASS, 0, n, f"no {what} among {n} {among}")


def _half_open_left(case: Case, threshold: Threshold | None) -> Answer:
    """Check that the remaining side of a half-open connection detects the silence by itself."""
    made, left = _seen(case, Kind.FAULT_OBSERVED, "half_open_links"), _seen(case, Kind.HALF_OPEN_LEFT, "half_open_links")
    if unknown := sorted(set(made) - set(left)):
        return Answer(State.NO_DATA, NAN, 0, f"fault #{unknown[0]} has no record of the connections left at its end")
    count = 0 if case.had_no_time("fault", "settle") else int(sum(left.values()))
    return _none_of(count, int(sum(made.values())), "still open on one side", "half-open connections")


def _seen(case: Case, kind: Kind, fault: str) -> dict[int, float]:
    """The values of one observation kind for faults of one kind, by the fault's index in the schedule."""
    rows, plan = case.history.of(kind), case.history.header.plan
    pairs = zip(rows.attempt.tolist(), rows.value.tolist(), strict=True)
    return {index: value for index, value in pairs if 0 <= index < len(plan) and plan[index].get("kind") == fault}


def _needless_disconnects(case: Case, threshold: Threshold | None) -> Answer:
    history = case.history
    lost = case.disconnects.rows.take(~case.dropped_while_busy)
    lost = lost.take(~history.detail_is(lost, ["token_refresh_due"]))
    return _none_of(len(lost), len(history.fleet(Kind.SUBSCRIBED)), "connections lost without a fault", "live periods")


def _slow_consumers_kept(case: Case, threshold: Threshold | None) -> Answer:
    """Count the clients that stopped reading and were not evicted."""
    stopped = _seen(case, Kind.FAULT_OBSERVED, "stop_reading")
    who = {index: fault.clients for index, fault in case.planned.items()}
    evicted = [_evicted_during(case, index, who.get(index, ())) for index in stopped]
    missing = sum(max(int(wanted) - got, 0) for wanted, got in zip(stopped.values(), evicted, strict=True))
    if case.had_no_time("fault", "settle"):
        missing = 0
    return _none_of(missing, int(sum(stopped.values())), "not evicted", "clients that stopped reading")


def _evicted_during(case: Case, index: int, clients: Sequence[int]) -> int:
    """How many of these clients were evicted while the fault was active or soon after."""
    history = case.history
    injected, ended = history.of(Kind.FAULT_INJECTED), history.of(Kind.FAULT_REVERTED)
    injected_t = injected.t[injected.attempt == index].min(initial=np.inf)
    ended_t = ended.t[ended.attempt == index].max(initial=-np.inf)
    evicted = history.fleet(Kind.EVICTED)
    evicted = evicted.take(np.isin(evicted.client, clients))
    return len(np.unique(evicted.client[(evicted.t >= injected_t) & (evicted.t <= ended_t + _EVICTED_WITHIN_S)]))


def _early_returns(case: Case, threshold: Threshold | None) -> Answer:
    """Count the evicted clients that reconnected sooner than the runtime had asked for."""
    history = case.history
    evicted, tried = history.fleet(Kind.EVICTED), history.fleet(Kind.CONNECT_ATTEMPTED)
    wanted_s = case.drill.runtime.slow_consumer_reconnect_after_ms / 1000
    early = int((_until_next(evicted, tried) < wanted_s).sum())
    return _none_of(early, len(evicted), "back earlier than asked for", "evicted clients")


def _until_next(rows: Rows, later: Rows) -> Floats:
    """Seconds from each row to the next of the other rows of the same client; infinity without one."""
    found = [
        later.t[(later.client == client) & (later.t > t)].min(initial=np.inf) - t
        for client, t in zip(rows.client, rows.t, strict=True)
    ]
    return np.array(found, np.float64)


def _live_gaps(case: Case, threshold: Threshold | None) -> Answer:
    history = case.history
    gaps = history.fleet(Kind.GAP)
    return _none_of(
        int(history.detail_is(gaps, ["live"]).sum()),
        len(history.fleet(Kind.APPLIED)),
        "applied past a live gap",
        "events",
    )


DECISIONS: Mapping[str, Decide] = {
    "reconnect.half_open_left": _half_open_left,
    "reconnect.needless_disconnects": _needless_disconnects,
    "reconnect.early_returns": _early_returns,
    "delivery.slow_consumers_kept": _slow_consumers_kept,
    "delivery.live_gaps": _live_gaps,
}
