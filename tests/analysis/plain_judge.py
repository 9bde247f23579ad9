"""A second judge of the core invariants, independent of `sim.analysis` and `sim.record`: slow, plain Python, over single rows.

It follows the definitions in `docs/explanation/verdicts.md`. What it takes from Elle's list-append checker (Kingsbury and
Alvaro, 2020) is the idea that makes such a checker simple: every write is a unique element, and a reader's state is a list.
Then each element that a reader shows is traced to the one publish that made it, the list shows the order in which the reader
saw them, and loss, duplicates, phantoms and the order in real time are found by comparing lists with publishes: an element
that was acknowledged before another one was sent comes before it in every list. Elle infers the order of versions from lists;
here, positions state it, and where they cannot be compared, the auditor's list does.

It knows runs whose events have markers, whose clients start at what is retained, and whose logs were not created again.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sim.record.run_header import RunHeader

REACHING = ("rebootstrapped", "applied", "checkpoint_written", "restarted")
LATE_S = 1.0  # an event that came so late may be on its way to others


class Seen(NamedTuple):
    """One observation."""

    t: float
    kind: str
    client: int
    stream: str
    seq: int
    value: float
    detail: str
    marker: int


@dataclass
class Event:
    """One publish: its position (-1: unknown), and when it was due, sent and acknowledged."""

    seq: int = -1
    due_t: float = math.inf
    sent_t: float = math.inf
    acknowledged_t: float = math.inf
    failed_t: float = math.inf  # without an answer
    seen_seq: int = -1  # its position, as acknowledged or else as the auditor saw it
    place: int = 0


@dataclass
class PlainJudge:
    """`found` has the offending rows, or (client, stream, marker), of each invariant."""

    header: RunHeader
    rows: Sequence[Seen]
    found: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        able = self.header.capabilities
        self.positions = str(able.get("positions", "dense"))
        assert able.get("fresh_start") != "from_now_on"
        self.events: dict[tuple[str, int], Event] = defaultdict(Event)
        self.end_t = self.rows[-1].t if self.rows else 0.0
        self.readers = {*range(self.header.clients), self.header.auditor} - {-1}
        self.by_seq: dict[str, list[int]] = {}
        self.of_pair: dict[tuple[int, str], list[Seen]] = defaultdict(list)
        for row in self.rows:
            if row.client in self.readers and row.stream:
                self.of_pair[row.client, row.stream].append(row)
        self._publishes()
        for (client, stream), rows in self.of_pair.items():
            self._order(client, stream, self._lawful(rows))
        self._content()
        self._losses()
        if self.positions != "opaque":
            self._unanswered()

    def _publishes(self) -> None:
        for row in self.rows:
            if row.kind not in ("publish_tried", "published", "publish_failed") or row.marker < 0:
                continue
            event = self.events[row.stream, row.marker]
            ms = 0.0 if math.isnan(row.value) else row.value
            if row.kind == "publish_tried":
                event.sent_t = min(event.sent_t, row.t - ms / 1000.0)
            elif row.kind == "published" and event.acknowledged_t == math.inf:
                event.acknowledged_t, event.seq, event.due_t = row.t, row.seq, row.t - ms / 1000.0
            elif row.kind == "publish_failed" and row.detail == "unknown_outcome":
                event.failed_t, event.due_t = row.t, row.t - ms / 1000.0
        self.acknowledged = {key: event for key, event in self.events.items() if event.acknowledged_t < math.inf}
        self._give_places(self.acknowledged)

    def _give_places(self, events: Mapping[tuple[str, int], Event]) -> None:
        """The rank of each event in its stream: by position or, where positions cannot be compared, by the auditor's list."""
        listed: dict[tuple[str, int], int] = {}
        for row in self.rows:
            if row.kind == "applied" and row.client == self.header.auditor and row.marker >= 0:
                listed.setdefault((row.stream, row.marker), len(listed) if self.positions == "opaque" else row.seq)
        for stream in {stream for stream, _ in events}:
            own = {number: event for (name, number), event in events.items() if name == stream}
            is_located = self.positions != "opaque" and all(event.seq >= 0 for event in own.values())
            for number, event in own.items():
                event.seen_seq = event.seq if is_located else listed[stream, number]
            self.by_seq[stream] = sorted(event.seen_seq for event in own.values())
            for place, event in enumerate(sorted(own.values(), key=lambda each: each.seen_seq), 1):
                event.place = place

    # --- one client's list --------------------------------------------------------------------------

    def _lawful(self, rows: Sequence[Seen]) -> list[Seen]:
        """Without restarts that no fault explains: each fault explains one of each client and stream."""
        spans = {}
        for row in self.rows:
            if row.kind == "fault_injected" and row.detail == "restart_clients":
                ended = [
                    end.t for end in self.rows if end.kind == "fault_reverted" and end.detail == row.detail and end.t >= row.t
                ]
                spans[row.t] = min(ended, default=math.inf)
        kept, used = [], set[float]()
        for row in rows:
            if row.kind != "restarted":
                kept.append(row)
                continue
            why = [begin for begin, end in spans.items() if begin <= row.t <= end and begin not in used]
            if why:
                used.add(why[0])
                kept.append(row)
        return kept

    def _order(self, client: int, stream: str, rows: Sequence[Seen]) -> None:
        """What is applied twice, out of order or after a hole; and what comes after an event that was sent later."""
        watermark, numbers, places, latest_sent_t = 0, set[int](), set[int](), -math.inf
        for row in rows:
            if row.kind == "restarted" or (row.kind == "rebootstrapped" and row.detail != "fresh"):
                numbers, places, latest_sent_t = set(), set(), -math.inf
            if row.kind == "applied":
                is_placed = self.positions != "opaque" and row.seq >= 0
                is_repeated = row.marker in numbers
                if is_repeated or (is_placed and row.seq in places):
                    self.found["applied_twice"].append(row)
                elif self.positions != "opaque" and row.seq <= watermark:
                    self.found["applied_out_of_order"].append(row)
                if self.positions == "dense" and row.seq > watermark + 1:
                    self.found["hole"].append(row)
                if row.marker >= 0 and not is_repeated:
                    event = self.events.get((stream, row.marker), Event())
                    if event.acknowledged_t < latest_sent_t:
                        self.found["real_time_order"].append(row)
                    if event.sent_t < math.inf:
                        latest_sent_t = max(latest_sent_t, event.sent_t)
                numbers |= {row.marker} if row.marker >= 0 else set()
                places |= {row.seq} if is_placed else set()
            if row.kind in ("applied", "rebootstrapped", "clamped", "restarted"):
                watermark = row.seq

    def _content(self) -> None:
        for row in self.rows:
            if row.kind == "altered":
                self.found["altered_payload" if row.detail == "checksum" else "cross_topic_leak"].append(row)
        phantoms = {}
        for row in self.rows:
            if row.kind != "applied" or row.client not in self.readers or row.marker < 0:
                continue
            event = self.events.get((row.stream, row.marker), Event())
            is_unknown = event.acknowledged_t == event.failed_t == math.inf
            is_moved = event.acknowledged_t < math.inf and self.positions != "opaque" and event.seq not in (-1, row.seq)
            if is_unknown or is_moved:
                phantoms.setdefault((row.stream, row.seq, -1 if row.seq >= 0 else row.marker), row)
        self.found["phantom_event"] += phantoms.values()

    # --- what a client lacks ------------------------------------------------------------------------

    def _losses(self) -> None:
        live_t: dict[int, float] = {}
        for row in self.rows:
            if row.kind == "subscribed":
                live_t.setdefault(row.client, row.t)
        for client in range(self.header.clients):
            for stream in self.header.subscriptions.get(str(client), []) or {s for c, s in self.of_pair if c == client}:
                self._loss_of(client, stream, live_t.get(client, math.inf))

    def _loss_of(self, client: int, stream: str, live_t: float) -> None:
        rows = self.of_pair[client, stream]
        starts = [row for row in rows if row.kind == "rebootstrapped"]
        applied = [row for row in rows if row.kind == "applied" and self._event(row) is not None]
        start = self._place_of(starts[0]) if starts else math.inf
        if self.positions == "opaque":
            start = min((self._place_of(row) for row in applied), default=math.inf) - 1
        reach = max((self._place_of(row) for row in rows if row.kind in REACHING), default=0)
        has = {row.marker for row in applied}
        pending = [row for row in self.rows if row.kind == "still_pending" and row.detail not in ("behind", "unconfirmed")]
        under_way = {row.client for row in pending}
        for (name, number), event in self.acknowledged.items():
            is_owed = event.place > start or event.sent_t > live_t
            if name == stream and number not in has and is_owed and not self._is_covered(event, rows):
                if event.place <= reach:
                    self.found["silent_loss"].append((client, stream, number))
                elif client not in under_way:
                    self.found["missing_at_rest"].append((client, stream, number))

    def _event(self, row: Seen) -> Event | None:
        return self.acknowledged.get((row.stream, row.marker))

    def _place_of(self, row: Seen) -> int:
        """How far a row reaches: by its event, and by its position."""
        event = self._event(row) if row.marker >= 0 else None
        by_event = event.place if event else 0
        if self.positions == "opaque" or row.seq < 0:
            return by_event
        return max(by_event, bisect_right(self.by_seq.get(row.stream, []), row.seq))

    def _is_covered(self, event: Event, rows: Sequence[Seen]) -> bool:
        """Whether a snapshot or a declared loss covers an event. A snapshot has nothing that was not yet due."""
        if self.positions == "opaque":
            return False
        for row in rows:
            is_snapshot = row.kind == "rebootstrapped" and row.detail == "snapshot" and not math.isnan(row.value)
            if is_snapshot and max(row.value, 0) < event.seen_seq <= min(row.seq, self._due(row)):
                return True
            if row.kind == "declared_loss" and row.value > 0 and row.seq - row.value < event.seen_seq <= row.seq:
                return True
        return False

    def _due(self, row: Seen) -> int:
        """The highest position of an event that was due when a row was recorded."""
        due = (event.seen_seq for (stream, _), event in self.events.items() if stream == row.stream and event.due_t <= row.t)
        return max(due, default=0)

    # --- publishes without an answer ----------------------------------------------------------------

    def _unanswered(self) -> None:
        """Events of unknown outcome that one reader has and another lacks; where positions can be compared."""
        sightings: dict[tuple[str, int], list[Seen]] = defaultdict(list)
        for row in self.rows:
            if row.kind == "applied" and row.client in self.readers:
                sightings[row.stream, row.marker].append(row)
        for (stream, number), event in self.events.items():
            seen = sightings.get((stream, number), [])
            if event.acknowledged_t < math.inf or event.failed_t == math.inf or not seen:
                continue
            surely_t = min(seen[0].t, event.failed_t)
            event.seen_seq = min(seen, key=lambda row: row.client != self.header.auditor).seq
            has = {row.client for row in seen}
            for client in self.readers - has:
                if self._owes(client, stream, event, surely_t):
                    self.found["partly_delivered"].append((client, stream, number))

    def _owes(self, client: int, stream: str, event: Event, surely_t: float) -> bool:
        """Whether a client that lacks an event should have it."""
        rows = self.of_pair[client, stream]
        is_settled = surely_t + LATE_S <= self.end_t
        if client == self.header.auditor:
            return is_settled and any(row.kind == "replay_completed" and row.client == client for row in self.rows)
        starts = [row.seq for row in rows if row.kind == "rebootstrapped"]
        live = [row.t for row in self.rows if row.kind == "subscribed" and row.client == client]
        is_owed = (bool(starts) and event.seen_seq > starts[0]) or (bool(live) and event.sent_t > live[0])
        reach = max((row.seq for row in rows if row.kind in REACHING), default=0)
        return is_owed and (reach > event.seen_seq or is_settled) and not self._is_covered(event, rows)
