"""What a replica notes, and how its cursors move, for each answer, head and event at the boundaries of its rules."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from sim.protocols.events import Batch, Hash, Head, PositionUnknown, Resumed, Snapshot, Stale, Whose
from tests.client.replica_driver import FROM_NOW_ON, OPAQUE, Client, Note, batch, item, pos, taken

# Fields of the cursor, what happens, its result, what is noted, and the watermark after it.
Case = tuple[dict[str, Any], Callable[[Client], object], object, list[Note], int | None]
APPLIED = [("applied", 5, "aa"), ("checkpoint_written", 5)]
RECEIVED: Note = ("received", 1.0)
CASES: list[Case] = [
    # events
    ({"watermark": 4, "checkpoint": 4}, lambda c: taken(c, batch(5)), False, [RECEIVED, *APPLIED], 5),
    ({"watermark": 4, "checkpoint": 4}, lambda c: taken(c), False, [("received", 0.0)], 4),
    ({"watermark": 4, "checkpoint": 4}, lambda c: taken(c, batch(6)), True, [RECEIVED, ("gap", 6, 4.0, "live")], 4),
    ({"watermark": 4, "checkpoint": 4}, lambda c: taken(c, batch(4)), False, [RECEIVED, ("duplicate_dropped", 4, "aa")], 4),
    ({"watermark": 4, "checkpoint": 4}, lambda c: taken(c, batch(5, stream="c")), False, [RECEIVED, ("ungranted", "c", 5)], 4),
    (
        {"watermark": 4, "checkpoint": 4},
        lambda c: taken(c, Batch("a", (item(5, check=Hash.BAD),))),
        True,
        [RECEIVED, ("hash_mismatch", 5)],
        4,
    ),
    (
        {"watermark": 4, "checkpoint": 4},
        lambda c: taken(c, Batch("a", (item(4, check=Hash.BAD),))),
        False,
        [RECEIVED, ("hash_mismatch", 4)],
        4,
    ),
    ({}, lambda c: taken(c, batch(5)), False, [RECEIVED, ("rebootstrapped", 4, "fresh"), *APPLIED], 5),
    (
        {"watermark": 4, "checkpoint": 4},
        lambda c: taken(c, batch(is_after_gap=True)),
        True,
        [("received", 0.0), ("gap", 4.0, "live")],
        4,
    ),
    (
        {"watermark": 4, "checkpoint": 4, "asked_from": 5},
        lambda c: taken(c, batch(5), replaying=("a",), first=True),
        False,
        [RECEIVED, ("replay_below_cursor", 5, 5.0), *APPLIED],
        5,
    ),
    (
        {"watermark": 4, "checkpoint": 4, "asked_from": 5},
        lambda c: taken(c, batch(5), replaying=("a",)),
        False,
        [RECEIVED, *APPLIED],
        5,
    ),
    (
        {"watermark": 4, "checkpoint": 4, "asked_from": 5},
        lambda c: taken(c, batch(5), first=True),
        False,
        [RECEIVED, *APPLIED],
        5,
    ),
    (
        {"watermark": 4, "checkpoint": 4},
        lambda c: taken(c, Batch("a", (item(5, "e1"),))),
        False,
        [RECEIVED, ("epoch_learned", 4, "e1"), *APPLIED],
        5,
    ),
    (
        {"watermark": 4, "checkpoint": 4, "epoch": "e1", "noted_epoch": "e1"},
        lambda c: taken(c, Batch("a", (item(5, "e2"),))),
        False,
        [
            RECEIVED,
            ("stale", 4, "other_log"),
            ("epoch_learned", "e2"),
            ("rebootstrapped", 4, "other_log"),
            ("declared_loss", 4),
            *APPLIED,
        ],
        5,
    ),
    # heads
    (
        {"watermark": 4},
        lambda c: c.replica.learn_heads((Head("a", pos(3)),)),
        True,
        [("clamped", 3, 4.0), ("checkpoint_written", 3)],
        3,
    ),
    ({"watermark": 4}, lambda c: c.replica.learn_heads((Head("a", pos(4)),)), False, [], 4),
    ({"watermark": 4}, lambda c: c.replica.learn_heads((Head("a", pos(3), Whose.SOCKET),)), False, [], 4),
    ({"watermark": 4, "epoch": "e1"}, lambda c: c.replica.learn_heads((Head("a", pos(3, "e2")),)), False, [], 4),
    ({"watermark": 4, "restored": 4}, lambda c: c.replica.learn_heads((Head("a", pos(3)),)), True, [("clamped", 3, 4.0)], 3),
    ({"watermark": 4}, lambda c: c.replica.learn_heads((Head("c", pos(3)),)), False, [], 4),
    ({"watermark": 4, "head_before": 5}, lambda c: c.replica.compare_heads((Head("a", pos(5)),)), True, [], 4),
    ({"watermark": 5, "head_before": 5}, lambda c: c.replica.compare_heads((Head("a", pos(5)),)), False, [], 5),
    ({"watermark": 4, "head_before": 5}, lambda c: c.replica.compare_heads((Head("a", pos(5), Whose.SOCKET),)), False, [], 4),
    (
        {"watermark": 4},
        lambda c: c.replica.compare_heads((Head("a", pos(3)),)),
        True,
        [("clamped", 3, 4.0), ("checkpoint_written", 3)],
        3,
    ),
    # answers to a subscribe
    ({"watermark": 4, "asked_from": 4}, lambda c: c.replica.resume(Resumed("1", "a")), False, [], 4),
    ({}, lambda c: c.replica.resume(Resumed("1", "c", pos(3))), False, [], None),
    ({}, lambda c: c.replica.resume(Resumed("1", None)), False, [], None),
    (
        {},
        lambda c: c.replica.resume(Resumed("1", "a", pos(3))),
        False,
        [("rebootstrapped", 3, "fresh"), ("checkpoint_written", 3)],
        3,
    ),
    ({"watermark": 4, "asked_from": 4}, lambda c: c.replica.resume(Resumed("1", "a", pos(4))), False, [], 4),
    (
        {"watermark": 4, "asked_from": 4},
        lambda c: c.replica.resume(Resumed("1", "a", pos(6))),
        False,
        [("stale", 4, "silent"), ("rebootstrapped", 6, 4.0, "retained"), ("declared_loss", 6, 2.0), ("checkpoint_written", 6)],
        6,
    ),
    (
        {"watermark": 4, "asked_from": 4, "epoch": "e1", "noted_epoch": "e1"},
        lambda c: c.replica.resume(Resumed("1", "a", pos(4, "e2"), pos(3, "e2"))),
        True,
        [("stale", 4, "other_log")],
        None,
    ),
    (
        {"watermark": 4, "asked_from": 4, "epoch": "e1", "noted_epoch": "e1"},
        lambda c: c.replica.resume(Resumed("1", "a", pos(3, "e2"), pos(3, "e2"))),
        False,
        [
            *[("stale", 4, "other_log"), ("rebootstrapped", 3, "other_log"), ("declared_loss", 3), ("epoch_learned", 3, "e2")],
            ("checkpoint_written", 3),
        ],
        3,
    ),
    (
        {"watermark": 4},
        lambda c: c.replica.resume(Resumed("1", "a", None, pos(4, "e1"))),
        False,
        [("epoch_learned", 4, "e1")],
        4,
    ),
    (
        {"watermark": 4},
        lambda c: c.replica.resume(Resumed("1", "a", None, pos(3))),
        True,
        [("clamped", 3, 4.0), ("checkpoint_written", 3)],
        3,
    ),
    # positions that the server does not know
    ({}, lambda c: c.replica.take_unknown(PositionUnknown("c")), False, [], None),
    ({}, lambda c: c.replica.take_unknown(PositionUnknown("a")), False, [("stale", "position_unknown")], None),
    ({"watermark": 4}, lambda c: c.replica.take_unknown(PositionUnknown("a")), True, [("stale", 4, "position_unknown")], None),
    ({"watermark": 4}, lambda c: c.replica.take_unknown(PositionUnknown("a", reason="x")), True, [("stale", 4, "x")], None),
    (
        {"watermark": 4, "epoch": "e1"},
        lambda c: c.replica.take_unknown(PositionUnknown("a", head=pos(9, "e2"))),
        True,
        [("stale", 4, "other_log")],
        None,
    ),
    (
        {"watermark": 4},
        lambda c: c.replica.take_unknown(PositionUnknown("a", head=pos(3))),
        True,
        [("stale", 4, "position_unknown"), ("clamped", 3, 4.0), ("checkpoint_written", 3)],
        3,
    ),
    (
        {"watermark": 4, "restored": 4},
        lambda c: c.replica.take_unknown(PositionUnknown("a", head=pos(3))),
        True,
        [("stale", 4, "position_unknown"), ("clamped", 3, 4.0)],
        None,
    ),
    (
        {"watermark": 4},
        lambda c: c.replica.take_unknown(PositionUnknown("a", subscribed_at=pos(4))),
        True,
        [("stale", 4, "position_unknown")],
        4,
    ),
    (
        {"watermark": 4},
        lambda c: c.replica.take_unknown(PositionUnknown("a", subscribed_at=pos(6))),
        True,
        [
            *[("stale", 4, "position_unknown"), ("rebootstrapped", 6, 4.0, "retained"), ("declared_loss", 6, 2.0)],
            ("checkpoint_written", 6),
        ],
        6,
    ),
    # stale cursors
    ({"watermark": 4}, lambda c: c.replica.take_stale((Stale("c"),), 1), False, [], 4),
    (
        {"watermark": 4},
        lambda c: c.replica.take_stale((Stale("a", pos(4), reasons=("x", "y"), lag=3),), 2),
        True,
        [("stale", 4, 2, 3.0, "x")],
        None,
    ),
    ({}, lambda c: c.replica.take_stale((Stale("a"),), 2), False, [("stale", 2, 0.0)], None),
    ({"watermark": 4}, lambda c: c.replica.take_stale((Stale(None),), 2), True, [("stale", 2)], None),
    (
        {"watermark": 4},
        lambda c: c.replica.take_stale(
            (Stale("a", snapshot=Snapshot(pos(6), {"events": 6, "digest": "0123456789abcdef"})),), 0
        ),
        True,
        [("stale", 0.0), ("snapshot", 6, "456789abcdef"), ("rebootstrapped", 6, 4.0, "snapshot"), ("checkpoint_written", 6)],
        None,
    ),
    (
        {"watermark": 4},
        lambda c: c.replica.take_stale((Stale("a", snapshot=Snapshot(pos(4), {"events": 4})),), 0),
        True,
        [("stale", 0.0), ("snapshot", 4)],
        None,
    ),
    (
        {"watermark": 4},
        lambda c: c.replica.take_stale((Stale("a", subscribed_at=pos(6), head=pos(9)),), 0),
        False,
        [("stale", 0.0), ("rebootstrapped", 6, 4.0, "retained"), ("declared_loss", 6, 2.0), ("checkpoint_written", 6)],
        6,
    ),
]


@pytest.mark.parametrize(("fields", "happens", "result", "notes", "watermark"), CASES)
def test_dense_replica(
    fields: dict[str, Any], happens: Callable[[Client], object], result: object, notes: list[Note], watermark: int | None
):
    client = Client(**fields)
    assert happens(client) == result
    assert (client.notes, client.a.watermark) == (notes, watermark)


@pytest.mark.parametrize(
    ("snapshot", "floor", "head", "problem"),
    [
        (Snapshot(pos(6), {"events": 6}), 6, 6, ""),
        (Snapshot(pos(6), {"events": 6}), 7, None, "below_floor"),
        (Snapshot(pos(6), {"events": 6}), None, 5, "above_head"),
        (Snapshot(pos(6), {"events": 5}), None, None, "unfit"),
        (Snapshot(pos(6), {"events": 0}), None, None, "empty"),
        (Snapshot(pos(0), {"events": 0}), None, None, ""),
        (Snapshot(pos(1), {"events": 0}), None, None, "empty"),
        (Snapshot(pos(1), {"events": 0}), None, 0, "empty"),
        (Snapshot(pos(1), {"events": 1}), None, 0, "above_head"),
        (Snapshot(pos(6), {}), None, None, "empty"),
        (Snapshot(None, {"events": 6}), None, None, "empty"),
        (Snapshot(pos(6), {"events": "6"}), None, None, ""),
    ],
)
def test_problem_of_a_snapshot(snapshot: Snapshot, floor: int | None, head: int | None, problem: str):
    client = Client()
    places = {"floor": None if floor is None else pos(floor), "head": None if head is None else pos(head)}
    client.replica.take_stale((Stale("a", snapshot=snapshot, **places),), 0)  # type: ignore[arg-type]
    (note,) = [note for note in client.notes if note[0] == "snapshot"]
    at = () if snapshot.at is None else (snapshot.at.offset,)
    assert note == ("snapshot", *at, *([problem] if problem else []))


@pytest.mark.parametrize(
    "content", [{"digest": "0123456789abcdef"}, {"events": 6, "digest": 1}, {"events": "6", "digest": "0"}]
)
def test_only_a_snapshot_that_is_made_of_events_has_a_digest(content: dict[str, object]):
    client = Client()
    client.replica.take_stale((Stale("a", snapshot=Snapshot(pos(6), content)),), 0)
    assert ("snapshot", 6) in client.notes


def test_cursors_that_a_signal_names_were_dropped():
    client = Client(watermark=4)
    assert [client.replica.has_dropped((Stale(stream),)) for stream in ("a", "b", None, "c")] == [False, True, False, False]
    client.a.watermark = None
    assert client.replica.has_dropped((Stale(None),))
    assert not Client(policy="desktop").replica.has_dropped((Stale(None),))


def test_replay_starts_after_the_watermark_and_is_counted():
    client = Client(watermark=4, checkpoint=4)
    assert client.replica.begin_replay(("a", "b")) == {"a": pos(4), "b": None}
    assert client.notes == [("replay_started", 4), ("replay_started", "b")]
    client.notes.clear()
    taken(client, batch(4, 5), replaying=("a",))
    client.notes.clear()
    assert not client.replica.end_replay(("a", "b"), diverged=True)
    assert client.notes == [
        ("replayed", 2, 1.0),
        ("replayed", "b", 0, 0.0),
        ("rebootstrapped", "b", 0, "fresh"),
        ("checkpoint_written", "b", 0),
    ]


@pytest.mark.parametrize(
    ("fields", "diverged", "behind", "notes"),
    [
        ({"watermark": 4, "seen": 6}, True, True, [("replayed", 0, 0.0), ("gap", 6, 4.0, "replay")]),
        ({"watermark": 4, "seen": 6}, False, True, [("replayed", 0, 0.0)]),
        ({"watermark": 4, "asked_from": 6}, True, True, [("replayed", 0, 0.0)]),
        ({"watermark": 4, "seen": 4}, True, False, [("replayed", 0, 0.0)]),
        ({"head": 7}, True, False, [("replayed", 0, 0.0), ("rebootstrapped", 7, "fresh"), ("checkpoint_written", 7)]),
    ],
)
def test_hole_at_the_end_of_a_replay(fields: dict[str, Any], diverged: bool, behind: bool, notes: list[Note]):
    client = Client(**fields)
    assert client.replica.end_replay(("a",), diverged) is behind
    assert client.notes == notes


@pytest.mark.parametrize(("head", "watermark"), [(0, None), (1, 1)])
def test_client_that_starts_from_now_on_waits_until_somebody_says_where(head: int, watermark: int | None):
    client = Client(FROM_NOW_ON, head=head)
    client.replica.now = 50.0
    assert not client.replica.end_replay(("a",), diverged=False)
    assert client.a.watermark == watermark
    assert client.a.marks.since == (-math.inf if watermark is None else 50.0)


def test_position_of_a_poll_is_asked_from_the_watermark():
    client = Client(watermark=4, asked_from=2)
    assert (client.replica.poll("a"), client.a.asked_from) == (pos(4), 4)


def test_baseline_is_the_head_of_a_stream_without_a_position():
    client = Client(watermark=4, head=3)
    client.replica.learn_baselines((Head("a", pos(9)), Head("b", pos(9)), Head("c", pos(9)), batch(1)))
    assert [cursor.head for cursor in client.replica.cursors.values()] == [3, 9]
    opaque = Client(OPAQUE)
    opaque.replica.learn_baselines((Head("a", pos("x")),))
    assert opaque.a.head == 0


def test_lost_session_loses_each_position():
    client = Client(watermark=4)
    client.replica.lose_session()
    assert client.notes == [("stale", 4, "session_unknown")]
    assert [cursor.is_log_lost for cursor in client.replica.cursors.values()] == [True, False]


def test_refetched_stream_has_no_position_and_knows_what_it_applied():
    client = Client(watermark=4)
    client.replica.refetch("a")
    assert (client.a.watermark, client.a.start, client.notes) == (None, 4, [])


def test_missing_events_and_doubts_are_of_any_stream():
    client = Client(watermark=4, seen=5)
    assert (client.replica.behind(), client.replica.has_doubts()) == (["a"], False)
    client.a.doubted = True
    assert client.replica.has_doubts()
    client.replica.begin_connection()
    assert client.replica.behind() == []
    assert client.replica.begin_replay(("a",)) == {"a": None}
    assert not client.replica.has_doubts()


def test_only_the_position_after_a_batch_is_written():
    client = Client(OPAQUE, watermark=0)
    assert not taken(client, Batch("a", (), pos("x")), Batch("b", ()))
    assert client.notes == [("received", 0.0), ("checkpoint_written",)]
