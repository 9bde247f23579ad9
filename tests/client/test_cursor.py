"""Cursors: the apply rule, and checkpoints that survive a restart of the client."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import UsageError
from sim.client.checkpoints import Damage, can_damage, damage, restore, stored
from sim.client.cursor import Cursor, OpaqueCursor, Outcome, Start, apply_outcome
from sim.engines.shared.client_setup import next_life
from sim.protocols.adapter import Positions
from sim.protocols.events import Item, Position
from tests.client.session_driver import RUN, WORKER, SessionDriver


def store(driver: SessionDriver) -> dict[str, str]:
    cursors = driver.session.replica.cursors.values()
    return {cursor.topic: stored(cursor.stored) for cursor in cursors if cursor.stored is not None}


OFFSET = st.integers(min_value=0, max_value=2**63 - 1) | st.text(max_size=20)
POSITIONS = st.builds(Position, OFFSET, st.none() | st.text(max_size=8))


@given(POSITIONS)
def test_stored_checkpoint_is_restored(position: Position):
    assert restore(stored(position)) == position


@pytest.mark.parametrize("offset", [0, 1, "", "0"])
@pytest.mark.parametrize("epoch", [None, "", "e1"])
def test_first_position_of_a_log_is_restored(offset: int | str, epoch: str | None):
    assert restore(stored(Position(offset, epoch))) == Position(offset, epoch)


@given(POSITIONS, st.data())
def test_partly_written_checkpoint_is_invalid(position: Position, data: st.DataObject):
    whole = stored(position)
    assert restore(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        ":",
        "57",
        "57:",
        "57:00000000",
        "-1:0",
        "٣:0",
        "57:b0dc4b06x",
        "x" * 40,
        '["57"]:0',
        "[-1,null]:c5b3d4f6",
        "[:",
    ],
)
def test_malformed_checkpoint_is_invalid(text: str | None):
    assert restore(text) is None


@given(st.text())
def test_restore_accepts_any_text(text: str):
    for careless in (False, True):
        found = restore(text, careless)
        assert found is None or found.offset != -1


@pytest.mark.parametrize(("how", "left"), [("kept", 120), ("old", 90), ("future", 150), ("lost", None), ("torn", None)])
@pytest.mark.parametrize("epoch", [None, "e1"])
def test_each_damage_has_its_documented_result(how: Damage, left: int | None, epoch: str | None):
    assert restore(damage(stored(Position(120, epoch)), how, 30)) == (None if left is None else Position(left, epoch))
    assert damage(None, how, 30) is None
    assert restore(damage(stored(Position(10)), "old", 30)) == Position(0), "never below zero"


@pytest.mark.parametrize(("how", "left"), [("kept", Position("b-2")), ("lost", None), ("torn", None)])
def test_opaque_checkpoint_is_kept_lost_or_torn(how: Damage, left: Position | None):
    assert can_damage(Positions.OPAQUE, how)
    assert restore(damage(stored(Position("b-2")), how, 1)) == left


@pytest.mark.parametrize("how", ["old", "future"])
def test_opaque_checkpoint_cannot_be_invented(how: Damage):
    assert not can_damage(Positions.OPAQUE, how)
    assert can_damage(Positions.ORDERED, how)
    with pytest.raises(UsageError, match="opaque"):
        damage(stored(Position("b-2")), how, 1)


def test_careless_restore_reads_torn_checkpoint():
    assert restore(damage(stored(Position(120)), "torn", 1), careless=True) == Position(1)
    assert restore(damage(stored(Position("b-2")), "torn", 1), careless=True) == Position('["b-2"')


@pytest.mark.parametrize(("policy", "after"), [("reference", {}), ("wrong_reads_torn_checkpoints", {RUN: 1})])
def test_restarted_client_resumes_from_readable_checkpoint(policy: str, after: dict[str, int]):
    driver = SessionDriver(policy).go_live(*range(1, 13))
    torn = {topic: damage(text, "torn", 1) for topic, text in store(driver).items()}
    driver.session = next_life(driver.session, torn)
    assert driver.begin().resume_after == after


def test_restarted_client_keeps_only_checkpoints_and_disconnect_count():
    driver = SessionDriver(topics=(RUN, WORKER)).go_live(1, 2, 3)
    driver.lose("network")
    left = store(driver)
    assert left == {RUN: stored(Position(3)), WORKER: stored(Position(0))}
    again = next_life(driver.session, left)
    assert type(again) is type(driver.session)
    assert [again.replica.cursors[topic].watermark for topic in (RUN, WORKER)] == [3, 0]
    assert again.retries.disconnects == driver.session.retries.disconnects == 1
    assert again.retries.attempt == 0
    assert again.token is None


# --- the apply rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("watermark", "seq", "outcome"),
    [
        (0, 1, Outcome.APPLY),
        (7, 8, Outcome.APPLY),
        (7, 7, Outcome.DUPLICATE),
        (7, 1, Outcome.DUPLICATE),
        (7, 9, Outcome.GAP),
    ],
)
def test_apply_outcome_compares_seq_with_watermark(watermark, seq, outcome):
    assert apply_outcome(watermark, seq) is outcome


def test_cursor_without_watermark_accepts_a_start_first():
    cursor = Cursor(RUN, "stream")
    with pytest.raises(AssertionError):
        cursor.offer(5)
    assert cursor.accept_start(5) == Start("fresh")
    assert cursor.offer(5) is Outcome.APPLY


# --- what a cursor shows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proven", "acknowledged", "is_unconfirmed"),
    [(9, 0, False), (5, 8, True), (5, 9, False), (None, 8, True), (None, 9, False)],
)
def test_restored_position_above_all_that_is_known_is_unconfirmed(proven: int | None, acknowledged: int, is_unconfirmed: bool):
    cursor = Cursor.at(RUN, "stream", Position(9))
    cursor.proven = proven
    assert cursor.is_unconfirmed(acknowledged) == is_unconfirmed
    cursor.watermark = 10
    assert not cursor.is_unconfirmed(acknowledged), "an event moved it"
    assert not Cursor(RUN, "stream").is_unconfirmed(acknowledged)


def test_distance_to_a_head_is_known_only_from_a_comparable_position():
    cursor, opaque = Cursor(RUN, "stream", watermark=3), OpaqueCursor(RUN, "stream", watermark=3)
    assert (cursor.lag(5), cursor.lacks(4), cursor.lacks(3)) == (2, True, False)
    assert (Cursor(RUN, "stream").lag(5), Cursor(RUN, "stream").lacks(1)) == (None, True)
    assert (opaque.lag(5), opaque.lacks(4)) == (None, False)


def test_opaque_cursor_recognizes_the_last_events_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sim.client.cursor.MAX_REMEMBERED", 2)
    cursor = OpaqueCursor(RUN, "stream", watermark=0)
    events = [Item(Position(f"p{n}"), msgspec.Raw(b"{}")) for n in range(3)]
    for number, event in enumerate(events, 1):
        assert cursor.seq_of(event) == number
        cursor.apply(number, event)
    assert [cursor.seq_of(event) for event in events] == [4, 0, 0]


def test_opaque_cursor_drops_its_place_but_not_what_it_counted():
    cursor = OpaqueCursor.at(RUN, "stream", Position("p9"))
    assert not cursor.rebootstrap(20), "nobody can compare a snapshot with it"
    assert (cursor.position, cursor.known, cursor.watermark) == (None, 0, None)


def test_cursor_that_goes_on_in_another_log_has_lost_an_unknown_number_of_events():
    cursor = Cursor.at(RUN, "stream", Position(3, "e1"))
    start = cursor.continue_at(Position(5, "e2"))
    assert (start.how, start.old, math.isnan(start.lost)) == ("other_log", None, True)
    assert cursor.position == Position(5, "e2")


def test_client_is_behind_until_it_reaches_the_highest_event_that_it_received():
    cursor = Cursor.at("t", "s", Position(5, None))
    assert [cursor.offer(seq) for seq in (9, 8)] == [Outcome.GAP, Outcome.GAP]
    for seq in (6, 7, 8):
        cursor.apply(seq, Item(None, msgspec.Raw(b"{}")))
        assert cursor.is_behind, seq
    cursor.apply(9, Item(None, msgspec.Raw(b"{}")))
    assert not cursor.is_behind


def test_copy_of_an_applied_event_leaves_a_client_that_went_back_behind_nothing():
    """A server with a lower head lets the client go on from there."""
    cursor = Cursor.at("t", "s", Position(5, None))
    assert cursor.offer(4) is Outcome.DUPLICATE
    cursor.watermark = 3
    assert not cursor.is_behind
