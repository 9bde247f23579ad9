"""The places of acknowledged events: how positions, numbers and times map to them, at each boundary."""

import numpy as np
import pytest

from sim.record.observations import Kind
from sim.record.published import SPAN, Intervals, Published, first_sent_t, published_events, subscribed_pairs
from tests.histories import AUDITOR, Story

A, B = "a", "b"


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def story(positions: str = "dense") -> Story:
    """Stream a has the positions 3, 5 and 9, with numbers 2, 1 and 3; stream b has one event."""
    found = Story(2, header={"capabilities": {"positions": positions}})
    found.tell(1.0, Kind.PUBLISHED, -1, A, 5, value=500.0, marker=1).tell(2.0, Kind.PUBLISHED, -1, A, 3, value=100.0, marker=2)
    return found.tell(4.0, Kind.PUBLISHED, -1, A, 9, marker=3).tell(3.0, Kind.PUBLISHED, -1, B, 1, value=0.0, marker=1)


def published(positions: str = "dense", told: Story | None = None) -> Published:
    return published_events((told or story(positions)).history())


def test_events_are_in_the_order_of_their_positions():
    found = published()
    assert len(found) == 4
    assert (found.stream.tolist(), found.number.tolist(), found.seq.tolist()) == ([0, 0, 0, 1], [2, 1, 3, 1], [3, 5, 9, 1])
    assert (found.place.tolist(), found.begin.tolist()) == ([1, 2, 3, 1], [0, 3, 4])
    assert found.due_t.tolist() == [1.9, 0.5, 4.0, 3.0], "without a delay, it was due when it was acknowledged"
    assert (found.is_located.tolist(), found.is_marked.tolist(), found.is_assumed.tolist()) == (
        [True] * 2,
        [True] * 2,
        [False] * 4,
    )


def test_place_of_a_position_is_that_of_the_last_event_at_or_below_it():
    found, stream = published(), ints(0, 0, 0, 0, 0, 0, 1, 1)
    assert found.place_at(stream, ints(-1, 2, 3, 4, 5, 10, 0, 1)).tolist() == [0, 0, 1, 1, 2, 3, 0, 1]
    assert found.index_after(stream, ints(-1, 0, 1, 2, 3, 9, 0, 1)).tolist() == [0, 0, 1, 2, 3, 3, 3, 4]


def test_heads_at_a_time():
    found, times = published(), np.array([0.4, 0.5, 1.0, 1.9, 2.0, 4.0])
    stream = np.zeros(6, np.int64)
    assert found.head_due(stream, times).tolist() == [0, 5, 5, 5, 5, 9]
    assert found.place_acknowledged(stream, times).tolist() == [0, 0, 2, 2, 2, 3]
    assert found.place_sent(stream, times).tolist() == [0, 2, 2, 2, 2, 3]
    assert found.place_acknowledged(ints(1, 1), np.array([2.9, 3.0])).tolist() == [0, 1]


def test_event_of_a_row_is_found_by_its_number():
    told = (
        story()
        .tell(5.0, Kind.APPLIED, 0, A, 99, marker=3)
        .tell(5.1, Kind.APPLIED, 0, A, 3)
        .tell(5.2, Kind.APPLIED, 0, B, 1, marker=1)
    )
    history = told.history()
    found, rows = published_events(history), history.of(Kind.APPLIED)
    assert (found.find(rows).tolist(), found.places(rows).tolist()) == ([2, -1, 3], [3, 0, 1])
    assert found.without(ints(2), rows).t.tolist() == [5.1, 5.2]
    nothing = published_events(Story(1).tell(1.0, Kind.APPLIED, 0, A, 1).history())
    assert (len(nothing), nothing.place.tolist()) == (0, [])


def test_stream_without_markers_is_known_by_its_positions():
    told = Story(1).tell(1.0, Kind.PUBLISHED, -1, A, 4, value=0.0).tell(2.0, Kind.PUBLISHED, -1, A, 7, value=0.0)
    history = told.tell(3.0, Kind.APPLIED, 0, A, 7).tell(3.0, Kind.APPLIED, 0, A, 5).history()
    found = published_events(history)
    assert (found.number.tolist(), found.is_marked.tolist()) == ([4, 7], [False])
    assert found.places(history.of(Kind.APPLIED)).tolist() == [2, 0]


@pytest.mark.parametrize("seq", [-1, 3])
def test_stream_is_not_located_if_a_position_is_missing_or_given_twice(seq: int):
    told = story().changed(lambda row: row.marker == 2, value=2000.0)  # all were under way together
    told.tell(4.5, Kind.PUBLISHED, -1, A, seq, value=4500.0, marker=4)
    told.tell(5.0, Kind.APPLIED, 1, A, 12, marker=4).tell(6.0, Kind.APPLIED, AUDITOR, A, 11, marker=4)
    for place, marker in ((2, 1), (1, 2), (8, 3)):
        told.tell(5.0, Kind.APPLIED, 0, A, place, marker=marker)
    found = published(told=told)
    assert found.is_located.tolist() == [False, True]
    assert (found.number.tolist(), found.seq.tolist()) == ([2, 1, 3, 4, 1], [1, 2, 8, 11, 1]), "the auditor's position counts"


def test_event_that_nobody_saw_follows_the_one_before_it_by_number():
    told = story("opaque").tell(5.0, Kind.APPLIED, 0, A, -1, marker=3).tell(5.1, Kind.APPLIED, 0, A, -1, marker=1)
    found = published(told=told)
    assert not found.is_located.any()
    assert (found.number.tolist(), found.seq.tolist()) == ([3, 1, 2, 1], [1, 2, 2, 0])
    assert found.is_assumed.tolist() == [False, False, True, True]


def test_order_of_opaque_events_is_that_of_the_reader_with_most_and_of_the_auditor_among_equals():
    told = story("opaque")
    for client, numbers in ((0, (1, 2, 3)), (1, (3, 1)), (AUDITOR, (2, 3, 1))):
        for number in numbers:
            told.tell(5.0, Kind.APPLIED, client, A, -1, marker=number)
    assert published(told=told).number.tolist()[:3] == [2, 3, 1]
    told.rows = [row for row in told.rows if row.client != AUDITOR or row.marker == 1]
    assert published(told=told).number.tolist()[:3] == [1, 2, 3]


def test_event_was_first_sent_with_its_first_try():
    told = story()
    for t, value, number in ((1.0, 250.0, 1), (0.9, 500.0, 1), (3.0, float("nan"), 3)):
        told.tell(t, Kind.PUBLISH_TRIED, -1, A, value=value, marker=number)
    history = told.history()
    otherwise = np.array([7.0, 7.0, 7.0, 7.0])
    assert first_sent_t(history, ints(0, 0, 0, 1), ints(1, 2, 3, 1), otherwise).tolist() == [0.4, 7.0, 3.0, 7.0]
    assert first_sent_t(story().history(), ints(0), ints(1), np.array([7.0])).tolist() == [7.0]


def test_others_count_as_acknowledged_once():
    told = story().tell(6.0, Kind.PUBLISH_FAILED, -1, A, -1, marker=3).tell(6.5, Kind.PUBLISH_FAILED, -1, A, -1, marker=7)
    history = told.history()
    found = published_events(history, history.of(Kind.PUBLISH_FAILED))
    assert sorted(found.number[found.stream == 0].tolist()) == [1, 2, 3, 7]
    assert found.acknowledged_t[found.number == 3].tolist() == [4.0]


@pytest.mark.parametrize(
    ("low", "high", "gaps"),
    [
        ([], [], [(0, SPAN - 1)]),
        ([0], [5], [(5, SPAN - 1)]),
        ([1], [5], [(0, 1), (5, SPAN - 1)]),
        ([0, 5], [5, 9], [(9, SPAN - 1)]),
        ([0, 6], [5, 9], [(5, 6), (9, SPAN - 1)]),
        ([6, 0, 2], [9, 8, 3], [(9, SPAN - 1)]),
        ([0], [SPAN - 1], []),
    ],
)
def test_gaps_are_what_no_interval_covers(low: list[int], high: list[int], gaps: list[tuple[int, int]]):
    owner = np.full(len(low), 4)
    found = Intervals(owner, ints(*low), ints(*high)).gaps(ints(4))
    assert found.owner.tolist() == [4] * len(gaps)
    assert list(zip(found.low.tolist(), found.high.tolist(), strict=True)) == gaps


def test_gaps_are_of_the_owners_that_are_asked_for():
    found = Intervals(ints(2, 4), ints(0, 3), ints(5, 9)).gaps(ints(4, 6))
    assert list(zip(found.owner.tolist(), found.low.tolist(), strict=True)) == [(4, 0), (4, 9), (6, 0)]


def test_subscriptions_of_the_fleet_are_pairs_of_known_streams():
    subscriptions = {"0": [A, B], "1": [A, "unknown"], "2": [A], "-1": [A]}
    history = story().history()
    history.header.subscriptions = subscriptions
    assert subscribed_pairs(history).tolist() == [1 * 2 + 0, 1 * 2 + 1, 2 * 2 + 0]
