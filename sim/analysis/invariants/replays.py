"""What the server answers to clients that resume or start: losses, ends of replays, first positions."""

import numpy as np

from sim.analysis.invariants.evidence import Evidence
from sim.analysis.invariants.watermarks import EPOCH_SPAN, MOVES, changes
from sim.record.history import History, Ints, Mask, Rows
from sim.record.observations import SNAPSHOT_PROBLEMS, Kind
from sim.record.sorting import order_of


def incomplete_snapshot(evidence: Evidence) -> Rows:
    """Snapshots that do not cover what they claim, by their content, their digest or their position.

    On a stream of this run, a snapshot is not above all that was due by then.
    """
    history = evidence.history
    rows = history.session_rows(Kind.SNAPSHOT)
    is_wrong = history.detail_is(rows, SNAPSHOT_PROBLEMS) | _has_foreign_digest(history, rows)
    above = rows.seq > evidence.ledger.published.head_due(rows.stream, rows.t)
    is_located = evidence.ledger.published.is_located[rows.stream] & evidence.is_own_stream[rows.stream]
    return rows.take(is_wrong | (above & is_located))


def _has_foreign_digest(history: History, rows: Rows) -> Mask:
    """Which snapshots have another digest than one of the same position, or the digest of another position.

    The positions of a log that was created again are not compared.
    """
    logs = np.bincount(history.base_stream, minlength=len(history.streams) + 1)
    is_compared = (logs[history.base_stream][rows.stream] == 1) & (rows.seq >= 0)
    is_compared &= ~history.detail_is(rows, ("", *SNAPSHOT_PROBLEMS))
    found = np.zeros(len(rows), np.bool_)
    for same, other in ((rows.seq, rows.detail), (rows.detail, rows.seq)):
        group = rows.stream * EPOCH_SPAN + same
        owner, first = np.unique(np.where(is_compared, group, -1), return_index=True)
        at = np.searchsorted(owner, np.where(is_compared, group, -1))
        found |= is_compared & (other != other[first][at])
    return found


def needless_loss(evidence: Evidence) -> Rows:
    """Losses that a client declared although the events were still retained at the end."""
    rows, first, last = evidence.ledger.declared(evidence.history.session_rows(Kind.DECLARED_LOSS))
    low, high = evidence.ledger.retained
    return rows.take(np.maximum(first, low[rows.stream]) < np.minimum(last, high[rows.stream]))


def early_replay_complete(evidence: Evidence) -> Rows:
    """Replays reported complete before the client had all events acknowledged when its connect was due.

    None in a protocol without a sign for the end of a replay: there, clients only assume it.
    """
    history, published = evidence.history, evidence.ledger.published
    if history.header.capabilities.get("caught_up") == "none":
        return history.fleet(Kind.REPLAY_COMPLETED).take(np.zeros(0, np.int64))
    moves = history.without_unplanned_restarts(history.fleet(*MOVES, Kind.CHECKPOINT_WRITTEN))
    lost, _, high = evidence.ledger.declared(history.fleet(Kind.DECLARED_LOSS))
    others = lost.having(seq=high)  # a client is past what it declared lost
    if history.starts_from_now_on:  # and a new one past all that was sent before
        starts = history.fleet(Kind.REBOOTSTRAPPED)
        starts = starts.take(history.detail_is(starts, ["fresh", "other_log"]))
        others = others.and_then(starts.having(seq=published.place_acknowledged(starts.stream, starts.t)))
    done = history.fleet(Kind.REPLAY_COMPLETED)
    done = done.take(np.isfinite(done.value))
    due_t = done.t - done.value / 1000.0
    early = np.zeros(len(done), np.bool_)
    for stream in np.unique(published.stream):
        head = published.place_acknowledged(np.full(len(done), stream), due_t)
        head[due_t > history.exists_until_t(stream)] = 0  # no replay has the events of a log that is gone
        own = evidence.ledger.by_place(moves.take(moves.stream == stream)).and_then(others.take(others.stream == stream))
        early |= _reached(own, done) < head
    return done.take(early)


def false_start(evidence: Evidence) -> Rows:
    """Clients without a cursor that were started above an acknowledged event that was still retained at the end.

    Where positions cannot be compared, the first event that the client applied says where it was started. A lower head that
    comes next takes the start back.
    """
    history, ledger = evidence.history, evidence.ledger
    shown_by = (Kind.APPLIED,) if history.positions == "opaque" else (Kind.CLAMPED,)
    rows = history.fleet(Kind.REBOOTSTRAPPED, *shown_by)
    rows = rows.take(order_of(history.pair(rows)))
    before = ledger.reached(rows)
    if history.positions == "opaque":
        before = np.maximum(_next_known(before, changes(history.pair(rows))) - 1, 0)
    low, _ = ledger.retained
    is_kept = ~np.append(rows.is_kind(Kind.CLAMPED)[1:] & ~changes(history.pair(rows))[1:], False)[: len(rows)]
    is_fresh = rows.is_kind(Kind.REBOOTSTRAPPED) & history.detail_is(rows, ["fresh"]) & is_kept
    places = np.flatnonzero(is_fresh & (before > low[rows.stream]))
    begin = ledger.published.index_after(rows.stream, low[rows.stream])
    end = ledger.published.index_after(rows.stream, before)
    acknowledged_t = ledger.published.acknowledged_t  # an event that was under way may come in below the start
    wrong = [place for place in places if (acknowledged_t[begin[place] : end[place]] < rows.t[place]).any()]
    return rows.take(np.array(wrong, np.int64))


def _next_known(places: Ints, first: Mask) -> Ints:
    """Per row, the next place above 0 of the same group; 0 without one. `first` are the rows that start a group."""
    index = np.arange(len(places))
    known = np.minimum.accumulate(np.where(places > 0, index, len(places))[::-1])[::-1]
    group = np.append(np.cumsum(first), -1)
    return np.where(group[known] == group[:-1], np.append(places, 0)[known], 0)


def _reached(moves: Rows, times: Rows) -> Ints:
    """Per row of `times`, the place that its client had reached, by `moves` of one stream; very high if it never moved.

    A client whose process died is at its stored checkpoint.
    """
    client = np.concatenate((moves.client, times.client))
    by_time = np.argsort(np.concatenate((moves.t, times.t)), kind="stable")  # at equal times, moves come first
    order = by_time[order_of(client[by_time])]
    restarted = np.append(moves.is_kind(Kind.RESTARTED), np.zeros(len(times), np.bool_))[order]
    life = np.cumsum(changes(client[order]) | restarted) * EPOCH_SPAN
    seq = np.append(np.maximum(moves.seq, 0) + 1, np.zeros(len(times), np.int64))
    reached = np.empty(len(order), np.int64)
    reached[order] = np.maximum.accumulate(life + seq[order]) - life - 1
    reached = reached[len(moves) :]
    return np.where(reached >= 0, reached, EPOCH_SPAN)
