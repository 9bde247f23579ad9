"""A run's rows as arrays: which rows each question selects, at each boundary, and what a damaged record is refused for."""

import math
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from sim.base.errors import EvidenceError
from sim.record import history as module
from sim.record.history import FaultTimes, History, Rows, at
from sim.record.observations import SCHEMA, Kind
from sim.record.run_header import SCHEMA_VERSION, RunHeader
from sim.service.paths import RETIRED
from tests.histories import AUDITOR, Story, run_header

A, B = "a", "b"


def mixed() -> Story:
    """Rows of the fleet (clients 0 and 1), a negative client, the auditor and nobody, not in the order of time."""
    story = Story(2)
    story.tell(3.0, Kind.APPLIED, 1, A, 7, attempt=3, value=1.5, detail="x", marker=2)
    story.tell(1.0, Kind.APPLIED, 0, A, 5)
    story.tell(2.0, Kind.GAP, 0, B, 9)
    story.tell(2.0, Kind.APPLIED, 2, A, 6)  # a negative client
    story.tell(4.0, Kind.APPLIED, AUDITOR, B, 8)
    return story.tell(5.0, Kind.PHASE, detail="end")


def clients(rows: Rows) -> list[int]:
    return list(rows.client.tolist())


def test_rows_of_kinds_are_in_the_order_of_time():
    history = mixed().history()
    assert (len(history), history.duration_s) == (6, 5.0)
    rows = history.of(Kind.APPLIED, Kind.GAP)
    assert rows.t.tolist() == [1.0, 2.0, 2.0, 3.0, 4.0]
    assert clients(rows) == [0, 0, 2, 1, AUDITOR]
    assert rows.number.tolist() == [0, 1, 2, 3, 4]
    assert [bool(each) for each in rows.is_kind(Kind.GAP)] == [False, True, False, False, False]
    last = history.of(Kind.APPLIED).take(np.array([2]))
    found = (last.seq, last.attempt, last.value, last.marker, last.stream, last.detail)
    assert [each.tolist() for each in found] == [[7], [3], [1.5], [2], [history.streams.index(A)], [history.details.index("x")]]
    assert clients(history.of(Kind.STALE)) == []


def test_rows_are_selected_by_whose_they_are():
    history = mixed().history()
    assert clients(history.fleet(Kind.APPLIED)) == [0, 1]
    assert clients(history.fleet(Kind.PHASE)) == []
    assert clients(history.auditor_rows(Kind.APPLIED)) == [AUDITOR]
    assert clients(history.session_rows(Kind.APPLIED)) == [0, 1, AUDITOR]
    without = Story(2, header={"auditor": -1}).tell(1.0, Kind.APPLIED, -1, A, 1).history()
    assert clients(without.auditor_rows(Kind.APPLIED)) == []


def test_rows_can_be_taken_joined_replaced_and_sorted():
    history = mixed().history()
    rows = history.of(Kind.APPLIED)
    assert clients(rows.take(rows.seq >= 6)) == [2, 1, AUDITOR]
    assert clients(rows.take(rows.seq >= 6).take(np.array([True, False, True]))) == [2, AUDITOR]
    assert clients(rows.take(np.array([3, 0]))) == [AUDITOR, 0]
    assert rows.having(seq=rows.seq + 1).seq.tolist() == [6, 7, 8, 9]
    assert rows.having(seq=rows.seq + 1).client.tolist() == clients(rows)
    joined = rows.and_then(history.of(Kind.GAP))
    assert (clients(joined), joined.seq.tolist()) == ([0, 2, 1, AUDITOR, 0], [5, 6, 7, 8, 9])
    assert rows.and_then(history.of(Kind.STALE)) is rows
    assert clients(rows.by_client()) == [0, 1, 2, AUDITOR]
    pairs = history.pair(rows).tolist()
    assert pairs == [(client + 1) * 3 + history.streams.index(name) for client, name in ((0, A), (2, A), (1, A), (AUDITOR, B))]


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_work_by_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch, rows: int):
    monkeypatch.setattr(module, "_PART_ROWS", rows)
    parts: list[int] = []

    def make(part: Rows) -> Any:
        parts.append(len(part))
        return part.seq

    assert mixed().history().of(Kind.APPLIED).by_parts(make).tolist() == [5, 6, 7, 8]
    assert parts == {2: [2, 2], 3: [3, 1], 4: [4]}[rows]


def test_details_and_streams_are_found_by_their_texts():
    story = Story(1)
    for detail in ("b", "a", "b", "", "a", "c"):
        story.tell(1.0, Kind.DISCONNECTED, 0, A if detail else "", detail=detail)
    history = story.history()
    rows = history.of(Kind.DISCONNECTED)
    assert history.detail_counts(rows) == {"a": 2, "b": 2, "": 1, "c": 1}
    assert list(history.detail_counts(rows)) == ["a", "b", "", "c"]
    assert history.detail_is(rows, ["a", "c", "never"]).tolist() == [False, True, False, False, True, True]
    assert history.is_stream(rows, "").tolist() == [False, False, False, True, False, False]


def test_faults_last_until_they_are_reverted():
    story = Story(1, header={"plan": [{"kind": "x", "n": 1}]})
    story.tell(1.0, Kind.FAULT_INJECTED, attempt=0, detail="x").tell(2.0, Kind.FAULT_INJECTED, attempt=1, detail="y")
    history = story.tell(4.0, Kind.FAULT_REVERTED, attempt=0, detail="x").history()
    assert history.faults == [FaultTimes(0, "x", 1.0, 4.0), FaultTimes(1, "y", 2.0, math.inf)]
    assert (history.fault_times("y"), history.fault_times("z"), history.first_fault_t) == ({1: (2.0, math.inf)}, {}, 1.0)
    assert [dict(history.parameters(index)) for index in (-1, 0, 1)] == [{}, {"kind": "x", "n": 1}, {}]
    assert Story(1).history().first_fault_t == math.inf


def test_phase_begins_with_its_first_row_and_the_fault_phase_ends_with_recovery():
    story = Story(1)
    for t, phase in ((0.0, "steady"), (10.0, "fault"), (20.0, "recovery"), (21.0, "fault")):
        story.tell(t, Kind.PHASE, detail=phase)
    times = np.array([9.9, 10.0, 19.9, 20.0])
    assert story.history().phases == {"steady": 0.0, "fault": 10.0, "recovery": 20.0}
    assert story.history().in_fault_phase(times).tolist() == [False, True, True, False]
    story.header = {"plan": []}
    assert not story.history().in_fault_phase(times).any()
    cut = Story(1).tell(10.0, Kind.PHASE, detail="fault").history()
    assert cut.in_fault_phase(times).tolist() == [False, True, True, True]
    assert not Story(1).history().in_fault_phase(times).any()


def test_client_is_live_from_its_first_subscribe_on():
    story = Story(3).tell(5.0, Kind.SUBSCRIBED, 0).tell(4.0, Kind.SUBSCRIBED, 2).tell(9.0, Kind.SUBSCRIBED, 2)
    assert story.history().first_live_t.tolist() == [5.0, math.inf, 4.0]
    assert Story(0).history().duration_s == 0.0


def test_last_earlier_row_is_of_the_same_client_and_stream():
    story = Story(2)
    for t, client, stream in ((1.0, 0, A), (3.0, 0, A), (2.0, 1, A), (2.0, 0, B)):
        story.tell(t, Kind.REPLAY_STARTED, client, stream)
    for t, client, stream in ((0.5, 0, A), (1.0, 0, A), (2.9, 0, A), (3.0, 0, A), (9.0, 1, A), (9.0, 1, B)):
        story.tell(t, Kind.APPLIED, client, stream)
    history = story.history()
    asked, rows = history.of(Kind.REPLAY_STARTED), history.of(Kind.APPLIED)
    assert history.last_t_before(asked, rows).tolist() == [0.5, 1.0, 1.0, 3.0, 2.0, 9.0]
    assert history.last_t_before(asked, rows, -1.0).tolist() == [-1.0, 1.0, 1.0, 3.0, 2.0, -1.0]


def test_restart_is_planned_once_for_each_stream_by_a_fault_with_its_checkpoint():
    story = Story(2, header={"plan": [{"kind": "restart_clients", "checkpoint": "old"}]})
    story.tell(10.0, Kind.FAULT_INJECTED, detail="restart_clients").tell(20.0, Kind.FAULT_REVERTED, detail="restart_clients")
    for t, detail in ((9.9, "old"), (10.0, "old"), (11.0, "old"), (12.0, "lost")):
        story.tell(t, Kind.RESTARTED, 0, A, detail=detail)
    story.tell(20.0, Kind.RESTARTED, 1, A, detail="old").tell(20.1, Kind.RESTARTED, 1, B, detail="old")
    story.tell(30.0, Kind.APPLIED, 0, A, 1)
    history = story.history()
    kept = history.without_unplanned_restarts(history.fleet(Kind.RESTARTED, Kind.APPLIED))
    assert kept.t.tolist() == [10.0, 20.0, 30.0]
    applied = history.of(Kind.APPLIED)
    assert history.without_unplanned_restarts(applied) is applied


def test_client_is_under_way_unless_it_only_waits_for_events():
    story = Story(5)
    for client, detail in enumerate(("behind", "unconfirmed", "replaying", "backoff")):
        story.tell(1.0, Kind.STILL_PENDING, client, detail=detail)
    assert clients(story.tell(1.0, Kind.STILL_PENDING, AUDITOR, detail="minting").history().under_way()) == [2, 3]


@pytest.mark.parametrize(
    ("applied", "published", "is_unknown"),
    [([-1, -1], [3], True), ([-1, 3], [3], False), ([-1], [-1], False), ([], [3], False)],
)
def test_identity_is_unknown_where_no_applied_event_has_a_marker(applied: list[int], published: list[int], is_unknown: bool):
    story = Story(1)
    for kind, numbers in ((Kind.APPLIED, applied), (Kind.PUBLISHED, published)):
        for number in numbers:
            story.tell(1.0, kind, 0, A, 1, marker=number)
    assert story.history().has_no_markers is is_unknown


@pytest.mark.parametrize(
    ("capabilities", "found"),
    [
        ({}, ("dense", False, False)),
        ({"positions": "opaque", "has_epochs": True, "fresh_start": "from_now_on"}, ("opaque", True, True)),
        ({"positions": "ordered", "has_epochs": False, "fresh_start": "retained"}, ("ordered", False, False)),
    ],
)
def test_capabilities_are_those_of_the_header(capabilities: dict[str, object], found: tuple[str, bool, bool]):
    history = Story(1, header={"capabilities": capabilities}).history()
    assert (history.positions, history.has_epochs, history.starts_from_now_on) == found


def test_observation_as_text_names_what_it_has():
    assert at(0, "s", 0, 4.2014) == "client 0, s, seq 0, at 4.201 s"
    assert at(-1, "", -1, 1.0) == "at 1.000 s"


def table(**columns: Any) -> pa.Table:
    texts = {"kind": "applied", "stream": "s", "detail": ""}
    found = []
    for field in SCHEMA:
        values = columns.get(field.name, [texts.get(field.name, 0)] * 2)
        plain = pa.array(values, field.type.value_type if field.name in texts else field.type)
        found.append(plain.dictionary_encode().cast(field.type) if field.name in texts else plain)
    return pa.Table.from_arrays(found, schema=SCHEMA)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"kind": ["applied", "invented"]}, "unknown kind of row 'invented'"),
        ({"t": [0.0, math.nan]}, "not a finite number"),
        ({"t": [math.inf, 0.0]}, "not a finite number"),
        ({"seq": [1, None]}, "column seq has empty cells"),
        ({"detail": [None, "x"]}, "column detail has empty cells"),
    ],
)
def test_invalid_rows_are_refused(columns: dict[str, list[object]], words: str):
    assert len(History(run_header(1), table())) == 2
    with pytest.raises(EvidenceError, match=words):
        History(run_header(1), table(**columns))


@pytest.mark.parametrize(
    ("values", "kind"),
    [([0, 127], "int8"), ([-128, 0], "int8"), ([0, 128], "int16"), ([-129, 0], "int16"), ([0, 2**31], "int64")],
)
def test_numbers_have_the_smallest_type_that_holds_them(values: list[int], kind: str):
    rows = History(run_header(1), table(seq=values)).of(Kind.APPLIED)
    assert (rows.column("seq").dtype, rows.seq.dtype, rows.seq.tolist()) == (np.dtype(kind), np.dtype("int64"), values)


def test_large_number_of_a_row_leaves_room_to_add():
    many = pa.concat_tables([table(seq=[1, 2]), table(seq=[3, 300])])
    rows = History(run_header(1), many).of(Kind.APPLIED)
    assert (rows.seq + 2**40).tolist() == [2**40 + n for n in (1, 2, 3, 300)]


# What a run's file says that was written by another version or by hand, and leaves these out.
DEFAULTS: dict[str, object] = {
    "schema": SCHEMA_VERSION,
    "calibration": "none",
    "window_events": 1024,
    "retired_routes": RETIRED,
    "has_socket": True,
    "auditor": -1,
    "metrics_profile": "none",
}


def test_header_without_a_field_says_the_least():
    fields = ("drill", "drill_sha256", "engine", "target", "target_kind", "policy", "started_at", "clock")
    header = RunHeader(**dict.fromkeys(fields, ""), seed=1, clients=2, versions={})  # type: ignore[arg-type]
    left = {name: value for name, value in msgspec.structs.asdict(header).items() if name not in (*fields, "seed", "clients")}
    assert {name: value for name, value in left.items() if value} == {**DEFAULTS, "protocol": header.protocol}
    assert SCHEMA_VERSION == 1
