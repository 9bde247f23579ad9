"""Raw samples and counts of a history: the input of checks and metrics."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sim.analysis.machine import NO_SPANS, Spans
from sim.record.history import Floats, History, Ints, Rows
from sim.record.ledger import Ledger
from sim.record.observations import Kind

AUTH_CODES = (
    "unauthorized",
    "forbidden",
    "invalid_token",
    "token_expired",
    "token_not_yet_valid",
    "token_too_old",
    "token_revoked",
)
# Kinds that show that a client recovered from a stale cursor.
RECOVERIES = (Kind.SUBSCRIBED, Kind.REPLAY_COMPLETED)


@dataclass(frozen=True)
class Share:
    """`hits` of `n`."""

    hits: int
    n: int

    @property
    def ratio(self) -> float:
        """`hits / n`; NaN for n = 0."""
        return self.hits / self.n if self.n else float("nan")


def auth_refusals(history: History) -> Share:
    """Connects refused because of the token, of all connects that the fleet attempted."""
    refused = history.fleet(Kind.CONNECT_FAILED, Kind.SUBSCRIBE_REFUSED)
    return Share(int(history.detail_is(refused, AUTH_CODES).sum()), len(history.fleet(Kind.CONNECT_ATTEMPTED)))


def token_refusals(history: History) -> Share:
    """Token requests refused, of all token requests of the fleet."""
    refused = len(history.fleet(Kind.TOKEN_REFUSED))
    return Share(refused, refused + len(history.fleet(Kind.TOKEN_MINTED)))


def renewals(history: History) -> tuple[Rows, Floats]:
    """Connections that clients closed to renew their token, and the age of that token in seconds."""
    rows = history.fleet(Kind.TOKEN_MINTED, Kind.DISCONNECTED)
    rows = rows.take(rows.is_kind(Kind.TOKEN_MINTED) | history.detail_is(rows, ["token_refresh_due"])).by_client()
    left = rows.is_kind(Kind.DISCONNECTED)
    renewed = np.append(False, left[1:] & ~left[:-1] & (np.diff(rows.client) == 0)) if len(rows) else left
    return rows.take(renewed), np.diff(rows.t, prepend=0.0)[renewed]


def failed_publishes(history: History, busy: Spans = NO_SPANS) -> Share:
    """Publishes without an acknowledgement, of all publishes; without those that a busy machine may have given up."""
    failed = int((~busy.may_drop(history.of(Kind.PUBLISH_FAILED).t)).sum())
    return Share(failed, failed + len(history.of(Kind.PUBLISHED)))


def failed_tries(history: History, but: tuple[float, float] = (np.inf, -np.inf), busy: Spans = NO_SPANS) -> Share:
    """Tries of publishes that were refused or got no answer, of all tries; publishes, where no tries are recorded.

    `but`: without the tries that were under way between these two times, in seconds.
    """
    rows = history.of(Kind.PUBLISH_TRIED)
    if len(rows) == 0:
        return failed_publishes(history, busy)
    rows = rows.take((rows.t < but[0]) | (rows.t - np.nan_to_num(rows.value) / 1000.0 > but[1]))
    failed = ~history.detail_is(rows, ["acknowledged"]) & ~busy.may_drop(rows.t)
    return Share(int(failed.sum()), len(rows))


def subscribe_answers(history: History) -> int:
    """Number of answered subscribes of the fleet, with any answer."""
    others = len(history.fleet(Kind.SUBSCRIBED)) + len(history.fleet(Kind.SUBSCRIBE_REFUSED))
    return others + len(stale_answers(history))


def stale_answers(history: History) -> Rows:
    """One row per stale answer to the fleet, sorted by client; an answer for several streams has several rows in the record."""
    rows = history.fleet(Kind.STALE).by_client()
    same = (np.diff(rows.client) == 0) & (np.diff(rows.attempt) == 0) & (np.diff(rows.t) == 0)
    return rows.take(np.append(True, ~same)) if len(rows) else rows


def stale_loops(history: History) -> Rows:
    """The second stale answer for one stream without a recovery in between; one row per loop.

    A client recovers when it goes live or, if it was live when its stream left the retention window, when a replay completes.
    Two answers for different streams are not a loop: the window may have moved between them.
    """
    rows = history.fleet(Kind.STALE, *RECOVERIES).by_client()
    stale = rows.is_kind(Kind.STALE)
    recoveries = np.cumsum(~stale)[stale]
    rows = rows.take(stale)
    seen = pd.DataFrame({"client": rows.client, "recoveries": recoveries, "stream": rows.stream})
    second = seen.groupby(["client", "recoveries", "stream"]).cumcount().to_numpy() == 1
    first_of_client = ~seen[second].duplicated(["client", "recoveries"]).to_numpy()
    return rows.take(second).take(first_of_client)


def paced(history: History) -> Share:
    """Connects that waited for the target's connect limit, of all attempted; after the first fault, if there was one."""
    waited, tried = history.fleet(Kind.PACED), history.fleet(Kind.CONNECT_ATTEMPTED)
    since_t = history.first_fault_t if np.isfinite(history.first_fault_t) else -np.inf
    return Share(int((waited.t >= since_t).sum()), int((tried.t >= since_t).sum()))


def fullest_window(t: Floats, width_s: float) -> int:
    """The largest number of events in a window `[t, t + width_s)`. Raises `ValueError` for NaN."""
    if bool(np.isnan(t).any()):
        raise ValueError("a sample is not a number")
    t = np.sort(t)
    return int((np.searchsorted(t, t + width_s, side="left") - np.arange(len(t))).max(initial=0))


def bootstrap_ms(history: History, busy: Spans = NO_SPANS) -> Floats:
    """Time from a connect's due time to caught up: reconnects after the first fault or, without any, all connects.

    Here and below, `busy` are times that are taken out of the samples.
    """
    return busy.without_ms(bootstraps(history))


def bootstraps(history: History) -> Rows:
    """The rows of `bootstrap_ms`."""
    rows = history.fleet(Kind.REPLAY_COMPLETED)
    rows = rows.take(~np.isnan(rows.value))
    after = rows.take(rows.t >= history.first_fault_t)
    return after if len(after) else rows


def client_lag_events(history: History, busy: Spans = NO_SPANS) -> Floats:
    """Samples of head minus watermark, outside the fault phase."""
    return client_lags(history, busy).value


def client_lags(history: History, busy: Spans = NO_SPANS) -> Rows:
    """The rows of `client_lag_events`."""
    rows = history.of(Kind.CLIENT_LAG)
    rows = rows.take((rows.client < history.header.clients) & ~busy.has(rows.t))
    return rows.take(~history.in_fault_phase(rows.t))


def generator_lag_ms(history: History) -> Floats:
    """All samples of the load generator's own delay."""
    return history.of(Kind.GENERATOR_LAG).value


def publish_to_apply_ms(history: History, ledger: Ledger, busy: Spans = NO_SPANS) -> Floats:
    """Time from the moment an event was due to be published until a client applied it.

    Without events due in the fault phase or before the client was first live, and without events that a client applied a
    second time after its process died. Without the times that are `busy`, and then without what the fault phase held up.
    """
    return publishes_to_apply(history, ledger, busy)[1]


def publishes_to_apply(history: History, ledger: Ledger, busy: Spans = NO_SPANS) -> tuple[Floats, Floats]:
    """When each event of `publish_to_apply_ms` was due, in seconds, and how long it took."""
    applied = _first_applied(history, ledger)
    index = ledger.published.find(applied)
    due_t = ledger.published.due_t[index] if len(ledger.published) else np.zeros(len(applied))
    live = (index >= 0) & ~history.in_fault_phase(due_t) & (due_t >= history.first_live_t[applied.client])
    if len(busy):  # a busy machine brings it only after that phase
        since, until = (history.phases.get(phase, history.duration_s) for phase in ("fault", "recovery"))
        live &= (due_t >= until) | (applied.t < since)
    t, due_t = applied.t[live], due_t[live]
    return due_t, (t - due_t - busy.within_s(due_t, t)) * 1000.0


def _first_applied(history: History, ledger: Ledger) -> Rows:
    """The events that the fleet applied, each only the first time per (client, stream)."""
    applied = history.fleet(Kind.APPLIED)
    if len(history.of(Kind.RESTARTED)) == 0:
        return applied
    events = pd.DataFrame({"pair": history.pair(applied), "event": ledger.published.numbers(applied)})
    return applied.take(~events.duplicated().to_numpy())


def divergences(history: History) -> Share:
    """Replays that skipped events or started below the cursor, of all replays."""
    gaps = history.fleet(Kind.GAP)
    diverged = int(history.detail_is(gaps, ["replay"]).sum()) + len(below_cursor(history))
    return Share(diverged, len(history.fleet(Kind.REPLAYED)))


def below_cursor(history: History) -> Rows:
    """The events that replays had below the cursor, except for cursors above the head, which no replay can start at."""
    rows, clamped = history.fleet(Kind.REPLAY_BELOW_CURSOR), history.fleet(Kind.CLAMPED)
    above = {*zip(history.pair(clamped).tolist(), clamped.value.tolist(), strict=True)}
    asked = zip(history.pair(rows).tolist(), rows.value.tolist(), strict=True)
    return rows.take(np.array([each not in above for each in asked], np.bool_))


def unconverged(history: History) -> Ints:
    """Fleet clients that did not settle, or were still pending at the end."""
    settled = np.zeros(history.header.clients, np.bool_)
    settled[history.fleet(Kind.SETTLED).client] = True
    settled[history.fleet(Kind.STILL_PENDING).client] = False
    return np.flatnonzero(~settled)
