"""Judging by markers: what a server says of positions hides nothing, and others' events are blamed on nobody."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sim.protocols.durable_streams.adapter import CAPABILITIES
from sim.record.observations import Kind
from tests.analysis.test_invariants import WORKER, broken, first, one_stream, opaque, unlocated, whole
from tests.drills.asking import state
from tests.histories import AUDITOR, STREAM, Story


def lying(*applied: tuple[int, int], form: Callable[[Story], Story] = Story.marked) -> dict[str, int]:
    """What a client violates that applies these (position, marker) of five events, whatever else the service says."""
    story = form(whole().without(lambda row: row.client == 0 and row.kind in (Kind.APPLIED, Kind.CHECKPOINT_WRITTEN)))
    for number, (seq, marker) in enumerate(applied):
        t, seq = 2.0 + number * 0.1, -1 if form is opaque else seq
        story.tell(t, Kind.APPLIED, 0, STREAM, seq, detail=f"h{marker}", marker=marker)
        story.tell(t, Kind.CHECKPOINT_WRITTEN, 0, STREAM, seq)
    return broken(story)


@pytest.mark.parametrize("form", [Story.marked, unlocated, opaque])
@pytest.mark.parametrize(
    ("applied", "names"),
    [
        (((1, 1), (2, 2), (3, 3), (4, 4), (5, 5)), set()),
        (((1, 1), (2, 2), (3, 4), (4, 5)), {"silent_loss"}),  # dropped, and its position given to the next
        (((1, 1), (2, 2), (3, 3), (4, 2), (5, 5)), {"silent_loss", "applied_twice"}),  # another one in its place
        (((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 3)), {"applied_twice"}),  # repeated under a new position
        (((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 9)), {"phantom_event"}),  # with a marker that was never published
        (((1, 1), (2, 2), (3, -1), (4, 4), (5, 5)), {"silent_loss"}),  # somebody else's event in its place
    ],
)
def test_lying_positions_hide_nothing(applied: Any, names: set[str], form: Callable[[Story], Story]) -> None:
    found = set(lying(*applied, form=form))
    besides = {"acknowledged_lost", "phantom_event"}  # the positions contradict each other, or those acknowledged
    assert names <= found <= names | (set() if form is opaque else besides)
    assert "acknowledged_lost" not in found or applied[2:] != ((3, 3), (4, 4), (5, 5))


@pytest.mark.parametrize(("outcome", "expected"), [("unknown_outcome", {}), ("rate_limited", {"phantom_event": 1})])
def test_publish_of_unknown_outcome_explains_its_own_event_only(outcome: str, expected: dict[str, int]) -> None:
    story = whole().apply(0, 6).apply(1, 6).apply(AUDITOR, 6, t=90.0).marked()
    assert broken(story.tell(2.0, Kind.PUBLISH_FAILED, stream=STREAM, detail=outcome, marker=6)) == expected
    assert broken(story.tell(2.0, Kind.PUBLISH_FAILED, stream=STREAM, detail=outcome, marker=8).apply(1, 7)) != {}


def test_events_of_others_on_a_shared_stream_violate_nothing() -> None:
    story = Story(1).publish(2, 4, stream=WORKER).fresh(0, stream=WORKER)
    story.apply(0, 1, 2, 3, 4, stream=WORKER).audit(1, 2, 3, 4, stream=WORKER)
    others = story.marked().changed(lambda row: row.seq in (1, 3), marker=-1)
    assert broken(others) == {}
    assert (others.ledger().expected, others.ledger().foreign_events) == (2, 2)
    assert whole().marked().ledger().foreign_events == whole().ledger().foreign_events == 0
    assert broken(others.without(lambda row: row.kind == Kind.APPLIED and row.seq == 2))["acknowledged_lost"] == 1


def test_altered_payload_and_event_of_another_stream_are_named() -> None:
    story = whole().marked().tell(2.5, Kind.ALTERED, 0, STREAM, 3, detail="checksum", marker=3)
    assert broken(story) == {"altered_payload": 1}
    assert broken(whole().marked().tell(2.5, Kind.ALTERED, 0, STREAM, 3, detail="stream")) == {"cross_topic_leak": 1}


def test_event_with_a_wrong_hash_was_delivered_but_not_applied() -> None:
    story = one_stream(1, 2, 4, 5).without(lambda row: row.kind == Kind.APPLIED and row.seq == 3).marked()
    assert broken(story)["acknowledged_lost"] == 1
    seen = story.tell(2.0, Kind.HASH_MISMATCH, 1, STREAM, 3, marker=3)
    assert "acknowledged_lost" not in broken(seen)
    assert broken(seen)["silent_loss"] == 2


def sent(story: Story, *tries: tuple[int, float, float]) -> Story:
    """Events with the times at which they were first sent and acknowledged."""
    for number, sent_t, acknowledged_t in tries:
        ms = (acknowledged_t - sent_t) * 1000
        story.tell(acknowledged_t, Kind.PUBLISH_TRIED, -1, STREAM, value=ms, detail="acknowledged", attempt=1, marker=number)
        story.tell(acknowledged_t, Kind.PUBLISHED, -1, STREAM, value=ms, marker=number)
    return story


@pytest.mark.parametrize(
    ("second_sent_t", "applied", "expected"),
    [
        (1.3, (1, 2), {}),
        (1.3, (2, 1), {"real_time_order": 1}),  # 1 was acknowledged before 2 was sent
        (1.1, (2, 1), {}),  # both were under way: the service may put them in any order
    ],
)
def test_acknowledged_event_is_shown_before_events_sent_later(
    second_sent_t: float, applied: tuple[int, ...], expected: dict[str, int]
) -> None:
    story = sent(Story(1).fresh(0), (1, 1.0, 1.2), (2, second_sent_t, 1.5))
    for seq, marker in enumerate(applied, 1):
        story.tell(2.0 + seq, Kind.APPLIED, 0, STREAM, seq, marker=marker)
    assert broken(story) == expected


def test_without_any_marker_in_what_was_applied_nobody_is_blamed_for_identity() -> None:
    """As with a wrong `payload_at`: the steady state says so, and positions still show what they can."""
    stripped = whole().marked().changed(lambda row: row.kind == Kind.APPLIED, marker=-1)
    assert stripped.history().has_no_markers
    assert broken(stripped) == {}
    assert "silent_loss" in broken(stripped.without(lambda row: row.kind == Kind.APPLIED and row.seq == 3))
    assert not whole().history().has_no_markers
    assert not whole().marked().history().has_no_markers


def test_fleet_run_has_no_payloads_so_no_markers_to_judge() -> None:
    from drills.judging.checks import fleet
    from drills.judging.checks.registry import OF_RUNS

    assert OF_RUNS.keys() >= set(fleet._BY_MARKERS)
    for name in fleet._BY_MARKERS:
        answer = fleet.decider(name, lambda case, threshold: pytest.fail("it reads deliveries"))(None, None)
        assert (answer.state, "no markers to judge" in answer.reason) == ("no_data", True)


@pytest.mark.parametrize("form", [Story.marked, opaque])
def test_a_loss_without_a_number_excuses_nothing_that_was_sent_later(form: Callable[[Story], Story]) -> None:
    """A client declares a loss at 2 s, applies the next event, and misses one of those that follow."""
    story = Story(1).publish(1, 2, t=1.0).publish(3, 4, 5, t=5.0).fresh(0).apply(0, 1, t=1.5)
    story.tell(2.0, Kind.REBOOTSTRAPPED, 0, STREAM, 2, detail="other_log").tell(2.0, Kind.DECLARED_LOSS, 0, STREAM, 2)
    whole = form(story.apply(0, 3, 4, 5, t=6.0).audit(1, 2, 3, 4, 5))
    assert whole.ledger().dropped.count == 0
    for missing in ({3}, {3, 4}, {4}):
        story = whole.without(lambda row, gone=missing: row.client == 0 and row.marker in gone)
        assert story.ledger().dropped.count == len(missing)


def test_client_that_starts_again_is_read_like_another_one() -> None:
    """It lost event 1 by its own declaration, and its next process, which lost the checkpoint, gets all that is retained."""
    story = sent(Story(1).fresh(0), (1, 1.0, 1.2), (2, 1.3, 1.5))
    story.header = {**story.header, "plan": [{"kind": "restart_clients", "checkpoint": "lost"}]}
    story.tell(2.0, Kind.REBOOTSTRAPPED, 0, STREAM, 1, value=0.0, detail="retained")
    story.tell(2.0, Kind.DECLARED_LOSS, 0, STREAM, 1, value=1.0)
    story.tell(2.1, Kind.APPLIED, 0, STREAM, 2, marker=2)
    story.tell(3.0, Kind.FAULT_INJECTED, detail="restart_clients")
    story.tell(3.1, Kind.RESTARTED, 0, STREAM, -1, value=2.0, detail="lost")
    story.tell(3.9, Kind.FAULT_REVERTED, detail="restart_clients").tell(4.0, Kind.REBOOTSTRAPPED, 0, STREAM, 0, detail="fresh")
    again = [(5.0, 1), (5.1, 2)]
    for number, order in ((0, again), (1, again[::-1])):
        found = Story(1, [*story.rows], story.header)
        for t, (_, marker) in zip((5.0, 5.1), order, strict=True):
            found.tell(t, Kind.APPLIED, 0, STREAM, marker, marker=marker)
        assert broken(found).get("real_time_order", 0) == number


def test_another_event_at_an_opaque_position_is_named() -> None:
    story = opaque(whole()).tell(2.5, Kind.DUPLICATE_DROPPED, 0, STREAM, marker=3)
    assert broken(story) == {}
    assert broken(story.tell(2.5, Kind.ALTERED, 0, STREAM, detail="position", marker=3)) == {"acknowledged_lost": 1}


# --- one order where only the server can compare positions ------------------------------------------------


ONE_ORDER = msgspec.to_builtins(CAPABILITIES)


def in_orders(*orders: tuple[int, ...], **header: object) -> Story:
    """Readers of three events that were published at the same time, each in its own order; and the auditor."""
    story = Story(len(orders), header={"capabilities": {**ONE_ORDER}, **header})
    story.publish(1, 2, 3)
    for client, order in enumerate(orders):
        story.fresh(client).apply(client, *order)
    return opaque_rows(story.audit(1, 2, 3))


def opaque_rows(story: Story) -> Story:
    return story.marked().changed(lambda row: True, seq=-1)


def test_two_readers_of_one_log_get_its_events_in_one_order() -> None:
    assert broken(in_orders((1, 2, 3), (1, 2, 3))) == {}
    assert broken(in_orders((1, 2, 3), (1, 3, 2))) == {"applied_out_of_order": 1}
    assert state("delivery.one_order", in_orders((1, 2, 3), (1, 2, 3))) == "pass"
    assert state("delivery.one_order", in_orders((1, 2, 3), (1, 3, 2))) == "fail"


def test_protocol_that_promises_no_order_may_deliver_in_any() -> None:
    story = in_orders((1, 2, 3), (1, 3, 2), capabilities={"positions": "opaque"})
    assert broken(story) == {}


def test_reader_that_starts_again_and_a_fault_that_changes_the_order_are_excused() -> None:
    story = in_orders((1, 2, 3), (1, 3, 2))
    again = opaque_rows(story.tell(2.5, Kind.REBOOTSTRAPPED, 1, STREAM, detail="other_log").apply(1, 1, 2, 3, t=2.6))
    assert broken(again.without(lambda row: row.client == 1 and row.kind is Kind.APPLIED and row.t < 2.5)) == {}
    for kind in ("reorder_deliveries", "delay_deliveries"):
        story = in_orders((1, 2, 3), (1, 3, 2), plan=[{"kind": kind}])
        assert broken(story.tell(1.5, Kind.FAULT_INJECTED, detail=kind)) == {}
        assert state("delivery.one_order", story) == "no_data"


@pytest.mark.parametrize(("stored", "wrong"), [((1, 2), 0), ((2, 1), 1)])
def test_log_is_read_like_one_more_client(stored: tuple[int, ...], wrong: int) -> None:
    """It begins with the first event, although the last client has come to the second by then."""
    story = sent(Story(2), (1, 1.0, 1.2), (2, 1.3, 1.5))
    for client in (0, 1):
        story.tell(0.5, Kind.REBOOTSTRAPPED, client, STREAM, 0, detail="fresh")
        for number in (1, 2):
            story.tell(2.0 + number, Kind.APPLIED, client, STREAM, number, marker=number)
    for place, number in enumerate(stored):
        story.tell(9.0 + place, Kind.READ_BACK, -1, STREAM, number, marker=number)
    assert broken(story).get("real_time_order", 0) == wrong


def test_logs_of_two_streams_are_read_one_by_one() -> None:
    story, others = sent(Story(1).fresh(0), (1, 1.0, 1.2), (2, 1.3, 1.5)), "runtime.run.2.events"
    story.tell(1.6, Kind.PUBLISH_TRIED, -1, others, value=1.0, detail="acknowledged", attempt=1, marker=1)
    story.tell(1.6, Kind.PUBLISHED, -1, others, value=1.0, marker=1)
    for t, stream, number in ((9.0, others, 1), (9.1, STREAM, 1), (9.2, STREAM, 2)):
        story.tell(t, Kind.READ_BACK, -1, stream, number, marker=number)
    assert "real_time_order" not in broken(story)


def test_position_with_two_payloads_is_named() -> None:

    story = whole().marked().changed(lambda row: row.kind == Kind.APPLIED and (row.client, row.seq) == (0, 3), detail="other")
    assert first(story, "acknowledged_lost") == f"{STREAM}, seq 3, at 2.000 s, has two payloads"


def test_event_of_somebody_else_is_not_taken_for_a_publish_without_a_marker() -> None:
    """The run published it long after the first event, under a marker or not; clients may apply both in any order."""
    story = sent(Story(1).fresh(0), (1, 1.0, 1.2))
    story.tell(5.0, Kind.PUBLISH_TRIED, -1, STREAM, value=1.0, detail="acknowledged", attempt=1)
    story.tell(6.0, Kind.APPLIED, 0, STREAM, 1).tell(6.1, Kind.APPLIED, 0, STREAM, 2, marker=1)
    assert "real_time_order" not in broken(story)
