"""The ledger of deliveries: which events were published, and which clients have them.

What a client has of a stream (applied, covered by a snapshot, declared lost) is a few intervals of sequence numbers; what it
lacks are the gaps between them. All intervals are half open, `(low, high]`, like a watermark.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.record.history import Floats, History, Ints, Mask, Rows
from sim.record.observations import Kind

# One int64 holds (owner, seq): up to 2^40 events per stream and 2^22 owners.
_SPAN = 1 << 40
OwnerOf = Callable[[Rows], Ints]


@dataclass(frozen=True)
class Published:
    """The distinct acknowledged events, sorted by stream and seq; times in seconds."""

    place: Ints  # stream * _SPAN + seq
    stream: Ints
    seq: Ints
    acknowledged_t: Floats
    due_t: Floats
    hash: Ints

    def __len__(self) -> int:
        return len(self.place)

    def index_after(self, stream: Ints, seq: Ints) -> Ints:
        """Index of the first event of `stream` above `seq`."""
        return np.searchsorted(self.place, stream * _SPAN + seq, side="right")

    def head_due(self, stream: Ints, t: Floats) -> Ints:
        """Per row, the highest seq of its stream among events due by time `t`: an upper bound of the head."""
        return self._head(self.due_t, stream, t)

    def head_acknowledged(self, stream: Ints, t: Floats) -> Ints:
        """Per row, the highest seq of its stream among events acknowledged by time `t`."""
        return self._head(self.acknowledged_t, stream, t)

    def _head(self, event_t: Floats, stream: Ints, t: Floats) -> Ints:
        head = np.zeros(len(stream), np.int64)
        for code in np.unique(stream):
            of_stream = self.stream == code
            when = np.argsort(event_t[of_stream], kind="stable")
            heads = np.maximum.accumulate(np.append(0, self.seq[of_stream][when]))
            mine = stream == code
            head[mine] = heads[np.searchsorted(event_t[of_stream][when], t[mine], side="right")]
        return head

    def find(self, rows: Rows) -> Ints:
        """Index of each row's event; -1 if it was never acknowledged."""
        if len(self) == 0:
            return np.full(len(rows), -1, np.int64)
        wanted = rows.stream * _SPAN + rows.seq
        index = np.minimum(np.searchsorted(self.place, wanted), len(self) - 1)
        return np.where(self.place[index] == wanted, index, -1)


@dataclass(frozen=True)
class Intervals:
    """Half-open intervals `(low, high]` of sequence numbers; the owner is a (client, stream) pair or a stream."""

    owner: Ints
    low: Ints
    high: Ints

    def gaps(self, owners: Ints) -> "Intervals":
        """For each of `owners`, what no interval covers, from 0 to the last possible sequence number."""
        low = np.concatenate((self.owner * _SPAN + self.low, owners * _SPAN, owners * _SPAN + _SPAN - 1))
        high = np.concatenate((self.owner * _SPAN + self.high, owners * _SPAN, owners * _SPAN + _SPAN - 1))
        order = np.argsort(low, kind="stable")
        low, reach = low[order], np.maximum.accumulate(high[order])
        open_ = (low[1:] > reach[:-1]) & (low[1:] // _SPAN == reach[:-1] // _SPAN)
        begin, end = reach[:-1][open_], low[1:][open_]
        known = np.isin(begin // _SPAN, owners)
        begin, end = begin[known], end[known]
        return Intervals(begin // _SPAN, begin % _SPAN, end % _SPAN)


@dataclass(frozen=True)
class Shortfall:
    """Missing deliveries: how many, and the first."""

    count: int
    client: int = -1
    stream: str = ""
    seq: int = -1


@dataclass(frozen=True)
class _Pairs:
    """(client, stream) pairs of the fleet; `lower` is the first baseline, `reach` the final checkpoint."""

    pair: Ints
    client: Ints
    stream: Ints
    lower: Ints
    reach: Ints
    live_t: Floats  # when the client was first live


class Ledger:
    """Which clients should have each acknowledged event, and which do."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.published = _published(history)

    @cached_property
    def expected(self) -> int:
        """Number of deliveries due to the fleet: above a client's first baseline, or acknowledged after it was live."""
        pairs, published = self._pairs, self.published
        first = published.index_after(pairs.stream, pairs.lower)
        last = published.index_after(pairs.stream, np.full(len(pairs.stream), _SPAN - 1))
        below = Intervals(np.arange(len(pairs.pair)), np.zeros_like(pairs.lower), pairs.lower)
        return int((last - first).sum()) + len(self._below_baseline(below)[0])

    @cached_property
    def dropped(self) -> Shortfall:
        """Deliveries expected, but not applied, not covered by a snapshot and not declared lost."""
        return self._shortfall(np.full(len(self._pairs.pair), _SPAN - 1))

    @cached_property
    def silent(self) -> Shortfall:
        """The dropped deliveries at or below the client's final checkpoint."""
        return self._shortfall(self._pairs.reach)

    @cached_property
    def lost_by_authority(self) -> Ints:
        """Indices into `published` of events that no client received, or that the auditor did not find at the end.

        Events that the auditor saw behind a gap or with a wrong hash are in the log, so they are not lost. Empty if the audit
        is incomplete.
        """
        if not self.audited:
            return np.zeros(0, np.int64)
        streams = np.unique(self.published.stream)
        gaps = self._had_by(lambda rows: rows.stream, with_auditor=True).gaps(streams)
        missing = _mark(self.published, gaps.owner, gaps.low, gaps.high)
        trimmed = np.minimum(self._auditor_baseline, self._lowest_fleet_baseline)[self.published.stream]
        missing &= self.published.seq > trimmed
        missing &= ~self._between(self._audit_head(Kind.REBOOTSTRAPPED, Kind.APPLIED), self._audit_seen)
        return np.flatnonzero(missing | self._beyond_audit)

    @cached_property
    def acknowledged(self) -> int:
        """Number of acknowledged publishes; each must be a separate event."""
        return int((self.history.of(Kind.PUBLISHED).seq >= 0).sum())

    @property
    def retained(self) -> tuple[Ints, Ints]:
        """Per stream, the interval `(low, high]` that the auditor found at the end; empty without an audit."""
        return self._auditor_baseline, self._audit_seen

    def withheld(self, window_events: int, since_t: float) -> Ints:
        """Indices into `published` of events that a retention window of `window_events` must hold, but the auditor did not get.

        Events acknowledged before `since_t` may have been trimmed on purpose.
        """
        published, baseline = self.published, self._auditor_baseline
        head = self._audit_seen.copy()
        np.maximum.at(head, published.stream, published.seq)
        must_be = (published.seq > head[published.stream] - window_events) & (published.acknowledged_t > since_t)
        return np.flatnonzero(must_be & (published.seq <= baseline[published.stream]) & self.audited)

    @property
    def audited(self) -> bool:
        """Whether the auditor finished reading all retained events."""
        return self._audited_t > float("-inf")

    @cached_property
    def _audited_t(self) -> float:
        done = self.history.auditor_rows(Kind.REPLAY_COMPLETED)
        return float(done.t[-1]) if len(done) else float("-inf")

    @cached_property
    def _pairs(self) -> _Pairs:
        history = self.history
        seen = history.fleet(Kind.REBOOTSTRAPPED, Kind.APPLIED, Kind.CHECKPOINT_WRITTEN, Kind.RESTARTED)
        pair = np.unique(np.concatenate((_subscribed_pairs(history), history.pair(seen))))
        client, stream = pair // len(history.streams or [""]) - 1, pair % len(history.streams or [""])
        live_t = history.first_live_t[client]
        lower = np.full(len(pair), _SPAN - 1, np.int64)
        baselines = history.fleet(Kind.REBOOTSTRAPPED)
        owner, first = np.unique(history.pair(baselines), return_index=True)
        lower[np.searchsorted(pair, owner)] = np.maximum(baselines.seq[first], 0)
        reach = np.zeros(len(pair), np.int64)
        np.maximum.at(reach, np.searchsorted(pair, history.pair(seen)), seen.seq)
        return _Pairs(pair, client, stream, lower, reach, live_t)

    @cached_property
    def _fleet_gaps(self) -> Intervals:
        """What each pair lacks; owners are indices into `_pairs`."""
        gaps = self._had_by(self.history.pair, with_auditor=False).gaps(self._pairs.pair)
        return Intervals(np.searchsorted(self._pairs.pair, gaps.owner), gaps.low, gaps.high)

    def _shortfall(self, up_to: Ints) -> Shortfall:
        """Expected events in the gaps of each pair, at most up to `up_to`."""
        pairs, gaps = self._pairs, self._fleet_gaps
        high = np.minimum(gaps.high, up_to[gaps.owner])
        low = np.maximum(gaps.low, pairs.lower[gaps.owner])
        stream = pairs.stream[gaps.owner]
        begin = self.published.index_after(stream, low)
        counts = np.maximum(self.published.index_after(stream, high) - begin, 0) * (high > low)
        below_index, below_owner = self._below_baseline(
            Intervals(gaps.owner, gaps.low, np.minimum(high, pairs.lower[gaps.owner]))
        )
        total = int(counts.sum()) + len(below_index)
        if total == 0:
            return Shortfall(0)
        hits = np.flatnonzero(counts)
        index, owner = (begin[hits[0]], gaps.owner[hits[0]]) if len(hits) else (below_index[0], below_owner[0])
        stream_name = self.history.streams[self.published.stream[index]]
        return Shortfall(total, int(pairs.client[owner]), stream_name, int(self.published.seq[index]))

    def _below_baseline(self, spans: Intervals) -> tuple[Ints, Ints]:
        """Events at or below a client's first baseline that were acknowledged while it was live: the baseline is wrong.

        Returns indices into `published` and into `_pairs`. They are rare, so they are paired one by one.
        """
        pairs, published = self._pairs, self.published
        live_t, stream = pairs.live_t[spans.owner], pairs.stream[spans.owner]
        # Only streams with a low event that was acknowledged late can have any.
        suspect = (spans.high > spans.low) & (self._lowest_after(stream, live_t) <= spans.high)
        owner, stream = spans.owner[suspect], stream[suspect]
        begin = published.index_after(stream, spans.low[suspect])
        end = np.maximum(published.index_after(stream, spans.high[suspect]), begin)
        index, source = _expand(begin, end)
        late = published.acknowledged_t[index] > pairs.live_t[owner[source]]
        return index[late], owner[source][late]

    def _lowest_after(self, stream: Ints, t: Floats) -> Ints:
        """Per row, the lowest seq of its stream among events acknowledged after time `t`."""
        lowest = np.full(len(stream), _SPAN, np.int64)
        for code in np.unique(stream):
            of_stream = self.published.stream == code
            when = np.argsort(self.published.acknowledged_t[of_stream], kind="stable")
            times = self.published.acknowledged_t[of_stream][when]
            minima = np.minimum.accumulate(self.published.seq[of_stream][when][::-1])[::-1]
            mine = stream == code
            index = np.searchsorted(times, t[mine], side="right")
            lowest[mine] = np.concatenate((minima, [_SPAN]))[index]
        return lowest

    def _had_by(self, owner_of: OwnerOf, with_auditor: bool) -> Intervals:
        """What was applied, covered by a snapshot or declared lost, per owner."""
        pick = self.history.session_rows if with_auditor else self.history.fleet
        applied = pick(Kind.APPLIED)
        place = np.sort(owner_of(applied) * _SPAN + np.maximum(applied.seq, 0))
        starts = np.flatnonzero(np.diff(place, prepend=-2) > 1)
        ends = np.append(starts[1:], len(place)) - 1 if len(place) else starts
        snapshots = self._snapshots(pick(Kind.REBOOTSTRAPPED))
        declared = pick(Kind.DECLARED_LOSS)
        declared = declared.take(np.isfinite(declared.value) & (declared.value > 0))
        return Intervals(
            np.concatenate((place[starts] // _SPAN, owner_of(snapshots), owner_of(declared))),
            np.concatenate(
                (
                    place[starts] % _SPAN - 1,
                    snapshots.value.astype(np.int64),
                    np.maximum(declared.seq - declared.value.astype(np.int64), 0),
                )
            ),
            np.concatenate((place[ends] % _SPAN, snapshots.seq, declared.seq)),
        )

    def _snapshots(self, rows: Rows) -> Rows:
        """Snapshots, with `value` the old watermark and `seq` the last event they can cover.

        A snapshot cannot cover events that were not yet due when it was taken.
        """
        rows = rows.take(self.history.detail_is(rows, ["snapshot"]) & np.isfinite(rows.value))
        reach = np.minimum(rows.seq, self.published.head_due(rows.stream, rows.t))
        useful = reach > rows.value
        old = np.maximum(rows.value, 0)
        return rows.having(seq=reach, value=old).take(useful)

    @cached_property
    def _lowest_fleet_baseline(self) -> Ints:
        """Per stream, the lowest first baseline of the fleet."""
        lowest = np.full(len(self.history.streams), _SPAN, np.int64)
        np.minimum.at(lowest, self._pairs.stream, self._pairs.lower)
        return lowest

    @cached_property
    def _auditor_baseline(self) -> Ints:
        """Per stream, the seq below which nothing was retained; without an audit, everything may have been trimmed."""
        baseline = np.full(len(self.history.streams), 0 if self.audited else _SPAN, np.int64)
        rows = self.history.auditor_rows(Kind.REBOOTSTRAPPED)
        np.maximum.at(baseline, rows.stream, rows.seq)
        return baseline

    @cached_property
    def _beyond_audit(self) -> Mask:
        """Events acknowledged before the audit ended, but above everything the auditor found."""
        published = self.published
        if not self.audited:
            return np.zeros(len(published), np.bool_)
        above = published.seq > self._audit_seen[published.stream]
        return above & (published.acknowledged_t < self._audited_t)

    @cached_property
    def _audit_seen(self) -> Ints:
        """Per stream, the highest seq the auditor saw, applied or not."""
        return self._audit_head(Kind.REBOOTSTRAPPED, Kind.APPLIED, Kind.GAP, Kind.HASH_MISMATCH)

    def _audit_head(self, *kinds: Kind) -> Ints:
        """Per stream, the highest seq in the auditor's rows of these kinds; -1 without rows."""
        head = np.full(len(self.history.streams), -1, np.int64)
        rows = self.history.auditor_rows(*kinds)
        np.maximum.at(head, rows.stream, rows.seq)
        return head

    def _between(self, low: Ints, high: Ints) -> Mask:
        """Which events lie in the interval `(low, high]` of their stream."""
        stream, seq = self.published.stream, self.published.seq
        inside: Mask = (seq > low[stream]) & (seq <= high[stream])
        return inside


def _published(history: History) -> Published:
    rows = history.of(Kind.PUBLISHED)
    rows = rows.take(rows.seq >= 0)
    place, first = np.unique(rows.stream * _SPAN + rows.seq, return_index=True)
    rows = rows.take(first)
    # An event without a known delay counts as due when it was acknowledged.
    due_t = rows.t - np.where(np.isfinite(rows.value), rows.value, 0.0) / 1000.0
    return Published(place, rows.stream, rows.seq, rows.t, due_t, rows.detail)


def _subscribed_pairs(history: History) -> Ints:
    """The fleet's subscriptions from the header, as codes of `History.pair`."""
    code = {name: index for index, name in enumerate(history.streams)}
    pairs = [
        (int(client) + 1) * len(history.streams) + code[name]
        for client, names in history.header.subscriptions.items()
        if 0 <= int(client) < history.header.clients
        for name in names
        if name in code
    ]
    return np.array(pairs, np.int64)


def _expand(begin: Ints, end: Ints) -> tuple[Ints, Ints]:
    """All integers of the ranges `begin..end-1`, and the range of each."""
    lengths = end - begin
    source = np.repeat(np.arange(len(begin)), lengths)
    offset = np.arange(len(source)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return begin[source] + offset, source


def _mark(published: Published, stream: Ints, low: Ints, high: Ints) -> Mask:
    """Which events lie in any of the intervals `(low, high]` of their stream."""
    change = np.zeros(len(published) + 1, np.int64)
    np.add.at(change, published.index_after(stream, low), 1)
    np.add.at(change, published.index_after(stream, high), -1)
    return np.cumsum(change)[:-1] > 0
