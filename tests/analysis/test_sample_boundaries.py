"""Samples, recoveries, backoffs, busy times and counters at their boundaries: exact values of small histories."""

import math
from typing import Any

import numpy as np
import pytest

from sim.analysis import machine, new_logs, reconnects, samples, server_metrics
from sim.analysis.invariants.registry import violations
from sim.analysis.machine import BusyTime, Spans
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.tally import Herd
from tests.histories import AUDITOR, STREAM, Story

INF, NAN = math.inf, math.nan


def phased(clients: int = 2, **more: Any) -> Story:
    story = Story(clients, **more)
    for t, phase in ((0.0, "steady"), (10.0, "fault"), (20.0, "recovery"), (30.0, "settle"), (40.0, "end")):
        story.tell(t, Kind.PHASE, detail=phase)
    return story


# --- shares -------------------------------------------------------------------------------------------


def test_refusals_are_shares_of_what_the_fleet_asked_for() -> None:
    story = Story(2)
    for client in (0, 1, 2, 1):  # number 2 is no client of the fleet
        story.tell(1.0, Kind.CONNECT_ATTEMPTED, client).tell(1.0, Kind.CONNECT_FAILED, client, detail="token_expired")
        story.tell(1.0, Kind.TOKEN_REFUSED, client).tell(1.0, Kind.TOKEN_MINTED, client)
    story.tell(2.0, Kind.CONNECT_FAILED, 0, detail="network").tell(2.0, Kind.SUBSCRIBE_REFUSED, 0, detail="forbidden")
    history = story.history()
    assert samples.auth_refusals(history) == samples.Share(4, 3)
    assert samples.token_refusals(history) == samples.Share(3, 6)
    assert (samples.Share(1, 4).ratio, math.isnan(samples.Share(0, 0).ratio)) == (0.25, True)


def test_renewal_is_the_first_end_for_a_token_after_it_was_minted() -> None:
    story = Story(3)
    for t, kind, client in (
        *((5.0, Kind.DISCONNECTED, 0), (10.0, Kind.TOKEN_MINTED, 0), (12.0, Kind.TOKEN_MINTED, 0)),
        *((15.0, Kind.DISCONNECTED, 0), (16.0, Kind.DISCONNECTED, 0), (20.0, Kind.TOKEN_MINTED, 0)),
        *((21.0, Kind.DISCONNECTED, 1), (22.0, Kind.TOKEN_MINTED, 2), (22.5, Kind.DISCONNECTED, 2)),
    ):
        story.tell(t, kind, client, detail="token_refresh_due" if kind is Kind.DISCONNECTED else "")
    rows, age_s = samples.renewals(story.history())
    assert [*zip(rows.client.tolist(), rows.t.tolist(), age_s.tolist(), strict=True)] == [(0, 15.0, 3.0), (2, 22.5, 0.5)]
    rows, age_s = samples.renewals(Story(1).history())
    assert (len(rows), len(age_s)) == (0, 0)


def test_tries_that_touch_a_time_are_left_out() -> None:
    """From 10 s to 20 s; each try lasted 1 s, and its row is at its end."""
    story = Story(1)
    for t, outcome in ((9.99, "refused"), (10.0, "refused"), (21.0, "refused"), (21.01, "unknown"), (5.0, "acknowledged")):
        story.tell(t, Kind.PUBLISH_TRIED, value=1000.0, detail=outcome)
    history = story.history()
    assert samples.failed_tries(history, (10.0, 20.0)) == samples.Share(2, 3)
    assert samples.failed_tries(history) == samples.Share(4, 5)
    untold = Story(1).publish(1, 2).tell(1.0, Kind.PUBLISH_FAILED).history()
    assert samples.failed_tries(untold) == samples.failed_publishes(untold) == samples.Share(1, 3)


def test_stale_answer_is_one_for_each_client_attempt_and_time() -> None:
    story = Story(2)
    for t, client, attempt in ((1.0, 0, 1), (1.0, 0, 1), (2.0, 0, 1), (2.0, 0, 2), (2.0, 1, 2), (2.0, 1, 2)):
        story.tell(t, Kind.STALE, client, STREAM, 1, attempt=attempt)
    story.tell(3.0, Kind.SUBSCRIBED, 0).tell(3.0, Kind.SUBSCRIBE_REFUSED, 0).tell(3.0, Kind.SUBSCRIBE_REFUSED, 1)
    history = story.history()
    found = samples.stale_answers(history)
    assert [*zip(found.client.tolist(), found.t.tolist(), strict=True)] == [(0, 1.0), (0, 2.0), (0, 2.0), (1, 2.0)]
    assert samples.subscribe_answers(history) == 7


def test_second_stale_answer_for_a_stream_is_a_loop_until_the_client_recovers() -> None:
    story = Story(2)
    for t, client, stream in (
        *((1.0, 0, "a"), (2.0, 0, "b"), (3.0, 0, "b"), (4.0, 0, "a"), (5.0, 0, "b")),  # one loop, at 3 s
        *((6.0, 1, "a"), (8.0, 1, "a"), (9.0, 1, "a"), (10.0, 1, "a")),  # recovered at 7 s; the loop is at 9 s
    ):
        story.tell(t, Kind.STALE, client, stream, 1)
    story.tell(7.0, Kind.SUBSCRIBED, 1).rows.sort(key=lambda row: row.t)
    found = samples.stale_loops(story.history())
    assert [*zip(found.client.tolist(), found.t.tolist(), strict=True)] == [(0, 3.0), (1, 9.0)]


@pytest.mark.parametrize(("fault_t", "expected"), [(None, (3, 3)), (2.0, (2, 2)), (2.5, (1, 1))])
def test_paced_connects_count_from_the_first_fault(fault_t: float | None, expected: tuple[int, int]) -> None:
    story = Story(1)
    for t in (1.0, 2.0, 3.0):
        story.tell(t, Kind.PACED, 0, value=1.0).tell(t, Kind.CONNECT_ATTEMPTED, 0)
    if fault_t is not None:
        story.tell(fault_t, Kind.FAULT_INJECTED)
    assert samples.paced(story.history()) == samples.Share(*expected)


def test_replays_that_diverge_are_counted() -> None:
    story = Story(2).tell(1.0, Kind.GAP, 0, STREAM, 5, detail="replay").tell(1.0, Kind.GAP, 0, STREAM, 5, detail="live")
    for client, asked in ((0, 9.0), (1, 9.0), (0, 8.0)):
        story.tell(2.0, Kind.REPLAY_BELOW_CURSOR, client, STREAM, 3, value=asked).tell(2.0, Kind.REPLAYED, client, STREAM, 3)
    assert samples.divergences(story.history()) == samples.Share(4, 3)
    story.tell(2.0, Kind.CLAMPED, 1, STREAM, 3, value=9.0)
    assert samples.divergences(story.history()) == samples.Share(3, 3)
    assert samples.below_cursor(story.history()).client.tolist() == [0, 0]


def test_clients_that_never_settled_or_are_pending_did_not_converge() -> None:
    story = Story(4)
    for client in (0, 1, 3, AUDITOR):
        story.tell(9.0, Kind.SETTLED, client)
    story.tell(9.5, Kind.STILL_PENDING, 1, STREAM, 3)
    assert samples.unconverged(story.history()).tolist() == [1, 2]


# --- times --------------------------------------------------------------------------------------------


def test_only_samples_of_the_fleet_outside_the_fault_phase_count() -> None:
    story = phased()
    for t, client in ((9.9, 0), (10.0, 0), (19.9, 1), (20.0, 1), (21.0, 2)):
        story.tell(t, Kind.CLIENT_LAG, client, value=t)
    assert samples.client_lag_events(story.history()).tolist() == [9.9, 20.0]
    assert samples.client_lag_events(story.history(), Spans([(9.0, 9.95)])).tolist() == [20.0]


def test_bootstraps_count_from_the_moment_of_the_fault() -> None:
    story = Story(1).tell(3.0, Kind.FAULT_INJECTED)
    for t, value in ((2.9, 10.0), (3.0, 20.0), (4.0, NAN), (5.0, 30.0)):
        story.tell(t, Kind.REPLAY_COMPLETED, 0, value=value)
    assert samples.bootstrap_ms(story.history()).tolist() == [20.0, 30.0]
    assert samples.bootstrap_ms(story.history(), Spans([(4.98, 5.0)])).tolist() == pytest.approx([20.0, 10.0])


def test_latency_without_what_a_busy_machine_or_the_fault_phase_held_up() -> None:
    story = phased(1).fresh(0, t=2.0)
    due_and_applied = ((1.9, 3.0), (2.0, 4.0), (9.0, 10.0), (9.5, 9.9), (10.0, 21.0), (20.0, 22.0))
    for seq, (due_t, t) in enumerate(due_and_applied, 1):
        story.publish(seq, t=due_t).apply(0, seq, t=t)
    story.rows.sort(key=lambda row: row.t)
    history = story.history()

    def latencies(busy: Spans = machine.NO_SPANS) -> list[tuple[float, float]]:
        due_t, ms = samples.publishes_to_apply(history, Ledger(history), busy)
        return sorted(zip(due_t.tolist(), ms.round(6).tolist(), strict=True))

    assert latencies() == [(2.0, 2000.0), (9.0, 1000.0), (9.5, 400.0), (20.0, 2000.0)]
    assert latencies(Spans([(3.0, 3.5), (21.0, 30.0)])) == [(2.0, 1500.0), (9.5, 400.0), (20.0, 1000.0)]


# --- reconnects ---------------------------------------------------------------------------------------


def test_episode_counts_the_clients_that_its_fault_cut_and_their_attempts() -> None:
    """The fault lasts from 10 s to 12 s; its disconnects may be noticed until 13 s."""
    story = phased(5).tell(10.0, Kind.FAULT_INJECTED, detail="drop_sockets").tell(12.0, Kind.FAULT_REVERTED)
    for client, cut_t, live_t in ((0, 10.0, 14.0), (1, 13.0, 13.0), (2, 13.01, 15.0), (3, 9.99, 15.0), (4, 11.0, 11.5)):
        story.tell(cut_t, Kind.DISCONNECTED, client).tell(live_t, Kind.SUBSCRIBED, client)
        story.tell(live_t + 0.5, Kind.REPLAY_COMPLETED, client, value=NAN)
        story.tell(live_t + 1.0, Kind.REPLAY_COMPLETED, client, value=5.0)
        for t in (9.9, 10.0, live_t, live_t + 0.1):
            story.tell(t, Kind.CONNECT_ATTEMPTED, client)
    story.rows.sort(key=lambda row: row.t)
    (episode,) = reconnects.episodes(story.history())
    assert (episode.fault, episode.end_t, episode.clients) == ("drop_sockets", 12.0, 3)
    assert episode.live_s.tolist() == [0.0, 2.0, INF], "a client that is live as it is cut is not live again"
    assert episode.caught_up_s.tolist() == [0.5, 2.0, 3.0]
    assert episode.attempts.tolist() == [2, 3, 2]
    (paused,) = reconnects.episodes(story.history(), Spans([(12.5, 13.0), (14.5, 15.0)]))
    assert paused.live_s.tolist() == [0.0, 1.5, INF]
    assert paused.caught_up_s.tolist() == [0.5, 1.5, 2.0]


def test_fault_is_over_a_second_after_the_last_end_or_the_recovery() -> None:
    assert reconnects.calm_t(phased().history()) == 21.0
    assert reconnects.calm_t(phased().tell(25.0, Kind.FAULT_REVERTED).history()) == 26.0
    assert reconnects.calm_t(Story(1).tell(25.0, Kind.FAULT_REVERTED).history()) == INF


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.51, 3.0), (0.0, 1.0), (0.99, 4.0), (0.25, 1.0), (0.26, 2.0)])
def test_value_that_a_share_does_not_exceed(share: float, expected: float) -> None:
    assert reconnects.time_until(share, np.array([1.0, 2.0, 3.0, 4.0])) == expected


def test_herds_of_one_attempt_and_of_two() -> None:
    story = Story(1)
    for attempt, value in ((1, 10.0), (1, 20.0), (1, 200.0), (0, 10.0)):
        story.tell(1.0, Kind.BACKOFF, 0, attempt=attempt, value=value, detail="network")
    assert reconnects.herds(story.history()) == [Herd(1, 3, 2)]
    story.tell(2.0, Kind.BACKOFF, 0, attempt=2, value=30.0).tell(2.0, Kind.BACKOFF, 0, attempt=2, value=499.0)
    assert reconnects.herds(story.history()) == [Herd(0, 5, 3), Herd(1, 3, 2), Herd(2, 2, 1)]
    assert reconnects.nominal_step_ms(np.array([0, 1, 2, 3, 4, 5, 6])).tolist() == [250, 250, 500, 1000, 2000, 4000, 8000]


def test_peak_counts_from_the_moment_of_the_fault() -> None:
    story = Story(1).tell(5.0, Kind.FAULT_INJECTED)
    for t in (4.99, 5.0, 5.9, 6.0):
        story.tell(t, Kind.CONNECT_ATTEMPTED, 0)
    assert reconnects.peak_connects_per_s(story.history()) == 2


def test_reset_counts_for_the_client_that_was_live_exactly_so_long() -> None:
    story = Story(2)
    for client, live_s, attempt in ((0, 5.0, 2), (1, 4.99, 2)):
        story.tell(0.0, Kind.SUBSCRIBED, client).tell(1.0, Kind.DISCONNECTED, client)
        story.tell(1.0, Kind.BACKOFF, client, attempt=1, value=1.0).tell(2.0, Kind.SUBSCRIBED, client)
        story.tell(3.0, Kind.SUBSCRIBED, client)  # the first of a period counts
        story.tell(2.0 + live_s, Kind.DISCONNECTED, client).tell(2.0 + live_s, Kind.BACKOFF, client, attempt=attempt, value=1.0)
    found = reconnects.backoff_resets(story.history(), 5.0)
    assert (found.n, found.missed.client.tolist(), found.missed.attempt.tolist()) == (1, [0], [2])
    assert reconnects.backoff_resets(Story(1).history(), 5.0).n == 0


# --- the machine --------------------------------------------------------------------------------------


def test_spans_hold_their_start_and_not_their_end() -> None:
    spans = Spans([(1.0, 2.0), (4.0, 7.0)])
    assert (len(spans), len(machine.NO_SPANS)) == (2, 0)
    assert spans.has(np.array([0.9, 1.0, 1.9, 2.0, 4.0, 7.0])).tolist() == [False, True, True, False, True, False]
    pairs = np.array([(0.0, 9.0), (1.5, 5.0), (2.0, 4.0), (5.0, 6.0), (5.0, INF), (6.0, 5.0)])
    assert spans.within_s(pairs[:, 0], pairs[:, 1]).tolist() == [4.0, 1.5, 0.0, 1.0, 0.0, 0.0]
    assert machine.NO_SPANS.within_s(pairs[:, 0], pairs[:, 1]).tolist() == [0.0] * 6


def test_five_busy_seconds_of_ten_may_drop_a_connection() -> None:
    spans = Spans([(10.0, 15.0)])
    assert spans.may_drop(np.array([14.9, 15.0, 20.0, 20.1])).tolist() == [False, True, True, False]


@pytest.mark.parametrize(("until", "expected"), [(31.9, False), (32.0, True)])
def test_a_fifth_of_the_time_is_too_much(until: float, expected: bool) -> None:
    history = phased().history()
    assert machine.had_no_time(history, Spans([(30.0, until)]), "settle", "end") == expected
    assert not machine.had_no_time(history, machine.NO_SPANS, "settle", "settle")


def sampled(*rows: tuple[float, str, float], length_ms: int = 100) -> list[BusyTime]:
    story = Story(1)
    for t, what, value in rows:
        story.tell(t, Kind.MACHINE, attempt=length_ms, value=value, detail=what)
    return machine.busy_times(story.history())


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((("generator_ran", 0.9),), [(9.9, 10.0, "the load generator had no rest")]),
        ((("generator_ran", 0.89),), []),
        ((("generator_ran", 0.5), ("generator_waited", 0.4)), [(9.9, 10.0, "the load generator had no rest")]),
        ((("generator_ran", 0.5), ("generator_waited", 2.5)), [(9.7, 10.0, "the load generator had no rest")]),
        ((("server_ran", 1.0),), [(9.9, 10.0, "the service that stormgate started had no rest")]),
        ((("other_ran", 1.0),), []),
        ((("generator_waited", 1.0),), []),
        ((("target_ran", 0.8), ("target_waited", 0.2)), [(9.9, 10.0, "the service on this machine waited for a core")]),
        ((("target_ran", 0.81), ("target_waited", 0.19)), []),
        ((("target_ran", 0.5), ("target_waited", 0.3)), []),
        (
            (("target_ran", 0.5), ("target_waited", 0.5), ("target_longest", 3.0)),
            [(9.7, 10.0, "the service on this machine waited for a core")],
        ),
        (
            (("target_unseen", 0.0), ("cpu_pressure", 0.9)),
            [(9.9, 10.0, "processes waited for a core, perhaps the service on this machine")],
        ),
        ((("target_unseen", 0.0), ("cpu_pressure", 0.89)), []),
        ((("cpu_pressure", 1.0),), []),
        ((("memory_pressure", 0.5),), [(9.9, 10.0, "processes waited for memory")]),
        ((("memory_pressure", 0.49),), []),
        ((("generator_stopped", 1.0),), [(9.9, 10.0, "the load generator was stopped")]),
        ((("asleep", 3.0),), [(5.0, 15.0, "the machine was asleep for 3.0 s")]),
    ],
)
def test_samples_of_the_machine_are_busy_times(rows: tuple[tuple[str, float], ...], expected: list[tuple[Any, ...]]) -> None:
    found = sampled(*((10.0, what, value) for what, value in rows))
    assert [(each.start_t, each.end_t, each.why) for each in found] == [(pytest.approx(a), b, why) for a, b, why in expected]


def test_machine_that_slept_at_once_was_busy_from_the_start() -> None:
    assert [(each.start_t, each.end_t) for each in sampled((2.0, "asleep", 1.0))] == [(0.0, 7.0)]


@pytest.mark.parametrize(("lag_ms", "expected"), [(49.9, []), (50.0, [BusyTime(9.95, 10.0, "the load generator was late")])])
def test_generator_that_is_late_by_its_timers_is_busy(lag_ms: float, expected: list[BusyTime]) -> None:
    assert machine.busy_times(Story(1).tell(10.0, Kind.GENERATOR_LAG, value=lag_ms).history()) == expected


def test_busy_times_half_a_second_apart_are_one() -> None:
    found = sampled((10.0, "memory_pressure", 1.0), (10.6, "generator_ran", 1.0), (10.7, "memory_pressure", 1.0))
    assert [str(each) for each in found] == [
        "from 9.9 s to 10.7 s (processes waited for memory; the load generator had no rest)"
    ]
    apart = sampled((10.0, "memory_pressure", 1.0), (10.61, "memory_pressure", 1.0))
    assert len(apart) == 2
    assert len(machine.busy_spans(apart)) == 2


def test_longest_busy_times_are_named_in_order() -> None:
    times = [BusyTime(float(t), t + length, "w") for t, length in ((1, 0.1), (10, 3.0), (20, 1.0), (30, 2.0))]
    said = "from 10.0 s to 13.0 s (w), from 20.0 s to 21.0 s (w), from 30.0 s to 32.0 s (w)"
    assert machine.in_words(times) == f"{said} and 1 times more"
    assert machine.in_words(times[1:]) == said
    assert machine.in_words(times, 1) == "from 10.0 s to 13.0 s (w) and 3 times more"


def test_clocks_say_by_how_much_they_were_off_and_how_long_nobody_looked() -> None:
    story = phased()
    for t, what, value in ((4.0, "wall_clock", 1.0), (9.0, "wall_clock", -2.0), (38.0, "target_clock", 0.5)):
        story.tell(t, Kind.MACHINE, value=value, detail=what)
    assert machine.own_clock(story.history()) == machine.ClockOff(-2.0, 9.0, 2, 31.0)
    assert machine.target_clock(story.history()) == machine.ClockOff(0.5, 38.0, 1, 0.0)
    unseen = machine.target_clock(phased().history())
    assert (math.isnan(unseen.seconds), unseen.t, unseen.n) == (True, 0.0, 0)


# --- counters and logs --------------------------------------------------------------------------------

COUNTER = "mirror.published_total"


def counted(*values: float) -> Story:
    story = Story(1)
    for t, value in enumerate(values, 1):
        story.tell(float(t), Kind.SERVER_METRIC, value=value, detail=COUNTER)
    return story


def test_counter_that_stands_still_is_not_reset() -> None:
    (found,) = server_metrics.served(counted(5, 5, 7, 0, 0, 3).history())
    assert (found.increase, found.resets, found.n, found.first, found.last) == (5.0, 1, 6, 5.0, 3.0)
    assert server_metrics.unexplained_resets(counted(5, 5, 7, 0, 0, 3, 2).history()) == [4.0, 7.0]


@pytest.mark.parametrize(
    ("since", "until", "plan", "expected"),
    [
        (3.0, 9.0, {"kind": "kill_runtime"}, []),  # begins as the counter is seen lower
        (3.1, 9.0, {"kind": "kill_runtime"}, [3.0]),
        (0.5, 2.0, {"kind": "kill_runtime"}, []),  # ends as it is seen higher for the last time
        (0.5, 1.9, {"kind": "kill_runtime"}, [3.0]),
        (1.0, 9.0, {"kind": "drop_sockets"}, [3.0]),
        (1.0, 9.0, {"kind": "drop_sockets", "by": "hook"}, []),
    ],
)
def test_fault_that_may_restart_the_service_explains_a_reset(
    since: float, until: float, plan: dict[str, str], expected: list[float]
) -> None:
    story = counted(5, 9, 1).tell(since, Kind.FAULT_INJECTED, detail=plan["kind"])
    story.tell(until, Kind.FAULT_REVERTED, detail=plan["kind"]).header["plan"] = [plan]
    story.rows.sort(key=lambda row: row.t)
    assert server_metrics.unexplained_resets(story.history()) == expected


OTHER = "runtime.run.2.events"


def recreated(*, has_epochs: bool = False, all_aware: bool = False) -> Story:
    """Two logs start over; client 0 goes on in both, client 1 in the first, client 2 in both and is never told anything."""
    story = Story(3, header={"capabilities": {"has_epochs": has_epochs}})
    for stream, t in ((OTHER, 5.0), (STREAM, 9.0)):
        for seq, sent_t in ((1, 1.0), (2, 1.0), (3, 1.0), (1, t), (2, t)):
            marker = seq if sent_t == 1.0 else seq + 3
            story.tell(sent_t, Kind.PUBLISHED, -1, stream, seq, value=0.0, marker=marker)
            for client in range(3):
                story.tell(sent_t + 1.0, Kind.APPLIED, client, stream, seq, marker=marker)
        for client, how in ((0, "retained"), (1, "other_log"), (2, "")):
            how = "other_log" if all_aware else "retained" if how and stream == OTHER else how
            if how:
                story.tell(t, Kind.REBOOTSTRAPPED, client, stream, 0, value=3.0, detail=how)
    story.rows.sort(key=lambda row: row.t)
    return story


def test_restarts_of_two_logs_are_named_the_earliest_first() -> None:
    found = new_logs.restarts(recreated().history())
    assert [(each.stream, each.t, each.first_seq, each.last_seq, each.unaware) for each in found] == [
        (OTHER, 5.0, 1, 3, 3),
        (STREAM, 9.0, 1, 3, 2),
    ]
    assert str(found[0]).startswith(f"{OTHER} started over at 5.000 s: seq 1 came after seq 3; 3 clients went on")
    assert new_logs.restarts(Story(1).history()) == []
    gone_on = new_logs.went_on(recreated().history())
    assert sorted(zip(gone_on.client.tolist(), gone_on.t.tolist(), gone_on.seq.tolist(), strict=True)) == [
        *((0, 6.0, 1), (0, 10.0, 1), (1, 6.0, 1), (2, 6.0, 1), (2, 10.0, 1)),
    ]


def test_who_goes_on_in_a_new_log_violates_an_invariant_by_whether_it_could_know() -> None:
    def violated(story: Story) -> dict[str, tuple[int, str]]:
        ledger = story.ledger()
        found = {each.invariant: (each.count, each.first) for each in violations(ledger.history, ledger)}
        return {name: each for name, each in found.items() if name in ("log_recreated", "resumed_in_new_log")}

    (found,) = violated(recreated()).items()
    assert found[0] == "log_recreated"
    assert found[1][0] == 5
    assert found[1][1].startswith(f"{OTHER} started over at 5.000 s")
    assert found[1][1].endswith(". Without epochs, clients cannot notice")
    aware = violated(recreated(all_aware=True))
    assert {name: count for name, (count, _) in aware.items()} == {"log_recreated": 2}, "each log counts, even if all knew"
    assert violated(Story(1).publish(1, 2).fresh(0).apply(0, 1, 2)) == {}


def test_client_that_learned_another_epoch_and_goes_on_resumes_in_a_new_log() -> None:
    """Client 0 learns it and goes on, client 1 starts again, client 2 learns the same epoch again, client 3 learns it early."""
    story = Story(4, header={"capabilities": {"has_epochs": True}})
    for client, later in ((0, "e2"), (1, "e2"), (2, "e1"), (3, "e1")):
        story.tell(1.0, Kind.EPOCH_LEARNED, client, STREAM, 0, detail="e1")
        story.tell(2.0, Kind.APPLIED, client, STREAM, 1).tell(3.0, Kind.EPOCH_LEARNED, client, STREAM, 1, detail=later)
        if client == 1:
            story.tell(3.5, Kind.REBOOTSTRAPPED, client, STREAM, 0, detail="other_log")
        story.tell(4.0, Kind.APPLIED, client, STREAM, 2).tell(5.0, Kind.APPLIED, client, STREAM, 3)
    story.rows.sort(key=lambda row: row.t)
    found = new_logs.resumed(story.history())
    assert [*zip(found.client.tolist(), found.t.tolist(), strict=True)] == [(0, 4.0)]
    assert len(new_logs.resumed(Story(1).fresh(0).apply(0, 1).history())) == 0
