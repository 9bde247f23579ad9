"""How clients came back: recovery after each fault, their backoff, and whether they moved as a herd.

Formulas. *Nominal step* of backoff attempt n: `min(250 * 2^(n-1), 8000)` ms, the sync lane's own. *Herd* of one
attempt number: the largest share of its delays inside any window a tenth of its nominal step wide. Full jitter
(delays uniform over the step) tends to 10 %, no jitter gives 100 %, whatever the number of clients.
"""

from dataclasses import dataclass

import numpy as np

from sim.analysis.samples import fullest_window
from sim.record.history import Floats, History, Ints, Rows
from sim.record.observations import Kind

BACKOFF_BASE_MS = 250.0
BACKOFF_CAP_MS = 8000.0
HERD_WINDOW = 0.1  # of the nominal step
# A cut is noticed by the clients a moment after the fault that made it, even when that fault is over by then.
NOTICE_S = 1.0


@dataclass(frozen=True)
class Episode:
    """One fault that disconnected clients; `live_s` and `caught_up_s` are seconds after its end, ascending, inf for never."""

    fault: str
    began_t: float
    ended_t: float
    live_s: Floats
    caught_up_s: Floats
    attempts: Ints

    @property
    def clients(self) -> int:
        """How many clients it disconnected."""
        return len(self.live_s)


def time_until(share: float, seconds: Floats) -> float:
    """Seconds until `share` of the clients were there; `seconds` ascending, inf for never, NaN of nothing."""
    if len(seconds) == 0:
        return float("nan")
    return float(seconds[max(int(np.ceil(share * len(seconds) - 1e-9)), 1) - 1])


def episodes(history: History) -> list[Episode]:
    """The faults that disconnected fleet clients, in the order they began."""
    begun, ended = history.of(Kind.FAULT_INJECTED), history.of(Kind.FAULT_REVERTED)
    ends = {int(index): float(t) for index, t in zip(ended.attempt, ended.t, strict=True)}
    found = (
        _episode(history, history.details[code], float(t), ends.get(int(index), float("nan")))
        for index, t, code in zip(begun.attempt, begun.t, begun.detail, strict=True)
    )
    return [episode for episode in found if episode.clients]


def _episode(history: History, fault: str, began_t: float, ended_t: float) -> Episode:
    cut = history.fleet(Kind.DISCONNECTED)
    until = ended_t + NOTICE_S if np.isfinite(ended_t) else history.duration_s
    cut = cut.take((cut.t >= began_t) & (cut.t <= until))
    last_cut = np.full(history.header.clients, -np.inf)
    np.maximum.at(last_cut, cut.client, cut.t)
    affected = np.flatnonzero(np.isfinite(last_cut))
    live_t = _first_after(history.fleet(Kind.SUBSCRIBED), last_cut)
    completed = history.fleet(Kind.REPLAY_COMPLETED)
    caught_up_t = _first_after(completed.take(~np.isnan(completed.value)), last_cut)
    tries = history.fleet(Kind.CONNECT_ATTEMPTED)
    tries = tries.take((tries.t >= began_t) & (tries.t <= live_t[tries.client]) & np.isfinite(last_cut[tries.client]))
    attempts = np.bincount(tries.client, minlength=history.header.clients)[affected]
    # A fault that was never taken back leaves nothing to count the recovery from: nobody recovered.
    zero_t = ended_t if np.isfinite(ended_t) else -np.inf
    live_s, caught_up_s = (np.sort(np.maximum(t[affected] - zero_t, 0.0)) for t in (live_t, caught_up_t))
    return Episode(fault, began_t, ended_t, live_s, caught_up_s, attempts)


def _first_after(rows: Rows, moment: Floats) -> Floats:
    """By client, the first row strictly after the client's `moment`; infinity for none."""
    first = np.full(len(moment), np.inf)
    later = rows.take(rows.t > moment[rows.client])
    np.minimum.at(first, later.client, later.t)
    return first


def peak_connects_per_s(history: History) -> float:
    """The most connects the fleet attempted in any one second from the first fault on; NaN if none began."""
    if not np.isfinite(history.first_fault_t):
        return float("nan")
    rows = history.fleet(Kind.CONNECT_ATTEMPTED)
    return fullest_window(rows.t[rows.t >= history.first_fault_t], 1.0)


@dataclass(frozen=True)
class Herd:
    """Of `n` delays with one attempt number (0: all together), `together` lie in one window."""

    attempt: int
    n: int
    together: int

    @property
    def share(self) -> float:
        """The share of delays in the fullest window."""
        return self.together / self.n


def herds(history: History) -> list[Herd]:
    """One `Herd` for each attempt number, and one of all delays in units of their nominal step.

    Left out: delays before a token refresh, which no fault caused, and those by a server's hint.
    """
    rows = chosen_backoffs(history)
    rows = rows.take(~history.detail_is(rows, ["token_refresh_due"]) & (rows.attempt >= 1))
    in_steps = rows.value / nominal_step_ms(rows.attempt)
    groups = [(int(attempt), in_steps[rows.attempt == attempt]) for attempt in np.unique(rows.attempt)]
    groups = [(0, in_steps), *groups] if len(groups) > 1 else groups
    return [Herd(attempt, len(steps), fullest_window(steps, HERD_WINDOW)) for attempt, steps in groups]


def chosen_backoffs(history: History) -> Rows:
    """The fleet's backoffs whose delay the client chose itself, not a server by a hint."""
    rows = history.fleet(Kind.BACKOFF)
    return rows.take(~history.detail_is(rows, [text for text in history.details if text.endswith(":hint")]))


def nominal_step_ms(attempt: Ints) -> Floats:
    """`min(250 * 2^(n-1), 8000)` ms, the longest delay of backoff attempt n."""
    doublings = np.minimum(np.maximum(attempt - 1, 0), 10).astype(np.float64)
    return np.minimum(BACKOFF_BASE_MS * 2.0**doublings, BACKOFF_CAP_MS)


@dataclass(frozen=True)
class Resets:
    """Of `n` backoffs that followed a live period since the one before, those that went on counting."""

    n: int
    missed: Rows


def backoff_resets(history: History, live_for_s: float) -> Resets:
    """Whether clients begin their backoff anew after having been live for `live_for_s` seconds."""
    rows = history.fleet(Kind.SUBSCRIBED, Kind.DISCONNECTED, Kind.BACKOFF).by_client()
    backoff = rows.is_kind(Kind.BACKOFF)
    long_lives = np.cumsum(_live_period_s(rows) >= live_for_s)
    backs = rows.take(backoff)
    lives = long_lives[backoff]
    again = np.append(False, (np.diff(backs.client) == 0) & (np.diff(lives) > 0)) if len(backs) else np.zeros(0, np.bool_)
    return Resets(int(again.sum()), backs.take(again & (backs.attempt > 1)))


def _live_period_s(rows: Rows) -> Floats:
    """For each disconnect, how long the client had been live before it; NaN in all other rows. Rows are ordered by client."""
    ended = rows.is_kind(Kind.DISCONNECTED)
    spell = np.cumsum(np.append(0, ended[:-1] | (np.diff(rows.client) != 0))) if len(rows) else np.zeros(0, np.int64)
    begun_t = np.full(len(rows) + 1, np.nan)
    live = np.flatnonzero(rows.is_kind(Kind.SUBSCRIBED))[::-1]
    begun_t[spell[live]] = rows.t[live]  # the earliest of a spell is written last
    return np.where(ended, rows.t - begun_t[spell], np.nan)
