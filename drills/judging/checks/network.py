"""Checks for drills that break the network or the clients' reading: who is told, who notices, who is left.

Each counts what must not be there at all, so none takes a threshold.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case, Decide
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.drill import schedule
from sim.record.history import Floats, Rows
from sim.record.observations import Kind

# [ours] A client that was away reads what waited for it first, and then that it was sent away.
_TOLD_S = 5.0


def _none_of(hits: int, n: int, what: str, among: str) -> Answer:
    """Pass only where there was something to count among."""
    if hits:
        return Answer(State.FAIL, hits, n, f"{hits} {what} among {n} {among}")
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, f"there were no {among}")
    return Answer(State.PASS, 0, n, f"no {what} among {n} {among}")


def _half_open_left(case: Case, threshold: Threshold | None) -> Answer:
    """Who is left in a half-open connection has to find out by itself, because nobody ever tells it."""
    made, left = _seen(case, Kind.FAULT_OBSERVED, "half_open_links"), _seen(case, Kind.HALF_OPEN_LEFT, "half_open_links")
    if unknown := sorted(set(made) - set(left)):
        return Answer(State.NO_DATA, NAN, 0, f"of fault #{unknown[0]} nothing says how many connections were left at its end")
    return _none_of(int(sum(left.values())), int(sum(made.values())), "still held on to", "half-open connections")


def _seen(case: Case, kind: Kind, fault: str) -> dict[int, float]:
    """By a fault's index in the plan, the value that rows of one kind give for faults of one kind."""
    rows, plan = case.history.of(kind), case.history.header.plan
    pairs = zip(rows.attempt.tolist(), rows.value.tolist(), strict=True)
    return {index: value for index, value in pairs if 0 <= index < len(plan) and plan[index].get("kind") == fault}


def _needless_disconnects(case: Case, threshold: Threshold | None) -> Answer:
    history = case.history
    lost = history.fleet(Kind.DISCONNECTED)
    lost = lost.take(~history.detail_is(lost, ["token_refresh_due"]))
    return _none_of(len(lost), len(history.fleet(Kind.SUBSCRIBED)), "connections lost that nothing cut", "live periods")


def _untold(case: Case, threshold: Threshold | None) -> Answer:
    """Clients that stopped reading, and were not told to go for it."""
    stopped = _seen(case, Kind.FAULT_OBSERVED, "stop_reading")
    who = {fault.index: fault.clients for fault in schedule.plan(case.drill, case.history.header.seed)}
    told = [_evicted_during(case, index, who.get(index, ())) for index in stopped]
    missing = sum(max(int(wanted) - got, 0) for wanted, got in zip(stopped.values(), told, strict=True))
    return _none_of(missing, int(sum(stopped.values())), "never told to go", "clients that stopped reading")


def _evicted_during(case: Case, index: int, clients: Sequence[int]) -> int:
    """How many of these clients were told; that others were proves nothing."""
    history = case.history
    begun, ended = history.of(Kind.FAULT_INJECTED), history.of(Kind.FAULT_REVERTED)
    began_t = begun.t[begun.attempt == index].min(initial=np.inf)
    ended_t = ended.t[ended.attempt == index].max(initial=-np.inf)
    evicted = history.fleet(Kind.EVICTED)
    evicted = evicted.take(np.isin(evicted.client, clients))
    return len(np.unique(evicted.client[(evicted.t >= began_t) & (evicted.t <= ended_t + _TOLD_S)]))


def _early_returns(case: Case, threshold: Threshold | None) -> Answer:
    """Evicted clients that connected again sooner than the runtime had asked them to."""
    history = case.history
    evicted, tried = history.fleet(Kind.EVICTED), history.fleet(Kind.CONNECT_ATTEMPTED)
    wanted_s = case.drill.runtime.slow_consumer_reconnect_after_ms / 1000
    early = int((_until_next(evicted, tried) < wanted_s).sum())
    return _none_of(early, len(evicted), "back before they were asked to be", "evicted clients")


def _until_next(rows: Rows, later: Rows) -> Floats:
    """For each row, the seconds until the same client's next of the other rows; infinity for never."""
    found = [
        later.t[(later.client == client) & (later.t > t)].min(initial=np.inf) - t
        for client, t in zip(rows.client, rows.t, strict=True)
    ]
    return np.array(found, np.float64)


def _live_gaps(case: Case, threshold: Threshold | None) -> Answer:
    history = case.history
    gaps = history.fleet(Kind.GAP)
    return _none_of(
        int(history.detail_is(gaps, ["live"]).sum()), len(history.fleet(Kind.APPLIED)), "past a hole in a live tail", "events"
    )


DECISIONS: Mapping[str, Decide] = {
    "reconnect.half_open_left": _half_open_left,
    "reconnect.needless_disconnects": _needless_disconnects,
    "reconnect.early_returns": _early_returns,
    "delivery.slow_consumers_untold": _untold,
    "delivery.live_gaps": _live_gaps,
}
