"""What outlives a client's process, and what the next one makes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.client import checkpoints
from tests.client.hand import RUN, WORKER, Hand

SEQ = st.integers(min_value=0, max_value=2**63 - 1)


@given(SEQ)
def test_what_was_written_is_read(seq: int):
    assert checkpoints.read(checkpoints.written(seq)) == seq


@given(SEQ, st.data())
def test_what_was_not_written_to_its_end_is_no_number(seq: int, data: st.DataObject):
    whole = checkpoints.written(seq)
    assert checkpoints.read(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@pytest.mark.parametrize("text", [None, "", ":", "57", "57:", "57:00000000", "-1:0", "٣:0", "57:b0dc4b06x", "x" * 40])
def test_anything_else_is_no_number_either(text: str | None):
    assert checkpoints.read(text) is None


@given(st.text())
def test_reading_survives_any_text(text: str):
    for careless in (False, True):
        found = checkpoints.read(text, careless)
        assert found is None or found >= 0


@pytest.mark.parametrize(("damage", "left"), [("kept", 120), ("old", 90), ("future", 150), ("lost", None), ("torn", None)])
def test_each_damage_leaves_what_it_says(damage: checkpoints.Damage, left: int | None):
    assert checkpoints.read(checkpoints.damaged(checkpoints.written(120), damage, 30)) == left


def test_no_checkpoint_is_older_than_the_first_event():
    assert checkpoints.read(checkpoints.damaged(checkpoints.written(10), "old", 30)) == 0


@pytest.mark.parametrize("damage", ["kept", "old", "future", "lost", "torn"])
def test_nothing_can_happen_to_a_checkpoint_that_there_is_not(damage: checkpoints.Damage):
    assert checkpoints.damaged(None, damage, 30) is None


def test_a_careless_reader_takes_what_is_left_of_a_torn_one_for_a_number():
    torn = checkpoints.damaged(checkpoints.written(120), "torn", 1)
    assert checkpoints.read(torn, careless=True) == 1


@pytest.mark.parametrize(("policy", "after"), [("reference", {}), ("wrong_reads_torn_checkpoints", {RUN: 1})])
def test_the_next_life_asks_from_what_it_can_read(policy: str, after: dict[str, int]):
    hand = Hand(policy).go_live(*range(1, 13))
    torn = {topic: checkpoints.damaged(text, "torn", 1) for topic, text in checkpoints.stored_by(hand.session).items()}
    hand.session = checkpoints.begin_again(hand.session, torn)
    assert hand.begin().resume_after == after


def test_the_next_life_has_its_store_and_its_draws_and_nothing_else():
    hand = Hand(topics=(RUN, WORKER)).go_live(1, 2, 3)
    hand.session.disconnected("network", hand.now)
    stored = checkpoints.stored_by(hand.session)
    assert stored == {RUN: checkpoints.written(3), WORKER: checkpoints.written(0)}
    again = checkpoints.begin_again(hand.session, stored)
    assert type(again) is type(hand.session)
    assert [again.replica.cursors[topic].watermark for topic in (RUN, WORKER)] == [3, 0]
    assert again.retries.disconnects == hand.session.retries.disconnects == 1
    assert again.retries.attempt == 0
    assert again.token is None
