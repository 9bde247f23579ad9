"""Marks, spans, notices, settings and tokens of a client at their boundaries."""

import math
from dataclasses import replace

import msgspec
import pytest

from sim.client import marks as marks_module
from sim.client import notices
from sim.client.actions import ClientSettings, Token
from sim.client.cursor import Cursor, OpaqueCursor, OrderedCursor
from sim.client.marks import Acknowledged, Marks, mark_range
from sim.client.notices import KnownRuns, Notes, Notice, no_run, run_of, short_hash
from sim.client.spans import Span, go_on, spans_of, take_spans
from sim.protocols.adapter import Positions
from sim.protocols.events import Batch, CaughtUp, EndedBy, Hash, Head, Item, Message, Next, Position, Step
from sim.protocols.intents import Compatibility
from sim.protocols.markers import NO_MARKERS
from sim.server.settings import RuntimeSettings
from tests.client.test_capabilities import DENSE

# --- acknowledged events --------------------------------------------------------------------------------


def acknowledged(*events: tuple[int, int, float, float]) -> Acknowledged:
    """Of events: number, position, when sent, when acknowledged."""
    found = Acknowledged()
    for number, position, sent_at, now in events:
        found.add(number, position, sent_at, now)
    return found


def test_acknowledged_numbers_may_come_in_any_order():
    found = acknowledged((2, 20, 0.0, 1.0), (5, 50, 0.5, 2.0), (3, 30, 0.5, 3.0))
    assert (found.number, found.open, found.position, found.position_at) == (5, {1, 4}, 50, 2.0)
    assert (found.sent_at, found.answered_at) == (0.5, 3.0)
    assert [found.count_above(number) for number in (0, 1, 3, 4, 5, 6)] == [3, 3, 1, 1, 0, 0]
    assert found.recent == {2: 20, 5: 50, 3: 30}
    found.add(4, 25, 0.5, 4.0)
    assert (found.open, found.overtaking) == ({1}, {4: 25})


@pytest.mark.parametrize(
    ("second", "overtaking"),
    [((2, 3, 0.0, 2.0), {}), ((2, 1, 0.0, 2.0), {2: 1}), ((2, 2, 0.0, 2.0), {})],
)
def test_event_overtakes_one_with_a_lower_number_and_a_higher_position(
    second: tuple[int, int, float, float], overtaking: dict[int, int]
):
    assert acknowledged((1, 2, 0.0, 1.0), second).overtaking == overtaking


def test_log_starts_again_only_with_a_lower_position_that_was_sent_later():
    before = ((1, 10, 0.0, 1.0), (2, 11, 0.0, 2.0))
    assert acknowledged(*before, (3, 11, 2.0, 3.0)).position == 11, "sent when the other was acknowledged"
    again = acknowledged(*before, (3, 11, 2.1, 3.0))
    assert (again.position, again.position_at, again.recent) == (11, 3.0, {3: 11})
    lower = acknowledged(*before, (3, 1, 2.1, 3.0))
    assert (lower.position, lower.position_at, lower.recent, lower.overtaking) == (1, 3.0, {3: 1}, {})


def test_events_in_flight_together_are_remembered_where_there_are_no_positions():
    alone = acknowledged((1, -1, 0.0, 1.0), (2, -1, 1.0, 2.0))
    assert alone.overlapping == {}
    assert acknowledged((1, -1, 0.0, 1.0), (2, -1, 0.9, 2.0)).overlapping == {2: 0.9}
    assert acknowledged((2, -1, 1.0, 2.0)).overlapping == {2: 1.0}, "number 1 is not acknowledged"
    late = acknowledged((2, -1, 0.0, 1.0), (3, -1, 1.0, 2.0))
    assert late.overlapping == {2: 0.0, 3: 1.0}
    assert acknowledged((1, 0, 0.0, 1.0), (2, 0, 0.9, 2.0)).overlapping == {2: 0.9}, "0 is no position"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(marks_module, "_IN_FLIGHT", 2)
    monkeypatch.setattr(marks_module, "_REMEMBERED", 2)
    assert acknowledged(*((n, n, 0.0, 1.0) for n in range(1, 5))).recent == {3: 3, 4: 4}
    assert list(acknowledged(*((n, -1, 0.0, 1.0) for n in range(1, 6))).overlapping) == [4, 5]


def test_so_many_events_may_be_in_flight_together():
    together = acknowledged(*((n, n, 0.0, 1.0) for n in range(1, 300)))
    assert list(together.recent) == list(range(44, 300)), "the last 256"
    unplaced = acknowledged(*((n, -1, 0.0, 1.0) for n in range(1, 4200)))
    assert list(unplaced.overlapping) == list(range(104, 4200)), "the last 4096"
    own = Marks(after=-1)
    own.take((300,))
    head = acknowledged(*((n, -1, 0.0, 1.0) for n in (*range(1, 301), 555, 556, 557)))
    assert own.lacked(head) == 1, "only number 557 cannot have overtaken number 300"


def test_opaque_cursor_remembers_the_last_4096_events():
    cursor = OpaqueCursor("a", "a", watermark=0)
    for number in range(1, 4099):
        cursor.apply(number, Item(Position(f"p{number}"), msgspec.Raw(b"{}")))
    assert next(iter(cursor.recent)) == Position("p3")
    assert len(cursor.recent) == 4096


# --- what a client has ----------------------------------------------------------------------------------


def test_numbers_are_taken_from_the_first_one_on():
    own = Marks()
    own.take((3, 5, 5, 2, 8))
    assert (own.first, own.high, own.missing) == (3, 8, {4, 6, 7})
    own.take((4,))
    assert own.missing == {6, 7}
    own.restart(9, 50.0)
    assert (own.first, own.high, own.missing, own.after, own.since) == (0, 0, set(), 9, 50.0)
    own.restart()
    assert (own.after, own.since) == (0, -math.inf)


@pytest.mark.parametrize(
    ("taken", "until", "lacked"), [((), 3, 3), ((1, 2, 3), 3, 0), ((1, 3), 3, 1), ((1, 5), 3, 2), ((1, 4), 3, 2), ((4,), 3, 0)]
)
def test_acknowledged_events_that_it_lacks(taken: tuple[int, ...], until: int, lacked: int):
    own = Marks()
    own.take(taken)
    assert own.lacked(Acknowledged(number=until)) == lacked


def test_events_that_were_sent_before_its_start_are_not_lacked():
    own, head = Marks(), acknowledged((1, -1, 10.0, 12.0), (2, -1, 11.0, 13.0), (3, -1, 11.5, 14.0))
    own.restart(since=11.0)
    assert own.lacked(head) == 2, "number 2 was sent when it started; number 1 was in flight alone"
    own.restart(since=10.9)
    assert own.lacked(head) == 3


@pytest.mark.parametrize(("numbers", "found"), [((0,), None), ((1,), ("t", 1, 1, ())), ((2, 1), ("t", 2, 1, (2, 1)))])
def test_range_of_marks(numbers: tuple[int, ...], found: tuple[object, ...] | None):
    assert mark_range("t", numbers) == found


# --- spans ----------------------------------------------------------------------------------------------


def items(*seqs: int, epoch: str | None = None, check: Hash = Hash.OK) -> tuple[Item, ...]:
    return tuple(Item(Position(seq, epoch), msgspec.Raw(b"{}"), "", check) for seq in seqs)


A3 = Batch("a", items(3, 4))


@pytest.mark.parametrize(
    ("message", "spans"),
    [
        ((A3,), (Span("a", 2, 4, -1),)),
        ((A3, Head("a", Position(4))), (Span("a", 2, 4, 4),)),
        ((A3, Head("a", Position(3))), None),
        ((A3, Head("a", Position(4)), Head("b", Position(4))), None),
        ((A3, Batch("b", items(1)), Head("a", Position(4)), Head("b", Position(1))), (Span("a", 2, 4, 4), Span("b", 0, 1, 1))),
        ((A3, Batch("a", items(5))), (Span("a", 2, 5, -1),)),
        ((A3, Batch("a", items(6))), None),
        ((A3, Batch("a", items(5, epoch="e"))), None),
        ((Batch("a", items(3, epoch="e")),), (Span("a", 2, 3, -1, "e"),)),
        ((Batch("a", items(3), after=Position(3)),), None),
        ((Batch("a", items(3), session="s"),), None),
        ((Batch("a", items(3), is_after_gap=True),), None),
        ((Batch("a", items(3, check=Hash.BAD)),), None),
        ((Batch("a", (Item(None, msgspec.Raw(b"{}")),)),), None),
        ((Batch("a", (Item(Position("x"), msgspec.Raw(b"{}")),)),), None),
        ((Batch("a", ()),), None),
        ((CaughtUp(),), None),
    ],
)
def test_spans_of_a_message(message: Message, spans: tuple[Span, ...] | None):
    assert spans_of(message) == spans


@pytest.mark.parametrize(
    ("fields", "span", "is_taken"),
    [
        ({}, Span("a", 3, 5, 6), True),
        ({}, Span("a", 2, 5, 6), False),
        ({}, Span("a", 4, 5, 6), False),
        ({}, Span("b", 3, 5, 6), False),
        ({}, Span("a", 3, 5, 6, "e"), False),
        ({"epoch": "e"}, Span("a", 3, 5, 6, "e"), True),
        ({"checkpoint": 5}, Span("a", 3, 5, 6), False),
        ({"head": 9, "seen": 9}, Span("a", 3, 5, -1), True),
    ],
)
def test_span_is_taken_by_a_client_that_has_all_before_it(fields: dict[str, object], span: Span, is_taken: bool):
    cursor = Cursor("a", "a", **{"watermark": 3, "checkpoint": 3, **fields})  # type: ignore[arg-type]
    assert take_spans({"a": cursor}, (span,), replaying=False) is is_taken
    assert (cursor.watermark, cursor.checkpoint) == ((5, 5) if is_taken else (3, fields.get("checkpoint", 3)))
    if is_taken:
        assert (cursor.head, cursor.seen) == ((6, 5) if span.head == 6 else (9, 9))


def test_only_an_ordered_cursor_goes_on_above_its_position():
    for kind, is_taken in ((Cursor, False), (OrderedCursor, True), (OpaqueCursor, False)):
        assert take_spans({"a": kind("a", "a", watermark=3)}, (Span("a", 5, 7, -1),), replaying=False) is is_taken


def test_single_span_goes_on_at_its_place():
    places = {"a": 3}
    assert not go_on((Span("a", 2, 9, -1),), places)
    assert go_on((Span("a", 3, 9, -1),), places)
    assert places == {"a": 9}


# --- notices --------------------------------------------------------------------------------------------


def test_run_has_the_notices_of_each_event():
    run = run_of((Batch("a", (replace_hash(items(3)[0]),)), Head("a", Position(3)), CaughtUp()), "s-{}".format, NO_MARKERS)
    assert run is not None
    kinds = [(each.kind, each.stream, each.seq, each.detail, each.marker) for each in run.notices]
    assert kinds == [
        ("received", "", -1, "", -1),
        ("applied", "s-a", 3, "0123456789ab", -1),
        ("checkpoint_written", "s-a", 3, "", -1),
    ]
    assert (run.notices[0].value, run.marks) == (1.0, ())
    assert run_of((A3, Next()), str, NO_MARKERS) is None  # type: ignore[arg-type]
    assert no_run((A3,)) is None


def replace_hash(item: Item) -> Item:
    return msgspec.structs.replace(item, payload_hash="sha256:0123456789abcdef")


def test_run_of_a_message_is_computed_once():
    known, message, equal = KnownRuns(str, NO_MARKERS), (A3,), (Batch("a", items(3, 4)),)
    assert known(message) is known(message)
    assert known(message) is not known(equal)
    assert known((CaughtUp(),)) is None


def test_notices_are_taken_once_and_shared_ones_stay_shared():
    notes, shared = Notes(), (Notice("x"),)
    notes.add_shared(shared)
    assert notes.take() is shared
    assert list(notes.take()) == []
    notes.add("a", "s", 1, 2, 3.0, "d", 4)
    notes.add_shared(shared)
    notes.add_shared(shared)
    notes.add("b")
    assert [each.kind for each in notes.take()] == ["a", "x", "x", "b"]
    notes.add("a", "s", 1, 2, 3.0, "d", 4)
    assert notes.take()[0] == Notice("a", "s", 1, 2, 3.0, "d", 4)


@pytest.mark.parametrize(
    ("code", "hint", "status", "found"),
    [
        (1008, Next(Step.RETRY), None, (1008, math.nan, "server:1008:retry")),
        ("x" * 81, Next(Step.WAIT, 0.0), None, (0, 0.0, f"server:{'x' * 80}:wait")),
        ("x", Next(Step.WAIT, 5.0), 503, (503, 5.0, "server:x:wait")),
    ],
)
def test_end_has_its_number_hint_and_code(code: int | str, hint: Next, status: int | None, found: tuple[int, float, str]):
    notice = notices.ending(EndedBy.SERVER, code, hint, "s", status)
    assert (notice.kind, notice.stream, notice.attempt, notice.detail) == ("ended", "s", found[0], found[2])
    assert notice.value == pytest.approx(found[1], nan_ok=True)


def test_hash_is_shortened():
    assert short_hash("sha256:0123456789abcdef") == "0123456789ab"


# --- settings and tokens --------------------------------------------------------------------------------


@pytest.mark.parametrize(("interval_s", "silence_s"), [(15.0, 45.0), (4.0, 12.0), (3.0, 10.0)])
def test_silence_is_three_heartbeats_and_at_least_ten_seconds(interval_s: float, silence_s: float):
    settings = ClientSettings(1, Compatibility(), DENSE, service=RuntimeSettings(heartbeat_interval_s=interval_s))
    assert (settings.heartbeat_interval_s, settings.silence_limit_s) == (interval_s, silence_s)
    assert (settings.reply_timeout_s, settings.replay_batch_size, settings.token_ttl_s) == (10.0, 200, None)


def test_only_clients_whose_order_is_known_share_runs():
    opaque = msgspec.structs.replace(DENSE, positions=Positions.OPAQUE)
    for capabilities, shares, is_shared in ((DENSE, True, True), (DENSE, False, False), (opaque, True, False)):
        settings = ClientSettings(1, Compatibility(), capabilities, shares_runs=shares)
        assert (settings.run_of is no_run) is not is_shared


def test_token_by_a_clock_that_is_ahead():
    token = Token("secret", 270.0, 300.0, server_refresh_at=1270.0, server_expires_at=1300.0)
    assert token.by_clock(10.0) == replace(token, refresh_at=1260.0, expires_at=1290.0)
    half = Token("secret", 270.0, 300.0, server_refresh_at=1270.0)
    assert half.by_clock(10.0) is half
    assert repr(token) == "Token(refresh_at=270.0, expires_at=300.0)"
