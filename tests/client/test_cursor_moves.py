"""Every move of a cursor at its boundaries: what it returns, and exactly which fields change."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields
from typing import Any

import msgspec
import pytest

from sim.client.cursor import Cursor, OpaqueCursor, OrderedCursor, Outcome, Start
from sim.client.marks import Marks
from sim.protocols.events import Item, Position

E1, E2 = Position(5, "e1"), Position(5, "e2")
LOST = Start("other_log", None, math.nan)
FORGOTTEN = {"watermark": None, "checkpoint": None, "start": None, "restored": None, "asked_from": None, "epoch": None}
FULL = {"watermark": 9, "checkpoint": 8, "start": 7, "restored": 6, "asked_from": 5, "epoch": "e1", "doubted": True}
OF_CONNECTION = {"seen": 12, "head": 11, "head_before": 10}
NONE_OF_IT = dict.fromkeys(OF_CONNECTION, 0)


def state(cursor: Cursor) -> dict[str, Any]:
    return {each.name: deepcopy(getattr(cursor, each.name)) for each in fields(cursor)}


def moved(kind: type[Cursor], before: dict[str, Any], move: Callable[[Any], object]) -> tuple[object, dict[str, Any]]:
    """What a move returns, and the fields that it changes."""
    cursor = kind("t", "s", **before)
    old = state(cursor)
    result = move(cursor)
    return result, {name: value for name, value in state(cursor).items() if value != old[name]}


def item(offset: str | int | None) -> Item:
    return Item(None if offset is None else Position(offset), msgspec.Raw(b"{}"))


MOVES: list[tuple[dict[str, Any], Callable[[Cursor], object], object, dict[str, Any]]] = [
    # another log, and epochs
    ({"epoch": "e1"}, lambda c: c.is_other_log(E2), True, {}),
    ({"epoch": "e1"}, lambda c: c.is_other_log(E1), False, {}),
    ({"epoch": "e1"}, lambda c: c.is_other_log(Position(5)), False, {}),
    ({"epoch": "e1"}, lambda c: c.is_other_log(None), False, {}),
    ({}, lambda c: c.is_other_log(E2), False, {}),
    ({"epoch": "e1", "heeds_epochs": False}, lambda c: c.is_other_log(E2), False, {}),
    ({}, lambda c: c.learn_epoch(E2), None, {"epoch": "e2"}),
    ({}, lambda c: c.learn_epoch(None), None, {}),
    ({"epoch": "e1"}, lambda c: c.learn_epoch(E2), None, {}),
    ({"epoch": "e1", "heeds_epochs": False}, lambda c: c.learn_epoch(E2), None, {"epoch": "e2"}),
    ({"epoch": "e1", "heeds_epochs": False}, lambda c: c.learn_epoch(Position(5)), None, {}),
    # replays
    (FULL | OF_CONNECTION, lambda c: c.begin_connection(), None, {"seen": 0, "head_before": 0}),
    ({"replayed": 3, "replayed_new": 2}, lambda c: c.begin_replay(None), None, {"replayed": 0, "replayed_new": 0}),
    ({"epoch": "e1"}, lambda c: c.begin_replay(0), Position(0, "e1"), {"asked_from": 0}),
    ({"epoch": "e1", "hides_epoch": True}, lambda c: c.begin_replay(3), Position(3, ""), {"asked_from": 3}),
    ({"hides_epoch": True}, lambda c: c.begin_replay(3), Position(3), {"asked_from": 3}),
    ({}, lambda c: c.count_replayed(1), False, {"replayed": 1, "replayed_new": 1}),
    ({"watermark": 4, "asked_from": 4}, lambda c: c.count_replayed(4), True, {"replayed": 1}),
    ({"watermark": 4, "asked_from": 4}, lambda c: c.count_replayed(5), False, {"replayed": 1, "replayed_new": 1}),
    ({"watermark": 4}, lambda c: c.count_replayed(4), False, {"replayed": 1}),
    ({"watermark": 4, "seen": 5}, lambda c: c.is_behind, True, {}),
    ({"watermark": 5, "seen": 5}, lambda c: c.is_behind, False, {}),
    ({"watermark": 4, "asked_from": 5}, lambda c: c.is_behind, True, {}),
    ({"watermark": 5, "asked_from": 5}, lambda c: c.is_behind, False, {}),
    ({"seen": 5}, lambda c: c.is_behind, False, {}),
    ({"watermark": 5}, lambda c: c.may_skip_to(6), False, {}),
    # applying
    ({"watermark": 4, "seen": 9}, lambda c: c.offer(5), Outcome.APPLY, {}),
    ({"watermark": 4}, lambda c: c.offer(5), Outcome.APPLY, {"seen": 5}),
    ({"watermark": 4}, lambda c: c.offer(6), Outcome.GAP, {"seen": 6}),
    ({"watermark": 4}, lambda c: c.offer(4), Outcome.DUPLICATE, {}),
    ({}, lambda c: c.write_checkpoint(), False, {}),
    ({"watermark": 4, "checkpoint": 4}, lambda c: c.write_checkpoint(), False, {}),
    ({"watermark": 4, "checkpoint": 3}, lambda c: c.write_checkpoint(), True, {"checkpoint": 4}),
    ({"start": 4}, lambda c: c.write_checkpoint(), True, {"checkpoint": 4}),
    ({"watermark": 5, "start": 4}, lambda c: c.known, 5, {}),
    # starts
    ({"head": 4}, lambda c: c.accept_head(), Start("fresh"), {"watermark": 4}),
    ({}, lambda c: c.accept_head(), Start("fresh"), {"watermark": 0}),
    ({}, lambda c: c.accept_start(0), Start("fresh"), {"watermark": 0}),
    ({}, lambda c: c.accept_start(5), Start("fresh"), {"watermark": 4}),
    ({"start": 4}, lambda c: c.accept_start(5), Start("retained", 4, 0), {"watermark": 4, "start": None}),
    ({"start": 4}, lambda c: c.accept_start(7), Start("retained", 4, 2), {"watermark": 6, "start": None}),
    ({"start": 4}, lambda c: c.accept_start(3), Start("retained", 4, 0), {"watermark": 4, "start": None}),
    # heads
    ({"watermark": 4}, lambda c: c.learn_head(4), False, {"head": 4}),
    ({"watermark": 4}, lambda c: c.learn_head(3), True, {"head": 3}),
    ({"watermark": 4, "seen": 3}, lambda c: c.learn_head(3), True, {"head": 3}),
    ({"watermark": 4, "seen": 4}, lambda c: c.learn_head(3), False, {"head": 3}),
    ({}, lambda c: c.learn_head(3), False, {"head": 3}),
    ({"watermark": 4, "head_before": 5}, lambda c: c.compare_head(9), True, {"head_before": 9}),
    ({"watermark": 5, "head_before": 5}, lambda c: c.compare_head(9), False, {"head_before": 9}),
    ({"head_before": 5}, lambda c: c.compare_head(9), False, {"head_before": 9}),
    ({"watermark": 9, "restored": 9}, lambda c: c.clamp(4), None, {"watermark": 4, "doubted": True}),
    ({"watermark": 9, "restored": 8}, lambda c: c.clamp(4), None, {"watermark": 4}),
    ({"head": 5, "watermark": 5}, lambda c: c.has_reached_head, True, {}),
    ({"head": 5, "watermark": 4}, lambda c: c.has_reached_head, False, {}),
    ({"head": 5, "watermark": 4, "seen": 5}, lambda c: c.has_reached_head, True, {}),
    ({"head": 1}, lambda c: c.has_reached_head, False, {}),
    # lost positions
    (FULL | OF_CONNECTION, lambda c: c.forget(), None, FORGOTTEN | {"doubted": False}),
    (FULL | OF_CONNECTION, lambda c: c.lose_log(), None, FORGOTTEN | NONE_OF_IT | {"doubted": False, "is_log_lost": True}),
    (OF_CONNECTION, lambda c: c.lose_log(), None, NONE_OF_IT),
    ({"is_log_lost": True}, lambda c: c.lose_log(), None, {}),
    ({"watermark": 0}, lambda c: c.lose_log(), None, {"watermark": None, "is_log_lost": True}),
    ({}, lambda c: c.rebootstrap(None), False, {}),
    ({}, lambda c: c.rebootstrap(0), False, {"start": 0}),
    ({}, lambda c: c.rebootstrap(1), True, {"start": 1}),
    ({"watermark": 4}, lambda c: c.rebootstrap(None), False, {"watermark": None, "start": 4}),
    ({"watermark": 4}, lambda c: c.rebootstrap(4), False, {"watermark": None, "start": 4}),
    ({"watermark": 4}, lambda c: c.rebootstrap(5), True, {"watermark": None, "start": 5}),
    ({"watermark": 4}, lambda c: c.rebootstrap(3), False, {"watermark": None, "start": 4}),
    # where the server starts
    ({"watermark": 9, "asked_from": 4}, lambda c: c.is_below(Position(5)), True, {}),
    ({"watermark": 9, "asked_from": 5}, lambda c: c.is_below(Position(5)), False, {}),
    ({"watermark": 4}, lambda c: c.is_below(Position(5)), True, {}),
    ({"start": 5}, lambda c: c.is_below(Position(5)), False, {}),
    ({}, lambda c: c.is_below(Position(5)), False, {}),
    ({"watermark": 5}, lambda c: c.is_above(Position(5)), False, {}),
    ({"watermark": 6}, lambda c: c.is_above(Position(5)), True, {}),
    ({}, lambda c: c.is_above(Position(5)), False, {}),
    ({"watermark": 5}, lambda c: c.is_at(Position(5)), True, {}),
    ({"watermark": 6}, lambda c: c.is_at(Position(5)), False, {}),
    ({}, lambda c: c.continue_at(E1), Start("fresh"), {"watermark": 5, "epoch": "e1"}),
    ({"watermark": 5}, lambda c: c.continue_at(E1), Start("retained", 5, 0, 5), {"epoch": "e1"}),
    ({"watermark": 4}, lambda c: c.continue_at(Position(5)), Start("retained", 4, 1, 5), {"watermark": 5}),
    (
        {"watermark": 6, "asked_from": 3},
        lambda c: c.continue_at(Position(5)),
        Start("retained", 3, 2, 5),
        {"asked_from": None},
    ),
    (
        {"watermark": 4, "asked_from": 6},
        lambda c: c.continue_at(Position(5)),
        Start("retained", 4, 1, 5),
        {"watermark": 5, "asked_from": None},
    ),
    ({"watermark": 6}, lambda c: c.continue_at(Position(5)), Start("retained", 6, 0, 5), {}),
    # how far it is
    ({"watermark": 5}, lambda c: (c.lacks(5), c.lacks(6), c.lag(6), c.lag(5)), (False, True, 1, 0), {}),
    ({}, lambda c: (c.lacks(0), c.lacks(1)), (False, True), {}),
    ({"restored": None}, lambda c: c.is_unconfirmed(0), False, {}),
    ({"watermark": 0, "restored": 0}, lambda c: c.is_unconfirmed(0), False, {}),
    ({"watermark": 1, "restored": 1}, lambda c: c.is_unconfirmed(0), True, {}),
    ({"watermark": 1, "restored": 1, "proven": 1}, lambda c: c.is_unconfirmed(0), False, {}),
]


@pytest.mark.parametrize(("before", "move", "result", "changes"), MOVES)
def test_move_of_a_dense_cursor(before: dict[str, Any], move: Callable[[Cursor], object], result: object, changes: Any):
    assert moved(Cursor, before, move) == (result, changes)


ORDERED: list[tuple[dict[str, Any], Callable[[OrderedCursor], object], object, dict[str, Any]]] = [
    ({"watermark": 4, "seen": 9}, lambda c: c.is_behind, False, {}),
    ({"watermark": 4, "is_blocked": True}, lambda c: c.is_behind, True, {}),
    ({"is_blocked": True}, lambda c: c.begin_replay(3), Position(3), {"is_blocked": False, "asked_from": 3}),
    ({"watermark": 4}, lambda c: c.may_skip_to(5), True, {}),
    ({"watermark": 4}, lambda c: c.may_skip_to(4), False, {}),
    ({"watermark": 4, "is_blocked": True}, lambda c: c.may_skip_to(5), False, {}),
    ({}, lambda c: c.may_skip_to(5), False, {}),
    ({"watermark": 4}, lambda c: c.offer(4), Outcome.DUPLICATE, {}),
    ({"watermark": 4}, lambda c: c.offer(7), Outcome.APPLY, {"seen": 7}),
    ({"watermark": 4, "seen": 9}, lambda c: c.offer(7), Outcome.APPLY, {}),
    ({"watermark": 4, "is_blocked": True}, lambda c: c.offer(5), Outcome.GAP, {"seen": 5}),
    ({"watermark": 4, "is_blocked": True}, lambda c: c.offer(4), Outcome.DUPLICATE, {}),
    ({}, lambda c: c.reject(), None, {"is_blocked": True}),
    ({"watermark": 4, "head_before": 5}, lambda c: c.compare_head(9), False, {}),
]


@pytest.mark.parametrize(("before", "move", "result", "changes"), ORDERED)
def test_move_of_an_ordered_cursor(before: dict[str, Any], move: Callable[[Any], object], result: object, changes: Any):
    assert moved(OrderedCursor, before, move) == (result, changes)


A, B = Position("a", "e1"), Position("b", "e2")
OPAQUE: list[tuple[dict[str, Any], Callable[[OpaqueCursor], object], object, dict[str, Any]]] = [
    ({"place": A, "stored_place": B}, lambda c: (c.position, c.stored, c.shown(7)), (A, B, -1), {}),
    ({"recent": {A: 0}}, lambda c: (c.seq_of(item(None)), c.seq_of(Item(A, msgspec.Raw(b"{}")))), (1, 0), {}),
    ({"watermark": 4}, lambda c: c.seq_of(item("x")), 5, {}),
    (
        {"place": A, "is_blocked": True, "replayed": 3},
        lambda c: c.begin_replay(2),
        A,
        {"is_blocked": False, "asked_from": 2, "replayed": 0},
    ),
    ({}, lambda c: c.count_replayed(0), False, {"replayed": 1}),
    ({"asked_from": 4}, lambda c: c.count_replayed(1), False, {"replayed": 1, "replayed_new": 1}),
    ({}, lambda c: c.apply(1, item("x")), None, {"watermark": 1, "place": Position("x"), "recent": {Position("x"): 0}}),
    ({"place": A}, lambda c: c.apply(1, item(None)), None, {"watermark": 1, "recent": {hash(b"{}"): 0}}),
    ({"place": A}, lambda c: c.end_batch(B), None, {"place": B}),
    ({"place": A}, lambda c: c.end_batch(None), None, {}),
    ({"place": A, "is_blocked": True}, lambda c: c.end_batch(B), None, {}),
    ({"place": A}, lambda c: c.write_checkpoint(), True, {"stored_place": A}),
    ({"place": A, "stored_place": A}, lambda c: c.write_checkpoint(), False, {}),
    ({}, lambda c: c.accept_start(5), Start("fresh"), {"watermark": 0}),
    ({"is_log_lost": True}, lambda c: c.accept_start(5).how, "other_log", {"watermark": 0, "is_log_lost": False}),
    ({"start": 0}, lambda c: c.accept_start(5).how, "other_log", {"watermark": 0, "start": None}),
    ({"start": 3}, lambda c: c.accept_start(5).how, "other_log", {"watermark": 3, "start": None}),
    ({"watermark": 4}, lambda c: c.learn_head(3), False, {}),
    (
        {"place": A, "stored_place": B, "watermark": 4},
        lambda c: c.forget(),
        None,
        dict.fromkeys(("place", "stored_place", "watermark")),
    ),
    ({"place": A, "watermark": 4}, lambda c: c.rebootstrap(9), False, {"place": None, "watermark": None, "start": 4}),
    ({"watermark": 4}, lambda c: (c.is_below(B), c.is_above(B), c.is_at(B)), (False, False, False), {}),
    ({"place": B}, lambda c: (c.is_at(B), c.is_at(A)), (True, False), {}),
    ({}, lambda c: c.continue_at(B), Start("fresh"), {"watermark": 0, "place": B, "epoch": "e2"}),
    ({"watermark": 0}, lambda c: c.continue_at(B).how, "other_log", {"place": B, "epoch": "e2"}),
    (
        {"is_log_lost": True},
        lambda c: c.continue_at(Position("b")).how,
        "other_log",
        {"watermark": 0, "place": Position("b"), "is_log_lost": False},
    ),
    ({"watermark": 4}, lambda c: (c.lacks(9), c.lag(9)), (False, None), {}),
]


@pytest.mark.parametrize(("before", "move", "result", "changes"), OPAQUE)
def test_move_of_an_opaque_cursor(before: dict[str, Any], move: Callable[[Any], object], result: object, changes: Any):
    assert moved(OpaqueCursor, before, move) == (result, changes)


@pytest.mark.parametrize(
    ("kind", "position", "changes"),
    [
        (Cursor, None, {}),
        (Cursor, Position("a"), {}),
        (Cursor, E1, {"watermark": 5, "checkpoint": 5, "restored": 5, "proven": 5, "epoch": "e1", "marks": Marks(after=5)}),
        (OpaqueCursor, None, {}),
        (
            OpaqueCursor,
            A,
            {"watermark": 0, "restored": 0, "epoch": "e1", "marks": Marks(after=-1), "place": A, "stored_place": A},
        ),
    ],
)
def test_cursor_at_a_stored_position(kind: type[Cursor], position: Position | None, changes: dict[str, Any]):
    new, at = kind("t", "s"), kind.at("t", "s", position)
    assert {name: value for name, value in state(at).items() if value != state(new)[name]} == changes
    assert (kind.takes_spans, at.seq_of(item(7) if kind is Cursor else item("x"))) == (
        (True, 7) if kind is Cursor else (False, 1)
    )


def test_cursor_that_follows_another_log_has_lost_an_unknown_number():
    start, changes = moved(Cursor, {"watermark": 9, "epoch": "e1", "seen": 9, "asked_from": 9}, lambda c: c.continue_at(E2))
    assert isinstance(start, Start)
    assert (start.how, start.old, math.isnan(start.lost), start.last) == ("other_log", None, True, None)
    assert changes == {"watermark": 5, "epoch": "e2", "seen": 0, "asked_from": None}
    start, changes = moved(Cursor, {"is_log_lost": True}, lambda c: c.accept_start(5))
    assert isinstance(start, Start)
    assert (start.how, math.isnan(start.lost)) == ("other_log", True)
    assert changes == {"watermark": 4, "is_log_lost": False}
    start, changes = moved(Cursor, {"is_log_lost": True, "start": 3}, lambda c: c.accept_start(5))
    assert (start, changes) == (Start("retained", 3, 1), {"watermark": 4, "start": None})
