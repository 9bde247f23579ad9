"""Cursors: the apply rule, and checkpoints that outlive a client's process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.client.cursor import Cursor, Damage, Outcome, apply_outcome, damage, restore, stored
from sim.engines.shared.client_setup import next_life
from tests.client.hand import RUN, WORKER, Hand


def store(hand: Hand) -> dict[str, str]:
    cursors = hand.session.replica.cursors.values()
    return {cursor.topic: stored(cursor.checkpoint) for cursor in cursors if cursor.checkpoint is not None}


SEQ = st.integers(min_value=0, max_value=2**63 - 1)


@given(SEQ)
def test_what_was_written_is_read(seq: int):
    assert restore(stored(seq)) == seq


@given(SEQ, st.data())
def test_what_was_not_written_to_its_end_is_no_number(seq: int, data: st.DataObject):
    whole = stored(seq)
    assert restore(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@pytest.mark.parametrize("text", [None, "", ":", "57", "57:", "57:00000000", "-1:0", "٣:0", "57:b0dc4b06x", "x" * 40])
def test_anything_else_is_no_number_either(text: str | None):
    assert restore(text) is None


@given(st.text())
def test_reading_survives_any_text(text: str):
    for careless in (False, True):
        found = restore(text, careless)
        assert found is None or found >= 0


@pytest.mark.parametrize(("how", "left"), [("kept", 120), ("old", 90), ("future", 150), ("lost", None), ("torn", None)])
def test_each_damage_leaves_what_it_says(how: Damage, left: int | None):
    assert restore(damage(stored(120), how, 30)) == left


def test_no_checkpoint_is_older_than_the_first_event():
    assert restore(damage(stored(10), "old", 30)) == 0


@pytest.mark.parametrize("how", ["kept", "old", "future", "lost", "torn"])
def test_nothing_can_happen_to_a_checkpoint_that_there_is_not(how: Damage):
    assert damage(None, how, 30) is None


def test_a_careless_reader_takes_what_is_left_of_a_torn_one_for_a_number():
    torn = damage(stored(120), "torn", 1)
    assert restore(torn, careless=True) == 1


@pytest.mark.parametrize(("policy", "after"), [("reference", {}), ("wrong_reads_torn_checkpoints", {RUN: 1})])
def test_the_next_life_asks_from_what_it_can_read(policy: str, after: dict[str, int]):
    hand = Hand(policy).go_live(*range(1, 13))
    torn = {topic: damage(text, "torn", 1) for topic, text in store(hand).items()}
    hand.session = next_life(hand.session, torn)
    assert hand.begin().resume_after == after


def test_the_next_life_has_its_store_and_its_draws_and_nothing_else():
    hand = Hand(topics=(RUN, WORKER)).go_live(1, 2, 3)
    hand.lose("network")
    left = store(hand)
    assert left == {RUN: stored(3), WORKER: stored(0)}
    again = next_life(hand.session, left)
    assert type(again) is type(hand.session)
    assert [again.replica.cursors[topic].watermark for topic in (RUN, WORKER)] == [3, 0]
    assert again.retries.disconnects == hand.session.retries.disconnects == 1
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
def test_the_apply_rule(watermark, seq, outcome):
    assert apply_outcome(watermark, seq) is outcome


def test_a_cursor_without_a_watermark_first_accepts_where_to_start():
    cursor = Cursor(RUN, "stream")
    with pytest.raises(AssertionError):
        cursor.offer(5)
    assert cursor.accept_start(5) == (-1, 0)
    assert cursor.offer(5) is Outcome.APPLY
