"""The acknowledged events of a run in the order of their streams, and which event a row is about.

An event is known by the number of its marker, or by its position on a stream without markers. Its *place* is its rank in its
stream, from 1: by the positions that the service acknowledged; if an acknowledgement lacks one, by the positions that clients
saw; if positions cannot be compared, by the order of the most complete reader. An event that no client saw follows its
predecessor by number.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.record.history import Floats, History, Ints, Mask, Rows
from sim.record.observations import Kind
from sim.record.sorting import Ranks, first_of_each, order_of

SPAN = 1 << 40  # one int64 holds (owner, number): up to 2^40 events per stream and 2^22 owners
_SEEN = (Kind.APPLIED, Kind.DUPLICATE_DROPPED, Kind.GAP, Kind.HASH_MISMATCH)


@dataclass(frozen=True)
class Intervals:
    """Half-open intervals `(low, high]` of places; the owner is a (client, stream) pair or a stream."""

    owner: Ints
    low: Ints
    high: Ints

    def gaps(self, owners: Ints) -> "Intervals":
        """For each of `owners`, what no interval covers, from 0 to the last possible place."""
        low = np.concatenate((self.owner * SPAN + self.low, owners * SPAN, owners * SPAN + SPAN - 1))
        high = np.concatenate((self.owner * SPAN + self.high, owners * SPAN, owners * SPAN + SPAN - 1))
        order = np.argsort(low, kind="stable")
        low, reach = low[order], np.maximum.accumulate(high[order])
        open_ = (low[1:] > reach[:-1]) & (low[1:] // SPAN == reach[:-1] // SPAN)
        begin, end = reach[:-1][open_], low[1:][open_]
        known = np.isin(begin // SPAN, owners)
        begin, end = begin[known], end[known]
        return Intervals(begin // SPAN, begin % SPAN, end % SPAN)


@dataclass(frozen=True)
class Published:
    """The distinct acknowledged events, sorted by stream and place; times in seconds."""

    stream: Ints
    number: Ints  # of its marker; without markers, its position
    seq: Ints  # its position: acknowledged, seen or assumed
    is_assumed: Mask  # no client saw it: it lies somewhere after this position
    acknowledged_t: Floats
    due_t: Floats
    sent_t: Floats  # the first try
    hash: Ints
    begin: Ints  # per stream: index of its first event; one more entry for the end
    is_marked: Mask  # per stream
    is_located: Mask  # per stream: the service acknowledged each event with a position of its own

    def __len__(self) -> int:
        return len(self.stream)

    @cached_property
    def place(self) -> Ints:
        """Rank in its stream, from 1."""
        return np.arange(len(self)) - self.begin[self.stream] + 1

    def index_after(self, stream: Ints, place: Ints) -> Ints:
        """Index of the first event of `stream` after `place`."""
        first: Ints = self.begin[stream]
        return first + np.clip(place, 0, self.begin[stream + 1] - first)

    def place_at(self, stream: Ints, seq: Ints) -> Ints:
        """The place of the last event at or below the position `seq`; 0 without one."""
        return self._by_position.up_to(stream, 2 * seq)

    @cached_property
    def _by_position(self) -> Ranks:
        return Ranks(self.begin, 2 * self.seq + self.is_assumed)

    def head_due(self, stream: Ints, t: Floats) -> Ints:
        """Per row, the highest position of its stream among events due by time `t`: an upper bound of the head."""
        return self._head(self.due_t, self.seq, stream, t)

    def place_acknowledged(self, stream: Ints, t: Floats) -> Ints:
        """Per row, the highest place of its stream among events acknowledged by time `t`."""
        return self._head(self.acknowledged_t, self.place, stream, t)

    def place_sent(self, stream: Ints, t: Floats) -> Ints:
        """Per row, the highest place of its stream among events first sent by time `t`."""
        return self._head(self.sent_t, self.place, stream, t)

    def _head(self, event_t: Floats, height: Ints, stream: Ints, t: Floats) -> Ints:
        head = np.zeros(len(stream), np.int64)
        for code in np.unique(stream):
            of_stream = slice(self.begin[code], self.begin[code + 1])
            when = np.argsort(event_t[of_stream], kind="stable")
            heads = np.maximum.accumulate(np.append(0, height[of_stream][when]))
            mine = stream == code
            head[mine] = heads[np.searchsorted(event_t[of_stream][when], t[mine], side="right")]
        return head

    def numbers(self, rows: Rows) -> Ints:
        """The number of each row's event; negative if it is not one of the run's."""
        return np.where(self.is_marked[rows.stream], rows.marker, rows.seq)

    def find(self, rows: Rows) -> Ints:
        """Index of each row's event; -1 if it was never acknowledged."""
        return rows.by_parts(self._find)

    def _find(self, rows: Rows) -> Ints:
        ranks, index = self._by_number
        found = ranks.index_of(rows.stream, self.numbers(rows))
        return np.where(found >= 0, index[found], -1) if len(self) else found

    def without(self, index: Ints, rows: Rows) -> Rows:
        """The rows that are not about the events at `index`."""
        return rows.take(~np.isin(self.find(rows), index))

    def places(self, rows: Rows) -> Ints:
        """The place of each row's event; 0 if it was never acknowledged."""
        return rows.by_parts(self._places)

    def _places(self, rows: Rows) -> Ints:
        index = self._find(rows)
        return np.where(index >= 0, self.place[index] if len(self) else 0, 0)

    @cached_property
    def _by_number(self) -> tuple[Ranks, Ints]:
        index = order_of(self.stream * SPAN + self.number)
        return Ranks(self.begin, self.number[index]), index


def published_events(history: History, others: Rows | None = None) -> Published:
    """The acknowledged events of a run, and `others`: rows of publishes that count as acknowledged, too."""
    rows = history.of(Kind.PUBLISHED)
    rows = rows if others is None else rows.and_then(others)
    streams = len(history.streams)
    is_marked = np.zeros(streams, np.bool_)
    of_marked = history.of(Kind.PUBLISHED, Kind.PUBLISH_FAILED)
    is_marked[of_marked.stream[of_marked.marker >= 0]] = not history.has_no_markers
    number = np.where(is_marked[rows.stream], rows.marker, rows.seq)
    rows, number = rows.take(number >= 0), number[number >= 0]
    _, first = first_of_each(rows.stream * SPAN + number)
    rows, number = rows.take(first), number[first]
    is_located = _located(rows, streams) & (history.positions != "opaque")
    seen, is_assumed = _seen(history, rows, number, is_marked & ~is_located)
    seq = np.where(is_located[rows.stream] | ~is_marked[rows.stream], rows.seq, seen)
    order = np.lexsort((number, is_assumed, seq, rows.stream))
    rows, number, seq, is_assumed = rows.take(order), number[order], seq[order], is_assumed[order]
    # An event without a known delay counts as due when it was acknowledged.
    due_t = rows.t - np.where(np.isfinite(rows.value), rows.value, 0.0) / 1000.0
    begin = np.searchsorted(rows.stream, np.arange(streams + 1))
    times = rows.t, due_t, first_sent_t(history, rows.stream, number, due_t)
    return Published(rows.stream, number, seq, is_assumed, *times, rows.detail, begin, is_marked, is_located)


def first_sent_t(history: History, stream: Ints, number: Ints, otherwise: Floats) -> Floats:
    """When each event was first sent, in seconds; `otherwise` where no try is recorded."""
    tries = history.of(Kind.PUBLISH_TRIED)
    if len(tries) == 0:
        return otherwise
    keys = tries.stream * SPAN + tries.marker
    sent_t = tries.t - np.nan_to_num(tries.value) / 1000.0
    order = np.lexsort((sent_t, keys))
    keys, sent_t = keys[order], sent_t[order]
    wanted = stream * SPAN + number
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, sent_t[at], otherwise)


def _located(rows: Rows, streams: int) -> Mask:
    """Per stream, whether each of its acknowledged events has a position, and no two have the same."""
    located = np.ones(streams, np.bool_)
    located[rows.stream[rows.seq < 0]] = False
    rows = rows.take(rows.seq >= 0)
    places, counts = np.unique(rows.stream * SPAN + rows.seq, return_counts=True)
    located[places[counts > 1] // SPAN] = False
    return located


def _seen(history: History, rows: Rows, number: Ints, wanted: Mask) -> tuple[Ints, Mask]:
    """The position at which clients saw each event of the `wanted` streams, and which events nobody saw.

    Such an event has the position of its predecessor. The rows are sorted by stream and number.
    """
    seen, unseen = np.zeros(len(rows), np.int64), wanted[rows.stream]
    if not wanted.any():
        return seen, unseen
    keys, positions = _order_of_readers(history, wanted) if history.positions == "opaque" else _positions_seen(history, wanted)
    if len(keys) == 0:
        return seen, unseen
    own = rows.stream * SPAN + number
    at = np.minimum(np.searchsorted(keys, own), len(keys) - 1)
    known = keys[at] == own
    starts = np.append(True, np.diff(rows.stream) != 0)
    last = np.maximum.accumulate(np.where(known | starts, np.arange(len(rows)), 0))
    return np.where(known, positions[at], 0)[last], unseen & ~known


def _positions_seen(history: History, wanted: Mask) -> tuple[Ints, Ints]:
    """Sorted (stream, number) keys and positions, the auditor's first."""
    rows = history.session_rows(*_SEEN)
    rows = rows.take((rows.marker >= 0) & (rows.seq >= 0) & wanted[rows.stream])
    rows = rows.take(np.argsort(rows.client != history.header.auditor, kind="stable"))
    keys, first = first_of_each(rows.stream * SPAN + rows.marker)
    return keys, rows.seq[first]


def _order_of_readers(history: History, wanted: Mask) -> tuple[Ints, Ints]:
    """Sorted (stream, number) keys of each stream's reader that applied most, preferably the auditor, and their ranks."""
    rows = history.session_rows(Kind.APPLIED)
    rows = rows.take((rows.marker >= 0) & wanted[rows.stream])
    _, first = first_of_each(history.pair(rows) * SPAN + rows.marker)
    rows = rows.take(np.sort(first))
    pair = history.pair(rows)
    pairs, inverse, counts = np.unique(pair, return_inverse=True, return_counts=True)
    stream = pairs % max(len(history.streams), 1)
    best = np.lexsort((counts, stream))  # of equal readers, the last is the auditor
    chosen = np.zeros(len(pairs), np.bool_)
    chosen[best[np.flatnonzero(np.diff(stream[best], append=-1))]] = True
    rows = rows.take(chosen[inverse])
    keys = rows.stream * SPAN + rows.marker
    order = np.argsort(keys)
    return keys[order], (np.arange(len(rows)) + 1)[order]


def subscribed_pairs(history: History) -> Ints:
    """The fleet's subscriptions from the header, as codes of `History.pair`."""
    codes: dict[str, list[int]] = {}
    for code in range(len(history.streams)):
        codes.setdefault(history.base_name(code), []).append(code)
    pairs = [
        (int(client) + 1) * len(history.streams) + code
        for client, names in history.header.subscriptions.items()
        if 0 <= int(client) < history.header.clients
        for name in names
        for code in codes.get(name, ())
    ]
    return np.array(pairs, np.int64)
