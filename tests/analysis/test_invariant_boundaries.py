"""Invariants at their boundaries: several clients and streams, the first and last rows, and equal times and positions."""

from typing import Any

import msgspec
import pytest

from sim.analysis.endings import ConnectHistory
from sim.analysis.invariants.registry import violations
from sim.analysis.machine import NO_SPANS, Spans
from sim.protocols import registry
from sim.protocols.adapter import Positions
from sim.record.observations import Kind
from tests.analysis.test_invariants import broken, first, whole
from tests.analysis.test_reactions import connects, lost, pairs
from tests.histories import AUDITOR, STREAM, Story

OTHER = "runtime.run.2.events"
HINT = "server:status_503:wait"


def able(story: Story, **changes: Any) -> Story:
    spoken = msgspec.structs.replace(registry.get(registry.DEFAULT).capabilities, **changes)
    story.header["capabilities"] = msgspec.to_builtins(spoken)
    return story


# --- reactions ----------------------------------------------------------------------------------------


def test_hints_that_nothing_follows_are_not_ignored() -> None:
    story = Story(2).tell(5.0, Kind.ENDED, 0, STREAM, detail=HINT, value=2000.0)
    story.tell(6.0, Kind.ENDED, 1, STREAM, detail=HINT, value=2000.0)
    assert pairs(ConnectHistory(story.history()).ignored_hint()) == []
    story.tell(4.0, Kind.REPLAY_STARTED, 0, STREAM, 1).tell(4.0, Kind.REPLAY_STARTED, 1, STREAM, 1)
    story.rows.sort(key=lambda row: row.t)
    assert pairs(ConnectHistory(story.history()).ignored_hint()) == []


@pytest.mark.parametrize(
    ("client", "cut_t", "hint_t", "is_wrong"),
    [
        (1, 5.5, 5.0, False),  # between the hint and the next subscribe
        (1, 3.0, 5.0, True),  # before both
        (1, 7.0, 5.0, True),  # after both
        (0, 5.5, 5.0, True),  # another client's
        (0, 59.5, 0.4, True),
        (2, 0.2, 58.5, True),
    ],
)
def test_lost_connection_lifts_the_hints_of_its_client_from_then_on(
    client: int, cut_t: float, hint_t: float, is_wrong: bool
) -> None:
    story = Story(3)
    story.tell(cut_t, Kind.DISCONNECTED, client, detail="network").tell(60.0, Kind.PHASE, detail="end")
    story.tell(hint_t, Kind.ENDED, 1, STREAM, detail=HINT, value=2000.0).tell(hint_t + 1.0, Kind.REPLAY_STARTED, 1, STREAM, 1)
    story.rows.sort(key=lambda row: row.t)
    assert len(pairs(ConnectHistory(story.history()).ignored_hint())) == is_wrong


@pytest.mark.parametrize(("came_s", "is_wrong"), [(2.75, False), (2.7499, True)])
def test_attempt_that_is_early_by_just_as_much_as_a_row_may_be_late(came_s: float, is_wrong: bool) -> None:
    story = lost(connects(Story(1), 0.0, is_live=True), 5.0, "server:1013:wait", delay_s=3.0, value=3000.0)
    found = ConnectHistory(connects(story, 5.0 + came_s).history())
    assert len(pairs(found.ignored_hint())) == len(pairs(found.reconnected_too_fast())) == is_wrong
    stream = Story(1).tell(5.0, Kind.ENDED, 0, STREAM, detail=HINT, value=3000.0)
    stream.tell(5.0 + came_s, Kind.REPLAY_STARTED, 0, STREAM, 1)
    assert len(pairs(ConnectHistory(stream.history()).ignored_hint())) == is_wrong


def test_end_in_the_first_row_counts() -> None:
    story = lost(Story(1), 1.0, "server:1001:retry", delay_s=3.0)
    assert pairs(ConnectHistory(connects(story, 2.0).history()).reconnected_too_fast()) == [(0, 2.0, 1.0)]


def test_backoffs_of_connections_that_never_ended_are_no_resets() -> None:
    story = Story(1)
    for t in (1.0, 2.0):
        story.tell(t, Kind.CONNECT_DONE, 0, value=1.0).tell(t + 0.1, Kind.BACKOFF, 0, attempt=1, value=100.0)
    assert "backoff_reset_by_accept" not in broken(story)


def test_second_terminal_end_of_another_life_is_the_first_of_that() -> None:
    """Live for long in between, and restarted: each of the two alone starts a new series, and both do."""
    story = lost(connects(Story(1), 0.0), 1.0, "server:banned:terminal").tell(1.1, Kind.TOKEN_MINTED, 0)
    connects(story, 1.2, is_live=True).tell(3.0, Kind.DISCONNECTED, 0, detail="network").tell(3.1, Kind.RESTARTED, 0)
    lost(connects(story, 3.2), 4.0, "server:banned:terminal").tell(4.1, Kind.TOKEN_MINTED, 0)
    assert broken(connects(story, 4.3)) == {}


# --- what clients applied -----------------------------------------------------------------------------


def two_streams() -> Story:
    """Two clients apply three events of each of two streams."""
    story = Story(2)
    for stream in (STREAM, OTHER):
        story.publish(1, 2, 3, stream=stream)
        for client in (0, 1):
            story.fresh(client, stream=stream).apply(client, 1, 2, 3, stream=stream)
        story.audit(1, 2, 3, stream=stream)
    return story.marked()


def test_event_at_another_position_is_a_phantom_whatever_other_streams_have() -> None:
    assert broken(two_streams()) == {}
    story = two_streams().changed(
        lambda row: row.stream == STREAM and row.kind is Kind.APPLIED and row.client == 0 and row.seq == 3, seq=4
    )
    assert broken(story)["phantom_event"] == 1
    assert first(story, "phantom_event") == f"client 0, {STREAM}, seq 4, at 2.000 s"


def test_positions_with_two_payloads_are_counted_once_in_each_stream() -> None:
    story = two_streams()
    for stream, seq in ((STREAM, 2), (STREAM, 2), (OTHER, 2), (OTHER, 3)):
        story.tell(3.0 + seq, Kind.DUPLICATE_DROPPED, 0, stream, seq, detail="another", marker=seq)
    assert broken(story) == {"acknowledged_lost": 3}
    assert first(story, "acknowledged_lost") == f"{STREAM}, seq 2, at 5.000 s, has two payloads"


def test_positions_that_two_publishes_share_are_counted() -> None:
    story = whole().marked().publish(2, t=3.0, marker=77).publish(3, t=3.0, marker=78)
    assert broken(story)["acknowledged_lost"] == 2


def opaque(*applied: tuple[int, int]) -> dict[str, int]:
    """(client, marker) in the order of application, where positions cannot be compared and all readers get one order."""
    story = able(Story(3), positions=Positions.OPAQUE, has_one_order=True)
    for number in (1, 2, 3, 4):
        story.tell(1.0, Kind.PUBLISHED, -1, STREAM, value=500.0, marker=number)
    for place, (client, marker) in enumerate(applied):
        story.tell(2.0 + place / 10, Kind.APPLIED, client, STREAM, marker=marker)
    return {name: count for name, count in broken(story).items() if name.startswith("applied")}


def test_order_is_compared_with_that_of_another_reader() -> None:
    for marker in (1, 2):
        rest = [(1, number) for number in (1, 2, 3) if number != marker]
        assert opaque(*((0, number) for number in (1, 2, 3, 4)), *rest, (1, marker)) == {"applied_out_of_order": 1}
    assert opaque(*((client, number) for number in (1, 2, 3, 4) for client in (0, 1))) == {}
    assert opaque((0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 2), (1, 3)) == {"applied_twice": 1}


@pytest.mark.parametrize(
    ("stale_t", "recovered_t", "settled", "expected"),
    [(5.0, 5.0, False, {}), (5.1, 5.0, False, {"stale_without_recovery": 1}), (5.1, 5.0, True, {}), (5.0, 6.0, False, {})],
)
def test_client_recovers_from_the_moment_of_its_stale_answer_on(
    stale_t: float, recovered_t: float, settled: bool, expected: dict[str, int]
) -> None:
    story = whole().tell(recovered_t, Kind.SUBSCRIBED, 0).tell(9.0, Kind.SUBSCRIBED, 1)
    story.tell(stale_t, Kind.STALE, 0, STREAM, 2, attempt=1, value=9.0)
    if settled:
        story.tell(9.0, Kind.SETTLED, 0)
    story.rows.sort(key=lambda row: row.t)
    assert broken(story) == expected


# --- what the service stored --------------------------------------------------------------------------


def read_back(*seqs: int, stream: str = STREAM, completed: bool = True, **changed: Any) -> Story:
    """The service returned these events of a stream over HTTP."""
    story = two_streams()
    for seq in seqs:
        story.tell(95.0, Kind.READ_BACK, -1, stream, seq, **{"marker": seq, **changed})
    return story.tell(96.0, Kind.READ_BACK_COMPLETED, -1, stream) if completed else story


def stored(story: Story) -> dict[str, int]:
    return {name: count for name, count in broken(story).items() if name.startswith("stored")}


def test_what_the_service_returns_is_compared_with_what_was_acknowledged() -> None:
    assert stored(read_back(1, 2, 3)) == {}
    assert stored(read_back(1, 3)) == {"stored_lost": 1}
    assert stored(read_back(completed=False)) == {}
    assert stored(read_back()) == {"stored_lost": 3}
    assert stored(read_back(1, 2, 2, 2, 3)) == {"stored_twice": 2}
    assert stored(read_back(1, 2, 3, detail="checksum")) == {"stored_altered": 3}
    assert stored(read_back(1, 2, 3, detail="run")) == {"stored_altered": 3}
    shared = read_back(1, 2, 3, detail="run")
    shared.header["own_streams"] = [OTHER]
    assert stored(shared) == {}
    assert stored(read_back(2, 1, 3)) == {"stored_otherwise": 3}


def test_position_that_differs_from_most_others_is_wrong_and_another_way_of_counting_is_not() -> None:
    def story(*positions: int) -> Story:
        made = read_back(completed=False)
        for marker, seq in enumerate(positions, 1):
            made.tell(95.0, Kind.READ_BACK, -1, STREAM, seq, marker=marker)
        return made.tell(96.0, Kind.READ_BACK_COMPLETED, -1, STREAM)

    assert stored(story(1, 2, 9)) == {"stored_otherwise": 3}, "for both clients and the auditor"
    assert stored(story(1, 8, 9)) == {}
    assert stored(story(101, 102, 103)) == {}
    assert stored(story(-1, -1, -1)) == {}


def test_only_what_is_gone_for_certain_is_missing_where_nobody_could_settle() -> None:
    """The client lacks events 2 to 5. The auditor found 2; the others are no longer in the log."""
    story = Story(1).publish(1, 2, 3, 4, 5).fresh(0).apply(0, 1).audit(1, 2)
    for t, phase in ((0.0, "steady"), (80.0, "settle"), (100.0, "end")):
        story.tell(t, Kind.PHASE, detail=phase)
    story.rows.sort(key=lambda row: row.t)

    def missing(busy: Spans) -> list[tuple[int, str]]:
        ledger = story.ledger()
        found = violations(ledger.history, ledger, busy=busy)
        return [(each.count, each.first) for each in found if each.invariant == "missing_at_rest"]

    assert missing(NO_SPANS) == missing(Spans([(80.0, 83.9)])) == [(4, f"client 0, {STREAM}, seq 2, never applied")]
    assert missing(Spans([(80.0, 84.0)])) == [(3, f"client 0, {STREAM}, seq 3, never applied")]
    story = story.changed(lambda row: row.client == AUDITOR, kind=Kind.PACED)
    assert missing(Spans([(80.0, 84.0)])) == [], "without an auditor nothing is gone for certain"
