"""Whose a latency is: our own machine's where it was too busy, the target's where the busy time does not explain it."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from drills.judging import gates
from drills.judging.checks.base import Case
from drills.judging.checks.verdicts import DrillVerdict, State
from sim.analysis import machine, samples
from sim.analysis.machine import Spans
from sim.record.observations import Kind
from tests.histories import AUDITOR, STREAM, Story, good_storm, storm_drill


def judged(story: Story) -> DrillVerdict:
    story.rows.sort(key=lambda row: row.t)
    return gates.judge(storm_drill(story.clients), story.history(), gates.load_thresholds(), "observations.parquet")


def found(story: Story, name: str) -> tuple[State, str]:
    (check,) = [check for check in judged(story).checks if check.name == name]
    return check.state, check.reason


def slow_bootstraps(ms: float = 3000.0) -> Story:
    """Every client catches up late after the cut at 20 s."""
    return good_storm().changed(lambda row: row.kind is Kind.REPLAY_COMPLETED and 20.0 < row.t < 58.0, value=ms, t=23.5)


def late_events(late_s: float) -> Story:
    """What is due from 40 s on is applied late."""
    story = good_storm()
    applied = (Kind.APPLIED, Kind.CHECKPOINT_WRITTEN)
    rows = [row if row.kind not in applied or not 2.0 < row.t < 58.0 else row._replace(t=row.t + late_s) for row in story.rows]
    return Story(story.clients, rows, story.header)


def test_the_same_latency_is_the_targets_on_a_quiet_machine():
    assert found(slow_bootstraps(), "replay.bootstrap_ms")[0] is State.FAIL


@pytest.mark.parametrize("who", ["generator", "server", "generator of worker 2"])
def test_a_process_of_ours_without_rest_takes_the_blame_by_name(who: str):
    story = slow_bootstraps()
    process, _, worker = who.partition(" ")
    for row in Story().busy(20.5, 23.4, process).rows:
        story.tell(row.t, row.kind, attempt=row.attempt, value=row.value, detail=f"{row.detail} {worker}".strip())
    state, reason = found(story, "replay.bootstrap_ms")
    assert state is State.ERROR
    assert reason.startswith("the machine was too busy from 20.5 s to 23.4 s (")
    assert {"generator": "the load generator", "server": "the service that stormgate started"}[process] in reason
    assert worker in reason
    assert judged(story).status is State.ERROR


@pytest.mark.parametrize("since", [2.0, 30.0, 20.5])
def test_what_the_busy_time_does_not_explain_is_the_targets(since: float):
    """Busy at another time, or for less than what is too much."""
    story = slow_bootstraps().busy(since, since + (1.5 if since == 20.5 else 10.0))
    assert found(story, "replay.bootstrap_ms")[0] is State.FAIL


def test_a_process_that_rests_in_between_delays_nothing():
    story = slow_bootstraps()
    for tick in range(30):
        story.tell(20.6 + tick / 10, Kind.MACHINE, attempt=100, value=0.8, detail="generator_ran")
    assert found(story, "replay.bootstrap_ms")[0] is State.FAIL


def test_a_pass_stays_a_pass_and_the_reader_sees_when_the_machine_was_busy():
    quiet, verdict = judged(good_storm()), judged(good_storm().busy(19.0, 25.0))
    assert [(check.name, check.state) for check in verdict.checks] == [(check.name, check.state) for check in quiet.checks]
    assert [remark for remark in verdict.remarks if "too busy from 19.0 s to 25.0 s" in remark]


def test_a_stopped_generator_is_busy_for_as_long_as_it_was_late():
    story = slow_bootstraps()
    for tick in range(58):
        story.tell(23.4, Kind.GENERATOR_LAG, value=2900.0 - tick * 50)
    assert found(story, "replay.bootstrap_ms")[0] is State.ERROR


def test_late_deliveries_are_ours_only_while_we_were_busy():
    assert found(late_events(1.5), "ux.publish_to_apply_ms")[0] is State.FAIL
    assert found(late_events(1.5).busy(0.0, 60.0), "ux.publish_to_apply_ms")[0] is State.ERROR
    assert found(late_events(1.5).busy(0.0, 6.0), "ux.publish_to_apply_ms")[0] is State.FAIL


def test_what_a_fault_held_up_is_not_the_targets_because_a_busy_machine_brings_it_later():
    story = good_storm().changed(lambda row: row.kind is Kind.APPLIED and 12.0 < row.t < 20.0, t=26.5)
    quiet = story.busy(27.0, 60.0).history()
    busy = Case(storm_drill(story.clients), quiet).excused
    assert samples.publish_to_apply_ms(quiet, busy.ledger).max() > 6000.0
    assert samples.publish_to_apply_ms(quiet, busy.ledger, busy.busy).max() < 100.0


def test_a_recovery_that_never_comes_is_the_targets_on_any_machine():
    story = good_storm().without(lambda row: row.kind is Kind.SUBSCRIBED and row.t > 20.1 and row.client < 30)
    assert found(story.busy(0.0, 60.0), "reconnect.live_again_99_s")[0] is State.FAIL


def test_lost_events_are_the_targets_on_any_machine():
    story = good_storm().without(lambda row: row.kind in (Kind.APPLIED, Kind.CHECKPOINT_WRITTEN) and row.seq > 320)
    state, _ = found(story.busy(0.0, 60.0), "delivery.dropped_deliveries")
    assert state is State.FAIL


def behind(since: int, until: int = 331) -> Story:
    """Five clients do not have some of the last events, which all others and the auditor have."""
    applied = (Kind.APPLIED, Kind.CHECKPOINT_WRITTEN)
    return good_storm().without(lambda row: row.kind in applied and row.client < 5 and since <= row.seq < until)


NOT_DELIVERED = ("delivery.dropped_deliveries", "drill.invariants")


@pytest.mark.parametrize(
    ("story", "busy", "state"),
    [
        pytest.param(lambda: behind(300), (50.0, 59.5), State.ERROR, id="perhaps late"),
        pytest.param(lambda: behind(300), None, State.FAIL, id="on a quiet machine"),
        pytest.param(lambda: behind(300), (0.0, 26.0), State.FAIL, id="with time to settle"),
        pytest.param(lambda: behind(300, 330), (0.0, 60.0), State.FAIL, id="before an event that came"),
        pytest.param(
            lambda: behind(300).without(lambda row: row.kind is Kind.APPLIED and row.seq >= 300),
            (50.0, 59.5),
            State.FAIL,
            id="not even in the log",
        ),
        pytest.param(
            lambda: behind(300).without(lambda row: row.client == AUDITOR), (50.0, 59.5), State.ERROR, id="nobody can tell"
        ),
    ],
)
def test_what_may_come_late_on_a_busy_machine_is_not_lost(story: Callable[[], Story], busy: tuple[float, float] | None, state):
    told = judged(story().busy(*busy) if busy else story())
    checks = [check for check in told.checks if check.name in NOT_DELIVERED]
    assert {check.name: check.state for check in checks} == dict.fromkeys(NOT_DELIVERED, state)
    if state is State.ERROR:
        assert all("the machine was too busy from 50.0 s to 59.5 s" in check.reason for check in checks)


@pytest.mark.parametrize(("stopped_s", "state"), [(8.0, State.ERROR), (2.0, State.FAIL)])
def test_connections_that_end_after_a_long_stop_of_ours_are_not_the_targets(stopped_s: float, state: State):
    story = good_storm()
    for client in range(5):
        story.tell(45.0, Kind.DISCONNECTED, client, detail="closed").tell(45.2, Kind.SUBSCRIBED, client, value=30.0)
    for tick in range(round(stopped_s * 20)):
        story.tell(44.9, Kind.GENERATOR_LAG, value=stopped_s * 1000 - tick * 50)
    assert found(story, "drill.undisturbed")[0] is state


SETTLING = [("drill.converged", 3), ("drill.audited", AUDITOR)]


@pytest.mark.parametrize(("name", "client"), SETTLING)
@pytest.mark.parametrize(("busy", "state"), [((), State.FAIL), ((0.0, 31.0), State.FAIL), ((50.0, 60.0), State.ERROR)])
def test_who_does_not_settle_on_a_busy_machine_is_not_blamed(
    name: str, client: int, busy: tuple[float, float], state: State
) -> None:
    story = good_storm()
    story.tell(59.5, Kind.STILL_PENDING, client, STREAM, detail="behind")
    assert found(story.busy(*busy) if busy else story, name)[0] is state


@pytest.mark.parametrize("busy", [(), (2.0, 2.5), (10.0, 15.0)])
def test_what_a_drill_does_not_reach_names_the_machine(busy: tuple[float, float]) -> None:
    story = good_storm().changed(lambda row: row.kind is Kind.STEADY, value=0.0, detail="39 of 40 clients live")
    state, reason = found(story.busy(*busy) if busy else story, "drill.steady_state")
    assert state is State.ERROR
    assert reason.endswith("the steady state did not hold before the fault: 39 of 40 clients live")
    assert reason.startswith("the machine was too busy from 10.0 s to 15.0 s (") == (busy == (10.0, 15.0))


@pytest.mark.parametrize("who", ["generator", "server"])
def test_a_process_that_was_stopped_is_named(who: str) -> None:
    story = slow_bootstraps()
    for tick in range(30):
        story.tell(20.6 + tick / 10, Kind.MACHINE, attempt=100, value=1.0, detail=f"{who}_stopped")
    state, reason = found(story, "replay.bootstrap_ms")
    assert state is State.ERROR
    assert "from 20.5 s to 23.5 s (" in reason
    assert "was stopped)" in reason


def test_a_wait_for_a_core_counts_from_its_beginning_although_it_is_told_at_its_end() -> None:
    story = Story().tell(5.0, Kind.MACHINE, attempt=100, value=0.0, detail="server_ran")
    history = story.tell(5.0, Kind.MACHINE, attempt=100, value=30.0, detail="server_waited").history()
    assert [(each.start_t, each.end_t) for each in machine.busy_times(history)] == [(2.0, 5.0)]


def sampled(story: Story, since: float, until: float, **shares: float) -> Story:
    """The same samples of a target on this machine, ten times a second."""
    for tick in range(round((until - since) * 10)):
        for what, share in shares.items():
            story.tell(since + (tick + 1) / 10, Kind.MACHINE, attempt=100, value=share, detail=f"target_{what}")
    return story


@pytest.mark.parametrize(
    ("ran", "waited", "is_excused"),
    [
        pytest.param(0.1, 0.85, True, id="starved"),
        pytest.param(0.7, 0.29, True, id="cores were taken"),
        pytest.param(0.95, 0.05, False, id="slow by itself"),
        pytest.param(0.1, 0.5, False, id="it rested"),
        pytest.param(3.5, 0.3, False, id="on many cores"),
    ],
)
def test_a_target_on_this_machine_is_excused_only_while_others_have_its_cores(ran: float, waited: float, is_excused: bool):
    story = sampled(Story(), 20.5, 23.4, ran=ran, waited=waited, longest=min(ran + waited, 1.0))
    named = machine.in_words(machine.busy_times(story.history()))
    assert named == ("from 20.5 s to 23.4 s (the service on this machine waited for a core)" if is_excused else "")


def test_a_starved_target_is_not_blamed_for_a_latency_but_for_a_loss():
    story = sampled(slow_bootstraps(), 0.0, 60.0, ran=0.1, waited=0.9, longest=1.0)
    lossy = story.without(lambda row: row.kind in (Kind.APPLIED, Kind.CHECKPOINT_WRITTEN) and row.seq > 320)
    states = {check.name: check.state for check in judged(lossy).checks}
    assert states["replay.bootstrap_ms"] is State.ERROR
    assert states["delivery.dropped_deliveries"] is State.FAIL


def test_threads_that_wait_beside_each_other_wait_no_longer_than_the_longest():
    story = sampled(Story(), 4.9, 5.0, ran=0.0, waited=8.0, longest=2.0)
    assert [(each.start_t, each.end_t) for each in machine.busy_times(story.history())] == [(pytest.approx(4.8), 5.0)]


@pytest.mark.parametrize("what", ["target_ran", "target_waited", "target_longest"])
def test_a_sample_of_a_target_that_lacks_a_row_never_excuses_more(what: str):
    story = sampled(Story(), 20.5, 23.4, ran=0.3, waited=0.65, longest=0.95)
    whole = machine.busy_spans(machine.busy_times(story.history()))
    less = machine.busy_spans(machine.busy_times(story.without(lambda row: row.detail == what).history()))
    since, until = np.array([0.0]), np.array([60.0])
    assert whole.within_s(since, until) == pytest.approx(2.9)
    assert less.within_s(since, until) <= whole.within_s(since, until) + 1e-9


@pytest.mark.parametrize(
    ("pressure", "is_unseen", "is_excused"), [(0.95, True, True), (0.7, True, False), (0.95, False, False)]
)
def test_scarce_cores_excuse_only_a_target_whose_processes_cannot_be_seen(pressure: float, is_unseen: bool, is_excused: bool):
    story = Story().tell(5.0, Kind.MACHINE, attempt=1000, value=pressure, detail="cpu_pressure")
    if is_unseen:
        story.tell(5.0, Kind.MACHINE, attempt=1000, value=1.0, detail="target_unseen")
    named = machine.in_words(machine.busy_times(story.history()))
    what = "from 4.0 s to 5.0 s (processes waited for a core, perhaps the service on this machine)"
    assert named == (what if is_excused else "")


def test_swapping_and_sleep_are_busy_times():
    swapping = Story().tell(5.0, Kind.MACHINE, attempt=1000, value=0.8, detail="memory_pressure").history()
    assert [(each.start_t, each.end_t) for each in machine.busy_times(swapping)] == [(4.0, 5.0)]
    asleep = Story().tell(50.0, Kind.MACHINE, value=3600.0, detail="asleep").history()
    assert "asleep for 3600.0 s" in machine.in_words(machine.busy_times(asleep))


def test_time_within_spans():
    spans = Spans([(1.0, 2.0), (4.0, 6.0)])
    since, until = np.array([0.0, 1.5, 2.0, 5.0, 0.0, 7.0]), np.array([3.0, 5.0, 4.0, 5.5, math.inf, 9.0])
    assert spans.within_s(since, until).tolist() == [1.0, 1.5, 0.0, 0.5, 0.0, 0.0]
    assert spans.has(np.array([0.5, 1.0, 1.9, 3.0, 5.0, 6.5])).tolist() == [False, True, True, False, True, False]
    assert machine.NO_SPANS.within_s(since, until).tolist() == [0.0] * 6


# --- clocks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("off_s", [5.5, -3600.0])
def test_a_wall_clock_that_moves_is_an_error(off_s: float):
    story = good_storm().changed(lambda row: row.detail == "wall_clock" and row.t >= 30.0, value=off_s)
    state, reason = found(story, "drill.wall_clocks")
    assert state is State.ERROR
    assert f"our wall clock left the monotonic clock by {off_s:+.1f} s at 30.0 s" in reason
    assert judged(story).status is State.ERROR


@pytest.mark.parametrize("unseen", [lambda row: True, lambda row: row.t > 30.0])
def test_a_wall_clock_that_nobody_watched_is_an_error(unseen):
    story = good_storm().without(lambda row: row.detail == "wall_clock" and unseen(row))
    assert found(story, "drill.wall_clocks")[0] is State.ERROR


def dated(off_s) -> Story:
    story = good_storm()
    for second in range(60):
        story.tell(float(second), Kind.MACHINE, value=off_s(second), detail="target_clock")
    return story


@pytest.mark.parametrize(
    "off_s",
    [lambda t: 120.0, lambda t: -7.0, lambda t: 60.0 if t == 20 else 0.0, lambda t: -60.0 if t == 59 else 0.0, lambda t: t / 8],
    ids=["ahead", "behind", "set and set back", "set at the end", "fast"],
)
def test_a_target_with_a_wrong_clock_is_an_error(off_s):
    state, reason = found(dated(off_s), "drill.wall_clocks")
    assert state is State.ERROR
    assert "the target's clock left ours by" in reason


def test_dates_with_whole_seconds_are_no_wrong_clock():
    assert found(dated(lambda t: -0.5 if t % 2 else 0.5), "drill.wall_clocks")[0] is State.PASS
