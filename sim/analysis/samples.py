"""Raw samples and counts out of a history: what gates decide on and metrics summarise."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sim.record.history import Floats, History, Ints, Mask, Rows
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
# What shows that a client's stale cursor was got over.
RECOVERIES = (Kind.SUBSCRIBED, Kind.REPLAY_COMPLETED)


@dataclass(frozen=True)
class Share:
    """`hits` of `n`."""

    hits: int
    n: int

    @property
    def ratio(self) -> float:
        """Their ratio; NaN of nothing."""
        return self.hits / self.n if self.n else float("nan")


def auth_refusals(history: History) -> Share:
    """Connects that were refused for the token's sake, of all connects attempted by the fleet."""
    refused = history.fleet(Kind.CONNECT_FAILED, Kind.SUBSCRIBE_REFUSED)
    return Share(int(history.detail_is(refused, AUTH_CODES).sum()), len(history.fleet(Kind.CONNECT_ATTEMPTED)))


def token_refusals(history: History) -> Share:
    """Tokens refused, of all tokens the fleet asked for."""
    refused = len(history.fleet(Kind.TOKEN_REFUSED))
    return Share(refused, refused + len(history.fleet(Kind.TOKEN_MINTED)))


def renewals(history: History) -> tuple[Rows, Floats]:
    """The connections that the fleet left to renew a token, and how many seconds after it had got that."""
    rows = history.fleet(Kind.TOKEN_MINTED, Kind.DISCONNECTED)
    rows = rows.take(rows.is_kind(Kind.TOKEN_MINTED) | history.detail_is(rows, ["token_refresh_due"])).by_client()
    left = rows.is_kind(Kind.DISCONNECTED)
    again = np.append(False, left[1:] & ~left[:-1] & (np.diff(rows.client) == 0)) if len(rows) else left
    return rows.take(again), np.diff(rows.t, prepend=0.0)[again]


def failed_publishes(history: History) -> Share:
    """Publishes without an acknowledgement, of all publishes."""
    failed = len(history.of(Kind.PUBLISH_FAILED))
    return Share(failed, failed + len(history.of(Kind.PUBLISHED)))


def subscribe_answers(history: History) -> int:
    """How many subscribes of the fleet were answered, whatever the answer."""
    others = len(history.fleet(Kind.SUBSCRIBED)) + len(history.fleet(Kind.SUBSCRIBE_REFUSED))
    return others + len(stale_answers(history))


def stale_answers(history: History) -> Rows:
    """One row for each stale answer to the fleet, by client; an answer naming several streams was written as several rows."""
    rows = history.fleet(Kind.STALE).by_client()
    return rows.take(~_same_answer(rows)) if len(rows) else rows


def stale_loops(history: History) -> Rows:
    """Where a client was told a second time that one stream's cursor is stale, with no recovery between; each loop once.

    A recovery is going live or, for a client that was live when its stream fell off the window, a completed replay. Two
    answers about different streams are no loop: a window may move between them.
    """
    rows = history.fleet(Kind.STALE, *RECOVERIES).by_client()
    stale = rows.is_kind(Kind.STALE)
    recoveries = np.cumsum(~stale)[stale]
    rows = rows.take(stale)
    seen = pd.DataFrame({"client": rows.client, "recoveries": recoveries, "stream": rows.stream})
    second = seen.groupby(["client", "recoveries", "stream"]).cumcount().to_numpy() == 1
    first_of_client = ~seen[second].duplicated(["client", "recoveries"]).to_numpy()
    return rows.take(second).take(first_of_client)


def _same_answer(rows: Rows) -> Mask:
    """Where a row belongs to the same answer as the row before it."""
    same = (np.diff(rows.client) == 0) & (np.diff(rows.attempt) == 0) & (np.diff(rows.t) == 0)
    return np.append(False, same)


def paced(history: History) -> Share:
    """Connects that waited for the target's cap, of all that the fleet attempted; after the first fault, if any was."""
    waited, tried = history.fleet(Kind.PACED), history.fleet(Kind.CONNECT_ATTEMPTED)
    since_t = history.first_fault_t if np.isfinite(history.first_fault_t) else -np.inf
    return Share(int((waited.t >= since_t).sum()), int((tried.t >= since_t).sum()))


def fullest_window(t: Floats, width_s: float) -> int:
    """The most events that any window `[t, t + width_s)` holds; 0 of nothing. Raises `ValueError` for what is no number."""
    if bool(np.isnan(t).any()):
        raise ValueError("a sample is not a number")
    t = np.sort(t)
    return int((np.searchsorted(t, t + width_s, side="left") - np.arange(len(t))).max(initial=0))


def bootstrap_ms(history: History) -> Floats:
    """From a connect's due moment to caught up: of the reconnects after the first fault, if there were any, else of all."""
    rows = history.fleet(Kind.REPLAY_COMPLETED)
    rows = rows.take(~np.isnan(rows.value))
    after = rows.value[rows.t >= history.first_fault_t]
    return after if len(after) else rows.value


def client_lag_events(history: History) -> Floats:
    """Sampled head minus watermark, outside the fault phase."""
    rows = history.of(Kind.CLIENT_LAG)
    rows = rows.take(rows.client < history.header.clients)
    return rows.value[~history.in_fault_phase(rows.t)]


def generator_lag_ms(history: History) -> Floats:
    """The load generator's own lateness, all samples."""
    return history.of(Kind.GENERATOR_LAG).value


def publish_to_apply_ms(history: History, ledger: Ledger) -> Floats:
    """From the moment an event was due to be published until a client applied it.

    Left out: events due in the fault phase, events due before the client was first live, which its
    bootstrap brought it, and what a client whose process had died applied for the second time.
    """
    applied = _first_applied(history)
    index = ledger.published.find(applied)
    due_t = ledger.published.due_t[index] if len(ledger.published) else np.zeros(len(applied))
    live = (index >= 0) & ~history.in_fault_phase(due_t) & (due_t >= history.first_live_t[applied.client])
    return (applied.t[live] - due_t[live]) * 1000.0


def _first_applied(history: History) -> Rows:
    """What the fleet applied, each event of a (client, stream) the first time."""
    applied = history.fleet(Kind.APPLIED)
    if len(history.of(Kind.RESTARTED)) == 0:
        return applied
    events = pd.DataFrame({"pair": history.pair(applied), "seq": applied.seq})
    return applied.take(~events.duplicated().to_numpy())


def divergences(history: History) -> Share:
    """Replays that skipped events or began below the cursor, beside the number of replays."""
    gaps = history.fleet(Kind.GAP)
    diverged = int(history.detail_is(gaps, ["replay"]).sum()) + len(history.fleet(Kind.REPLAY_BELOW_CURSOR))
    return Share(diverged, len(history.fleet(Kind.REPLAYED)))


def unconverged(history: History) -> Ints:
    """The fleet's clients that did not settle, or were still pending at the end."""
    settled = np.zeros(history.header.clients, np.bool_)
    settled[history.fleet(Kind.SETTLED).client] = True
    settled[history.fleet(Kind.STILL_PENDING).client] = False
    return np.flatnonzero(~settled)
