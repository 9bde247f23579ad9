"""The ledger of deliveries: which events were published, and which clients have them.

What a client has of a stream (applied, covered by a snapshot, declared lost) is a few intervals of places (see
`sim.record.published`); what it lacks are the gaps between them. All intervals are half open, `(low, high]`, like a watermark.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from sim.record.history import Floats, History, Ints, Mask, Rows
from sim.record.observations import Kind
from sim.record.published import SPAN, Intervals, Published, published_events, subscribed_pairs
from sim.record.sorting import first_of_each, integers_of, order_of

_AUDITED = (Kind.REBOOTSTRAPPED, Kind.APPLIED, Kind.GAP, Kind.HASH_MISMATCH)  # kinds that show what the auditor found
OwnerOf = Callable[[Rows], Ints]
Which = Literal["dropped", "silent", "at_rest", "behind"]  # see `Ledger`'s properties; behind: those of clients under way, too


@dataclass(frozen=True)
class Shortfall:
    """Missing deliveries: how many, and the first."""

    count: int
    client: int = -1
    event: str = ""


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

    def __init__(self, history: History, others: Rows | None = None) -> None:
        """`others`: rows of publishes that count as acknowledged, too."""
        self.history = history
        self.published = published_events(history, others)
        self._has_positions = history.positions != "opaque"

    @cached_property
    def expected(self) -> int:
        """Number of deliveries due to the fleet: above a client's first baseline, or sent after it was live."""
        pairs, published = self._pairs, self.published
        first = published.index_after(pairs.stream, pairs.lower)
        last = published.index_after(pairs.stream, np.full(len(pairs.stream), SPAN - 1))
        below = Intervals(np.arange(len(pairs.pair)), np.zeros_like(pairs.lower), pairs.lower)
        return int((last - first).sum()) + len(self._below_baseline(below)[0])

    @cached_property
    def dropped(self) -> Shortfall:
        """Deliveries expected, but not applied, not covered by a snapshot and not declared lost."""
        return self._shortfall("dropped")

    @cached_property
    def silent(self) -> Shortfall:
        """The dropped deliveries at or below the client's final checkpoint."""
        return self._shortfall("silent")

    @cached_property
    def missing_at_rest(self) -> Shortfall:
        """The dropped deliveries above the client's final checkpoint: no later event showed that they are missing.

        Those of a log that was created again are no longer there to be delivered, and a client that is under way does not rest.
        """
        return self._shortfall("at_rest")

    def lacking(self, events: Ints) -> tuple[Ints, Ints, Ints]:
        """Which fleet clients lack which of the events at these indices into `published`, from their start on.

        Returns, for each, the index, the client, and whether the client reached a later event.
        """
        pairs, place, stream = self._pairs, self.published.place[events], self.published.stream[events]
        pair, event = np.nonzero(pairs.stream[:, None] == stream[None, :])
        gaps = self._fleet_gaps
        order = np.lexsort((gaps.low, gaps.owner))
        keys = gaps.owner[order] * SPAN + gaps.low[order]
        at = np.maximum(np.searchsorted(keys, pair * SPAN + place[event]) - 1, 0)
        gap = order[at]
        is_missing = (gaps.owner[gap] == pair) & (gaps.low[gap] < place[event]) & (place[event] <= gaps.high[gap])
        is_due = place[event] > pairs.lower[pair]
        is_due |= self.published.sent_t[events][event] > pairs.live_t[pair]
        found = is_missing & is_due
        pair, event = pair[found], event[found]
        return events[event], pairs.client[pair], place[event] < pairs.reach[pair]

    @cached_property
    def lost_by_authority(self) -> Ints:
        """Indices into `published` of events that no client received, or that the auditor did not find at the end.

        Events that a client received behind a gap or with a wrong hash are in the log, so they are not lost. Empty if the audit
        is incomplete.
        """
        if not self.audited:
            return np.zeros(0, np.int64)
        streams = np.unique(self.published.stream)
        gaps = self._had_by(lambda rows: rows.stream, with_auditor=True).gaps(streams)
        missing = _mark(self.published, gaps.owner, gaps.low, gaps.high)
        trimmed = np.minimum(self._auditor_baseline, self._lowest_fleet_baseline)[self.published.stream]
        missing &= self.published.place > trimmed
        unapplied = self.published.find(self.history.session_rows(Kind.GAP, Kind.HASH_MISMATCH))
        missing[unapplied[unapplied >= 0]] = False
        missing &= ~self._between(self._audit_head(Kind.REBOOTSTRAPPED, Kind.APPLIED), self._audit_seen)
        return np.flatnonzero((missing | self._beyond_audit) & ~self.history.deleted_by_fault()[self.published.stream])

    def merged(self, rows: Rows) -> int:
        """How many of these publishes were acknowledged with the position of an earlier one."""
        rows = rows.take(rows.seq >= 0)
        return len(rows) - len(np.unique(rows.stream * SPAN + rows.seq)) if self._has_positions else 0

    @property
    def retained(self) -> tuple[Ints, Ints]:
        """Per stream, the places `(low, high]` that the auditor found at the end; empty without an audit."""
        return self._auditor_baseline, self._audit_seen

    def withheld(self, window_events: int, since_t: float) -> Ints:
        """Indices into `published` of events that a retention window of `window_events` must hold, but the auditor did not get.

        Events acknowledged before `since_t` may have been trimmed on purpose.
        """
        published, baseline = self.published, self._auditor_baseline
        if not self._has_positions:
            return np.zeros(0, np.int64)
        rows = self.history.auditor_rows(*_AUDITED)
        head = np.full(len(self.history.streams), -1, np.int64)
        np.maximum.at(head, rows.stream, rows.seq)
        np.maximum.at(head, published.stream, published.seq)
        must_be = (published.seq > head[published.stream] - window_events) & (published.acknowledged_t > since_t)
        return np.flatnonzero(must_be & (published.place <= baseline[published.stream]) & self.audited)

    @property
    def audited(self) -> bool:
        """Whether the auditor finished reading all retained events."""
        return self._audited_t > float("-inf")

    @cached_property
    def _audited_t(self) -> float:
        done = self.history.auditor_rows(Kind.REPLAY_COMPLETED)
        # An auditor that gets nothing of what is retained cannot say what is missing.
        return float(done.t[-1]) if len(done) and not self.history.starts_from_now_on else float("-inf")

    @cached_property
    def _pairs(self) -> _Pairs:
        history = self.history
        kinds = (Kind.REBOOTSTRAPPED, Kind.APPLIED, Kind.CHECKPOINT_WRITTEN, Kind.RESTARTED)
        seen = [np.unique(history.pair(history.fleet(kind))) for kind in kinds]
        pair = np.unique(np.concatenate((subscribed_pairs(history), *seen)))
        client, stream = pair // len(history.streams or [""]) - 1, pair % len(history.streams or [""])
        live_t = history.first_live_t[client]
        lower = np.full(len(pair), SPAN - 1, np.int64)
        baselines = history.fleet(Kind.REBOOTSTRAPPED)
        owner, first = first_of_each(history.pair(baselines))
        lower[np.searchsorted(pair, owner)] = self.reached(baselines.take(first))
        if not self._has_positions:
            lower = self._before_first_applied(history.fleet(Kind.APPLIED), history.pair, pair)
        reach = np.zeros(len(pair), np.int64)
        for kind in kinds:  # one after the other, because they are most of a run's rows
            rows = history.fleet(kind)
            np.maximum.at(reach, np.searchsorted(pair, history.pair(rows)), self.reached(rows))
        return _Pairs(pair, client, stream, lower, reach, live_t)

    @cached_property
    def _fleet_gaps(self) -> Intervals:
        """What each pair lacks; owners are indices into `_pairs`."""
        gaps = self._had_by(self.history.pair, with_auditor=False).gaps(self._pairs.pair)
        return Intervals(np.searchsorted(self._pairs.pair, gaps.owner), gaps.low, gaps.high)

    @cached_property
    def unproven(self) -> Ints:
        """Indices into `published` of events that no reader has, and that were acknowledged only after the clients' starts.

        The service may have stored them before the clients came, or lost them: without a reader of the past, nobody can tell.
        """
        if not self._is_unsure.any():
            return np.zeros(0, np.int64)
        strict = self._had_by(self.history.pair, with_auditor=False, excuses_flight=False).gaps(self._pairs.pair)
        lacked = Intervals(np.searchsorted(self._pairs.pair, strict.owner), strict.low, strict.high)
        found = [np.unique(self.missing("dropped", gaps)[1]) for gaps in (lacked, self._fleet_gaps)]
        stored = self.published.find(self.history.of(Kind.READ_BACK, Kind.WITHHELD))
        seen = np.concatenate((found[1], stored, np.flatnonzero(~self.published.is_assumed)))
        return np.setdiff1d(found[0], seen)

    def missing(self, which: Which, gaps: Intervals | None = None) -> tuple[Ints, Ints]:
        """These deliveries: their clients, and the indices into `published` of their events."""
        owner, begin, counts = self._missing(which, gaps)
        index, source = integers_of(begin, begin + counts)
        return self._pairs.client[owner[source]], index

    def _shortfall(self, which: Which) -> Shortfall:
        owner, begin, counts = self._missing(which)
        if not counts.sum():
            return Shortfall(0)
        first = int(np.flatnonzero(counts)[0])
        return Shortfall(int(counts.sum()), int(self._pairs.client[owner[first]]), self.name_of(int(begin[first])))

    def first_missing(self, which: Which, limit: int) -> list[tuple[int, int]]:
        """The first of these deliveries by the time of their acknowledgement: clients, and indices into `published`."""
        owner, begin, counts = self._missing(which)
        index, source = integers_of(begin, begin + np.minimum(counts, limit))  # a run is acknowledged in its order
        order = np.argsort(self.published.acknowledged_t[index], kind="stable")[:limit]
        return list(zip(self._pairs.client[owner[source[order]]].tolist(), index[order].tolist(), strict=True))

    def _span(self, which: Which) -> tuple[Ints, Ints]:
        """Per pair, the places `(after, up_to]` of these deliveries."""
        zero, reach, end = np.zeros_like(self._pairs.reach), self._pairs.reach, np.full_like(self._pairs.reach, SPAN - 1)
        if which in ("at_rest", "behind"):
            is_newest = np.array([self.history.exists_until_t(code) == np.inf for code in range(len(self.history.streams))])
            waits = np.isin(self._pairs.client, self.history.under_way().client) & (which == "at_rest")
            return reach, np.where(is_newest[self._pairs.stream] & ~waits, end, 0) if len(is_newest) else reach
        return zero, reach if which == "silent" else end

    def _missing(self, which: Which, gaps: Intervals | None = None) -> tuple[Ints, Ints, Ints]:
        """Runs of expected events in the gaps: the index of their pair, of their first event, and their number."""
        gaps = self._fleet_gaps if gaps is None else gaps
        pairs, (after, up_to) = self._pairs, self._span(which)
        high = np.minimum(gaps.high, up_to[gaps.owner])
        begin_at = np.maximum(gaps.low, after[gaps.owner])
        low = np.maximum(begin_at, pairs.lower[gaps.owner])
        stream = pairs.stream[gaps.owner]
        begin = self.published.index_after(stream, low)
        counts = np.maximum(self.published.index_after(stream, high) - begin, 0) * (high > low)
        below_index, below_owner = self._below_baseline(
            Intervals(gaps.owner, begin_at, np.minimum(high, pairs.lower[gaps.owner]))
        )
        ones = np.ones(len(below_index), np.int64)
        return np.append(gaps.owner, below_owner), np.append(begin, below_index), np.append(counts, ones)

    def name_of(self, index: int) -> str:
        """An acknowledged event as text: its stream, and its position or the number of its marker."""
        published = self.published
        stream = published.stream[index]
        by_number = published.is_marked[stream] and not published.is_located[stream]
        which = f"marker {published.number[index]}" if by_number else f"seq {published.seq[index]}"
        return f"{self.history.streams[stream]}, {which}"

    def _below_baseline(self, spans: Intervals) -> tuple[Ints, Ints]:
        """Events at or below a client's first baseline that were sent while it was live: the baseline is wrong.

        Returns indices into `published` and into `_pairs`. They are rare, so they are paired one by one.
        """
        pairs, published = self._pairs, self.published
        live_t, stream = pairs.live_t[spans.owner], pairs.stream[spans.owner]
        # Only streams with a low event that was acknowledged late can have any.
        suspect = (spans.high > spans.low) & (self._lowest_after(stream, live_t) <= spans.high)
        owner, stream = spans.owner[suspect], stream[suspect]
        begin = published.index_after(stream, spans.low[suspect])
        end = np.maximum(published.index_after(stream, spans.high[suspect]), begin)
        index, source = integers_of(begin, end)
        late = published.sent_t[index] > pairs.live_t[owner[source]]
        return index[late], owner[source][late]

    def _lowest_after(self, stream: Ints, t: Floats) -> Ints:
        """Per row, the lowest place of its stream among events sent after time `t`."""
        lowest = np.full(len(stream), SPAN, np.int64)
        for code in np.unique(stream):
            of_stream = self.published.stream == code
            when = np.argsort(self.published.sent_t[of_stream], kind="stable")
            times = self.published.sent_t[of_stream][when]
            minima = np.minimum.accumulate(self.published.place[of_stream][when][::-1])[::-1]
            mine = stream == code
            index = np.searchsorted(times, t[mine], side="right")
            lowest[mine] = np.concatenate((minima, [SPAN]))[index]
        return lowest

    def _had_by(self, owner_of: OwnerOf, with_auditor: bool, excuses_flight: bool = True) -> Intervals:
        """What was applied, covered by a snapshot, declared lost or, with `excuses_flight`, under way at a start; per owner."""
        pick = self.history.session_rows if with_auditor else self.history.fleet
        # What a fault of ours withheld is no loss of the service's where a client cannot notice it.
        applied = pick(Kind.APPLIED) if self.history.positions == "dense" else pick(Kind.APPLIED, Kind.WITHHELD)
        places = self.published.places(applied)
        place = np.sort((owner_of(applied) * SPAN + places)[places > 0])
        starts = np.flatnonzero(np.diff(place, prepend=-2) > 1)
        ends = np.append(starts[1:], len(place)) - 1 if len(place) else starts
        rebootstrapped, losses = pick(Kind.REBOOTSTRAPPED), pick(Kind.DECLARED_LOSS)
        snapshots = self._snapshots(rebootstrapped)
        if not self._has_positions:  # a snapshot, too, covers what lies between two events
            losses = losses.and_then(rebootstrapped.take(self.history.detail_is(rebootstrapped, ["snapshot"])))
        losses = losses.and_then(self._new_starts(rebootstrapped))
        declared, declared_low, declared_high = self.declared(losses)
        lost_logs = owner_of(self._lost_logs(losses))
        earlier, earlier_place = self._before_start(rebootstrapped, pick(Kind.REPLAY_STARTED), excuses_flight)
        return Intervals(
            np.concatenate((place[starts] // SPAN, owner_of(snapshots), owner_of(declared), lost_logs, owner_of(earlier))),
            np.concatenate(
                (
                    place[starts] % SPAN - 1,
                    self.published.place_at(snapshots.stream, snapshots.value.astype(np.int64)),
                    declared_low,
                    np.zeros_like(lost_logs),
                    earlier_place - 1,
                )
            ),
            np.concatenate(
                (place[ends] % SPAN, self.reached(snapshots), declared_high, np.full_like(lost_logs, SPAN - 1), earlier_place)
            ),
        )

    def _new_starts(self, rows: Rows) -> Rows:
        """Starts of clients whose process had lost its checkpoint, where a service sends a new client nothing of the past."""
        fresh = rows.take(self.history.detail_is(rows, ["fresh"]) & self.history.starts_from_now_on)
        _, first = np.unique(self.history.pair(fresh), return_index=True)
        again = np.ones(len(fresh), np.bool_)
        again[first] = False
        return fresh.take(again)

    def _lost_logs(self, losses: Rows) -> Rows:
        """The losses without a number, once for each earlier log: a client that goes on in another log has lost it."""
        history = self.history
        if not history.logs:
            return losses.take(np.zeros(0, np.int64))
        uncounted = losses.take(np.isnan(losses.value))
        earlier = [history.logs_of(history.base_stream[code]) for code in uncounted.stream]
        earlier = [codes[codes < code] for codes, code in zip(earlier, uncounted.stream, strict=True)]
        repeated = uncounted.take(np.repeat(np.arange(len(uncounted)), [len(codes) for codes in earlier]))
        return repeated.having(stream=np.concatenate([*earlier, np.zeros(0, np.int64)]))

    def _before_start(self, rows: Rows, asked: Rows, excuses_flight: bool) -> tuple[Rows, Ints]:
        """Events that a client may have missed before it started: a row of `rows` and a place for each.

        They were in flight while it asked to start, from the last of `asked` to its row: a service that starts clients from
        now on may have sent them before. Publishes under way at the same time may be sent in any order, so such an event may
        follow, in its place, one that the client got. An event without a sure place may have been sent at any time since its
        first try, or, without `excuses_flight`, until its acknowledgement. What was acknowledged before an event that the
        client applied earlier is owed all the same.
        """
        published, found, places = self.published, [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        applied = self.history.session_rows(Kind.APPLIED)
        for code in np.unique(rows.stream) if self.history.starts_from_now_on else ():
            of_stream = slice(published.begin[code], published.begin[code + 1])
            sent_t, acknowledged_t = published.sent_t[of_stream], published.acknowledged_t[of_stream]
            acknowledged_by = np.maximum.accumulate(acknowledged_t)
            sent_from = np.minimum.accumulate(sent_t[::-1])[::-1]
            mine = np.flatnonzero(rows.stream == code)
            asked_t = self.history.last_t_before(asked, rows.take(mine))
            begin = np.searchsorted(acknowledged_by, asked_t, side="right")
            end = np.searchsorted(sent_from, rows.t[mine], side="right")
            event, source = integers_of(begin, np.maximum(begin, end))
            unsure = np.flatnonzero(published.is_assumed[of_stream])
            event = np.concatenate((event, np.tile(unsure, len(mine))))
            source = np.concatenate((source, np.repeat(np.arange(len(mine)), len(unsure))))
            applied_t = self.history.last_t_before(applied, rows.take(mine).having(t=asked_t), otherwise=-np.inf)
            from_t = sent_t if excuses_flight else acknowledged_t
            is_missed = (from_t[event] <= rows.t[mine][source]) & (acknowledged_t[event] >= applied_t[source])
            found.append(mine[source][is_missed])
            places.append(event[is_missed] + 1)
        return rows.take(np.concatenate(found)), np.concatenate(places)

    def declared(self, rows: Rows) -> tuple[Rows, Ints, Ints]:
        """Losses that clients declared, and their places `(low, high]`.

        Where the client cannot know the number of lost events, they lie between the events that it applied before and after,
        and had been sent when it declared the loss.
        """
        is_counted = np.isfinite(rows.value) & self._has_positions
        rows = rows.take((rows.value > 0) | ~is_counted)
        first = np.maximum(rows.seq - np.nan_to_num(rows.value).astype(np.int64), 0)
        low, high = self.published.place_at(rows.stream, first), self.reached(rows)
        uncounted = np.flatnonzero(~(np.isfinite(rows.value) & self._has_positions))
        if len(uncounted) == 0:
            return rows, low, np.maximum(low, high)
        applied = self.history.session_rows(Kind.APPLIED)
        applied = applied.take(order_of(self.history.pair(applied)))
        pair, event, places = self.history.pair(applied), self.published.find(applied), self.published.places(applied)
        # Without a sure place, an event may have been stored again for another try; its acknowledgement tells when.
        is_unsure = self._is_unsure[applied.stream]
        is_placed = (event >= 0) & ~(is_unsure & np.append(self.published.is_assumed, False)[event])
        stored_t = np.where(is_unsure, np.append(self.published.acknowledged_t, 0.0)[event], -np.inf)
        sent = self.published.place_sent(rows.stream, rows.t)
        asked_t = self.history.last_t_before(self.history.session_rows(Kind.REPLAY_STARTED), rows)
        for index in uncounted:
            begin, end = np.searchsorted(pair, self.history.pair(rows)[index] + np.arange(2))
            then = begin + np.searchsorted(applied.number[begin:end], rows.number[index])
            if self._is_unsure[rows.stream[index]]:  # what comes before the answer may be of the new start
                then = begin + np.searchsorted(applied.t[begin:end], asked_t[index], side="right")
            before, after = slice(begin, then), slice(then, end)
            is_behind = is_placed[before] & (stored_t[before] <= applied.t[before].max(initial=-np.inf))
            low[index] = places[before][is_behind].max(initial=0)
            is_ahead = is_placed[after] & (places[after] > low[index] * self._is_unsure[rows.stream[index]])
            later = places[after][is_ahead]
            high[index] = min(sent[index], later[0] - 1 if len(later) else SPAN)
        return rows, low, np.maximum(low, high)

    @cached_property
    def _is_unsure(self) -> Mask:
        """Per stream, whether places are only known from its readers, and nothing of the past is sent again."""
        unsure: Mask = ~self.published.is_located & self.history.starts_from_now_on
        return unsure

    def reached(self, rows: Rows) -> Ints:
        """The place up to which each row reaches: by its position, and by its event if that is one of the run's."""
        return rows.by_parts(self._reached)

    def _reached(self, rows: Rows) -> Ints:
        known = self._has_positions & (rows.seq >= 0)
        by_position = np.where(known, self.published.place_at(rows.stream, rows.seq), 0)
        return np.maximum(by_position, self.published.places(rows) * (rows.marker >= 0))

    @cached_property
    def foreign_events(self) -> int:
        """Applied events of others: without a marker of this run, on streams of its own; as many as one client saw of each."""
        rows = self.history.session_rows(Kind.APPLIED)
        rows = rows.take(self.published.is_marked[rows.stream] & (rows.marker < 0))
        pairs, counts = np.unique(self.history.pair(rows), return_counts=True)
        most = np.zeros(len(self.history.streams) + 1, np.int64)
        np.maximum.at(most, pairs % max(len(self.history.streams), 1), counts)
        return int(most.sum())

    def by_place(self, moves: Rows) -> Rows:
        """Rows that move a watermark, with places in place of positions; without those that say nothing of a place."""
        is_restart = moves.is_kind(Kind.RESTARTED)
        known = self._has_positions & ((moves.seq >= 0) | is_restart)
        unsure = np.flatnonzero(~known & moves.is_kind(Kind.APPLIED))
        known[unsure] = self.published.places(moves.take(unsure)) > 0
        moves = moves.take(known)
        return moves.having(seq=np.where(moves.is_kind(Kind.RESTARTED) & (moves.seq < 0), -1, self.reached(moves)))

    def _before_first_applied(self, applied: Rows, owner_of: OwnerOf, owners: Ints) -> Ints:
        """Per owner, the place before the first event that it applied; very high without one. `owners` are sorted."""
        before = np.full(len(owners), SPAN - 1, np.int64)
        places = self.published.places(applied)
        ours = places > 0
        np.minimum.at(before, np.searchsorted(owners, owner_of(applied)[ours]), places[ours] - 1)
        return before

    def _snapshots(self, rows: Rows) -> Rows:
        """Snapshots, with `value` the old watermark and `seq` the last position they can cover.

        A snapshot cannot cover events that were not yet due when it was taken.
        """
        rows = rows.take(self._has_positions & self.history.detail_is(rows, ["snapshot"]) & np.isfinite(rows.value))
        reach = np.minimum(rows.seq, self.published.head_due(rows.stream, rows.t))
        useful = reach > rows.value
        old = np.maximum(rows.value, 0)
        return rows.having(seq=reach, value=old).take(useful)

    @cached_property
    def _lowest_fleet_baseline(self) -> Ints:
        """Per stream, the lowest first baseline of the fleet."""
        lowest = np.full(len(self.history.streams), SPAN, np.int64)
        np.minimum.at(lowest, self._pairs.stream, self._pairs.lower)
        return lowest

    @cached_property
    def _auditor_baseline(self) -> Ints:
        """Per stream, the place below which nothing was retained; without an audit, everything may have been trimmed."""
        streams = np.arange(len(self.history.streams))
        if not self._has_positions and self.audited:
            return self._before_first_applied(self.history.auditor_rows(Kind.APPLIED), lambda rows: rows.stream, streams)
        baseline = np.full(len(streams), 0 if self.audited else SPAN, np.int64)
        rows = self.history.auditor_rows(Kind.REBOOTSTRAPPED)
        np.maximum.at(baseline, rows.stream, self.reached(rows))
        return baseline

    @cached_property
    def _beyond_audit(self) -> Mask:
        """Events acknowledged before the audit ended, but above everything the auditor found."""
        published = self.published
        if not self.audited:
            return np.zeros(len(published), np.bool_)
        above = published.place > self._audit_seen[published.stream]
        return above & (published.acknowledged_t < self._audited_t)

    @cached_property
    def _audit_seen(self) -> Ints:
        """Per stream, the highest place the auditor saw, applied or not."""
        return self._audit_head(*_AUDITED)

    def _audit_head(self, *kinds: Kind) -> Ints:
        """Per stream, the highest place in the auditor's rows of these kinds; -1 without rows."""
        head = np.full(len(self.history.streams), -1, np.int64)
        rows = self.history.auditor_rows(*kinds)
        np.maximum.at(head, rows.stream, self.reached(rows))
        return head

    def _between(self, low: Ints, high: Ints) -> Mask:
        """Which events lie in the interval `(low, high]` of their stream."""
        stream, place = self.published.stream, self.published.place
        inside: Mask = (place > low[stream]) & (place <= high[stream])
        return inside


def _mark(published: Published, stream: Ints, low: Ints, high: Ints) -> Mask:
    """Which events lie in any of the intervals `(low, high]` of their stream."""
    change = np.zeros(len(published) + 1, np.int64)
    np.add.at(change, published.index_after(stream, low), 1)
    np.add.at(change, published.index_after(stream, high), -1)
    return np.cumsum(change)[:-1] > 0
