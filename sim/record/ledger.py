"""The ledger of deliveries: what was published, and what each client did with every event of it.

Events are never paired with clients one by one: what a client has of a stream (applied, covered by a
snapshot, declared lost) is a few intervals of sequence numbers, and what it lacks are the gaps between
them. All intervals are half open, `(low, high]`, as a watermark is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.record.history import Floats, History, Ints, Mask, Rows
from sim.record.observations import Kind

# One int64 holds (owner, seq): 2^40 events a stream and 2^22 owners are far beyond any run.
_SPAN = 1 << 40
OwnerOf = Callable[[Rows], Ints]


@dataclass(frozen=True)
class Published:
    """The distinct acknowledged events, ordered by stream and seq; times in seconds."""

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
        """The highest seq of each stream among the events that were due by then, which no head can have been above."""
        head = np.zeros(len(stream), np.int64)
        for code in np.unique(stream):
            of_stream = self.stream == code
            when = np.argsort(self.due_t[of_stream], kind="stable")
            heads = np.maximum.accumulate(np.append(0, self.seq[of_stream][when]))
            mine = stream == code
            head[mine] = heads[np.searchsorted(self.due_t[of_stream][when], t[mine], side="right")]
        return head

    def find(self, rows: Rows) -> Ints:
        """Index of the event that each row speaks of; -1 where it was never acknowledged."""
        if len(self) == 0:
            return np.full(len(rows), -1, np.int64)
        wanted = rows.stream * _SPAN + rows.seq
        index = np.minimum(np.searchsorted(self.place, wanted), len(self) - 1)
        return np.where(self.place[index] == wanted, index, -1)


@dataclass(frozen=True)
class Intervals:
    """Half-open intervals `(low, high]` of sequence numbers, each of one owner (a pair or a stream)."""

    owner: Ints
    low: Ints
    high: Ints

    def gaps(self, owners: Ints) -> "Intervals":
        """What no interval covers, for each of `owners`, from 0 to the end of all sequence numbers."""
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
    """Deliveries that did not happen."""

    count: int
    client: int = -1  # of the first
    stream: str = ""
    seq: int = -1


@dataclass(frozen=True)
class _Pairs:
    """The fleet's (client, stream) pairs; `lower` is the first baseline, `reach` the final checkpoint."""

    pair: Ints
    client: Ints
    stream: Ints
    lower: Ints
    reach: Ints
    live_t: Floats  # when the client was first live


class Ledger:
    """Who should have, and who has, every acknowledged event."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.published = _published(history)

    @cached_property
    def expected(self) -> int:
        """Deliveries the fleet should have had: above its first baseline, or acknowledged after it was live."""
        pairs, published = self._pairs, self.published
        first = published.index_after(pairs.stream, pairs.lower)
        last = published.index_after(pairs.stream, np.full(len(pairs.stream), _SPAN - 1))
        below = Intervals(np.arange(len(pairs.pair)), np.zeros_like(pairs.lower), pairs.lower)
        return int((last - first).sum()) + len(self._below_baseline(below)[0])

    @cached_property
    def dropped(self) -> Shortfall:
        """Expected, but never applied, not covered by a snapshot and not declared lost."""
        return self._shortfall(np.full(len(self._pairs.pair), _SPAN - 1))

    @cached_property
    def silent(self) -> Shortfall:
        """Of the dropped, those that the client's final checkpoint claims to have."""
        return self._shortfall(self._pairs.reach)

    @cached_property
    def lost_by_authority(self) -> Ints:
        """Indices into `published` of events that nobody got at all, or that the auditor no longer found at the end.

        What the auditor saw beyond the last it could apply, behind a gap or with a wrong hash, is in the log and not lost.
        While the auditor still reads, nobody can say what is gone: none are.
        """
        if not self.audited:
            return np.zeros(0, np.int64)
        streams = np.unique(self.published.stream)
        gaps = self._had_by(lambda rows: rows.stream, everyone=True).gaps(streams)
        missing = _mark(self.published, gaps.owner, gaps.low, gaps.high)
        trimmed = np.minimum(self._auditor_baseline, self._lowest_fleet_baseline)[self.published.stream]
        missing &= self.published.seq > trimmed
        missing &= ~self._between(self._audit_head(Kind.REBOOTSTRAPPED, Kind.APPLIED), self._audit_seen)
        return np.flatnonzero(missing | self._beyond_audit)

    @cached_property
    def acknowledged(self) -> int:
        """How many publishes were acknowledged; each must have become an event of its own."""
        return int((self.history.of(Kind.PUBLISHED).seq >= 0).sum())

    @property
    def retained(self) -> tuple[Ints, Ints]:
        """By stream, the `(low, high]` that the auditor found at the end; empty without an audit."""
        return self._auditor_baseline, self._audit_seen

    def withheld(self, window_events: int, since_t: float) -> Ints:
        """Indices into `published` of events that a window of so many must still hold, but that the auditor did not get.

        Events acknowledged before `since_t` may have been forgotten on purpose.
        """
        published, baseline = self.published, self._auditor_baseline
        head = self._audit_seen.copy()
        np.maximum.at(head, published.stream, published.seq)
        must_be = (published.seq > head[published.stream] - window_events) & (published.acknowledged_t > since_t)
        return np.flatnonzero(must_be & (published.seq <= baseline[published.stream]) & self.audited)

    @property
    def audited(self) -> bool:
        """Whether the auditor got to read all that was retained at the end."""
        return self._audited_t > float("-inf")

    @cached_property
    def _audited_t(self) -> float:
        auditor = self.history.header.auditor
        done = self.history.of(Kind.REPLAY_COMPLETED)
        done = done.take((done.client == auditor) & (auditor >= 0))
        return float(done.t[-1]) if len(done) else float("-inf")

    @cached_property
    def _pairs(self) -> _Pairs:
        history = self.history
        seen = history.fleet(Kind.REBOOTSTRAPPED, Kind.APPLIED, Kind.CHECKPOINT_WRITTEN, Kind.RESTARTED)
        pair = np.unique(np.concatenate((_subscribed_pairs(history), history.pair(seen))))
        client, stream = pair // len(history.streams or [""]) - 1, pair % len(history.streams or [""])
        live_t = history.first_live_t[client]
        lower = np.full(len(pair), _SPAN - 1, np.int64)
        begun = history.fleet(Kind.REBOOTSTRAPPED)
        owner, first = np.unique(history.pair(begun), return_index=True)
        lower[np.searchsorted(pair, owner)] = np.maximum(begun.seq[first], 0)
        reach = np.zeros(len(pair), np.int64)
        np.maximum.at(reach, np.searchsorted(pair, history.pair(seen)), seen.seq)
        return _Pairs(pair, client, stream, lower, reach, live_t)

    @cached_property
    def _fleet_gaps(self) -> Intervals:
        """What each pair lacks; owners are places in `_pairs`."""
        gaps = self._had_by(self.history.pair, everyone=False).gaps(self._pairs.pair)
        return Intervals(np.searchsorted(self._pairs.pair, gaps.owner), gaps.low, gaps.high)

    def _shortfall(self, up_to: Ints) -> Shortfall:
        """Expected events in the fleet's gaps, up to `up_to` for each pair."""
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
        """Events at or below a first baseline that yet were acknowledged when the client was live: the baseline is false.

        Returns indices into `published` and the owning places in `_pairs`. Rare, so these are paired one by one.
        """
        pairs, published = self._pairs, self.published
        live_t, stream = pairs.live_t[spans.owner], pairs.stream[spans.owner]
        # Only where a stream had an event acknowledged late enough and low enough can there be any.
        suspect = (spans.high > spans.low) & (self._lowest_after(stream, live_t) <= spans.high)
        owner, stream = spans.owner[suspect], stream[suspect]
        begin = published.index_after(stream, spans.low[suspect])
        end = np.maximum(published.index_after(stream, spans.high[suspect]), begin)
        index, source = _expand(begin, end)
        late = published.acknowledged_t[index] > pairs.live_t[owner[source]]
        return index[late], owner[source][late]

    def _lowest_after(self, stream: Ints, t: Floats) -> Ints:
        """The lowest seq of each stream among events acknowledged after `t`."""
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

    def _had_by(self, owner_of: OwnerOf, everyone: bool) -> Intervals:
        """What was applied, covered by a snapshot or declared lost, by whom `owner_of` a row says."""
        pick = self.history.session_rows if everyone else self.history.fleet
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
        """Snapshots with `value` the old watermark and `seq` how far they really can reach.

        A snapshot cannot cover what was not even due when it was taken, whatever watermark it claims.
        """
        rows = rows.take(self.history.detail_is(rows, ["snapshot"]) & np.isfinite(rows.value))
        reach = np.minimum(rows.seq, self.published.head_due(rows.stream, rows.t))
        useful = reach > rows.value
        old = np.maximum(rows.value, 0)
        return rows.having(seq=reach, value=old).take(useful)

    @cached_property
    def _lowest_fleet_baseline(self) -> Ints:
        """By stream, below which no fleet client expects anything."""
        lowest = np.full(len(self.history.streams), _SPAN, np.int64)
        np.minimum.at(lowest, self._pairs.stream, self._pairs.lower)
        return lowest

    @cached_property
    def _auditor_baseline(self) -> Ints:
        """By stream, below which nothing was retained at the end; without an audit, everything may have been trimmed."""
        baseline = np.full(len(self.history.streams), 0 if self.audited else _SPAN, np.int64)
        rows = self._auditor_rows(Kind.REBOOTSTRAPPED)
        np.maximum.at(baseline, rows.stream, rows.seq)
        return baseline

    @cached_property
    def _beyond_audit(self) -> Mask:
        """Events acknowledged before the audit ended that lie above all that the auditor found."""
        published = self.published
        if not self.audited:
            return np.zeros(len(published), np.bool_)
        above = published.seq > self._audit_seen[published.stream]
        return above & (published.acknowledged_t < self._audited_t)

    @cached_property
    def _audit_seen(self) -> Ints:
        """By stream, the highest seq the auditor saw, whether it could apply it or not."""
        return self._audit_head(Kind.REBOOTSTRAPPED, Kind.APPLIED, Kind.GAP, Kind.HASH_MISMATCH)

    def _audit_head(self, *kinds: Kind) -> Ints:
        """By stream, the highest seq in the auditor's rows of these kinds; -1 for none."""
        head = np.full(len(self.history.streams), -1, np.int64)
        rows = self._auditor_rows(*kinds)
        np.maximum.at(head, rows.stream, rows.seq)
        return head

    def _between(self, low: Ints, high: Ints) -> Mask:
        """Which events lie in `(low, high]` of their stream."""
        stream, seq = self.published.stream, self.published.seq
        inside: Mask = (seq > low[stream]) & (seq <= high[stream])
        return inside

    def _auditor_rows(self, *kinds: Kind) -> Rows:
        rows = self.history.of(*kinds)
        return rows.take((rows.client == self.history.header.auditor) & (rows.client >= 0))


def _published(history: History) -> Published:
    rows = history.of(Kind.PUBLISHED)
    rows = rows.take(rows.seq >= 0)
    place, first = np.unique(rows.stream * _SPAN + rows.seq, return_index=True)
    rows = rows.take(first)
    # Without a known delay the event counts as due when it was acknowledged, the later of the two.
    due_t = rows.t - np.where(np.isfinite(rows.value), rows.value, 0.0) / 1000.0
    return Published(place, rows.stream, rows.seq, rows.t, due_t, rows.detail)


def _subscribed_pairs(history: History) -> Ints:
    """The pairs that the header says the fleet subscribed to, as `History.pair` numbers them."""
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
    """All integers of the ranges `begin..end-1`, and which range each is from."""
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
