"""A second judge of the core invariants, independent of `sim.analysis` and `sim.record`: slow, plain Python, over single rows.

It follows the definitions in `docs/explanation/verdicts.md`. What it takes from Elle's list-append checker (Kingsbury and
Alvaro, 2020) is the idea that makes such a checker simple: every write is a unique element, and a reader's state is a list.
Then each element that a reader shows is traced to the one publish that made it, the list shows the order in which the reader
saw them, and loss, duplicates, phantoms and the order in real time are found by comparing lists with publishes: an element
that was acknowledged before another one was sent comes before it in every list. Elle infers the order of versions from lists;
here, positions state it, and where they cannot be compared, the auditor's list does.

It knows runs whose events have markers. Which log each observation is about, `tests.analysis.plain_logs` says.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sim.record.run_header import RunHeader
from tests.analysis import plain_logs

SEEN = ("applied", "duplicate_dropped", "gap", "hash_mismatch")
MOVING = ("applied", "rebootstrapped", "clamped", "restarted")
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
    seen_seq: int = -1  # its position, as acknowledged or else as readers saw it
    is_assumed: bool = False  # no reader saw it: it has the position of the event before it
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
        self.starts_from_now_on = able.get("fresh_start") == "from_now_on"
        self.end_t = self.rows[-1].t if self.rows else 0.0
        self.readers = {*range(self.header.clients), self.header.auditor} - {-1}
        self.by_seq: dict[str, list[int]] = {}
        self._publishes()
        self._known_due: dict[tuple[str, float], int] = {}
        self.unsure: set[str] = set()  # streams whose order only their readers show, and that send nothing of the past
        if logs := plain_logs.logs_of(self.acknowledged, self.rows, self.positions, self.header.auditor):
            self.rows = plain_logs.placed(self.rows, self.acknowledged, logs)
            self._publishes()
        self.streams = {row.stream for row in self.rows} - {""}
        self._give_places(self.acknowledged)
        self.of_pair: dict[tuple[int, str], list[Seen]] = defaultdict(list)
        for row in self.rows:
            if row.client in self.readers and row.stream:
                self.of_pair[row.client, row.stream].append(row)
        for (client, stream), rows in self.of_pair.items():
            self._order(client, stream, self._lawful(rows))
        self._content()
        self._losses()
        if self.positions != "opaque":
            self._unanswered()

    def _publishes(self) -> None:
        self.events: dict[tuple[str, int], Event] = defaultdict(Event)
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
        for event in self.events.values():
            event.sent_t = event.due_t if event.sent_t == math.inf else event.sent_t

    def _give_places(self, events: Mapping[tuple[str, int], Event]) -> None:
        """The rank of each event in its stream: by position or, where positions cannot be compared, by a reader's list."""
        for stream in {stream for stream, _ in events}:
            own = {number: event for (name, number), event in sorted(events.items()) if name == stream}
            seqs = [event.seq for event in own.values()]
            is_located = self.positions != "opaque" and min(seqs) >= 0 and len(set(seqs)) == len(seqs)
            listed = {} if is_located else self._listed(stream)
            before = 0
            for number, event in own.items():
                event.is_assumed = not is_located and number not in listed
                before = event.seen_seq = event.seq if is_located else listed.get(number, before)
            self.by_seq[stream] = sorted(2 * event.seen_seq + event.is_assumed for event in own.values())
            order = sorted(own.items(), key=lambda each: (each[1].seen_seq, each[1].is_assumed, each[0]))
            for place, (_, event) in enumerate(order, 1):
                event.place = place
            self.unsure |= {stream} if self.starts_from_now_on and not is_located else set()

    def _listed(self, stream: str) -> dict[int, int]:
        """Positions of events by number: as the auditor or else anybody saw them, or ranks in the longest list of a reader."""
        lists: dict[int, list[Seen]] = defaultdict(list)
        for row in self.rows:
            if row.stream == stream and row.client in self.readers and row.marker >= 0 and row.kind in SEEN:
                lists[row.client].append(row)
        found: dict[int, int] = {}
        if self.positions != "opaque":
            for client in sorted(lists, key=lambda client: client != self.header.auditor):
                for row in lists[client]:
                    if row.seq >= 0:
                        found.setdefault(row.marker, row.seq)
            return found
        applied = {client: [row.marker for row in own if row.kind == "applied"] for client, own in lists.items()}
        longest = max(applied, key=lambda client: (len(set(applied[client])), client), default=-1)
        for number in applied.get(longest, []):
            found.setdefault(number, len(found) + 1)
        return found

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
        if rows and plain_logs.base(stream) != stream:  # a client that goes on in a new log cannot see what it missed there
            watermark = next((row.seq - 1 for row in rows if row.kind in MOVING), 0)
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
            if row.kind in MOVING:
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
            subscribed = {*self.header.subscriptions.get(str(client), [])}
            seen = {
                stream
                for (who, stream), rows in self.of_pair.items()
                if who == client and any(r.kind in REACHING for r in rows)
            }
            for stream in seen | {name for name in self.streams if plain_logs.base(name) in subscribed}:
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
        if self.positions != "dense":  # where no client can notice what our fault withholds, it is no loss of the service's
            has |= {row.marker for row in rows if row.kind == "withheld"}
        pending = [row for row in self.rows if row.kind == "still_pending" and row.detail not in ("behind", "unconfirmed")]
        under_way = {row.client for row in pending}
        excused = self._excused(client, stream, rows)
        for (name, number), event in self.acknowledged.items():
            is_owed = event.place > start or event.sent_t > live_t
            if name != stream or number in has or not is_owed or event.place in excused or self._is_covered(event, rows):
                continue
            if event.place <= reach:
                self.found["silent_loss"].append((client, stream, number))
            elif client not in under_way and plain_logs.is_newest(stream, self.streams):
                self.found["missing_at_rest"].append((client, stream, number))

    # --- losses without a number, and starts from now on --------------------------------------------

    def _excused(self, client: int, stream: str, rows: Sequence[Seen]) -> set[int]:
        """Places of a stream that a client need not have: lost without a number, or sent while it asked to start."""
        own = [event for (name, _), event in self.acknowledged.items() if name == stream]
        found = set[int]()
        for row in self._uncounted(rows):
            low, high = self._lost_between(row, rows, own)
            found.update(range(low + 1, high + 1))
        for row in rows if self.starts_from_now_on else ():
            if row.kind == "rebootstrapped":
                found |= self._before_start(row, rows, own)
        if self._gave_up_log(client, stream):
            found.update(event.place for event in own)
        return found

    def _gave_up_log(self, client: int, stream: str) -> bool:
        """Whether a client that went on in a later log declared the loss of this one."""
        base = plain_logs.base(stream)
        later = [name for name in self.streams if plain_logs.base(name) == base and plain_logs.is_later(name, stream)]
        return any(math.isnan(row.value) for name in later for row in self._losses_in(self.of_pair[client, name]))

    def _losses_in(self, rows: Sequence[Seen]) -> list[Seen]:
        """Declared losses, and what counts as one: a snapshot without positions, and a new process that starts from now on."""
        kinds = ["snapshot"] if self.positions == "opaque" else []
        losses = [row for row in rows if row.kind == "declared_loss" or (row.kind == "rebootstrapped" and row.detail in kinds)]
        fresh = [row for row in rows if row.kind == "rebootstrapped" and row.detail == "fresh"]
        return losses + (fresh[1:] if self.starts_from_now_on else [])

    def _uncounted(self, rows: Sequence[Seen]) -> list[Seen]:
        return [row for row in self._losses_in(rows) if math.isnan(row.value) or self.positions == "opaque"]

    def _lost_between(self, row: Seen, rows: Sequence[Seen], own: Sequence[Event]) -> tuple[int, int]:
        """The places `(low, high]` between what the client applied before and after a loss, as far as they were sent."""
        is_unsure = row.stream in self.unsure
        at = next(n for n, each in enumerate(rows) if each is row)
        applied = [(n, each, event) for n, each in enumerate(rows) if each.kind == "applied" and (event := self._event(each))]
        asked_t = self._asked_t(row, rows)
        is_before = [each.t <= asked_t if is_unsure else n < at for n, each, _ in applied]
        latest_t = max((each.t for before, (_, each, _) in zip(is_before, applied, strict=True) if before), default=-math.inf)
        low, later = 0, math.inf
        for before, (_, _, event) in zip(is_before, applied, strict=True):
            is_sure = not (is_unsure and event.is_assumed)
            if before and is_sure and (not is_unsure or event.acknowledged_t <= latest_t):
                low = max(low, event.place)
        for before, (_, _, event) in zip(is_before, applied, strict=True):
            is_sure = not (is_unsure and event.is_assumed)
            if not before and is_sure and event.place > low * is_unsure and later == math.inf:
                later = event.place - 1
        sent = max((event.place for event in own if event.sent_t <= row.t), default=0)
        return low, int(min(sent, later))

    def _asked_t(self, row: Seen, rows: Sequence[Seen]) -> float:
        """When the client asked for what a row answers."""
        return max((each.t for each in rows if each.kind == "replay_started" and each.t <= row.t), default=row.t)

    def _before_start(self, row: Seen, rows: Sequence[Seen], own: Sequence[Event]) -> set[int]:
        """Places of events that were in flight while the client asked to start. The service may have sent them before."""
        asked_t = self._asked_t(row, rows)
        applied_t = max((each.t for each in rows if each.kind == "applied" and each.t <= asked_t), default=-math.inf)
        later = min((event.place for event in own if event.acknowledged_t > asked_t), default=math.inf)
        return {
            event.place
            for event in own
            if event.sent_t <= row.t and event.acknowledged_t >= applied_t and (event.is_assumed or event.place >= later)
        }

    def _event(self, row: Seen) -> Event | None:
        return self.acknowledged.get((row.stream, row.marker))

    def _place_of(self, row: Seen) -> int:
        """How far a row reaches: by its event, and by its position."""
        event = self._event(row) if row.marker >= 0 else None
        by_event = event.place if event else 0
        if self.positions == "opaque" or row.seq < 0:
            return by_event
        return max(by_event, bisect_right(self.by_seq.get(row.stream, []), 2 * row.seq))

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
        if (row.stream, row.t) not in self._known_due:
            due = (
                event.seen_seq for (stream, _), event in self.events.items() if stream == row.stream and event.due_t <= row.t
            )
            self._known_due[row.stream, row.t] = max(due, default=0)
        return self._known_due[row.stream, row.t]

    # --- publishes without an answer ----------------------------------------------------------------

    def _unanswered(self) -> None:
        """Events of unknown outcome that one reader has and another lacks; where positions can be compared."""
        sightings: dict[tuple[str, int], list[Seen]] = defaultdict(list)
        for row in self.rows:
            if row.kind == "applied" and row.client in self.readers:
                sightings[row.stream, row.marker].append(row)
        unanswered = {
            key: event
            for key, event in self.events.items()
            if event.acknowledged_t == math.inf and event.failed_t < math.inf and key in sightings
        }
        for key, event in unanswered.items():
            event.seen_seq = min(sightings[key], key=lambda row: row.client != self.header.auditor).seq
        self._known_due = {}  # these events were due, too
        for (stream, number), event in unanswered.items():
            seen = sightings[stream, number]
            surely_t = min(seen[0].t, event.failed_t)
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
        asked = [row for row in rows if row.kind == "rebootstrapped" and event.sent_t <= row.t]
        if self._gave_up_log(client, stream):
            return False
        if any(self._is_lost_unanswered(event, row, rows) for row in self._uncounted(rows)):
            return False
        if self.starts_from_now_on and any(surely_t > self._asked_t(row, rows) for row in asked):
            return False
        starts = [row.seq for row in rows if row.kind == "rebootstrapped"]
        live = [row.t for row in self.rows if row.kind == "subscribed" and row.client == client]
        is_owed = (bool(starts) and event.seen_seq > starts[0]) or (bool(live) and event.sent_t > live[0])
        reach = max((row.seq for row in rows if row.kind in REACHING), default=0)
        return is_owed and (reach > event.seen_seq or is_settled) and not self._is_covered(event, rows)

    def _is_lost_unanswered(self, event: Event, row: Seen, rows: Sequence[Seen]) -> bool:
        """The same as `_lost_between`, by positions."""
        at = next(n for n, each in enumerate(rows) if each is row)
        applied = [(n, each.seq) for n, each in enumerate(rows) if each.kind == "applied" and self._event(each)]
        before = max((seq for n, seq in applied if n < at), default=0)
        after = next((seq for n, seq in applied if n > at), math.inf)
        sent = (each.seen_seq for (stream, _), each in self.events.items() if stream == row.stream and each.sent_t <= row.t)
        return before < event.seen_seq < after and event.seen_seq <= max(sent, default=0)
