"""Events that the service left out of its live delivery, and that only a replay brought.

The client repaired the gap by itself, so nothing is missing at the end. But a delivery was lost, and no fault explains it.
The service gets the benefit of every doubt. It is blamed for an event only if all of these hold:

- positions are dense, and the client was live, with no replay under way, when a later event showed the gap;
- the missing event was acknowledged before the later one was sent, so their order is no matter of concurrency;
- the client got the event exactly once, in a replay on the same connection: a late or reordered live event comes again;
- the client stayed on that connection, and got live events, for long enough that a late one would have come;
- no fault of delivery that may affect this client was active between the sending of the event and the gap, and no frame in
  between was malformed.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.analysis import corrupted
from sim.analysis.reconnects import NOTICE_S
from sim.record.history import History, Ints, Mask, Rows
from sim.record.observations import Kind
from sim.record.published import SPAN, Published

LATE_S = 1.0  # [ours] a live event that is later than this was not only late
_FAULTS = (
    *("skip_deliveries", "jumble_deliveries", "malform_frames", "reorder_deliveries", "delay_deliveries", "shrink_window"),
)
_COPIES = (Kind.APPLIED, Kind.DUPLICATE_DROPPED, Kind.GAP, Kind.HASH_MISMATCH)
_ENDS = (Kind.DISCONNECTED, Kind.RESTARTED)  # of a connection
_KINDS = (*_COPIES, *_ENDS, Kind.REPLAY_STARTED, Kind.REPLAYED)


def unexplained(history: History, published: Published) -> Rows:
    """One row per client and event that was left out: the row that showed the gap, with the missing event's seq and marker."""
    shown = history.fleet(Kind.GAP)
    if history.positions != "dense" or len(shown) == 0 or len(published) == 0:
        return shown.take(np.zeros(0, np.int64))
    rows = history.fleet(*_KINDS)
    rows = rows.take(np.isin(rows.client, np.unique(shown.client)))
    return _Gaps(history, published, rows).blamed


@dataclass
class _Gaps:
    """`rows` are all rows, in the order of their recording, of the clients that saw a gap."""

    history: History
    published: Published
    rows: Rows

    @property
    def blamed(self) -> Rows:
        """See `unexplained`."""
        is_gap = self.rows.is_kind(Kind.GAP) & self.history.detail_is(self.rows, ["live"]) & ~self.in_replay
        # Where positions started over, the watermark before a gap may be of another log.
        is_one_log = ~np.isin(self.history.base_stream[self.rows.stream], list(self.history.logs))
        place = np.flatnonzero(is_gap & is_one_log & (self.event >= 0) & np.isfinite(self.rows.value))
        place, missing = self._missing(place)
        keep = self._came_in_one_replay(place, missing) & ~self._is_excused(place, missing)
        place, missing = place[keep], missing[keep]
        _, first = np.unique(self._key(place, missing), return_index=True)
        place, missing = place[np.sort(first)], missing[np.sort(first)]
        return self.rows.take(place).having(seq=self.published.seq[missing], marker=self.published.number[missing])

    # --- the rows -----------------------------------------------------------------------------------

    @cached_property
    def pair(self) -> Ints:
        """(client, stream) of each row."""
        return self.history.pair(self.rows)

    @cached_property
    def event(self) -> Ints:
        """Index into `published` of each copy of an event; -1 for any other row."""
        return np.where(np.isin(self.rows.kind, self._codes(*_COPIES)), self.published.find(self.rows), -1)

    def _codes(self, *kinds: Kind) -> list[int]:
        return [list(Kind).index(kind) for kind in kinds]

    @cached_property
    def _ended(self) -> Ints:
        """Sorted keys of the ends of connections: (client, place)."""
        return self._keys(self.rows.client, np.isin(self.rows.kind, self._codes(*_ENDS)))

    @staticmethod
    def _keys(owner: Ints, chosen: Mask) -> Ints:
        place = np.flatnonzero(chosen)
        return np.sort(owner[place] * SPAN + place)

    def _last_before(self, keys: Ints, owner: Ints, place: Ints) -> Ints:
        """Per row, the last place of these keys of its owner before `place`; -1 without one."""
        if len(keys) == 0:
            return np.full(len(place), -1, np.int64)
        at = np.searchsorted(keys, owner * SPAN + place) - 1
        found = keys[np.maximum(at, 0)]
        return np.where((at >= 0) & (found // SPAN == owner), found % SPAN, -1)

    @cached_property
    def in_replay(self) -> Mask:
        """Which rows lie between the start and the end of a replay of their stream."""
        place = np.arange(len(self.rows))
        started = self._last_before(self._keys(self.pair, self.rows.is_kind(Kind.REPLAY_STARTED)), self.pair, place)
        finished = self._last_before(self._keys(self.pair, self.rows.is_kind(Kind.REPLAYED)), self.pair, place)
        ended = self._last_before(self._ended, self.rows.client, place)
        return started > np.maximum(finished, ended)

    # --- the missing events -------------------------------------------------------------------------

    def _missing(self, place: Ints) -> tuple[Ints, Ints]:
        """The events that each gap leaves out and that were acknowledged before the later one was sent: places and events."""
        rows, published = self.rows.take(place), self.published
        begin = published.index_after(rows.stream, published.place_at(rows.stream, rows.value.astype(np.int64)))
        end = published.index_after(rows.stream, published.place_at(rows.stream, rows.seq - 1))
        lengths = np.maximum(end - begin, 0)
        source = np.repeat(np.arange(len(place)), lengths)
        missing = begin[source] + np.arange(len(source)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        before = published.acknowledged_t[missing] <= published.sent_t[self.event[place][source]]
        return place[source[before]], missing[before]

    def _key(self, place: Ints, event: Ints) -> Ints:
        """One integer per client and event."""
        return self.rows.client[place] * SPAN + event

    def _came_in_one_replay(self, place: Ints, missing: Ints) -> Mask:
        """Which missing events came exactly once, in a replay on the connection of the gap, and never live, not even late."""
        copies = np.flatnonzero(self.event >= 0)
        keys = self._key(copies, self.event[copies])
        order = np.argsort(keys, kind="stable")
        copies, keys = copies[order], keys[order]
        wanted = self._key(place, missing)
        first, end = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
        copy = copies[np.minimum(first, len(copies) - 1)]
        gone = self._next_end(place)
        live = self._keys(self.pair, self.rows.is_kind(Kind.APPLIED) & ~self.in_replay)
        last_live = self._last_before(live, self.pair[place], gone)
        stayed = (last_live > copy) & (self.rows.t[np.maximum(last_live, 0)] >= self.rows.t[place] + LATE_S)
        once: Mask = (end - first == 1) & self.in_replay[copy] & (copy > place) & (copy < gone) & stayed
        return once

    def _next_end(self, place: Ints) -> Ints:
        """Per gap, the place at which its connection ended; after all rows for one that did not."""
        owner, after = self.rows.client[place], np.full(len(place), len(self.rows), np.int64)
        if len(self._ended) == 0:
            return after
        at = np.searchsorted(self._ended, owner * SPAN + place, side="right")
        found = self._ended[np.minimum(at, len(self._ended) - 1)]
        return np.where((at < len(self._ended)) & (found // SPAN == owner), found % SPAN, after)

    # --- what explains a gap ------------------------------------------------------------------------

    def _is_excused(self, place: Ints, missing: Ints) -> Mask:
        """Which missing events a fault of delivery or a malformed frame explains."""
        sent_t, shown_t = self.published.sent_t[missing], self.rows.t[place]
        withheld = self.history.fleet(Kind.WITHHELD)
        found = np.isin(self._key(place, missing), withheld.client * SPAN + self.published.find(withheld))
        for fault in self.history.faults:
            if fault.kind in _FAULTS and not (fault.kind == "skip_deliveries" and len(withheld)):
                inside = (sent_t <= fault.end_t + NOTICE_S) & (shown_t >= fault.start_t)
                inside &= corrupted.may_concern(self.history, fault, self.rows.stream[place])
                found |= inside & corrupted.may_affect(self.history, fault, self.rows.client[place])
        malformed = self.history.fleet(Kind.MALFORMED)
        for client, t in zip(malformed.client.tolist(), malformed.t.tolist(), strict=True):
            found |= (self.rows.client[place] == client) & (sent_t <= t) & (shown_t >= t)
        return found
