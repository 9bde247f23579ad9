"""Every invariant: a history in which it holds, and histories that violate it in each possible way."""

from collections.abc import Callable
from typing import Any

import pytest

from sim.analysis.invariants.registry import violations
from sim.record import history
from sim.record.observations import Kind
from tests.histories import AUDITOR, STREAM, Story, good_storm

WORKER = "runtime.codex.worker.events"


def broken(story: Story) -> dict[str, int]:
    ledger = story.ledger()
    return {violation.invariant: violation.count for violation in violations(ledger.history, ledger)}


def first(story: Story, invariant: str) -> str:
    ledger = story.ledger()
    return next(violation.first for violation in violations(ledger.history, ledger) if violation.invariant == invariant)


def one_stream(*applied: int, published: int = 5, forgotten: int = 0) -> Story:
    """Client 0 applies the given events, client 1 all events, the auditor the retained ones."""
    everything = range(1, published + 1)
    story = Story().publish(*everything).fresh(0).fresh(1)
    return story.apply(0, *applied).apply(1, *everything).audit(*everything[forgotten:], baseline=forgotten)


def whole() -> Story:
    """Both clients apply all events."""
    return one_stream(1, 2, 3, 4, 5)


def test_duplicates_on_the_wire_are_legal() -> None:
    story = whole()
    for seq in (1, 2, 2, 5):
        story.tell(3.0, Kind.DUPLICATE_DROPPED, 0, STREAM, seq)
    assert broken(story) == {}


# --- order ------------------------------------------------------------------------------------------


def test_applied_twice_in_a_row() -> None:
    story = one_stream(1, 2, 2, 3, 4, 5)
    assert broken(story)["applied_twice"] == 1
    assert first(story, "applied_twice") == f"client 0, {STREAM}, seq 2, at 2.000 s"


def test_applied_twice_far_apart() -> None:
    found = broken(one_stream(1, 2, 3, 4, 5, 3))
    assert found["applied_twice"] == 1
    assert "applied_out_of_order" not in found


def test_applied_out_of_order() -> None:
    found = broken(one_stream(1, 3, 2, 4, 5))
    assert found["applied_out_of_order"] == 1
    assert found["hole"] == 2  # up to 3 past 2, and from 2 up to 4
    assert "applied_twice" not in found


def test_hole_counts_once() -> None:
    story = one_stream(1, 2, 4, 5)
    found = broken(story)
    assert found["hole"] == 1
    assert found["silent_loss"] == 1
    assert first(story, "hole").startswith(f"client 0, {STREAM}, seq 4")


def test_first_event_without_any_baseline_is_a_hole() -> None:
    story = Story(1).publish(1, 2, 3).tell(0.5, Kind.SUBSCRIBED, 0).apply(0, 3).audit(1, 2, 3)
    assert broken(story)["hole"] == 1


def test_rows_of_one_client_do_not_hide_another_clients_order() -> None:
    story = Story().publish(1, 2, 3).fresh(0).fresh(1)
    for seq in (1, 2, 3):
        story.apply(0, seq).apply(1, seq)
    assert broken(story.audit(1, 2, 3)) == {}


def test_rows_written_late_are_put_in_time_order() -> None:
    story = whole()
    story.rows.reverse()
    rising = [row for row in story.rows if row.kind in (Kind.APPLIED, Kind.CHECKPOINT_WRITTEN)]
    for number, row in enumerate(reversed(rising)):
        story.rows[story.rows.index(row)] = row._replace(t=2.0 + number * 0.01)
    assert broken(story) == {}


# --- checkpoints ------------------------------------------------------------------------------------


def test_checkpoints_are_judged_alike_for_some_clients_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    story = whole()
    for client, seq in ((1, 9), (0, 8), (0, 3), (AUDITOR, 2)):
        story.tell(95.0, Kind.CHECKPOINT_WRITTEN, client, STREAM, seq)
    at_once = broken(story), first(story, "checkpoint_ahead"), first(story, "checkpoint_regressed")
    assert at_once[0].items() >= {"checkpoint_ahead": 2, "checkpoint_regressed": 2}.items()
    monkeypatch.setattr(history, "_BLOCK_ROWS", 7)
    assert (broken(story), first(story, "checkpoint_ahead"), first(story, "checkpoint_regressed")) == at_once


# --- clients whose processes die ---------------------------------------------------------------------


def restarted(checkpoint: str, seq: int, *applied_again: int, t: float = 5.0, announced: str | None = None) -> Story:
    """Client 0 applies 1 to 5 and is killed by a fault with a given checkpoint; then it applies the given events."""
    story = whole()
    story.header["plan"] = [{"kind": "restart_clients", "checkpoint": announced or checkpoint}]
    story.tell(4.5, Kind.FAULT_INJECTED, detail="restart_clients").tell(6.0, Kind.FAULT_REVERTED, detail="restart_clients")
    story.tell(t, Kind.RESTARTED, 0, STREAM, seq, value=5.0, detail=checkpoint)
    if seq < 0 and checkpoint == "lost":
        story.tell(5.5, Kind.REBOOTSTRAPPED, 0, STREAM, 0, detail="fresh")
    return story.apply(0, *applied_again, t=7.0)


def test_restarted_client_resumes_from_its_checkpoint() -> None:
    assert broken(restarted("kept", 5)) == {}
    assert broken(restarted("old", 2, 3, 4, 5)) == {}
    assert broken(restarted("old", 0, 1, 2, 3, 4, 5)) == {}
    assert broken(restarted("lost", -1, 1, 2, 3, 4, 5)) == {}


@pytest.mark.parametrize(("baseline", "broken_by_it"), [(0, {}), (2, {}), (3, {"false_start": 1}), (5, {"false_start": 1})])
def test_client_without_checkpoint_gets_all_retained_events(baseline: int, broken_by_it: dict[str, int]) -> None:
    """The service must not resume from the device's old position: the client would never get what it lost."""
    story = Story(1).publish(*range(1, 6)).fresh(0).apply(0, *range(1, 6))
    story.tell(5.0, Kind.RESTARTED, 0, STREAM, -1, value=5.0, detail="lost")
    story.header["plan"] = [{"kind": "restart_clients", "checkpoint": "lost"}]
    story.tell(4.5, Kind.FAULT_INJECTED, detail="restart_clients").tell(6.0, Kind.FAULT_REVERTED, detail="restart_clients")
    story.tell(5.5, Kind.REBOOTSTRAPPED, 0, STREAM, baseline, detail="fresh").apply(0, *range(baseline + 1, 6), t=7.0)
    story.rows.sort(key=lambda row: row.t)
    assert broken(story.audit(*range(3, 6), baseline=2)) == broken_by_it


@pytest.mark.parametrize("of_another", [{"t": 9.0}, {"announced": "kept"}])
def test_unplanned_restart_excuses_nothing(of_another: dict[str, Any]) -> None:
    story = restarted("old", 2, t=5.0)
    for seq in (3, 4, 5):
        story.apply(0, seq, t=10.0)
    assert broken(story) == {}
    story = restarted("old", 2, **of_another).apply(0, 3, 4, 5, t=10.0)
    assert broken(story) == {"applied_twice": 3, "checkpoint_regressed": 1}


def test_fault_kills_a_client_only_once() -> None:
    story = restarted("old", 2, 3, 4, 5).tell(5.9, Kind.RESTARTED, 0, STREAM, 4, value=5.0, detail="old")
    assert broken(story) == {}
    story.rows = [row for row in story.rows if not (row.kind == Kind.APPLIED and row.t == 7.0)]
    story.apply(0, 3, 4, t=5.5).apply(0, 3, t=7.0)
    assert broken(story)["applied_twice"] == 1


def test_progress_before_a_restart_does_not_count_as_caught_up() -> None:
    def story(t: float) -> Story:
        return restarted("old", 2, 3, 4, 5).tell(t, Kind.REPLAY_COMPLETED, 0, value=10.0)

    assert broken(story(8.0)) == {}
    assert broken(story(5.9)) == {"early_replay_complete": 1}


# --- staleness --------------------------------------------------------------------------------------


def stale(story: Story, client: int, t: float, attempt: int = 1, stream: str = STREAM) -> Story:
    return story.tell(t, Kind.STALE, client, stream, 2, attempt=attempt, value=9.0, detail="retention_floor_breach")


def test_long_loop_is_one_loop() -> None:
    story = whole()
    for attempt in range(6):
        stale(story, 0, 3.0 + attempt, attempt)
    assert broken(story) == {"stale_loop": 1, "stale_without_recovery": 1}


def test_two_answers_for_different_streams_are_not_a_loop() -> None:
    """The retention window moves between two attempts of a client, so the second answer names another stream."""
    story = stale(stale(whole(), 0, 3.0), 0, 3.2, stream=WORKER).tell(3.5, Kind.SUBSCRIBED, 0)
    assert broken(story) == {}


def test_loop_over_two_streams_is_one_loop() -> None:
    story = whole()
    for attempt in (1, 2):
        stale(stale(story, 0, 2.0 + attempt, attempt), 0, 2.0 + attempt, attempt, stream=WORKER)
    assert broken(story.tell(5.0, Kind.SUBSCRIBED, 0)) == {"stale_loop": 1}


@pytest.mark.parametrize("recovery", [Kind.SUBSCRIBED, Kind.REPLAY_COMPLETED])
def test_recovery_between_two_stale_answers_ends_the_loop(recovery: Kind) -> None:
    story = stale(whole(), 0, 3.0).tell(3.5, recovery, 0)
    assert broken(stale(story, 0, 4.0, attempt=2).tell(4.5, recovery, 0)) == {}


# --- loss -------------------------------------------------------------------------------------------


def test_checkpoint_above_what_was_applied_is_silent_loss() -> None:
    story = one_stream(1, 2).tell(3.0, Kind.CHECKPOINT_WRITTEN, 0, STREAM, 5)
    assert broken(story) == {"silent_loss": 3, "checkpoint_ahead": 1}
    assert first(story, "silent_loss").startswith(f"client 0, {STREAM}, seq 3")


def test_acknowledged_event_that_no_client_received_is_lost() -> None:
    story = Story(1).publish(1, 2, 3).fresh(0).apply(0, 1, 2).audit(1, 2)
    assert broken(story) == {"acknowledged_lost": 1, "missing_at_rest": 1}
    assert first(story, "acknowledged_lost").startswith(f"{STREAM}, seq 3")


def test_incomplete_audit_reports_no_loss() -> None:
    story = Story(1).publish(1, 2, 3, 4).fresh(0).apply(0, 1, 2).audit(1)
    assert broken(story) == {"acknowledged_lost": 3, "missing_at_rest": 2}
    assert broken(story.without(lambda row: row.kind == Kind.REPLAY_COMPLETED)) == {"missing_at_rest": 2}


def test_event_with_two_payloads_was_replaced() -> None:
    story = whole().changed(lambda row: row.kind == Kind.APPLIED and row.client == 1 and row.seq == 4, detail="x")
    assert broken(story) == {"acknowledged_lost": 1}
    assert first(story, "acknowledged_lost").startswith(f"{STREAM}, seq 4")


# --- what nobody published --------------------------------------------------------------------------


def test_publishes_of_unknown_outcome_explain_as_many_events() -> None:
    story = whole().apply(0, 6, 7).tell(2.0, Kind.PUBLISH_FAILED, stream=STREAM, detail="unknown_outcome")
    assert broken(story) == {"phantom_event": 1}
    assert broken(story.tell(2.1, Kind.PUBLISH_FAILED, stream=STREAM, detail="unknown_outcome")) == {}


@pytest.mark.parametrize(("kind", "expected"), [("mock", {"phantom_event": 1}), ("staging", {})])
def test_shared_stream_of_a_live_target_has_other_publishers(kind: str, expected: dict[str, int]) -> None:
    story = Story(1, header={"target_kind": kind}).publish(1, stream=WORKER).fresh(0, stream=WORKER)
    assert broken(story.apply(0, 1, 2, stream=WORKER).audit(1, 2, stream=WORKER)) == expected


# --- what a socket may not do -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "invariant"),
    [
        ("mutation_over_socket:accepted", "socket_changed_state"),
        ("expired_token:accepted", "expired_token_accepted"),
        ("other:accepted", "other_accepted"),
    ],
)
def test_accepted_request_of_a_negative_client_is_a_violation(answer: str, invariant: str) -> None:
    assert broken(Story().tell(1.0, Kind.PROBED, 7, detail=answer)) == {invariant: 1}


# --- the shape of it --------------------------------------------------------------------------------


def test_incomplete_run_is_checked_without_invariants_of_its_end() -> None:
    ledger = stale(Story(1).publish(1, 2, 3).fresh(0).apply(0, 1, 1, 9), 0, 3.0).ledger()
    names = {violation.invariant for violation in violations(ledger.history, ledger, complete=False)}
    assert names == {"applied_twice", "hole", "silent_loss"}


# --- whole histories --------------------------------------------------------------------------------

LEGAL: dict[str, Story] = {
    "healthy_run_violates_no_invariant": good_storm(40),
    "empty_history_violates_no_invariant": Story(),
    "events_applied_once_in_order_violate_no_invariant": whole(),
    "event_applied_before_its_acknowledgement_is_legal": whole().changed(
        lambda row: row.kind == Kind.PUBLISHED and row.seq == 5, t=2.5
    ),
    "applying_an_event_again_after_a_rebootstrap_is_legal": whole()
    .tell(3.0, Kind.REBOOTSTRAPPED, 0, STREAM, 2, value=5.0, detail="snapshot")
    .apply(0, 3, 4, 5, t=4.0),
    "checkpoint_may_go_back_by_a_rebootstrap": whole()
    .tell(2.5, Kind.REBOOTSTRAPPED, 0, STREAM, 3, value=5.0, detail="retained")
    .tell(3.0, Kind.CHECKPOINT_WRITTEN, 0, STREAM, 3),
    "clamp_to_the_head_may_take_back_what_was_never_applied": Story(1)
    .publish(1, 2)
    .fresh(0, baseline=9)
    .tell(1.0, Kind.CLAMPED, 0, STREAM, 0, value=9.0)
    .tell(1.0, Kind.CHECKPOINT_WRITTEN, 0, STREAM, 0)
    .apply(0, 1, 2)
    .audit(1, 2),
    "checkpoint_above_the_head_may_be_clamped": restarted("future", 1000)
    .tell(5.5, Kind.CLAMPED, 0, STREAM, 5, value=1000.0)
    .tell(5.8, Kind.REBOOTSTRAPPED, 0, STREAM, 0, detail="fresh")
    .apply(0, 1, 2, 3, 4, 5, t=7.0),
    "checkpoint_of_no_event_is_legal": whole().tell(0.4, Kind.CHECKPOINT_WRITTEN, 0, STREAM),
    "one_stale_answer_followed_by_going_live_is_legal": stale(whole(), 0, 3.0).tell(3.5, Kind.SUBSCRIBED, 0),
    "one_answer_for_two_streams_is_not_a_loop": stale(stale(whole(), 0, 3.0), 0, 3.0, stream=WORKER).tell(
        3.5, Kind.SUBSCRIBED, 0
    ),
    "two_clients_with_one_stale_answer_each_are_not_a_loop": stale(stale(whole(), 0, 3.0), 1, 3.1)
    .tell(4.0, Kind.SUBSCRIBED, 0)
    .tell(4.0, Kind.SUBSCRIBED, 1),
    "stale_client_that_settled_has_recovered": stale(whole(), 0, 3.0).tell(9.0, Kind.SETTLED, 0),
    "event_in_flight_at_a_start_may_lie_below_it": Story(1)
    .publish(1, t=0.6, value=200.0)
    .fresh(0, baseline=1)
    .publish(2)
    .apply(0, 2)
    .audit(1, 2),
    "declared_loss_is_not_silent": one_stream(1, 2, forgotten=4)
    .tell(3.0, Kind.REBOOTSTRAPPED, 0, STREAM, 4, value=2.0, detail="retained")
    .tell(3.0, Kind.DECLARED_LOSS, 0, STREAM, 4, value=2.0)
    .apply(0, 5, t=4.0),
    "snapshot_covers_what_lies_below_it": one_stream(1, 2)
    .tell(3.0, Kind.REBOOTSTRAPPED, 0, STREAM, 4, value=2.0, detail="snapshot")
    .apply(0, 5, t=4.0),
    "events_below_the_first_baseline_are_not_expected": Story(1)
    .publish(1, 2, 3, t=0.1)
    .fresh(0, baseline=2)
    .apply(0, 3)
    .audit(3, baseline=2),
    "event_trimmed_before_any_subscribe_is_not_lost": Story(1).publish(1, 2, 3).audit(3, baseline=2),
    "stream_without_publishes_is_not_judged": whole()
    .tell(0.5, Kind.REBOOTSTRAPPED, 0, WORKER, 0, detail="fresh")
    .apply(0, 1, stream=WORKER),
    "refused_request_of_a_negative_client_is_legal": Story().tell(1.0, Kind.PROBED, 7, detail="expired_token:token_expired"),
    "negative_clients_and_unknown_clients_are_not_in_the_fleet": whole().apply(AUDITOR + 1, 2, 2, 5),
    "stale_answers_of_two_clients_in_sequence_are_not_a_loop": stale(
        stale(Story().tell(1.0, Kind.SUBSCRIBED, 0), 0, 2.0), 1, 3.0
    )
    .tell(4.0, Kind.SETTLED, 0)
    .tell(4.0, Kind.SETTLED, 1),
}
VIOLATED: dict[str, tuple[dict[str, int], Story]] = {
    "second_fresh_baseline_excuses_nothing": (
        {"applied_twice": 3, "checkpoint_regressed": 1, "false_start": 1},
        whole().tell(3.0, Kind.REBOOTSTRAPPED, 0, STREAM, 2, detail="fresh").apply(0, 3, 4, 5, t=4.0),
    ),
    "checkpoint_that_goes_back": ({"checkpoint_regressed": 1}, whole().tell(3.0, Kind.CHECKPOINT_WRITTEN, 0, STREAM, 3)),
    "process_that_died_writes_a_lower_checkpoint": (
        {"checkpoint_regressed": 1},
        restarted("old", 2, 3, 4, 5).tell(6.5, Kind.CHECKPOINT_WRITTEN, 0, STREAM, 1),
    ),
    "process_that_died_writes_a_higher_checkpoint": (
        {"checkpoint_ahead": 1, "checkpoint_regressed": 1},
        restarted("old", 2, 3, 4, 5).tell(6.5, Kind.CHECKPOINT_WRITTEN, 0, STREAM, 5),
    ),
    "clamp_below_what_was_applied": ({"checkpoint_regressed": 1}, whole().tell(3.0, Kind.CLAMPED, 0, STREAM, 3, value=5.0)),
    "restarted_client_applies_nothing_below_its_checkpoint": ({"applied_out_of_order": 1}, restarted("old", 2, 2, 3, 4, 5)),
    "restarted_client_applies_nothing_twice": ({"applied_twice": 1}, restarted("old", 2, 3, 4, 4, 5)),
    "restarted_client_skips_nothing": ({"hole": 1}, restarted("old", 2, 4, 5)),
    "unreadable_checkpoint_counts_as_missing": ({"hole": 1}, restarted("torn", -1, 1, 2, 3, 4, 5)),
    "event_above_the_checkpoint_is_not_silently_lost": ({"missing_at_rest": 2}, one_stream(1, 2, 3)),
    "event_that_only_the_auditor_read_is_not_lost": (
        {"missing_at_rest": 1},
        Story(1).publish(1, 2, 3).fresh(0).apply(0, 1, 2).audit(1, 2, 3),
    ),
    "client_that_never_applied_anything_lacks_all_of_it": ({"missing_at_rest": 5}, one_stream()),
    "tail_that_all_readers_lack_is_missing": (
        {"acknowledged_lost": 2, "missing_at_rest": 4},
        Story().publish(1, 2, 3, 4, 5).fresh(0).fresh(1).apply(0, 1, 2, 3).apply(1, 1, 2, 3).audit(1, 2, 3),
    ),
    "trusted_checkpoint_above_the_head_is_silent_loss": (
        {"silent_loss": 2},
        restarted("future", 1000).publish(6, 7, t=6.5).apply(1, 6, 7, t=7.0).apply(AUDITOR, 6, 7, t=90.05),
    ),
    "two_stale_answers_in_a_row_are_a_loop": (
        {"stale_loop": 1},
        stale(stale(whole(), 0, 3.0), 0, 4.0, attempt=2).tell(5.0, Kind.SUBSCRIBED, 0),
    ),
    "stale_client_that_never_recovers": ({"stale_without_recovery": 1}, stale(whole(), 0, 3.0)),
    "loss_beyond_the_declared_one_is_silent": (
        {"silent_loss": 1},
        one_stream(1, 2, forgotten=4)
        .tell(3.0, Kind.REBOOTSTRAPPED, 0, STREAM, 4, value=2.0, detail="retained")
        .tell(3.0, Kind.DECLARED_LOSS, 0, STREAM, 4, value=1.0)
        .apply(0, 5, t=4.0),
    ),
    "snapshot_cannot_cover_what_was_published_after_it": (
        {"silent_loss": 2},
        one_stream(1, 2, published=4)
        .tell(3.0, Kind.REBOOTSTRAPPED, 0, STREAM, 6, value=2.0, detail="snapshot")
        .publish(5, 6, t=5.0)
        .apply(1, 5, 6, t=5.1)
        .audit(5, 6, baseline=4),
    ),
    "snapshot_without_an_old_watermark_covers_nothing": (
        {"silent_loss": 2},
        one_stream(1, 2).tell(3.0, Kind.REBOOTSTRAPPED, 0, STREAM, 4, detail="snapshot").apply(0, 5, t=4.0),
    ),
    "fresh_client_starts_above_what_is_retained": (
        {"false_start": 1},
        Story(1).publish(1, 2, 3, t=0.1).fresh(0, baseline=2).apply(0, 3).audit(1, 2, 3),
    ),
    "first_baseline_above_later_events_is_wrong": (
        {"silent_loss": 2, "false_start": 1},
        Story(1).publish(1, t=0.1).publish(2, 3, 4, t=5.0).fresh(0, baseline=3).apply(0, 4, t=5.1).audit(1, 2, 3, 4),
    ),
    "loss_on_one_stream_is_not_hidden_by_another": (
        {"silent_loss": 2, "checkpoint_ahead": 1},
        whole()
        .publish(1, 2, 3, stream=WORKER)
        .tell(0.5, Kind.REBOOTSTRAPPED, 0, WORKER, 0, detail="fresh")
        .apply(0, 1, stream=WORKER)
        .tell(3.0, Kind.CHECKPOINT_WRITTEN, 0, WORKER, 3)
        .audit(1, 2, 3, stream=WORKER),
    ),
    "event_that_the_auditor_did_not_find_is_lost": (
        {"acknowledged_lost": 2},
        Story(1).publish(1, 2, 3).fresh(0).apply(0, 1, 2, 3).audit(1),
    ),
    "event_trimmed_while_a_client_needs_it_is_lost": (
        {"acknowledged_lost": 2, "missing_at_rest": 3},
        Story(1).publish(1, 2, 3).fresh(0).audit(3, baseline=2),
    ),
    "event_acknowledged_twice_with_two_payloads": ({"acknowledged_lost": 1}, whole().publish(2, t=3.0, detail="other")),
    "event_that_was_not_published_is_a_phantom": ({"phantom_event": 1}, whole().apply(0, 6).apply(1, 6)),
    "refused_publishes_explain_nothing": (
        {"phantom_event": 1},
        whole().apply(0, 6).tell(2.0, Kind.PUBLISH_FAILED, stream=STREAM, detail="rate_limited"),
    ),
    "event_of_an_unsubscribed_topic_is_a_leak": ({"cross_topic_leak": 1}, Story().tell(1.0, Kind.UNGRANTED, 0, STREAM, 3)),
    "payload_that_does_not_match_its_hash": ({"jumbled_message": 1}, Story().tell(1.0, Kind.HASH_MISMATCH, 0, STREAM, 3)),
    "checkpoint_that_goes_back_by_one": ({"checkpoint_regressed": 1}, whole().tell(3.0, Kind.CHECKPOINT_WRITTEN, 0, STREAM, 4)),
    "event_that_the_auditor_could_not_apply_is_not_lost": (
        {"jumbled_message": 1, "missing_at_rest": 2},
        Story(1)
        .publish(1, 2, 3)
        .fresh(0)
        .apply(0, 1)
        .audit(1)
        .tell(90.0, Kind.HASH_MISMATCH, AUDITOR, STREAM, 2)
        .tell(90.0, Kind.GAP, AUDITOR, STREAM, 3, value=1.0, detail="replay"),
    ),
}


def unlocated(story: Story) -> Story:
    """With markers, on a service whose acknowledgements say no position."""
    return story.marked().changed(lambda row: row.kind == Kind.PUBLISHED, seq=-1)


def opaque(story: Story) -> Story:
    """With markers, on a service whose positions cannot be compared."""
    found = story.marked().changed(lambda row: True, seq=-1)
    found.header = {**found.header, "capabilities": {"positions": "opaque"}}
    return found


def unmarked(story: Story) -> Story:
    return story


# What cannot be found without a position in the acknowledgement, or without positions that can be compared.
NEEDS_A_POSITION_ACKNOWLEDGED = {"event_acknowledged_twice_with_two_payloads"}
NEEDS_POSITIONS = NEEDS_A_POSITION_ACKNOWLEDGED | {
    # which checkpoint a client resumes from, and whether it holds
    *("checkpoint_that_goes_back", "checkpoint_that_goes_back_by_one", "clamp_below_what_was_applied"),
    *("restarted_client_applies_nothing_below_its_checkpoint", "restarted_client_skips_nothing"),
    *("unreadable_checkpoint_counts_as_missing", "trusted_checkpoint_above_the_head_is_silent_loss"),
    *("process_that_died_writes_a_lower_checkpoint", "process_that_died_writes_a_higher_checkpoint"),
    "loss_on_one_stream_is_not_hidden_by_another",
    # how far a snapshot or a declared loss reaches
    *("loss_beyond_the_declared_one_is_silent", "snapshot_cannot_cover_what_was_published_after_it"),
    "snapshot_without_an_old_watermark_covers_nothing",
    "event_trimmed_while_a_client_needs_it_is_lost",
}
# Without positions, a checkpoint or snapshot says nothing of what lies below it: the same loss has another name.
ONLY_BY_MARKER = {
    "second_fresh_baseline_excuses_nothing": {"applied_twice": 3, "false_start": 1},
    "trusted_checkpoint_above_the_head_is_silent_loss": {"missing_at_rest": 2},
    "snapshot_cannot_cover_what_was_published_after_it": {"missing_at_rest": 2},
    "loss_on_one_stream_is_not_hidden_by_another": {"missing_at_rest": 2},
    "event_trimmed_while_a_client_needs_it_is_lost": {"missing_at_rest": 3},
}


@pytest.mark.parametrize("form", [unmarked, Story.marked, unlocated, opaque])
@pytest.mark.parametrize("history", LEGAL)
def test_legal_history_violates_no_invariant(history: str, form: Callable[[Story], Story]) -> None:
    assert broken(form(LEGAL[history])) == {}


@pytest.mark.parametrize("form", [unmarked, Story.marked, unlocated, opaque])
@pytest.mark.parametrize("history", VIOLATED)
def test_history_violates_exactly_its_invariants(history: str, form: Callable[[Story], Story]) -> None:
    expected, story = VIOLATED[history]
    hidden = {unlocated: NEEDS_A_POSITION_ACKNOWLEDGED, opaque: NEEDS_POSITIONS}.get(form, set())
    if form is opaque and history in ONLY_BY_MARKER:
        expected = ONLY_BY_MARKER[history]
    assert broken(form(story)) == ({} if history in hidden and history not in ONLY_BY_MARKER else expected)
