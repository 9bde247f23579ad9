"""Parity of hand-written histories: allowed differences, reported differences, and the first event that is named."""

from collections.abc import Callable

import pytest

from sim.analysis.parity import Comparison, account, compare
from sim.record.observations import Kind
from tests.histories import STREAM, Story

OTHER = "runtime.run.2.events"
EVENTS = 6


def told(way: Callable[[Story, int], object] = lambda story, client: story.apply(client, *range(1, EVENTS + 1))) -> Story:
    """Two clients of one stream that get all events in different ways."""
    story = Story(2, header={"subscriptions": {"0": [STREAM], "1": [STREAM], "1000": [STREAM]}})
    story.publish(*range(1, EVENTS + 1))
    for client in range(2):
        story.fresh(client)
        way(story, client)
    return story


def compared(**stories: Story) -> Comparison:
    return compare({name: account(story.history()) for name, story in stories.items()}, EVENTS)


def parting(other: Story) -> str:
    found = compared(a=told(), b=other)
    assert found.unequal == ""
    (only,) = found.differences
    return str(only)


def by_snapshot(upto: int) -> Callable[[Story, int], object]:
    def way(story: Story, client: int) -> object:
        story.apply(client, 1, 2)
        story.tell(3.0, Kind.REBOOTSTRAPPED, client, STREAM, upto, value=2.0, detail="snapshot")
        story.tell(3.0, Kind.CHECKPOINT_WRITTEN, client, STREAM, upto)
        return story.apply(client, *range(upto + 1, EVENTS + 1), t=4.0)

    return way


def test_different_paths_to_the_same_state_are_equal():
    found = compared(live=told(), early=told(by_snapshot(4)), late=told(by_snapshot(6)))
    assert (found.differences, found.unequal) == ((), "")
    assert (found.variants, found.events, found.sequences) == (3, EVENTS, 2)


def is_(kind: Kind, seq: int, client: int = 1) -> Callable[[object], bool]:
    return lambda row: (row.kind, row.seq, row.client) == (kind, seq, client)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (told().without(is_(Kind.APPLIED, 4)), "seq 4, client 1: h4 on a, but nothing on b"),
        (told().changed(is_(Kind.APPLIED, 4), detail="x4"), "seq 4, client 1: h4 on a, but x4 on b"),
        (told().changed(is_(Kind.PUBLISHED, 4, -1), detail="x4"), "seq 4, the log: h4 on a, but x4 on b"),
        (told().tell(5.0, Kind.CHECKPOINT_WRITTEN, 0, STREAM, 3), "seq 4, client 0: checkpoint 6 on a, but checkpoint 3 on b"),
        (
            told().tell(1.5, Kind.GAP, 1, STREAM, 4, value=2.0, detail="replay"),
            "seq 3, client 1: h3 on a, but h3 late on b",
        ),
        (
            told().without(is_(Kind.APPLIED, 3)).tell(1.5, Kind.GAP, 1, STREAM, 6, value=2.0, detail="live"),
            "seq 3, client 1: h3 on a, but nothing on b",
        ),
        (
            told(lambda story, client: story.apply(client, 3, 4, 5, 6)),
            "seq 1, client 0: h1 on a, but nothing on b",
        ),
        (
            told().without(is_(Kind.APPLIED, 5)).without(is_(Kind.APPLIED, 2, 0)),
            "seq 2, client 0: h2 on a, but nothing on b",
        ),
        (told().apply(0, 7), "seq 7, client 0: nothing on a, but h7 on b"),
    ],
)
def test_different_states_are_reported(other: Story, said: str):
    assert parting(other) == f"{STREAM}, {said}"


def test_earliest_difference_may_be_of_a_later_stream():
    def both() -> Story:
        story = told()
        story.header = {"subscriptions": {name: [STREAM, OTHER] for name in ("0", "1", "1000")}}
        story.publish(*range(1, EVENTS + 1), stream=OTHER)
        for client in range(2):
            story.fresh(client, stream=OTHER).apply(client, *range(1, EVENTS + 1), stream=OTHER)
        return story

    lacking = both()
    for stream, seq in ((STREAM, 5), (OTHER, 2)):
        lacking = lacking.without(
            lambda row, at=(stream, seq): (row.kind, row.client, row.stream, row.seq) == (Kind.APPLIED, 1, *at)
        )
    found = compare({"a": account(both().history()), "b": account(lacking.history())}, 2 * EVENTS)
    assert [str(each) for each in found.differences] == [f"{OTHER}, seq 2, client 1: h2 on a, but nothing on b"]


def test_earliest_difference_of_all_variants_comes_first():
    late, early = told().without(is_(Kind.APPLIED, 5)), told().without(is_(Kind.APPLIED, 3))
    found = compared(a=told(), late=late, same=told(), early=early)
    assert [(each.seq, each.other) for each in found.differences] == [(3, "early"), (5, "late")]


def test_streams_are_compared_separately():
    story = told()
    story.header["subscriptions"] = {"0": [STREAM, OTHER], "1": [STREAM, OTHER]}
    story.publish(1, stream=OTHER)
    story.apply(0, 1, stream=OTHER).apply(1, 1, stream=OTHER)
    known_bad = story.without(lambda row: row.kind == Kind.APPLIED and row.stream == OTHER and row.client == 0)
    (only,) = compare({"a": account(story.history()), "b": account(known_bad.history())}, EVENTS + 1).differences
    assert (only.stream, only.seq, only.client) == (OTHER, 1, 0)


def test_restarted_log_differs_at_its_restart():
    again = told().without(is_(Kind.PUBLISHED, 6, -1)).publish(1, t=1.5, detail="h6")
    assert parting(again) == f"{STREAM}, seq 1, the log: h1 on a, but h6 on b"


def test_variants_with_other_events_are_unequal():
    found = compared(a=told(), b=told().without(is_(Kind.PUBLISHED, 6, -1)))
    assert found.unequal == f"not all events were acknowledged: 5 of {EVENTS} on b"


def test_unready_variant_is_reported():
    behind = told().without(is_(Kind.APPLIED, 5)).tell(3.0, Kind.STEADY, value=0.0, detail="3 clients lag")
    found = compared(a=told().tell(3.0, Kind.STEADY, value=1.0), b=behind)
    assert (found.unequal, found.unready) == ("", "b (3 clients lag)")


@pytest.mark.parametrize("stories", [{}, {"a": told()}])
def test_fewer_than_two_variants_have_no_difference(stories: dict[str, Story]):
    found = compared(**stories)
    assert (found.variants, found.differences) == (len(stories), ())


def test_empty_variants_have_nothing_to_compare():
    nothing = {name: told(lambda story, client: None) for name in "ab"}
    found = compared(**nothing)
    assert (found.differences, found.events, found.sequences) == ((), EVENTS, 0)


def test_content_is_compared_by_marker_because_hashes_contain_the_run():
    other_run = told().marked().changed(lambda row: row.kind in (Kind.APPLIED, Kind.PUBLISHED), detail="other")
    found = compared(a=told().marked(), b=other_run)
    assert (found.differences, found.unequal) == ((), "")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (told().marked().changed(is_(Kind.APPLIED, 4), marker=3), "seq 4, client 1: event 4 on a, but event 3 on b"),
        (told().marked().tell(2.0, Kind.ALTERED, 1, STREAM, 4), "seq 4, client 1: event 4 on a, but an altered event on b"),
    ],
)
def test_another_or_an_altered_event_is_a_difference(other: Story, said: str):
    (only,) = compared(a=told().marked(), b=other).differences
    assert str(only) == f"{STREAM}, {said}"
