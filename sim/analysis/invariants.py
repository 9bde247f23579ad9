"""Invariants: what must hold in every run, independent of thresholds. Each violation has a count and its first occurrence.

Each invariant is a function of `_Evidence` (a history and its ledger) in the table `INVARIANTS`. Duplicates on the wire are
legal; an event that is *applied* twice is a violation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.analysis import corrupted, live_gaps, new_logs
from sim.analysis.endings import ConnectHistory, Reactions, said_at
from sim.analysis.samples import RECOVERIES, stale_loops
from sim.record.history import History, Ints, Mask, Rows, at
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.published import first_sent_t

# The invariant that is violated when a negative client's request is accepted, where it has a name of its own.
_OF_NEGATIVE_CLIENT = {
    "mutation_over_socket": "socket_changed_state",
    "any_mutation": "socket_changed_state",
    "expired_token": "expired_token_accepted",
}
_EPOCH_SPAN = 1 << 40
_MOVES = (Kind.APPLIED, Kind.REBOOTSTRAPPED, Kind.CLAMPED, Kind.RESTARTED)  # kinds that move a client's watermark


@dataclass(frozen=True)
class Violation:
    """A violated invariant: how often, and the first occurrence as text."""

    invariant: str
    count: int
    first: str


@dataclass(frozen=True)
class Integrity:
    """Rows that violate the order of application."""

    applied_twice: Rows
    out_of_order: Rows
    holes: Rows


def violations(history: History, ledger: Ledger, complete: bool = True) -> list[Violation]:
    """All violated invariants of a run. Takes seconds for millions of observations.

    For an interrupted run (not `complete`), it checks only the invariants that do not need the end of the run.
    """
    evidence = _Evidence(history, ledger)
    names = [name for name in INVARIANTS if complete or name not in _NEED_THE_END]
    return [found for name in names for found in _violations(evidence, name) if found.count]


def _violations(evidence: "_Evidence", name: str) -> Iterator[Violation]:
    found = INVARIANTS[name](evidence)
    if isinstance(found, Rows):
        yield from evidence.violated(name, found)
    else:
        yield from found


def of_negative_client(name: str) -> str:
    """The invariant that is violated when this negative client's request is accepted."""
    return _OF_NEGATIVE_CLIENT.get(name, f"{name}_accepted")


def integrity(history: History, select: Callable[[History], Rows] | None = None) -> Integrity:
    """Events applied twice, out of order, or after a hole: by the fleet, or in the rows that `select` returns."""
    walk = _Walk(history, select(history) if select else history.fleet(*_MOVES))
    return Integrity(walk.rows.take(walk.twice), walk.rows.take(walk.back & ~walk.twice), walk.rows.take(walk.hole))


class _Walk:
    """The watermark of each (client, stream), row by row.

    Applied events, a rebootstrap and a clamp move it; it starts at 0. An *epoch* lasts from one rebootstrap to the next, and
    within it no event may be applied twice. When a fault kills the client's process, a new epoch starts at the stored
    checkpoint; without one (-1), the client must rebootstrap before it applies anything.
    """

    def __init__(self, history: History, rows: Rows) -> None:
        self.positions = history.positions
        rows = history.without_unplanned_restarts(rows)
        pair = history.pair(rows)
        order = np.argsort(pair, kind="stable")
        self.rows = rows.take(order)
        first = _changes(pair[order])
        self.applied = self.rows.is_kind(Kind.APPLIED)
        # `fresh` is a client's first baseline on a stream; a later one is not a recovery.
        restart = self.rows.is_kind(Kind.REBOOTSTRAPPED) & ~history.detail_is(self.rows, ["fresh"])
        restart |= self.rows.is_kind(Kind.RESTARTED)
        self.epoch = np.cumsum(first | restart)
        before = np.append(0, self.rows.seq[:-1]) if len(self.rows) else 0
        # A client that goes on in a new log cannot see that the new log's first events are missing.
        is_new_log = history.base_stream[self.rows.stream] != self.rows.stream
        self.watermark = np.where(first, np.where(is_new_log, self.rows.seq - 1, 0), before)

    @cached_property
    def hole(self) -> Mask:
        return self.applied & (self.rows.seq > self.watermark + 1) & (self.positions == "dense")

    @cached_property
    def back(self) -> Mask:
        return self.applied & (self.rows.seq <= self.watermark) & (self.positions != "opaque")

    @cached_property
    def twice(self) -> Mask:
        """Which rows apply an event, by position or by marker, for the second time in the same epoch."""
        by_marker = self._repeated(self.rows.marker)
        return by_marker if self.positions == "opaque" else by_marker | self._repeated(self.rows.seq)

    def _repeated(self, number: Ints) -> Mask:
        mask = np.zeros(len(self.rows), np.bool_)
        where = np.flatnonzero(self.applied & (number >= 0))
        epoch, seq = self.epoch[where], number[where]
        # Only an epoch whose sequence does not always rise can contain a number twice.
        suspect = np.unique(epoch[1:][(np.diff(epoch) == 0) & (np.diff(seq) <= 0)])
        where = where[np.isin(epoch, suspect)]
        where = where[np.lexsort((where, number[where], self.epoch[where]))]
        repeated = (np.diff(self.epoch[where]) == 0) & (np.diff(number[where]) == 0)
        mask[where[1:][repeated]] = True
        return mask

    @cached_property
    def highest_applied(self) -> Ints:
        """The highest seq applied so far in the epoch, or 0."""
        reached = self.epoch * _EPOCH_SPAN + np.where(self.applied, self.rows.seq, 0)
        highest: Ints = np.maximum.accumulate(reached) - self.epoch * _EPOCH_SPAN
        return highest


class _Evidence:
    """The input of all invariants, with intermediate results computed once."""

    def __init__(self, history: History, ledger: Ledger) -> None:
        self.history = history
        self.ledger = ledger

    @cached_property
    def walk(self) -> _Walk:
        return _Walk(self.history, self.history.session_rows(*_MOVES))

    @cached_property
    def connects(self) -> ConnectHistory:
        return ConnectHistory(self.history)

    def violated(self, invariant: str, rows: Rows) -> Iterator[Violation]:
        """One violation for all `rows`, which shows the earliest; no violation without rows."""
        if len(rows):
            first = int(np.argmin(rows.t))
            stream = self.history.streams[rows.stream[first]]
            where = at(int(rows.client[first]), stream, int(rows.seq[first]), float(rows.t[first]))
            yield Violation(invariant, len(rows), where)


def _checkpoint_regressed(evidence: _Evidence) -> Rows:
    """Checkpoints lowered without a rebootstrap, a clamp or a restart, and clamps below an applied event."""
    history, walk = evidence.history, evidence.walk
    if walk.positions == "opaque":
        return walk.rows.take(np.zeros(len(walk.rows), np.bool_))
    clamped = walk.rows.is_kind(Kind.CLAMPED) & (walk.rows.seq < walk.highest_applied)
    kinds = (Kind.CHECKPOINT_WRITTEN, Kind.REBOOTSTRAPPED, Kind.CLAMPED, Kind.RESTARTED)
    rows = history.without_unplanned_restarts(history.session_rows(*kinds))
    pair = history.pair(rows)
    order = np.argsort(pair, kind="stable")
    rows, first = rows.take(order), _changes(pair[order])
    written = rows.is_kind(Kind.CHECKPOINT_WRITTEN)
    stretch = np.cumsum(first | ~written & ~history.detail_is(rows, ["fresh"]))[written]
    rows = rows.take(written)
    lower = np.append(False, (np.diff(stretch) == 0) & (np.diff(rows.seq) < 0)) if len(rows) else written[:0]
    return rows.take(lower).and_then(walk.rows.take(clamped))


def _stale_without_recovery(evidence: _Evidence) -> Rows:
    """Clients that were stale, never recovered and did not settle."""
    history = evidence.history
    stale = history.fleet(Kind.STALE)
    recovered_t = np.full(history.header.clients, -np.inf)
    recoveries = history.fleet(*RECOVERIES)
    np.maximum.at(recovered_t, recoveries.client, recoveries.t)
    recovered_t[history.fleet(Kind.SETTLED).client] = np.inf
    stuck = stale.take(stale.t > recovered_t[stale.client])
    _, first = np.unique(stuck.client, return_index=True)
    return stuck.take(first)


def _silent_loss(evidence: _Evidence) -> Iterator[Violation]:
    silent = evidence.ledger.silent
    yield Violation("silent_loss", silent.count, f"client {silent.client}, {silent.event}, never applied")


def _log_recreated(evidence: _Evidence) -> Iterator[Violation]:
    """Streams whose positions started over, where positions have no epoch: a client cannot notice that its position is old."""
    history = evidence.history
    found = [] if history.has_epochs else new_logs.restarts(history)
    if found:
        first = max(found, key=lambda restart: restart.unaware)
        count = sum(max(restart.unaware, 1) for restart in found)
        yield Violation("log_recreated", count, f"{first}. Without epochs, clients cannot notice")


def _resumed_in_new_log(evidence: _Evidence) -> Rows:
    """Events of a new log that a client applied at its position of the old log, where positions have an epoch."""
    history = evidence.history
    unaware, resumed = new_logs.went_on(history), new_logs.resumed(history)
    if not history.has_epochs:
        return unaware.take(np.zeros(0, np.int64))
    return unaware.and_then(resumed.take(~np.isin(resumed.number, unaware.number)))


def _acknowledged_lost(evidence: _Evidence) -> Iterator[Violation]:
    """Acknowledged events that are no longer in the log, that have two payloads, or that share one position."""
    history, ledger = evidence.history, evidence.ledger
    lost = ledger.lost_by_authority
    kept = ledger.published.without(lost, history.of(Kind.PUBLISHED))
    conflicts, first_conflict = _conflicts(history, kept)
    merged = ledger.merged(kept)
    first = first_conflict or f"{merged} publishes were acknowledged with the position of an earlier event"
    if len(lost):
        event = lost[np.argmin(ledger.published.acknowledged_t[lost])]
        which = ledger.name_of(int(event))
        first = f"{which}, acknowledged at {ledger.published.acknowledged_t[event]:.3f} s, lost"
    yield Violation("acknowledged_lost", len(lost) + max(conflicts, merged), first)


def _conflicts(history: History, published: Rows) -> tuple[int, str]:
    """Number of positions with two payloads, by hash or by marker, and the first as text."""
    rows = published.and_then(history.of(Kind.APPLIED))
    rows = rows.take((rows.seq >= 0) & (history.positions != "opaque"))
    hashed = rows.take(~history.detail_is(rows, [""]))
    found = _differing(hashed, hashed.detail)
    if not history.has_no_markers:
        found = found.and_then(_differing(rows, rows.marker))
    if len(found) == 0:
        return 0, ""
    earliest = int(np.argmin(found.t))
    stream, seq = history.streams[found.stream[earliest]], int(found.seq[earliest])
    first = at(-1, stream, seq, float(found.t[earliest])) + ", has two payloads"
    return len(np.unique(found.stream * _EPOCH_SPAN + found.seq)), first


def _differing(rows: Rows, content: NDArray[Any]) -> Rows:
    """For each position whose rows differ in content, the first row that differs from the one before."""
    place = rows.stream * _EPOCH_SPAN + rows.seq
    order = np.argsort(place, kind="stable")
    place = place[order]
    other = (np.diff(place) == 0) & (np.diff(content[order]) != 0)
    _, first = np.unique(place[1:][other], return_index=True)
    return rows.take(order[1:][other][first])


def _phantom_event(evidence: _Evidence) -> Rows:
    """Applied events that were not published, or that were acknowledged at another position.

    A publish of unknown outcome explains the event with its marker. On a stream without markers it explains any event. An event
    without a marker of this run is somebody else's, unless nobody else can have published it.
    """
    history, published = evidence.history, evidence.ledger.published
    rows = history.session_rows(Kind.APPLIED)
    if history.has_no_markers:
        return rows.take(np.zeros(0, np.int64))
    index = published.find(rows)
    is_marked = published.is_marked[rows.stream]
    failed = history.of(Kind.PUBLISH_FAILED)
    unknown = failed.take(history.detail_is(failed, ["unknown_outcome"]))
    explained = is_marked & np.isin(_events(rows), _events(unknown.take(unknown.marker >= 0)))
    moved = (index >= 0) & published.is_located[rows.stream] & is_marked
    moved[moved] &= published.seq[index[moved]] != rows.seq[moved]
    is_other = np.where(is_marked, rows.marker < 0, index < 0)
    wrong = is_other & _is_ours(evidence, rows) | moved | (is_marked & (rows.marker >= 0) & (index < 0) & ~explained)
    rows = rows.take(wrong)
    _, first = np.unique(_positions(rows), return_index=True)
    rows = rows.take(np.sort(first))
    excused = np.bincount(unknown.stream[unknown.marker < 0], minlength=len(history.streams) + 1)
    keep = [np.flatnonzero(rows.stream == code)[excused[code] :] for code in np.unique(rows.stream)]
    return rows.take(np.concatenate([np.zeros(0, np.int64), *keep]))


def _events(rows: Rows) -> Ints:
    return rows.stream * _EPOCH_SPAN + rows.marker


def _positions(rows: Rows) -> Ints:
    """One integer for each row's position; for its event where it has no position."""
    return np.where(rows.seq >= 0, rows.stream * _EPOCH_SPAN + rows.seq, -2 - _events(rows))


def _is_ours(evidence: _Evidence, rows: Rows) -> Mask:
    """Which rows without a marker of this run only this run can have published: on its own streams.

    On a live target, others publish to shared streams as well, a shared stream has events from before the run, and a service
    may write events of its own to a new stream. On the mock, only a socket can.
    """
    history, published = evidence.history, evidence.ledger.published
    first_seq = np.full(len(history.streams), np.iinfo(np.int64).max, np.int64)
    np.minimum.at(first_seq, published.stream, published.seq)
    own = set(history.header.own_streams)
    run_stream = np.array([history.streams[base] in own for base in history.base_stream], np.bool_)
    published_to = first_seq < np.iinfo(np.int64).max
    is_mock = history.header.target_kind == "mock"
    exclusive = np.where(published.is_marked, run_stream & is_mock, run_stream | is_mock)
    floor = np.where(run_stream, 0, first_seq)
    ours: Mask = (published_to & exclusive)[rows.stream] & (rows.seq >= floor[rows.stream])
    return ours


def _altered(evidence: _Evidence) -> Rows:
    """Applied events that are not what was published under their marker, and that no fault explains."""
    rows = corrupted.unexplained(evidence.history, Kind.ALTERED)
    return rows.take(evidence.history.detail_is(rows, ["checksum"]))


def _leaks(evidence: _Evidence) -> Rows:
    """Events of streams that the client did not subscribe to, or that another stream delivered."""
    altered = evidence.history.of(Kind.ALTERED)
    return evidence.history.of(Kind.UNGRANTED).and_then(altered.take(evidence.history.detail_is(altered, ["stream"])))


def _real_time_order(evidence: _Evidence) -> Rows:
    """Events that a client applied, or the service stored, after one that was first sent when they had been acknowledged.

    Two publishes under way at the same time may be put in any order.
    """
    history, published = evidence.history, evidence.ledger.published
    rows = history.session_rows(Kind.APPLIED).and_then(history.of(Kind.READ_BACK))
    rows = rows.take(rows.marker >= 0)
    rows = rows.take(np.argsort(history.pair(rows), kind="stable"))
    pair = history.pair(rows)
    _, first = np.unique(pair * _EPOCH_SPAN + rows.marker, return_index=True)
    rows, pair = rows.take(np.sort(first)), pair[np.sort(first)]
    index = published.find(rows)
    sent_t = first_sent_t(history, rows.stream, rows.marker, np.full(len(rows), -np.inf))
    acknowledged_t = np.where(index >= 0, published.acknowledged_t[index] if len(published) else np.inf, np.inf)
    moments = np.unique(sent_t)
    latest = np.searchsorted(moments, sent_t)  # as ranks, because a running maximum per client needs whole numbers
    group = np.cumsum(_changes(pair)) * (len(moments) + 1)
    latest_before = np.maximum.accumulate(group + latest) - group
    return rows.take(latest_before >= np.searchsorted(moments, acknowledged_t, side="right"))


def _stored_lost(evidence: _Evidence) -> Rows:
    """Acknowledged events that the service did not return over HTTP, where it was asked for its streams after settling."""
    history = evidence.history
    published, stored = history.of(Kind.PUBLISHED), history.of(Kind.READ_BACK)
    published = published.take(~history.deleted_by_fault()[published.stream])
    was_read = np.isin(history.base_stream[published.stream], history.of(Kind.READ_BACK_COMPLETED).stream)
    return published.take(was_read & (published.marker >= 0) & ~np.isin(_events(published), _events(stored)))


def _stored_twice(evidence: _Evidence) -> Rows:
    rows = evidence.history.of(Kind.READ_BACK)
    rows = rows.take(rows.marker >= 0)
    _, first = np.unique(_events(rows), return_index=True)
    again = np.ones(len(rows), np.bool_)
    again[first] = False
    return rows.take(again)


def _stored_altered(evidence: _Evidence) -> Rows:
    rows = evidence.history.of(Kind.READ_BACK)
    return rows.take(~evidence.history.detail_is(rows, [""]))


def _negative_clients(evidence: _Evidence) -> Iterator[Violation]:
    """Accepted requests of negative clients."""
    history = evidence.history
    rows = history.of(Kind.PROBED)
    for text in history.detail_counts(rows):
        client, answer = text.partition(":")[0], text.rpartition(":")[2]
        if answer == "accepted":
            yield from evidence.violated(of_negative_client(client), rows.take(history.detail_is(rows, [text])))


def _jumbled_message(evidence: _Evidence) -> Rows:
    """Hash mismatches and malformed frames that no fault explains."""
    mismatches, malformed = (corrupted.unexplained(evidence.history, kind) for kind in (Kind.HASH_MISMATCH, Kind.MALFORMED))
    return mismatches.and_then(malformed)


def _needless_loss(evidence: _Evidence) -> Rows:
    """Losses that a client declared although the events were still retained at the end."""
    rows, first, last = evidence.ledger.declared(evidence.history.session_rows(Kind.DECLARED_LOSS))
    low, high = evidence.ledger.retained
    return rows.take(np.maximum(first, low[rows.stream]) < np.minimum(last, high[rows.stream]))


def _early_replay_complete(evidence: _Evidence) -> Rows:
    """Replays reported complete before the client had all events acknowledged when its connect was due.

    None in a protocol without a sign for the end of a replay: there, clients only assume it.
    """
    history, published = evidence.history, evidence.ledger.published
    if history.header.capabilities.get("caught_up") == "none":
        return history.fleet(Kind.REPLAY_COMPLETED).take(np.zeros(0, np.int64))
    moves = history.without_unplanned_restarts(history.fleet(*_MOVES, Kind.CHECKPOINT_WRITTEN))
    lost, _, high = evidence.ledger.declared(history.fleet(Kind.DECLARED_LOSS))
    moves = evidence.ledger.by_place(moves).and_then(lost.having(seq=high))  # a client is past what it declared lost
    if history.starts_from_now_on:  # and a new one past all that was sent before
        starts = history.fleet(Kind.REBOOTSTRAPPED)
        starts = starts.take(history.detail_is(starts, ["fresh", "other_log"]))
        moves = moves.and_then(starts.having(seq=published.place_acknowledged(starts.stream, starts.t)))
    done = history.fleet(Kind.REPLAY_COMPLETED)
    done = done.take(np.isfinite(done.value))
    due_t = done.t - done.value / 1000.0
    early = np.zeros(len(done), np.bool_)
    for stream in np.unique(published.stream):
        head = published.place_acknowledged(np.full(len(done), stream), due_t)
        head[due_t > history.exists_until_t(stream)] = 0  # no replay has the events of a log that is gone
        early |= _reached(moves.take(moves.stream == stream), done) < head
    return done.take(early)


def _false_start(evidence: _Evidence) -> Rows:
    """Clients without a checkpoint that were started above the oldest retained event."""
    history = evidence.history
    rows = history.fleet(Kind.RESTARTED, Kind.REBOOTSTRAPPED)
    rows = rows.take(np.argsort(history.pair(rows), kind="stable"))
    after_restart = np.append(False, rows.is_kind(Kind.RESTARTED)[:-1])[: len(rows)] & ~_changes(history.pair(rows))
    low, _ = evidence.ledger.retained
    reached = evidence.ledger.reached(rows)
    return rows.take(after_restart & history.detail_is(rows, ["fresh"]) & (reached > low[rows.stream]))


def _reached(moves: Rows, times: Rows) -> Ints:
    """Per row of `times`, the place that its client had reached, by `moves` of one stream; very high if it never moved.

    A client whose process died is at its stored checkpoint.
    """
    client = np.concatenate((moves.client, times.client))
    is_time = np.repeat((False, True), (len(moves), len(times)))
    order = np.lexsort((is_time, np.concatenate((moves.t, times.t)), client))
    restarted = np.append(moves.is_kind(Kind.RESTARTED), np.zeros(len(times), np.bool_))[order]
    life = np.cumsum(_changes(client[order]) | restarted) * _EPOCH_SPAN
    seq = np.append(np.maximum(moves.seq, 0) + 1, np.zeros(len(times), np.int64))
    reached = np.empty(len(order), np.int64)
    reached[order] = np.maximum.accumulate(life + seq[order]) - life - 1
    reached = reached[is_time]
    return np.where(reached >= 0, reached, _EPOCH_SPAN)


def _reaction(evidence: _Evidence, name: str, found: Reactions) -> Iterator[Violation]:
    """A violation by attempts to connect, which shows the earliest and what it should have heeded."""
    if len(found.attempts):
        history, end = evidence.history, found.ends
        client, t = int(found.attempts.client[0]), float(found.attempts.t[0])
        hint = f" with a hint of {end.value[0]:g} ms" if end.is_kind(Kind.ENDED)[0] and end.value[0] > 0 else ""
        said = said_at(history, end)
        stream = history.streams[int(end.stream[0])]
        first = f"{at(client, stream, -1, t)}, {t - float(end.t[0]):.3f} s after {said}{hint}"
        yield Violation(name, len(found.attempts), first)


def _changes(codes: Ints) -> Mask:
    """Where a value differs from the previous one; true for the first."""
    return np.append(True, np.diff(codes) != 0) if len(codes) else np.zeros(0, np.bool_)


# A function returns the rows that violate the invariant, or the violations themselves.
INVARIANTS: dict[str, Callable[[_Evidence], Rows | Iterator[Violation]]] = {
    "applied_twice": lambda evidence: evidence.walk.rows.take(evidence.walk.twice),
    "applied_out_of_order": lambda evidence: evidence.walk.rows.take(evidence.walk.back & ~evidence.walk.twice),
    "hole": lambda evidence: evidence.walk.rows.take(evidence.walk.hole),
    "checkpoint_regressed": _checkpoint_regressed,
    "stale_loop": lambda evidence: stale_loops(evidence.history),
    "stale_without_recovery": _stale_without_recovery,
    "silent_loss": _silent_loss,
    "resumed_in_new_log": _resumed_in_new_log,
    "log_recreated": _log_recreated,
    "unexplained_gap": lambda evidence: live_gaps.unexplained(evidence.history, evidence.ledger.published),
    "acknowledged_lost": _acknowledged_lost,
    "phantom_event": _phantom_event,
    "negative_clients": _negative_clients,
    "cross_topic_leak": _leaks,
    "altered_payload": _altered,
    "real_time_order": _real_time_order,
    "stored_lost": _stored_lost,
    "stored_twice": _stored_twice,
    "stored_altered": _stored_altered,
    "jumbled_message": _jumbled_message,
    "needless_loss": _needless_loss,
    "early_replay_complete": _early_replay_complete,
    "false_start": _false_start,
    "retried_terminal": lambda evidence: _reaction(evidence, "retried_terminal", evidence.connects.retried_terminal()),
    "ignored_hint": lambda evidence: _reaction(evidence, "ignored_hint", evidence.connects.ignored_hint()),
    "backoff_reset_by_accept": lambda evidence: _reaction(
        evidence, "backoff_reset_by_accept", evidence.connects.backoff_reset_by_accept()
    ),
    "reconnected_too_fast": lambda evidence: _reaction(
        evidence, "reconnected_too_fast", evidence.connects.reconnected_too_fast()
    ),
    "runtime_died": lambda evidence: evidence.history.of(Kind.RUNTIME_DIED),
}
_NEED_THE_END = ("stale_without_recovery", "acknowledged_lost", "phantom_event", "needless_loss", "false_start")
