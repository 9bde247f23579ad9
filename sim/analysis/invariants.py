"""What must never happen, whatever the thresholds: laws over a history, each violation counted and its first named.

Every law is a function of a `Laws` (a history and its ledger); `violations` runs them all. Duplicates on the
wire are legal: only a duplicate *applied* is a violation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.analysis import corrupted
from sim.analysis.samples import RECOVERIES, stale_loops
from sim.record.history import History, Ints, Mask, Rows, at
from sim.record.ledger import Ledger, Shortfall
from sim.record.observations import Kind

# Names that operators know, for probes whose forbidden question was granted.
_PROBE_INVARIANTS = {
    "mutation_over_socket": "socket_changed_state",
    "any_mutation": "socket_changed_state",
    "expired_token": "expired_token_accepted",
}
_EPOCH_SPAN = 1 << 40
# What moves a client's watermark.
_MOVES = (Kind.APPLIED, Kind.REBOOTSTRAPPED, Kind.CLAMPED, Kind.RESTARTED)


@dataclass(frozen=True)
class Violation:
    """A law that was broken: how often, and the first time in words."""

    invariant: str
    count: int
    first: str


@dataclass(frozen=True)
class Integrity:
    """What broke the order of application, row by row."""

    applied_twice: Rows
    out_of_order: Rows
    holes: Rows


def violations(history: History, ledger: Ledger, complete: bool = True) -> list[Violation]:
    """All broken laws of a run, none if it kept them all. Seconds for millions of observations.

    Of a run that was cut short (not `complete`), only the laws that what is missing could not have mended.
    """
    invariants = _Evidence(history, ledger)
    asked = _INVARIANTS if complete else tuple(law for law in _INVARIANTS if law not in _NEED_THE_END)
    return [violation for law in asked for violation in law(invariants) if violation.count]


def integrity(history: History, who: Callable[[History], Rows] | None = None) -> Integrity:
    """Events applied twice, below the watermark, or above the next one, by the fleet (or by whose rows `who` gives)."""
    rows = who(history) if who else history.fleet(*_MOVES)
    walk = _Walk(history, rows)
    return Integrity(walk.rows.take(walk.twice), walk.rows.take(walk.back & ~walk.twice), walk.rows.take(walk.hole))


class _Walk:
    """The watermark of each (client, stream), step by step.

    It moves by what is applied, by a rebootstrap and by a clamp; before any of those it is 0. An *epoch* lasts
    from one rebootstrap to the next: within it nothing may be applied twice.

    When a fault kills the client's process, the next one has what its store says and no more: that is a new epoch, from
    that checkpoint on. Without one (-1) nothing can be applied before a rebootstrap.
    """

    def __init__(self, history: History, rows: Rows) -> None:
        rows = history.believable(rows)
        pair = history.pair(rows)
        order = np.argsort(pair, kind="stable")
        self.rows = rows.take(order)
        first = _changes(pair[order])
        self.applied = self.rows.is_kind(Kind.APPLIED)
        # `fresh` is a client's first word on a stream, so a later one is no recovery and excuses nothing.
        restart = self.rows.is_kind(Kind.REBOOTSTRAPPED) & ~history.detail_is(self.rows, ["fresh"])
        restart |= self.rows.is_kind(Kind.RESTARTED)
        self.epoch = np.cumsum(first | restart)
        self.watermark = np.where(first, 0, np.append(0, self.rows.seq[:-1]) if len(self.rows) else 0)

    @cached_property
    def hole(self) -> Mask:
        return self.applied & (self.rows.seq > self.watermark + 1)

    @cached_property
    def back(self) -> Mask:
        return self.applied & (self.rows.seq <= self.watermark)

    @cached_property
    def twice(self) -> Mask:
        """Applied before in the same epoch."""
        mask = np.zeros(len(self.rows), np.bool_)
        where = np.flatnonzero(self.applied)
        epoch, seq = self.epoch[where], self.rows.seq[where]
        # Only an epoch whose sequence does not always rise can hold a number twice.
        doubtful = np.unique(epoch[1:][(np.diff(epoch) == 0) & (np.diff(seq) <= 0)])
        where = where[np.isin(epoch, doubtful)]
        order = np.lexsort((where, self.rows.seq[where], self.epoch[where]))
        where = where[order]
        again = (np.diff(self.epoch[where]) == 0) & (np.diff(self.rows.seq[where]) == 0)
        mask[where[1:][again]] = True
        return mask

    @cached_property
    def highest_applied(self) -> Ints:
        """The highest seq applied in the epoch so far; 0 for none."""
        reached = self.epoch * _EPOCH_SPAN + np.where(self.applied, self.rows.seq, 0)
        highest: Ints = np.maximum.accumulate(reached) - self.epoch * _EPOCH_SPAN
        return highest


class _Evidence:
    """What several laws look at, worked out once."""

    def __init__(self, history: History, ledger: Ledger) -> None:
        self.history = history
        self.ledger = ledger

    @cached_property
    def walk(self) -> _Walk:
        return _Walk(self.history, self.history.session_rows(*_MOVES))

    def broken(self, invariant: str, rows: Rows) -> Iterator[Violation]:
        """One violation for all of `rows`, the earliest of them named."""
        if len(rows):
            first = int(np.argmin(rows.t))
            stream = self.history.streams[rows.stream[first]]
            where = at(int(rows.client[first]), stream, int(rows.seq[first]), float(rows.t[first]))
            yield Violation(invariant, len(rows), where)


def _applied_twice(invariants: _Evidence) -> Iterator[Violation]:
    yield from invariants.broken("applied_twice", invariants.walk.rows.take(invariants.walk.twice))


def _applied_out_of_order(invariants: _Evidence) -> Iterator[Violation]:
    yield from invariants.broken(
        "applied_out_of_order", invariants.walk.rows.take(invariants.walk.back & ~invariants.walk.twice)
    )


def _hole(invariants: _Evidence) -> Iterator[Violation]:
    yield from invariants.broken("hole", invariants.walk.rows.take(invariants.walk.hole))


def _checkpoint_regressed(invariants: _Evidence) -> Iterator[Violation]:
    """A checkpoint went back without a rebootstrap, a clamp or a damage by a fault, or a clamp took back what was applied."""
    history, walk = invariants.history, invariants.walk
    clamped = walk.rows.is_kind(Kind.CLAMPED) & (walk.rows.seq < walk.highest_applied)
    kinds = (Kind.CHECKPOINT_WRITTEN, Kind.REBOOTSTRAPPED, Kind.CLAMPED, Kind.RESTARTED)
    rows = history.believable(history.session_rows(*kinds))
    pair = history.pair(rows)
    order = np.argsort(pair, kind="stable")
    rows, first = rows.take(order), _changes(pair[order])
    written = rows.is_kind(Kind.CHECKPOINT_WRITTEN)
    stretch = np.cumsum(first | ~written & ~history.detail_is(rows, ["fresh"]))[written]
    rows = rows.take(written)
    lower = np.append(False, (np.diff(stretch) == 0) & (np.diff(rows.seq) < 0)) if len(rows) else written[:0]
    yield from invariants.broken("checkpoint_regressed", rows.take(lower).and_then(walk.rows.take(clamped)))


def _stale_loop(invariants: _Evidence) -> Iterator[Violation]:
    yield from invariants.broken("stale_loop", stale_loops(invariants.history))


def _stale_without_recovery(invariants: _Evidence) -> Iterator[Violation]:
    """A stale client that never recovered and did not settle."""
    history = invariants.history
    stale = history.fleet(Kind.STALE)
    recovered_t = np.full(history.header.clients, -np.inf)
    recoveries = history.fleet(*RECOVERIES)
    np.maximum.at(recovered_t, recoveries.client, recoveries.t)
    recovered_t[history.fleet(Kind.SETTLED).client] = np.inf
    stuck = stale.take(stale.t > recovered_t[stale.client])
    _, first = np.unique(stuck.client, return_index=True)
    yield from invariants.broken("stale_without_recovery", stuck.take(first))


def _silent_loss(invariants: _Evidence) -> Iterator[Violation]:
    yield Violation("silent_loss", invariants.ledger.silent.count, _place(invariants.ledger.silent))


def _place(shortfall: Shortfall) -> str:
    return f"client {shortfall.client}, {shortfall.stream}, seq {shortfall.seq}, never applied"


def _acknowledged_lost(invariants: _Evidence) -> Iterator[Violation]:
    """Acknowledged events that the authority no longer has, of which there are two versions, or that are two in one."""
    history, ledger = invariants.history, invariants.ledger
    lost, (conflicts, first_conflict) = ledger.lost_by_authority, _conflicts(invariants)
    merged = ledger.acknowledged - len(ledger.published)
    first = first_conflict or f"{merged} publishes were acknowledged as events that others had become before"
    if len(lost):
        event = lost[np.argmin(ledger.published.acknowledged_t[lost])]
        stream, seq = history.streams[ledger.published.stream[event]], int(ledger.published.seq[event])
        first = f"{stream}, seq {seq}, acknowledged at {ledger.published.acknowledged_t[event]:.3f} s, gone"
    yield Violation("acknowledged_lost", len(lost) + max(conflicts, merged), first)


def _conflicts(invariants: _Evidence) -> tuple[int, str]:
    """Events of one (stream, seq) with two payloads, and the first of them in words."""
    history = invariants.history
    rows = history.of(Kind.PUBLISHED, Kind.APPLIED)
    rows = rows.take(~history.detail_is(rows, [""]))
    place = rows.stream * _EPOCH_SPAN + rows.seq
    order = np.argsort(place, kind="stable")
    rows, place = rows.take(order), place[order]
    other = (np.diff(place) == 0) & (np.diff(rows.detail) != 0)
    differing, first = np.unique(place[1:][other], return_index=True)
    if len(differing) == 0:
        return 0, ""
    row = rows.take(np.flatnonzero(other)[first] + 1)
    earliest = int(np.argmin(row.t))
    stream, seq = history.streams[row.stream[earliest]], int(row.seq[earliest])
    return len(differing), at(-1, stream, seq, float(row.t[earliest])) + ", has two payloads"


def _phantom_event(invariants: _Evidence) -> Iterator[Violation]:
    """Events that were applied but that nobody published, beyond what publishes of unknown outcome may explain."""
    history, published = invariants.history, invariants.ledger.published
    rows = history.session_rows(Kind.APPLIED)
    rows = rows.take(published.find(rows) < 0)
    rows = rows.take(_ours(invariants, rows))
    _, first = np.unique(rows.stream * _EPOCH_SPAN + rows.seq, return_index=True)
    rows = rows.take(np.sort(first))
    unknown = history.of(Kind.PUBLISH_FAILED)
    unknown = unknown.take(history.detail_is(unknown, ["unknown_outcome"]))
    excused = np.bincount(unknown.stream, minlength=len(history.streams) + 1)
    keep = [np.flatnonzero(rows.stream == code)[excused[code] :] for code in np.unique(rows.stream)]
    yield from invariants.broken("phantom_event", rows.take(np.concatenate([np.zeros(0, np.int64), *keep])))


def _ours(invariants: _Evidence, rows: Rows) -> Mask:
    """Where a row's event can only be this run's own.

    On a live target, streams other than runs are shared with the world, and a shared stream's past is not ours anywhere.
    """
    history, published = invariants.history, invariants.ledger.published
    first_seq = np.full(len(history.streams), np.iinfo(np.int64).max, np.int64)
    np.minimum.at(first_seq, published.stream, published.seq)
    run_stream = np.array([name.startswith("runtime.run.") for name in history.streams], np.bool_)
    published_to = first_seq < np.iinfo(np.int64).max
    alone = run_stream | (history.header.target_kind == "mock")
    floor = np.where(run_stream, 0, first_seq)
    mine: Mask = (published_to & alone)[rows.stream] & (rows.seq >= floor[rows.stream])
    return mine


def _probes(invariants: _Evidence) -> Iterator[Violation]:
    """Probes whose forbidden question was granted."""
    history = invariants.history
    rows = history.of(Kind.PROBED)
    for text in history.detail_counts(rows):
        probe, answer = text.partition(":")[0], text.rpartition(":")[2]
        if answer == "accepted":
            name = _PROBE_INVARIANTS.get(probe, f"{probe}_accepted")
            yield from invariants.broken(name, rows.take(history.detail_is(rows, [text])))


def _cross_topic_leak(invariants: _Evidence) -> Iterator[Violation]:
    yield from invariants.broken("cross_topic_leak", invariants.history.of(Kind.UNGRANTED))


def _jumbled_message(invariants: _Evidence) -> Iterator[Violation]:
    """Hash mismatches and malformed frames that no fault made."""
    mismatches, malformed = (corrupted.unannounced(invariants.history, kind) for kind in (Kind.HASH_MISMATCH, Kind.MALFORMED))
    yield from invariants.broken("jumbled_message", mismatches.and_then(malformed))


def _needless_loss(invariants: _Evidence) -> Iterator[Violation]:
    """Events that a client declared lost although a fresh client still got them at the end."""
    rows = invariants.history.session_rows(Kind.DECLARED_LOSS)
    low, high = invariants.ledger.retained
    first_lost = rows.seq - np.nan_to_num(rows.value, nan=0.0).astype(np.int64)
    still_there = np.maximum(first_lost, low[rows.stream]) < np.minimum(rows.seq, high[rows.stream])
    yield from invariants.broken("needless_loss", rows.take(still_there))


def _early_replay_complete(invariants: _Evidence) -> Iterator[Violation]:
    """Catching up was called complete before the client had what was acknowledged when its connect was due."""
    history, published = invariants.history, invariants.ledger.published
    moves = history.believable(history.fleet(*_MOVES, Kind.CHECKPOINT_WRITTEN))
    done = history.fleet(Kind.REPLAY_COMPLETED)
    done = done.take(np.isfinite(done.value))
    due_t = done.t - done.value / 1000.0
    early = np.zeros(len(done), np.bool_)
    for stream in np.unique(published.stream):
        own, events = moves.take(moves.stream == stream), published.stream == stream
        when = np.argsort(published.acknowledged_t[events], kind="stable")
        heads = np.maximum.accumulate(np.append(0, published.seq[events][when]))
        head = heads[np.searchsorted(published.acknowledged_t[events][when], due_t, side="right")]
        early |= _reached(own, done) < head
    yield from invariants.broken("early_replay_complete", done.take(early))


def _false_start(invariants: _Evidence) -> Iterator[Violation]:
    """A client whose checkpoint was gone was begun above what is retained to the end, as if it still had what lies below."""
    history, ledger = invariants.history, invariants.ledger
    rows = history.fleet(Kind.RESTARTED, Kind.REBOOTSTRAPPED)
    rows = rows.take(np.argsort(history.pair(rows), kind="stable"))
    pair, before = history.pair(rows), np.append(False, rows.is_kind(Kind.RESTARTED)[:-1])[: len(rows)]
    again = before & ~_changes(pair) & history.detail_is(rows, ["fresh"])
    low, _ = ledger.retained
    yield from invariants.broken("false_start", rows.take(again & (rows.seq > low[rows.stream])))


def _runtime_died(invariants: _Evidence) -> Iterator[Violation]:
    yield from invariants.broken("runtime_died", invariants.history.of(Kind.RUNTIME_DIED))


def _reached(moves: Rows, moments: Rows) -> Ints:
    """How far the client of each of `moments` had come by then, by `moves` of one stream; very far if it never moved.

    A client whose process died has come as far as its store says, and no farther.
    """
    client = np.concatenate((moves.client, moments.client))
    is_moment = np.repeat((False, True), (len(moves), len(moments)))
    order = np.lexsort((is_moment, np.concatenate((moves.t, moments.t)), client))
    restarted = np.append(moves.is_kind(Kind.RESTARTED), np.zeros(len(moments), np.bool_))[order]
    life = np.cumsum(_changes(client[order]) | restarted) * _EPOCH_SPAN
    seq = np.append(np.maximum(moves.seq, 0) + 1, np.zeros(len(moments), np.int64))
    reached = np.empty(len(order), np.int64)
    reached[order] = np.maximum.accumulate(life + seq[order]) - life - 1
    reached = reached[is_moment]
    return np.where(reached >= 0, reached, _EPOCH_SPAN)


def _changes(codes: Ints) -> Mask:
    """Where a value differs from the one before it; the first always does."""
    return np.append(True, np.diff(codes) != 0) if len(codes) else np.zeros(0, np.bool_)


_INVARIANTS: tuple[Callable[[_Evidence], Iterator[Violation]], ...] = (
    _applied_twice,
    _applied_out_of_order,
    _hole,
    _checkpoint_regressed,
    _stale_loop,
    _stale_without_recovery,
    _silent_loss,
    _acknowledged_lost,
    _phantom_event,
    _probes,
    _cross_topic_leak,
    _jumbled_message,
    _needless_loss,
    _early_replay_complete,
    _false_start,
    _runtime_died,
)
_NEED_THE_END = (_stale_without_recovery, _acknowledged_lost, _phantom_event, _needless_loss, _false_start)
