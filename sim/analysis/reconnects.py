"""Reconnects: recovery after each fault, backoff delays, and herds.

The *nominal step* of backoff attempt n is `min(250 * 2^(n-1), 8000)` ms, as in the sync service's own client. The *herd* of an
attempt number is the largest share of its delays inside a window that is a tenth of its nominal step wide. Full jitter (delays
uniform over the step) tends to 10 %, no jitter gives 100 %, for any number of clients.
"""

from dataclasses import dataclass

import numpy as np

from sim.analysis.machine import NO_SPANS, Spans
from sim.analysis.samples import fullest_window
from sim.record.history import FaultTimes, Floats, History, Ints, Rows
from sim.record.observations import Kind
from sim.record.tally import Herd

BACKOFF_BASE_MS = 250.0
BACKOFF_CAP_MS = 8000.0
HERD_WINDOW = 0.1  # of the nominal step
# Clients may notice a disconnect this long after the fault that caused it.
NOTICE_S = 1.0


@dataclass(frozen=True)
class Episode:
    """Recovery from a fault that disconnected clients.

    `live_s` and `caught_up_s` are seconds from the end of the fault per client, ascending; infinity for never.
    """

    fault: str
    end_t: float  # of the fault; infinity if it was never reverted
    live_s: Floats
    caught_up_s: Floats
    attempts: Ints

    @property
    def clients(self) -> int:
        """Number of clients that the fault disconnected."""
        return len(self.live_s)


def time_until(share: float, seconds: Floats) -> float:
    """The value that `share` of `seconds` (ascending) do not exceed; infinity for never, NaN without clients."""
    if len(seconds) == 0:
        return float("nan")
    return float(seconds[max(int(np.ceil(share * len(seconds) - 1e-9)), 1) - 1])


def calm_t(history: History) -> float:
    """When the last fault was over for all clients, in seconds; infinity in a run without a recovery phase."""
    ended = history.of(Kind.FAULT_REVERTED)
    return max(history.phases.get("recovery", np.inf), float(ended.t.max(initial=0.0))) + NOTICE_S


def episodes(history: History, busy: Spans = NO_SPANS) -> list[Episode]:
    """The faults that disconnected fleet clients, in time order. `busy` are times that are taken out of the recovery."""
    return [episode for fault in history.faults if (episode := _episode(history, fault, busy)).clients]


def _episode(history: History, fault: FaultTimes, busy: Spans) -> Episode:
    cut = history.fleet(Kind.DISCONNECTED)
    until = fault.end_t + NOTICE_S if np.isfinite(fault.end_t) else history.duration_s
    cut = cut.take((cut.t >= fault.start_t) & (cut.t <= until))
    last_cut = np.full(history.header.clients, -np.inf)
    np.maximum.at(last_cut, cut.client, cut.t)
    affected = np.flatnonzero(np.isfinite(last_cut))
    live_t = _first_after(history.fleet(Kind.SUBSCRIBED), last_cut)
    completed = history.fleet(Kind.REPLAY_COMPLETED)
    caught_up_t = _first_after(completed.take(~np.isnan(completed.value)), last_cut)
    tries = history.fleet(Kind.CONNECT_ATTEMPTED)
    tries = tries.take((tries.t >= fault.start_t) & (tries.t <= live_t[tries.client]) & np.isfinite(last_cut[tries.client]))
    attempts = np.bincount(tries.client, minlength=history.header.clients)[affected]
    zero_t = fault.end_t if np.isfinite(fault.end_t) else -np.inf  # no recovery from a fault that was never reverted
    zero_ts = np.full(len(affected), zero_t)
    live_s, caught_up_s = (
        np.sort(np.maximum(t[affected] - zero_t - busy.within_s(zero_ts, t[affected]), 0.0)) for t in (live_t, caught_up_t)
    )
    return Episode(fault.kind, fault.end_t, live_s, caught_up_s, attempts)


def _first_after(rows: Rows, moment: Floats) -> Floats:
    """Per client, the time of its first row strictly after its `moment`; infinity without one."""
    first = np.full(len(moment), np.inf)
    later = rows.take(rows.t > moment[rows.client])
    np.minimum.at(first, later.client, later.t)
    return first


def peak_connects_per_s(history: History) -> float:
    """The most connects that the fleet attempted in one second after the first fault; NaN without a fault."""
    if not np.isfinite(history.first_fault_t):
        return float("nan")
    rows = history.fleet(Kind.CONNECT_ATTEMPTED)
    return fullest_window(rows.t[rows.t >= history.first_fault_t], 1.0)


def herds(history: History) -> list[Herd]:
    """One `Herd` per attempt number, and one for all delays in units of their nominal step.

    Without delays before a token refresh, which no fault caused, and without delays that the server gave as a hint.
    """
    rows = chosen_backoffs(history)
    rows = rows.take(~history.detail_is(rows, ["token_refresh_due"]) & (rows.attempt >= 1))
    in_steps = rows.value / nominal_step_ms(rows.attempt)
    groups = [(int(attempt), in_steps[rows.attempt == attempt]) for attempt in np.unique(rows.attempt)]
    groups = [(0, in_steps), *groups] if len(groups) > 1 else groups
    return [Herd(attempt, len(steps), fullest_window(steps, HERD_WINDOW)) for attempt, steps in groups]


def chosen_backoffs(history: History) -> Rows:
    """The fleet's backoffs with a delay that the client chose, not the server by a hint."""
    rows = history.fleet(Kind.BACKOFF)
    return rows.take(~history.detail_is(rows, [text for text in history.details if text.endswith(":hint")]))


def nominal_step_ms(attempt: Ints) -> Floats:
    """The longest delay of backoff attempt n: `min(250 * 2^(n-1), 8000)` ms."""
    doublings = np.minimum(np.maximum(attempt - 1, 0), 10).astype(np.float64)
    return np.minimum(BACKOFF_BASE_MS * 2.0**doublings, BACKOFF_CAP_MS)


@dataclass(frozen=True)
class Resets:
    """`n` backoffs followed a live period; in the rows `missed`, the attempt counter was not reset."""

    n: int
    missed: Rows


def backoff_resets(history: History, live_for_s: float) -> Resets:
    """Whether clients reset their backoff after they were live for `live_for_s` seconds."""
    rows = history.fleet(Kind.SUBSCRIBED, Kind.DISCONNECTED, Kind.BACKOFF).by_client()
    is_backoff = rows.is_kind(Kind.BACKOFF)
    lives = np.cumsum(_live_period_s(rows) >= live_for_s)[is_backoff]
    backoffs = rows.take(is_backoff)
    after_life = np.append(False, (np.diff(backoffs.client) == 0) & (np.diff(lives) > 0))[: len(backoffs)]
    return Resets(int(after_life.sum()), backoffs.take(after_life & (backoffs.attempt > 1)))


def _live_period_s(rows: Rows) -> Floats:
    """Per disconnect, how long the client had been live; NaN in all other rows. `rows` are sorted by client."""
    ended = rows.is_kind(Kind.DISCONNECTED)
    period = np.cumsum(np.append(0, ended[:-1] | (np.diff(rows.client) != 0))) if len(rows) else np.zeros(0, np.int64)
    start_t = np.full(len(rows) + 1, np.nan)
    live = np.flatnonzero(rows.is_kind(Kind.SUBSCRIBED))[::-1]
    start_t[period[live]] = rows.t[live]  # the earliest of a period is written last
    return np.where(ended, rows.t - start_t[period], np.nan)
