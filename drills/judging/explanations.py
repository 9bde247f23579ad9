"""Why a drill failed: for each failed check and violated invariant its first events, what was expected, and who is blamed."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from drills.judging.checks.base import Case
from drills.judging.checks.verdicts import DrillVerdict, State
from sim.analysis import new_logs, samples
from sim.analysis.disconnects import Owner
from sim.analysis.invariants import reactions
from sim.analysis.invariants.evidence import Evidence
from sim.analysis.invariants.registry import INVARIANTS
from sim.base import bounded_reads
from sim.protocols.events import EndedBy
from sim.record.history import History, Rows
from sim.record.ledger import Which
from sim.record.observations import Kind

BLAME_PATH = Path(__file__).with_name("blame.toml")
MAX_EVENTS = 5  # [ours] events shown of each failure
_CONNECTION = (Kind.SUBSCRIBED, Kind.DISCONNECTED, Kind.CONNECT_FAILED, Kind.RESTARTED, Kind.GAVE_UP)
_AROUND = 3  # rows of a client's connection that are shown before and after an event
_OWNERS = {
    Owner.CLIENT: ("client", "it decided to reconnect"),
    Owner.FAULT: ("fault", "the disconnect lies in its window and its scope"),
    Owner.SERVER: ("server", "it closed the connection, and no fault explains that"),
    Owner.UNKNOWN: ("server or network", "the connection ended without a word, and no fault explains that"),
}


@dataclass(frozen=True)
class Event:
    """One event of a failure. `client` and `marker` are -1 and `position` is -1 where they do not apply."""

    t: float  # seconds since the run began
    client: int
    stream: str
    position: int
    marker: int
    seen: str
    blamed: str
    why: str
    story: tuple[str, ...] = ()  # what happened to the event and to the client, in order of time
    query: str = ""  # options of `stormgate drill events` that list the rows around it


@dataclass(frozen=True)
class Explanation:
    """One failed check or violated invariant."""

    name: str
    state: str
    reason: str
    expected: str
    count: int  # of events in the record; -1: no single events decide it
    events: tuple[Event, ...]  # the first ones in order of time, or the worst of a measured value
    query: str  # options of `stormgate drill events` that list all of them


def explain(case: Case, verdict: DrillVerdict) -> tuple[Explanation, ...]:
    """Explain every violated invariant and every check that did not pass, in the order of the verdict."""
    found = [_Explainer(case).invariant(each.invariant, each.count, each.first) for each in verdict.violations]
    checks = [check for check in verdict.checks if check.state not in (State.PASS, State.NOT_RUN, State.NO_DATA)]
    return (
        *found,
        *(_Explainer(case).check(check.name, str(check.state), check.reason) for check in checks if check.name not in _DERIVED),
    )


_DERIVED = ("drill.invariants",)


@cache
def blame() -> Mapping[str, Mapping[str, tuple[str, str, str]]]:
    """What is expected, who is blamed and why, by invariant and by check."""
    read = tomllib.loads(bounded_reads.file_text(BLAME_PATH))
    return {part: {name: (words[0], words[1], words[2]) for name, words in table.items()} for part, table in read.items()}


# --- which rows decide a check ----------------------------------------------------------------------


def _kinds(*kinds: Kind, detail: str = "") -> Callable[[Case], Rows]:
    def rows(case: Case) -> Rows:
        found = case.history.fleet(*kinds)
        return found.take(case.history.detail_is(found, [detail])) if detail else found

    return rows


def _unexcused(case: Case) -> Rows:
    return case.disconnects.rows.take(case.disconnects.unexcused)


def _integrity(case: Case) -> Rows:
    evidence = Evidence(case.history, case.ledger)
    walk = evidence.walk
    rows = walk.rows.take(walk.twice | walk.back | walk.hole)
    return rows.and_then(case.history.fleet(Kind.HASH_MISMATCH))


def _of_run(*kinds: Kind) -> Callable[[Case], Rows]:
    return lambda case: case.history.of(*kinds)


_ROWS: Mapping[str, Callable[[Case], Rows]] = {
    "drill.undisturbed": _unexcused,
    "drill.converged": _kinds(Kind.STILL_PENDING),
    "drill.audited": lambda case: case.history.auditor_rows(Kind.STILL_PENDING),
    "drill.declared_loss": _kinds(Kind.DECLARED_LOSS),
    "drill.unexpected_stale": _kinds(Kind.STALE),
    "drill.faults_observed": _of_run(Kind.FAULT_INJECTED, Kind.FAULT_OBSERVED, Kind.FAULT_REVERTED),
    "drill.cut_once": _kinds(Kind.DISCONNECTED),
    "drill.revocation": _kinds(Kind.SESSION_REVOKED, Kind.DISCONNECTED, Kind.SUBSCRIBED),
    "drill.retired_routes": _of_run(Kind.ROUTE_ANSWERED),
    "error.stale_cursors": _kinds(Kind.STALE),
    "error.websocket_auth_error_ratio": _kinds(Kind.CONNECT_FAILED),
    "error.token_issue_failure_ratio": _kinds(Kind.TOKEN_REFUSED),
    "replay.divergence": lambda case: _kinds(Kind.GAP, detail="replay")(case).and_then(samples.below_cursor(case.history)),
    "replay.stale_loops": lambda case: samples.stale_loops(case.history),
    "delivery.failed_publish_ratio": _of_run(Kind.PUBLISH_FAILED),
    "delivery.live_gaps": _kinds(Kind.GAP, detail="live"),
    "delivery.slow_consumer_evictions": _kinds(Kind.EVICTED),
    "ux.integrity": _integrity,
    "reconnect.heartbeat_timeouts_per_s": _kinds(Kind.HEARTBEAT_TIMEOUT),
    "reconnect.needless_disconnects": _kinds(Kind.DISCONNECTED),
}
_WORST: Mapping[str, Callable[[Case], Rows]] = {  # measured values: the largest are shown
    "replay.bootstrap_ms": _kinds(Kind.REPLAY_COMPLETED),
    "replay.client_lag_events": _kinds(Kind.CLIENT_LAG),
    "reconnect.backoff_bounded": _kinds(Kind.BACKOFF),
    "drill.generator_lag_ms": _of_run(Kind.GENERATOR_LAG),
}
_LOSSES: Mapping[str, Which] = {  # and which deliveries of the ledger they count
    "silent_loss": "silent",
    "missing_at_rest": "at_rest",
    "delivery.dropped_deliveries": "dropped",
}


class _Explainer:
    def __init__(self, case: Case) -> None:
        self._case = case
        self._history: History = case.history

    def invariant(self, name: str, count: int, first: str) -> Explanation:
        """Explain a violated invariant."""
        table = blame()["invariants"]
        key = name if name in table else "negative_clients"  # each negative client has an invariant of its own
        expected, blamed, why = table[key]
        if name in _LOSSES:
            events, query = self._losses(_LOSSES[name]), ""
        elif name == "acknowledged_lost":
            events, query = self._lost_in_log(), ""
        else:
            rows = self._violating(key, name)
            events, query = self._shown(rows, blamed, why), _query_of(rows)
        return Explanation(name, "violated", f"{count} times; the first: {first}", expected, count, events, query)

    def check(self, name: str, state: str, reason: str) -> Explanation:
        """Explain a check that did not pass."""
        expected, blamed, why = blame()["checks"].get(name, ("", "", ""))
        if name in _LOSSES:
            events = self._losses(_LOSSES[name])
            return Explanation(name, state, reason, expected, len(events), events, "")
        if name in _WORST:
            rows = _WORST[name](self._case)
            rows = rows.take(np.argsort(-np.nan_to_num(rows.value), kind="stable"))
        elif name in _ROWS:
            rows = _ROWS[name](self._case)
            rows = rows.take(np.argsort(rows.t, kind="stable"))
        else:
            return Explanation(name, state, reason, expected, -1, (), "")
        return Explanation(name, state, reason, expected, len(rows), self._shown(rows, blamed, why), _query_of(rows))

    def _violating(self, key: str, name: str) -> Rows:
        """The rows that violate an invariant, in order of time."""
        evidence = Evidence(self._history, self._case.ledger)
        found = INVARIANTS[key].find(evidence)
        if not isinstance(found, Rows):
            found = _SHOWN_BY[key](evidence) if key in _SHOWN_BY else self._accepted(name)
        return found.take(np.argsort(found.t, kind="stable"))

    def _accepted(self, name: str) -> Rows:
        rows = self._history.of(Kind.PROBED)
        texts = [self._history.details[code] for code in np.unique(rows.detail)]
        mine = [text for text in texts if reactions.of_negative_client(text.partition(":")[0]) == name]
        return rows.take(self._history.detail_is(rows, [text for text in mine if text.endswith(":accepted")]))

    # --- events -------------------------------------------------------------------------------------

    def _shown(self, rows: Rows, blamed: str, why: str) -> tuple[Event, ...]:
        """The first of these rows."""
        return tuple(self._event(rows.take(np.array([place])), blamed, why) for place in range(min(len(rows), MAX_EVENTS)))

    def _event(self, row: Rows, blamed: str, why: str) -> Event:
        client, t, stream = int(row.client[0]), float(row.t[0]), self._history.streams[int(row.stream[0])]
        if row.is_kind(Kind.DISCONNECTED)[0]:
            blamed, why = self._owner_of(int(row.number[0])) or (blamed, why)
        story = self._connection_around(client, t) if client >= 0 else ()
        query = _options(client=client, stream=stream, around=int(row.seq[0]) if row.seq[0] >= 0 else None, t=t)
        position, marker = int(row.seq[0]), int(row.marker[0])
        return Event(t, client, stream, position, marker, seen(self._history, row), blamed, why, story, query)

    def _owner_of(self, number: int) -> tuple[str, str] | None:
        """Who ended the connection in this row of the record, and why we think so."""
        ends = self._case.disconnects
        (found,) = np.nonzero(ends.rows.number == number)
        if not len(found):
            return None
        who, why = _OWNERS[Owner(int(ends.owner[found[0]]))]
        index, said = int(ends.fault[found[0]]), ends.said[found[0]]
        if said.startswith(f"{EndedBy.CLIENT}:") and index < 0 and who != "client":
            why = "the client gave the connection up, because it heard nothing or missed events, and no fault explains that"
        if index >= 0:
            who = f"fault {self._history.header.plan[index].get('kind')} #{index}"
        return who, f"{why} (the record says: {said})" if said else why

    def _connection_around(self, client: int, t: float) -> tuple[str, ...]:
        """The client's connection before and after a moment."""
        rows = self._history.of(*_CONNECTION)
        rows = rows.take(rows.client == client)
        at = int(np.searchsorted(rows.t, t, side="right"))
        chosen = rows.take(np.arange(max(at - _AROUND, 0), min(at + _AROUND, len(rows))))
        return tuple(self._told(chosen.take(np.array([place]))) for place in range(len(chosen)))

    def _told(self, row: Rows) -> str:
        text = f"{row.t[0]:.3f} s: client {row.client[0]} {seen(self._history, row)}"
        owner = self._owner_of(int(row.number[0])) if row.is_kind(Kind.DISCONNECTED)[0] else None
        return f"{text}, by the {owner[0]}" if owner else text

    # --- losses -------------------------------------------------------------------------------------

    def _losses(self, which: Which) -> tuple[Event, ...]:
        pairs = self._case.ledger.first_missing(which, MAX_EVENTS)
        return tuple(self._loss(index, client) for client, index in pairs)

    def _lost_in_log(self) -> tuple[Event, ...]:
        lost = self._case.ledger.lost_by_authority
        lost = lost[np.argsort(self._case.ledger.published.acknowledged_t[lost], kind="stable")]
        return tuple(self._loss(index, -1) for index in lost[:MAX_EVENTS].tolist())

    def _loss(self, index: int, client: int) -> Event:
        """The life of an acknowledged event that a client, or everybody, lacks."""
        published = self._case.ledger.published
        stream, t = int(published.stream[index]), float(published.acknowledged_t[index])
        copies = self._history.of(Kind.APPLIED, Kind.GAP, Kind.HASH_MISMATCH, Kind.DUPLICATE_DROPPED, Kind.WITHHELD)
        copies = copies.take(published.find(copies) == index)
        applied = copies.take(copies.is_kind(Kind.APPLIED))
        story = [f"{published.sent_t[index]:.3f} s: published", f"{t:.3f} s: acknowledged", self._receivers(applied)]
        own = copies.take((copies.client == client) & ~copies.is_kind(Kind.APPLIED))
        story += [self._told(own.take(np.array([place]))) for place in range(min(len(own), MAX_EVENTS))]
        story += self._connection_around(client, t) if client >= 0 else ()
        blamed, why, what = _blame_of_loss(own)
        name, position = self._history.streams[stream], int(published.seq[index])
        marker = int(published.number[index]) if published.is_marked[stream] else -1
        query = _options(client=client, stream=name, around=position if position >= 0 else None, t=t)
        return Event(t, client, name, position, marker, what, blamed, why, tuple(story), query)

    def _receivers(self, applied: Rows) -> str:
        clients = np.unique(applied.client[applied.client < self._history.header.clients])
        if not len(clients):
            return "applied by no client"
        first = int(np.argmin(applied.t))
        total = self._history.header.clients
        return f"{applied.t[first]:.3f} s: applied by client {applied.client[first]}, the first of {len(clients)} of {total}"


# Invariants that return no rows: the rows that show them.
_SHOWN_BY: Mapping[str, Callable[[Evidence], Rows]] = {
    "log_recreated": lambda evidence: new_logs.went_on(evidence.history),
    "retried_terminal": lambda evidence: evidence.connects.retried_terminal().attempts,
    "ignored_hint": lambda evidence: evidence.connects.ignored_hint().attempts,
    "backoff_reset_by_accept": lambda evidence: evidence.connects.backoff_reset_by_accept().attempts,
    "reconnected_too_fast": lambda evidence: evidence.connects.reconnected_too_fast().attempts,
}


def _blame_of_loss(own: Rows) -> tuple[str, str, str]:
    """Who is blamed for a loss, why, and what was seen, from the copies that the client did not apply."""
    if own.is_kind(Kind.WITHHELD).any():
        return "fault skip_deliveries", "stormgate held the event back, and the client did not ask again", "withheld"
    if own.is_kind(Kind.HASH_MISMATCH).any():
        return "client or server", "the event arrived with a wrong hash, and never again", "received with a wrong hash"
    if own.is_kind(Kind.DUPLICATE_DROPPED).any():
        return "client", "it received the event and dropped it as a duplicate", "received, not applied"
    if len(own):
        return "server", "the event came only behind a gap, and no replay closed the gap", "received behind a gap only"
    return "server", "it acknowledged the event, and the client never received it", "never received"


# --- words ------------------------------------------------------------------------------------------


def where(event: Event) -> list[str]:
    """Client, stream, position and marker of an event in words, as far as they apply."""
    parts = [f"client {event.client}" if event.client >= 0 else "", event.stream]
    parts += [f"position {event.position}" if event.position >= 0 else ""]
    parts += [f"marker {event.marker}" if event.marker >= 0 else ""]
    return [part for part in parts if part]


def seen(history: History, row: Rows) -> str:
    """The first of these rows in words: its kind, value and detail."""
    kind = list(Kind)[int(row.kind[0])].value.replace("_", " ")
    detail, value, attempt = history.details[int(row.detail[0])], float(row.value[0]), int(row.attempt[0])
    numbers = [f"value {value:g}"] if np.isfinite(value) else []
    numbers += [f"attempt {attempt}"] if attempt else []
    return ", ".join([f"{kind} ({detail})" if detail else kind, *numbers])


def _options(*, client: int = -1, stream: str = "", around: int | None = None, t: float | None = None) -> str:
    parts = [f"--client {client}"] if client >= 0 else []
    parts += [f"--stream {stream}"] if stream else []
    if around is not None and stream:
        parts.append(f"--around {around}")
    elif t is not None:
        parts.append(f"--since {max(t - 1, 0):.3f} --until {t + 1:.3f}")
    return " ".join(parts)


def _query_of(rows: Rows) -> str:
    """The options that list all rows of these kinds."""
    return " ".join(f"--kind {list(Kind)[kind].value}" for kind in np.unique(rows.kind).tolist())
