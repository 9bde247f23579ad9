"""The checks of the five gates: each passes, fails and is inconclusive when it must."""

import pytest

from drills.judging.checks.base import Case
from drills.judging.checks.reconnect import by_herds
from drills.judging.checks.service import count_dropped
from drills.judging.checks.verdicts import State
from sim.record.observations import Kind
from sim.record.tally import Herd
from tests.drills.asking import (
    ERROR,
    FAIL,
    INCONCLUSIVE,
    INF,
    NAN,
    NO_DATA,
    NOT_RUN,
    PASS,
    THRESHOLDS,
    ask,
    back_after,
    many,
    state,
)
from tests.histories import AUDITOR, STREAM, Story, storm_drill

# --- ratios -----------------------------------------------------------------------------------------

RATIOS = [
    ("error.websocket_auth_error_ratio", Kind.CONNECT_ATTEMPTED, Kind.CONNECT_FAILED, "token_expired", 88, True),
    ("error.token_issue_failure_ratio", Kind.TOKEN_MINTED, Kind.TOKEN_REFUSED, "forbidden", 268, False),
    ("delivery.failed_publish_ratio", Kind.PUBLISHED, Kind.PUBLISH_FAILED, "rate_limited", 268, False),
]


@pytest.mark.parametrize(("name", "good", "bad", "code", "needed", "counted_twice"), RATIOS)
def test_ratios(name: str, good: Kind, bad: Kind, code: str, needed: int, counted_twice: bool) -> None:
    def story(n: int, hits: int) -> Story:
        fine = many(n if counted_twice else n - hits, good, stream=STREAM, seq=1)
        return many(hits, bad, fine, stream=STREAM, detail=code)

    assert state(name, story(needed, 0)) is PASS
    assert state(name, story(needed - 1, 0)) is INCONCLUSIVE
    assert state(name, story(1, 0)) is INCONCLUSIVE
    assert state(name, story(300, 5)) is INCONCLUSIVE
    assert state(name, story(300, 60)) is FAIL
    result = ask(name, story(300, 60))
    assert (result.value, result.n) == (0.2, 300)
    assert result.interval is not None
    assert result.interval[0] < 0.2 < result.interval[1]


def test_failed_tries_of_publishes() -> None:
    """Of a few tries none may fail; of many, as many as the threshold allows."""
    name, fine = "error.failed_tries_ratio", many(5, Kind.PUBLISH_TRIED, client=-1, detail="acknowledged")
    passed = ask(name, fine)
    assert (passed.state, passed.value, passed.n) == (PASS, 0.0, 5)
    assert state(name, Story(1)) is NO_DATA
    failed = ask(name, many(5, Kind.PUBLISH_TRIED, fine, client=-1, detail="refused"))
    assert (failed.state, failed.value, failed.n) == (FAIL, 0.5, 10)


def test_only_refusals_of_the_fleet_count_as_auth_errors() -> None:
    name, attempts = "error.websocket_auth_error_ratio", many(200, Kind.CONNECT_ATTEMPTED)
    more_than_attempts = ask(name, many(3, Kind.CONNECT_FAILED, detail="unauthorized"))
    assert (more_than_attempts.state, "3 of 0 cannot be a share" in more_than_attempts.reason) == (ERROR, True)
    assert ask(name, many(90, Kind.CONNECT_FAILED, attempts, client=5, detail="token_expired")).value == 0
    assert state(name, many(100, Kind.CONNECT_FAILED, attempts, detail="network")) is PASS


# --- percentiles ------------------------------------------------------------------------------------


def delivered(story: Story, value: float) -> Story:
    """One more event, live and applied `value` ms after it was due."""
    seq = sum(row.kind == Kind.PUBLISHED for row in story.rows) + 1
    if seq == 1:
        story.fresh(0)
    return story.publish(seq, t=2.0).apply(0, seq, t=2.0 + value / 1000)


PERCENTILES = {
    "replay.bootstrap_ms": lambda story, value: story.tell(1.0, Kind.REPLAY_COMPLETED, 0, value=value),
    "replay.client_lag_events": lambda story, value: story.tell(1.0, Kind.CLIENT_LAG, 0, value=value),
    "ux.publish_to_apply_ms": delivered,
}


@pytest.mark.parametrize("name", PERCENTILES)
def test_percentiles(name: str) -> None:
    def story(*values: float) -> Story:
        made = Story(1)
        for value in values:
            PERCENTILES[name](made, value)
        return made

    assert state(name, story(*[100.0] * 59)) is PASS
    assert state(name, story(*[100.0] * 58)) is INCONCLUSIVE
    assert state(name, story(100.0)) is INCONCLUSIVE
    assert state(name, story(*[100.0] * 58, 5000.0)) is INCONCLUSIVE
    assert state(name, story(*[5000.0] * 59)) is FAIL
    assert state(name, story(*[5000.0] * 20)) is FAIL
    assert state(name, story(*[100.0] * 996, *[5000.0] * 4)) is PASS


def test_lags_without_a_finite_number_never_pass() -> None:
    def story(count: int, value: float) -> Story:
        return many(count, Kind.CLIENT_LAG, many(59, Kind.CLIENT_LAG, value=1.0), value=value)

    unmeasured = ask("replay.client_lag_events", story(1, NAN))
    assert (unmeasured.state, "a sample is not a number" in unmeasured.reason) == (ERROR, True)
    assert state("replay.client_lag_events", story(4, INF)) is not PASS


# --- counts -----------------------------------------------------------------------------------------


def test_stale_cursors_counts_the_worst_ten_minutes() -> None:
    def story(*times: float) -> Story:
        made = Story(1).tell(0.0, Kind.SUBSCRIBED, 0)
        for number, t in enumerate(times):
            made.tell(t, Kind.STALE, 0, STREAM, 1, attempt=number, detail="retention_floor_breach")
        return made

    assert state("error.stale_cursors", story(*range(20))) is PASS
    assert state("error.stale_cursors", story(*range(21))) is FAIL
    assert state("error.stale_cursors", story(*range(0, 21 * 31, 31))) is PASS  # 21, but spread over more than 600 s


def test_divergence() -> None:
    replays = many(3, Kind.REPLAYED, stream=STREAM, seq=5, value=5.0)
    assert state("replay.divergence", replays) is PASS
    assert state("replay.divergence", many(1, Kind.GAP, many(1, Kind.REPLAYED), detail="live")) is PASS
    assert state("replay.divergence", many(1, Kind.GAP, many(1, Kind.REPLAYED), detail="replay")) is FAIL
    assert state("replay.divergence", many(1, Kind.REPLAY_BELOW_CURSOR)) is FAIL
    assert state("replay.divergence", many(1, Kind.GAP, detail="live")) is NO_DATA


def test_stale_loops() -> None:
    story = many(1, Kind.STALE, many(1, Kind.SUBSCRIBED), attempt=1)
    assert state("replay.stale_loops", story) is PASS
    assert state("replay.stale_loops", story.tell(3.0, Kind.STALE, 0, attempt=2)) is FAIL


@pytest.mark.parametrize(("client", "expected"), [(-1, PASS), (0, FAIL), (1, FAIL), (2, PASS), (AUDITOR, PASS)])
def test_corrupt_events_count_for_clients_of_the_fleet(client: int, expected: State) -> None:
    """A negative client (number 2 here) may get what it deserves, and the auditor belongs to another check."""
    story = Story(2).publish(1).fresh(0).fresh(1)
    for number in range(2):
        story.apply(number, 1)
    story.apply(0, *range(2, 2000)).tell(3.0, Kind.HASH_MISMATCH, client, STREAM, 1)
    assert state("ux.integrity", story) is expected


def test_dropped_deliveries_and_evictions() -> None:
    story = Story(1).publish(1, 2).fresh(0)
    assert state("delivery.dropped_deliveries", story.apply(0, 1)) is FAIL
    assert state("delivery.dropped_deliveries", story.apply(0, 2)) is PASS
    assert state("delivery.dropped_deliveries", Story(1).publish(1)) is NO_DATA
    assert state("delivery.slow_consumer_evictions", many(1, Kind.SUBSCRIBED)) is PASS
    assert state("delivery.slow_consumer_evictions", many(1, Kind.EVICTED, many(1, Kind.SUBSCRIBED))) is FAIL


def test_integrity() -> None:
    story = Story(1).fresh(0).apply(0, *range(1, 1000))
    assert state("ux.integrity", story) is INCONCLUSIVE
    assert state("ux.integrity", story.apply(0, 1000)) is PASS
    assert state("ux.integrity", story.apply(0, 1000)) is FAIL
    assert state("ux.integrity", Story(1).fresh(0).apply(0, 1, 3)) is FAIL
    assert state("ux.integrity", Story(1).tell(1.0, Kind.HASH_MISMATCH, 0, STREAM, 1)) is FAIL


# --- reconnects -------------------------------------------------------------------------------------


def test_live_again() -> None:
    assert state("reconnect.live_again_99_s", back_after(60.0)) is PASS
    assert state("reconnect.live_again_99_s", back_after(60.5)) is FAIL
    assert state("reconnect.live_again_99_s", back_after(INF)) is FAIL
    assert state("reconnect.live_again_99_s", many(5, Kind.SUBSCRIBED)) is NOT_RUN


def test_backoff_bounded() -> None:
    assert state("reconnect.backoff_bounded", many(3, Kind.BACKOFF, value=8000.0)) is PASS
    assert state("reconnect.backoff_bounded", many(3, Kind.BACKOFF, value=8001.0)) is FAIL
    assert state("reconnect.backoff_bounded", many(3, Kind.BACKOFF, value=NAN)) is ERROR
    assert state("reconnect.backoff_bounded", many(3, Kind.BACKOFF, value=INF)) is FAIL
    assert state("reconnect.backoff_bounded", many(3, Kind.BACKOFF, value=9000.0, detail="unknown:hint")) is NO_DATA


def delays(n: int, spread: float, attempt: int = 1) -> Story:
    """`n` delays of one attempt number, evenly spread over the last `spread` of its step."""
    story, step = Story(n), min(250.0 * 2 ** (attempt - 1), 8000.0)
    for client in range(n):
        story.tell(1.0, Kind.BACKOFF, client, attempt=attempt, value=step * (1 - spread * (client + 0.5) / n))
    return story


@pytest.mark.parametrize("attempt", [1, 3, 9])
def test_backoff_unjittered(attempt: int) -> None:
    name = "reconnect.backoff_unjittered"
    assert state(name, delays(100, 1.0, attempt)) is PASS
    assert state(name, delays(100, 0.5, attempt)) is PASS  # equal jitter
    assert state(name, delays(100, 0.2, attempt)) is FAIL
    assert state(name, delays(100, 0.0, attempt)) is FAIL
    assert state(name, delays(20, 0.0, attempt)) is FAIL  # too few to pass, enough to prove a herd
    assert state(name, delays(20, 1.0, attempt)) is INCONCLUSIVE
    assert state(name, delays(19, 0.0, attempt)) is INCONCLUSIVE
    assert state(name, many(300, Kind.BACKOFF, attempt=1, value=100.0, detail="token_refresh_due")) is NO_DATA


def test_one_attempt_number_without_jitter_or_with_nan_is_enough() -> None:
    name = "reconnect.backoff_unjittered"
    assert state(name, many(100, Kind.BACKOFF, delays(200, 1.0), attempt=2, value=500.0)) is FAIL
    unmeasured = ask(name, many(300, Kind.BACKOFF, attempt=1, value=NAN))
    assert (unmeasured.state, "a sample is not a number" in unmeasured.reason) == (ERROR, True)


def test_backoff_never_resets() -> None:
    def story(attempt: int) -> Story:
        made = Story(1)
        for t, number in ((0.0, 1), (20.0, attempt)):
            made.tell(t, Kind.SUBSCRIBED, 0).tell(t + 10, Kind.DISCONNECTED, 0)
            made.tell(t + 10, Kind.BACKOFF, 0, attempt=number, value=5.0)
        return made

    assert state("reconnect.backoff_never_resets", story(1)) is PASS
    assert state("reconnect.backoff_never_resets", story(2)) is FAIL


def test_heartbeat_timeouts() -> None:
    story = Story(1).tell(0.0, Kind.SUBSCRIBED, 0).tell(100.0, Kind.PHASE, detail="end")
    assert state("reconnect.heartbeat_timeouts_per_s", story) is PASS
    assert state("reconnect.heartbeat_timeouts_per_s", many(5, Kind.HEARTBEAT_TIMEOUT, story)) is PASS
    assert state("reconnect.heartbeat_timeouts_per_s", many(1, Kind.HEARTBEAT_TIMEOUT, story)) is FAIL


def test_recovery_is_that_of_the_slowest_client_in_a_hundred() -> None:
    story = Story(3).tell(1.0, Kind.FAULT_INJECTED, detail="drop_sockets").tell(2.0, Kind.FAULT_REVERTED)
    for client, seconds in ((0, 1.0), (1, 61.0), (2, 3.0)):
        story.tell(1.5, Kind.DISCONNECTED, client).tell(2.0 + seconds, Kind.SUBSCRIBED, client)
    found = ask("reconnect.live_again_99_s", story)
    assert (found.state, found.value, found.n) == (FAIL, 61.0, 3)
    assert found.reason == "99 % of the 3 clients that drop_sockets disconnected were live again after 61 s"


def test_herd_is_named_by_its_attempt_and_needs_eighty_delays_to_be_ruled_out() -> None:
    name = "reconnect.backoff_unjittered"
    assert (state(name, delays(80, 1.0)), state(name, delays(79, 1.0))) == (PASS, INCONCLUSIVE)
    one = ask(name, delays(100, 0.0, 3))
    assert (one.value, one.n, one.reason) == (1.0, 100, "100 of 100 delays of attempt 3 lie within a tenth of their step")
    both = ask(name, many(40, Kind.BACKOFF, many(40, Kind.BACKOFF, attempt=1, value=250.0), attempt=2, value=500.0))
    assert both.reason == "80 of 80 delays of all attempts, in steps, lie within a tenth of their step"


def test_deliveries_that_may_still_come_are_not_dropped_if_nobody_could_settle() -> None:
    story = Story(1).publish(1, 2).fresh(0).apply(0, 1)
    for t, phase in ((0.0, "steady"), (10.0, "settle"), (20.0, "end")):
        story.tell(t, Kind.PHASE, detail=phase)
    history = story.busy(10.0, 13.0).history()
    counts = [count_dropped(Case(storm_drill(1), history, is_excused=is_excused)) for is_excused in (False, True)]
    assert counts == [1, 0]


@pytest.mark.parametrize(
    ("n", "together", "expected"),
    [
        *((20, 11, INCONCLUSIVE), (20, 12, FAIL), (19, 19, INCONCLUSIVE), (79, 31, INCONCLUSIVE), (79, 32, FAIL)),
        *((27, 14, FAIL), (44, 20, INCONCLUSIVE)),  # just under and just over 0.05 in twenty windows
    ],
)
def test_small_herd_fails_only_if_chance_cannot_explain_it(n: int, together: int, expected: State) -> None:
    """A quarter may lie in one window. That 11 of 20 do has a chance of 0.4 % in each of twenty windows, 12 of 0.1 %."""
    found = by_herds([Herd(1, n, together)], THRESHOLDS["reconnect.backoff_unjittered"])
    assert found.state is expected
