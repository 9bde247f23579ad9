"""The ledger and the invariants of markers against a slow oracle that looks at every event of every client.

A server may lie: any marker may come under any position, twice, in any order, or not at all.
"""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.analysis.invariants.registry import violations
from sim.record.observations import Kind
from tests.histories import AUDITOR, STREAM, Story

AUDIT_T = 90.0
FORMS = ("located", "seen", "opaque")  # acknowledged with positions, without, and positions that cannot be compared


@dataclass
class Event:
    number: int
    seq: int
    sent_t: float
    acknowledged_t: float | None  # None: of unknown outcome


@dataclass
class Reader:
    client: int
    baseline: int
    live_t: float
    applied: list[tuple[int, int]]  # position, marker
    checkpoint: int | None = None
    kind: Kind = Kind.APPLIED  # auditor: GAP or HASH_MISMATCH of its last event


@dataclass
class Case:
    form: str
    events: list[Event]
    readers: list[Reader]
    audit: Reader | None = None
    everyone: list[Reader] = field(init=False)

    def __post_init__(self) -> None:
        self.everyone = [*self.readers, *([self.audit] if self.audit else [])]

    # --- the history --------------------------------------------------------------------------------

    def story(self) -> Story:
        positions = "opaque" if self.form == "opaque" else "dense"
        story = Story(len(self.readers), header={"capabilities": {"positions": positions}})
        for event in self.events:
            self._publish(story, event)
        for reader in self.everyone:
            self._read(story, reader)
        return story

    def _publish(self, story: Story, event: Event) -> None:
        end_t = event.acknowledged_t or event.sent_t + 1
        story.tell(end_t, Kind.PUBLISH_TRIED, -1, STREAM, value=(end_t - event.sent_t) * 1000, marker=event.number)
        if event.acknowledged_t is None:
            story.tell(end_t, Kind.PUBLISH_FAILED, -1, STREAM, detail="unknown_outcome", marker=event.number)
        else:
            seq = event.seq if self.form == "located" else -1
            story.tell(end_t, Kind.PUBLISHED, -1, STREAM, seq, value=0.0, marker=event.number)

    def _read(self, story: Story, reader: Reader) -> None:
        def shown(seq: int) -> int:
            return -1 if self.form == "opaque" else seq

        story.tell(reader.live_t, Kind.SUBSCRIBED, reader.client, value=1.0)
        story.tell(reader.live_t, Kind.REBOOTSTRAPPED, reader.client, STREAM, shown(reader.baseline), detail="fresh")
        for t, kind, seq, marker in self.rows(reader):
            story.tell(t, kind, reader.client, STREAM, shown(seq), marker=marker)
        if reader.checkpoint is not None:
            story.tell(80.0, Kind.CHECKPOINT_WRITTEN, reader.client, STREAM, shown(reader.checkpoint))
        if reader is self.audit:
            story.tell(AUDIT_T + 5, Kind.REPLAY_COMPLETED, AUDITOR, value=1.0)

    def rows(self, reader: Reader) -> list[tuple[float, Kind, int, int]]:
        last = len(reader.applied) - 1
        return [
            (reader.live_t + 0.1 * (n + 1), reader.kind if n == last else Kind.APPLIED, seq, marker)
            for n, (seq, marker) in enumerate(reader.applied)
        ]

    # --- the oracle ---------------------------------------------------------------------------------

    def acknowledged(self) -> list[Event]:
        return [event for event in self.events if event.acknowledged_t is not None]

    def applied(self, reader: Reader) -> list[int]:
        return [marker for _, kind, _, marker in self.rows(reader) if kind is Kind.APPLIED]

    def keys(self) -> dict[int, tuple[int, bool, int]]:
        """Each acknowledged event's position, whether that is assumed, and its number; sorted, they are the log."""
        if self.form == "located":
            return {event.number: (event.seq, False, event.number) for event in self.acknowledged()}
        seen: dict[int, int] = {}
        if self.form == "opaque":
            most = max((len({*self.applied(each)} - {-1}), each.client == AUDITOR, each.client) for each in self.everyone)
            (reader,) = [each for each in self.everyone if each.client == most[2]]
            for marker in self.applied(reader):
                if marker > 0:
                    seen.setdefault(marker, len(seen) + 1)
        else:
            order = sorted(
                (each is not self.audit, t, seq, marker) for each in self.everyone for t, _, seq, marker in self.rows(each)
            )
            for _, _, seq, marker in order:
                seen.setdefault(marker, seq)
        keys, before = {}, 0
        for number in sorted(event.number for event in self.acknowledged()):
            before = seen.get(number, before)
            keys[number] = (before, number not in seen, number)
        return keys

    def reached(self, seq: int, marker: int = -1) -> set[int]:
        """The acknowledged events up to a position, and up to an event."""
        keys = self.keys()
        by_position = {number for number, key in keys.items() if self.form != "opaque" and key[:2] <= (seq, False)}
        return by_position | {number for number, key in keys.items() if marker in keys and key <= keys[marker]}

    def below(self, reader: Reader) -> set[int]:
        """What lies below a reader's first baseline; where positions say nothing, what lies before its first event."""
        if self.form != "opaque":
            return self.reached(reader.baseline)
        keys, applied = self.keys(), [number for number in self.applied(reader) if number in self.keys()]
        return {number for number, key in keys.items() if all(key < keys[other] for other in applied)}

    def expected(self, reader: Reader) -> set[int]:
        below = self.below(reader)
        return {event.number for event in self.acknowledged() if event.number not in below or event.sent_t > reader.live_t}

    def dropped(self, reader: Reader) -> set[int]:
        return self.expected(reader) - set(self.applied(reader))

    def silent(self, reader: Reader) -> set[int]:
        reached = self.reached(-1 if reader.checkpoint is None else reader.checkpoint)
        reached |= self.reached(max([reader.baseline, *(seq for _, kind, seq, _ in self.rows(reader) if kind is Kind.APPLIED)]))
        for marker in self.applied(reader):
            reached |= self.reached(-1, marker)
        return self.dropped(reader) & reached

    def twice(self) -> int:
        count = 0
        for reader in self.everyone:
            markers, seqs = set(), set()
            for _, kind, seq, marker in self.rows(reader):
                if kind is Kind.APPLIED:
                    count += marker in markers or (self.form != "opaque" and seq in seqs)
                    markers |= {marker} - {-1}
                    seqs.add(seq)
        return count

    def out_of_real_time(self) -> int:
        events, count = {event.number: event for event in self.events}, 0
        for reader in self.everyone:
            shown: list[int] = []
            for marker in self.applied(reader):
                if marker < 0 or marker in shown:
                    continue
                ended = events[marker].acknowledged_t if marker in events else None
                count += ended is not None and any(other in events and ended < events[other].sent_t for other in shown)
                shown.append(marker)
        return count

    def lost(self) -> set[int]:
        if self.audit is None:
            return set()
        received = {marker for each in self.everyone for _, _, _, marker in self.rows(each)}
        trimmed = set(self.keys())
        for reader in self.everyone:
            trimmed &= self.below(reader)
        found, seen = self.below(self.audit) if self.form != "opaque" else set(), set()
        for _, kind, seq, marker in self.rows(self.audit):
            seen |= self.reached(seq, marker)
            found |= self.reached(seq, marker) if kind is Kind.APPLIED else set()
        seen |= found
        missing = set(self.keys()) - received - trimmed - (seen - found)
        return missing | (set(self.keys()) - seen)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.integers(1, 5))
    seqs = draw(st.permutations(range(1, count + 3)))
    events = []
    for number in range(1, count + 1):
        sent_t = draw(st.integers(1, 30)) + number / 100
        acknowledged_t = draw(st.one_of(st.none(), st.integers(1, 9).map(lambda more, sent_t=sent_t: sent_t + more)))
        events.append(Event(number, seqs[number - 1], sent_t, acknowledged_t))
    deliveries = st.lists(st.tuples(st.integers(1, count + 3), st.sampled_from([-1, *range(1, count + 2)])), max_size=8)

    def reader(client: int) -> Reader:
        live_t, baseline = draw(st.integers(0, 40)) + 0.5, draw(st.integers(0, 3))
        return Reader(client, baseline, live_t, draw(deliveries), draw(st.one_of(st.none(), st.integers(0, count + 3))))

    readers = [reader(client) for client in range(draw(st.integers(1, 2)))]
    audit = None
    if draw(st.booleans()):
        kind = draw(st.sampled_from([Kind.APPLIED, Kind.GAP, Kind.HASH_MISMATCH]))
        audit = Reader(AUDITOR, draw(st.integers(0, 2)), AUDIT_T, draw(deliveries), kind=kind)
    return Case(draw(st.sampled_from(FORMS)), events, readers, audit)


@settings(max_examples=600, deadline=None)
@given(cases())
def test_ledger_finds_what_an_oracle_finds(case: Case) -> None:
    ledger = case.story().ledger()
    assume(not ledger.history.has_no_markers)  # then nobody knows which events arrived
    found = {each.invariant: each.count for each in violations(ledger.history, ledger)}
    assert ledger.expected == sum(len(case.expected(reader)) for reader in case.readers)
    assert ledger.dropped.count == sum(len(case.dropped(reader)) for reader in case.readers)
    assert ledger.silent.count == sum(len(case.silent(reader)) for reader in case.readers)
    assert {*ledger.published.number[ledger.lost_by_authority].tolist()} == case.lost()
    assert found.get("applied_twice", 0) == case.twice()
    assert found.get("real_time_order", 0) == case.out_of_real_time()
    assert np.all(np.diff(ledger.published.place) > 0)


def test_publish_at_position_0_counts_and_one_without_position_or_marker_does_not() -> None:
    story = Story(1).publish(0, 1, -1)
    published = story.ledger().published
    assert (published.seq.tolist(), published.number.tolist()) == ([0, 1], [0, 1])
