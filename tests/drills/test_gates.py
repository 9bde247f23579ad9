"""Every check: seen to pass, to fail, and to say that it cannot tell."""

import math
from pathlib import Path

import pytest
from histories import AUDITOR, GATED, STREAM, Story, good_storm, storm_drill
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from drills import gates, thresholds
from drills.checks.base import Case
from drills.verdicts import CheckResult, DrillVerdict, State
from sim.contract.retired_routes import RETIRED
from sim.drill import Drill
from sim.errors import UsageError
from sim.fault_kinds import FailPublishes, MintOutage, RevokeSessions, RotateKeys, SkewClocks, StopDelivery
from sim.history import History
from sim.observations import Kind

THRESHOLDS = gates.load_thresholds()
PASS, FAIL, INCONCLUSIVE, NO_DATA, ERROR, NOT_RUN = State
NAN, INF = float("nan"), float("inf")


def ask(name: str, story: Story, drill: Drill | None = None) -> CheckResult:
    check = gates.REGISTRY[name]
    case = Case(drill or storm_drill(story.clients), story.history())
    return gates.answer(check, case, THRESHOLDS.get(name), "observations.parquet")


def state(name: str, story: Story, drill: Drill | None = None) -> State:
    return ask(name, story, drill).state


def many(count: int, kind: Kind, story: Story | None = None, **fields: object) -> Story:
    story = story or Story(1)
    for number in range(count):
        story.tell(1.0 + number * 0.01, kind, **{"client": 0, **fields})  # type: ignore[arg-type]
    return story


# --- every check, on nothing ------------------------------------------------------------------------


@pytest.mark.parametrize("name", gates.REGISTRY)
def test_no_check_passes_on_nothing(name: str) -> None:
    drill = storm_drill(1, probes=("expired_token",), stale_reasons=("retention_floor_breach",))
    assert state(name, Story(1), drill) is not PASS


@pytest.mark.parametrize("name", gates.REGISTRY)
def test_a_check_that_breaks_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(History, "of", broken)
    result = ask(name, good_storm(2))
    assert result.state is ERROR
    assert "by nought" in result.reason


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


def test_more_refusals_than_attempts_is_an_error() -> None:
    assert state("error.websocket_auth_error_ratio", many(3, Kind.CONNECT_FAILED, detail="unauthorized")) is ERROR


def test_a_network_failure_is_no_auth_error() -> None:
    story = many(100, Kind.CONNECT_FAILED, many(200, Kind.CONNECT_ATTEMPTED), detail="network")
    assert state("error.websocket_auth_error_ratio", story) is PASS


def test_probes_are_no_part_of_a_ratio() -> None:
    story = many(90, Kind.CONNECT_FAILED, many(200, Kind.CONNECT_ATTEMPTED), client=5, detail="token_expired")
    assert ask("error.websocket_auth_error_ratio", story).value == 0


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


def test_a_lag_that_is_no_number_is_an_error() -> None:
    story = many(1, Kind.CLIENT_LAG, many(200, Kind.CLIENT_LAG, value=1.0), value=NAN)
    assert state("replay.client_lag_events", story) is ERROR


def test_infinite_lags_never_pass() -> None:
    story = many(4, Kind.CLIENT_LAG, many(59, Kind.CLIENT_LAG, value=1.0), value=INF)
    assert state("replay.client_lag_events", story) is not PASS


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


def test_dropped_deliveries() -> None:
    story = Story(1).publish(1, 2).fresh(0)
    assert state("delivery.dropped_deliveries", story.apply(0, 1)) is FAIL
    assert state("delivery.dropped_deliveries", story.apply(0, 2)) is PASS
    assert state("delivery.dropped_deliveries", Story(1).publish(1)) is NO_DATA


def test_evictions() -> None:
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


def back_after(seconds: float) -> Story:
    story = Story(1).tell(1.0, Kind.FAULT_BEGUN).tell(1.5, Kind.DISCONNECTED, 0).tell(2.0, Kind.FAULT_ENDED)
    return story.tell(2.0 + seconds, Kind.SUBSCRIBED, 0) if seconds < INF else story


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


def test_one_attempt_number_without_jitter_is_enough() -> None:
    story = delays(200, 1.0)
    for client in range(100):
        story.tell(2.0, Kind.BACKOFF, client, attempt=2, value=500.0)
    assert state("reconnect.backoff_unjittered", story) is FAIL


def test_delays_that_are_no_numbers_do_not_pass() -> None:
    assert state("reconnect.backoff_unjittered", many(300, Kind.BACKOFF, attempt=1, value=NAN)) is ERROR


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


# --- the drill's own course -------------------------------------------------------------------------


def test_course() -> None:
    assert state("drill.course", good_storm(2)) is PASS
    assert state("drill.course", good_storm(2).without(lambda row: row.detail == "heal")) is ERROR
    swapped = good_storm(2).changed(lambda row: row.detail == "heal", t=59.0)
    swapped.rows.sort(key=lambda row: row.t)
    assert state("drill.course", swapped) is ERROR


@pytest.mark.parametrize("value", [0.0, NAN, 0.5])
def test_a_sick_system_is_an_error(value: float) -> None:
    assert state("drill.steady_state", good_storm(2)) is PASS
    assert state("drill.steady_state", good_storm(2).changed(lambda row: row.kind == Kind.STEADY, value=value)) is ERROR


@pytest.mark.parametrize("kind", [Kind.FAULT_BEGUN, Kind.FAULT_OBSERVED, Kind.FAULT_ENDED])
def test_a_fault_that_did_not_act_proves_nothing(kind: Kind) -> None:
    assert state("drill.faults_observed", good_storm(2)) is PASS
    assert state("drill.faults_observed", good_storm(2).without(lambda row: row.kind == kind)) is ERROR


@pytest.mark.parametrize("value", [0.0, NAN])
def test_a_fault_observed_no_times_proves_nothing(value: float) -> None:
    story = good_storm(2).changed(lambda row: row.kind == Kind.FAULT_OBSERVED, value=value)
    assert state("drill.faults_observed", story) is ERROR


def test_a_plan_without_the_drills_faults_proves_nothing() -> None:
    story = good_storm(2)
    story.header["plan"] = []
    assert state("drill.faults_observed", story) is ERROR


def test_clients_that_a_fault_must_kill_were_killed() -> None:
    def story(killed: int) -> Story:
        story = good_storm(10).changed(lambda row: row.detail == "drop_sockets", detail="restart_clients")
        story.header["plan"] = [{"kind": "restart_clients", "checkpoint": "lost", "clients": 10}]
        for client in range(killed):
            story.tell(20.1, Kind.RESTARTED, client, STREAM, -1, detail="lost")
        return story

    assert state("drill.faults_observed", story(9)) is PASS
    assert state("drill.faults_observed", story(8)) is ERROR
    assert "killed 8 of 10 clients" in ask("drill.faults_observed", story(8)).reason


def test_converged() -> None:
    story = good_storm(3)
    assert state("drill.converged", story) is PASS
    assert state("drill.converged", story.without(lambda row: row.kind == Kind.SETTLED and row.client == 1)) is FAIL
    result = ask("drill.converged", story.tell(59.0, Kind.STILL_PENDING, 2, STREAM, 3, value=9.0, detail="in backoff"))
    assert (result.state, result.value) == (FAIL, 1)
    assert "in backoff (1)" in result.reason


def test_generator_lag() -> None:
    def story(good: int, late: int, value: float = 251.0) -> Story:
        return many(late, Kind.GENERATOR_LAG, many(good, Kind.GENERATOR_LAG, value=250.0), value=value)

    assert state("drill.generator_lag_ms", story(95, 5)) is PASS
    assert state("drill.generator_lag_ms", story(94, 6)) is ERROR
    assert state("drill.generator_lag_ms", story(94, 6, NAN)) is ERROR
    assert state("drill.generator_lag_ms", story(19, 0)) is ERROR
    assert state("drill.generator_lag_ms", story(20, 0)) is PASS
    assert state("drill.generator_lag_ms", story(18, 2)) is ERROR


def test_generator_lag_of_several_processes() -> None:
    """A few late samples among many are a whole process that did not keep up."""

    def story(late: float, *names: str) -> Story:
        story = many(100, Kind.GENERATOR_LAG, value=1.0, detail="worker 1")
        story.header["workers"] = [{"name": name} for name in names]
        return many(24, Kind.GENERATOR_LAG, story, value=late, detail="worker 2")

    assert state("drill.generator_lag_ms", story(250.0, "worker 1", "worker 2")) is PASS
    assert state("drill.generator_lag_ms", story(251.0, "worker 1", "worker 2")) is ERROR
    assert "worker 2" in ask("drill.generator_lag_ms", story(251.0)).reason
    assert state("drill.generator_lag_ms", story(1.0, "worker 1", "worker 2", "worker 3")) is ERROR


def test_audited() -> None:
    story = good_storm(2)
    assert state("drill.audited", story) is PASS
    assert state("drill.audited", story.without(lambda row: row.client == AUDITOR)) is NO_DATA
    assert state("drill.audited", story.without(lambda row: row.client == AUDITOR and row.kind == Kind.SETTLED)) is NO_DATA
    assert state("drill.audited", story.tell(59.5, Kind.STILL_PENDING, AUDITOR, STREAM)) is FAIL


def test_declared_loss() -> None:
    story = good_storm(2).tell(30.0, Kind.DECLARED_LOSS, 0, STREAM, 4, value=2.0)
    assert state("drill.declared_loss", good_storm(2)) is PASS
    assert ask("drill.declared_loss", story).value == 2
    assert state("drill.declared_loss", story) is FAIL
    allowed = storm_drill(2, declared_loss=True)
    assert state("drill.declared_loss", story, allowed) is FAIL, "the stream has snapshots"
    elsewhere = good_storm(2).tell(30.0, Kind.DECLARED_LOSS, 0, "runtime.codex.worker.events", 4, value=2.0)
    assert state("drill.declared_loss", elsewhere, allowed) is PASS


def test_stale_signalled() -> None:
    drill = storm_drill(2, stale_reasons=("retention_floor_breach", "replay_budget_exceeded"))
    story = good_storm(2).tell(30.0, Kind.STALE, 0, STREAM, 1, detail="retention_floor_breach")
    assert state("drill.stale_signalled", story, drill) is FAIL
    both = "retention_floor_breach+replay_budget_exceeded"
    assert state("drill.stale_signalled", good_storm(2).tell(30.0, Kind.STALE, 0, STREAM, 1, detail=both), drill) is PASS
    assert "drill.stale_signalled" not in names(judged(story))


def test_those_who_tried_a_mutation_are_served_as_before() -> None:
    def story(*settled: int) -> Story:
        story = good_storm(2)
        story.header["probes"] = {"2": "any_mutation", "3": "hidden_mutation", "4": "expired_token"}
        story.tell(30.0, Kind.PROBED, 2, detail="any_mutation:refused:mutation_refused")
        for client in settled:
            story.tell(58.0, Kind.SETTLED, client)
        return story

    assert state("drill.misusers_served", story(2, 3)) is PASS
    assert state("drill.misusers_served", story(2, 4)) is FAIL
    assert state("drill.misusers_served", story(2, 3).without(lambda row: row.kind == Kind.PROBED)) is NO_DATA


def test_probes() -> None:
    drill = storm_drill(2, probes=("expired_token", "mutation_over_socket"))
    story = good_storm(2).tell(30.0, Kind.PROBED, 2, detail="expired_token:refused:token_expired")
    assert state("drill.probes", good_storm(2), drill) is NO_DATA
    assert state("drill.probes", story, drill) is INCONCLUSIVE
    assert (
        state("drill.probes", story.tell(31.0, Kind.PROBED, 3, detail="mutation_over_socket:refused:silence"), drill)
        is INCONCLUSIVE
    )
    assert (
        state("drill.probes", story.tell(31.0, Kind.PROBED, 3, detail="mutation_over_socket:refused:bad_event"), drill) is PASS
    )
    assert state("drill.probes", story.tell(32.0, Kind.PROBED, 3, detail="mutation_over_socket:accepted"), drill) is FAIL


def test_a_probe_that_is_refused_by_a_wrong_name_fails() -> None:
    drill = storm_drill(2, probes=("garbled_token",))
    right = good_storm(2).tell(30.0, Kind.PROBED, 2, detail="garbled_token:refused:invalid_token")
    assert state("drill.probes", right, drill) is PASS
    wrong = good_storm(2).tell(30.0, Kind.PROBED, 2, detail="garbled_token:refused:unauthorized")
    assert state("drill.probes", wrong, drill) is FAIL
    unanswered = good_storm(2).tell(30.0, Kind.PROBED, 2, detail="garbled_token:refused:timeout")
    assert state("drill.probes", unanswered, drill) is INCONCLUSIVE


def test_tokens_too_old() -> None:
    drill = storm_drill(2, checks=("error.tokens_too_old",))
    assert state("error.tokens_too_old", good_storm(2), drill) is PASS
    refused = good_storm(2).tell(30.0, Kind.CONNECT_FAILED, 0, detail="token_too_old")
    assert state("error.tokens_too_old", refused, drill) is FAIL
    assert state("error.tokens_too_old", good_storm(2).tell(30.0, Kind.CONNECT_FAILED, 0, detail="network"), drill) is PASS


@pytest.mark.parametrize(
    ("status", "failed", "expected"), [(413, 3, "PASS"), (413, 2, "FAIL"), (429, 0, "PASS"), (503, 1, "FAIL")]
)
def test_publish_failures(status: int, failed: int, expected: str) -> None:
    """Three publishes were refused: those of 413 for good, the others to be tried again."""
    drill = replace(storm_drill(2), faults=(FailPublishes(at_s=0.0, status=status, share=0.5, for_s=1.0),))
    story = good_storm(2).without(lambda row: row.kind == Kind.FAULT_OBSERVED)
    story.tell(21.0, Kind.FAULT_OBSERVED, value=3.0, detail="fail_publishes")
    for _ in range(failed):
        story.tell(20.5, Kind.PUBLISH_FAILED, stream=STREAM, value=5.0, detail="some_code")
    assert state("drill.publish_failures", story, drill) is State[expected]


def test_publish_failures_of_nothing_published() -> None:
    drill = replace(storm_drill(2), faults=(FailPublishes(at_s=0.0, status=413, share=0.5, for_s=1.0),))
    assert state("drill.publish_failures", Story(2), drill) is NO_DATA


def outage(*lives: tuple[int, float]) -> Story:
    """Nothing is minted from 10 s to 20 s; clients 0 to 2 are cut at 11 s, client 2 without a token; `lives`: live again."""
    story = Story(3).tell(10.0, Kind.FAULT_BEGUN, detail="mint_outage").tell(10.0, Kind.TOKEN_FORGOTTEN, 2)
    for client in range(3):
        story.tell(5.0, Kind.SUBSCRIBED, client).tell(11.0, Kind.DISCONNECTED, client, detail="network")
    for client, t in lives:
        story.tell(t, Kind.SUBSCRIBED, client)
    return story.tell(20.0, Kind.FAULT_ENDED, detail="mint_outage")


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (outage((0, 12.0), (1, 12.0), (2, 22.0)), "PASS"),
        (outage((0, 12.0), (1, 21.0), (2, 22.0)), "FAIL"),
        (outage((0, 12.0)), "FAIL"),
        (Story(3), "NO_DATA"),
    ],
    ids=["back", "too late", "never", "nothing cut"],
)
def test_token_holders(story: Story, expected: str) -> None:
    drill = replace(storm_drill(3), faults=(MintOutage(at_s=0.0, for_s=1.0),))
    assert state("drill.token_holders", story, drill) is State[expected]


def revocation(**more: float) -> Story:
    """Client 0 is revoked at 10 s, told at 10.1 s, signed in at 15 s, back at 16 s; client 1 stays; `more`: what is not so."""
    story = Story(2).tell(1.0, Kind.SUBSCRIBED, 0).tell(1.0, Kind.SUBSCRIBED, 1)
    story.tell(10.0, Kind.SESSION_REVOKED, 0).tell(15.0, Kind.SIGNED_IN, 0).tell(16.0, Kind.SUBSCRIBED, 0)
    if "untold" not in more:
        story.tell(more.get("told", 10.1), Kind.DISCONNECTED, 0, detail="unauthorized")
    if "let_in" in more:
        story.tell(more["let_in"], Kind.SUBSCRIBED, 0)
    if "other" in more:
        story.tell(more["other"], Kind.DISCONNECTED, 1, detail="network")
    return story


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (revocation(), "PASS"),
        (revocation(untold=1.0), "FAIL"),
        (revocation(told=12.0), "PASS"),
        (revocation(told=14.9), "FAIL"),
        (revocation(let_in=12.0), "FAIL"),
        (revocation(other=11.0), "FAIL"),
        (revocation(other=17.0), "PASS"),
        (Story(2), "NO_DATA"),
    ],
    ids=[
        "as it must be",
        "untold",
        "told in time",
        "told late",
        "let in",
        "another cut",
        "another cut later",
        "nobody revoked",
    ],
)
def test_revocation(story: Story, expected: str) -> None:
    drill = replace(storm_drill(2), faults=(RevokeSessions(at_s=0.0, for_s=1.0),))
    assert state("drill.revocation", story, drill) is State[expected]


def rotation(kid: str, due: float = 12.0, refused: str = "network") -> Story:
    """The keys were rotated at 10 s; a token due then or later has this key, and a connect was refused."""
    story = Story(2).tell(5.0, Kind.TOKEN_MINTED, 0, value=1.0, detail="old").tell(10.0, Kind.KEYS_ROTATED, detail="new")
    story.tell(due + 1.0, Kind.TOKEN_MINTED, 0, value=1000.0, detail=kid)
    return story.tell(14.0, Kind.CONNECT_FAILED, 0, detail=refused)


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (rotation("new"), "PASS"),
        (rotation("old"), "FAIL"),
        (rotation("new", refused="invalid_token"), "FAIL"),
        (rotation("old", due=9.5), "NO_DATA"),  # asked for before
        (Story(2), "NO_DATA"),
    ],
    ids=["new key", "old key", "refused", "before", "not rotated"],
)
def test_key_rotation(story: Story, expected: str) -> None:
    drill = replace(storm_drill(2), faults=(RotateKeys(at_s=0.0, for_s=1.0),))
    assert state("drill.key_rotation", story, drill) is State[expected]


def without_delivery(*acknowledged: float, failed: int = 0) -> Story:
    """Delivery is down from 10 s to 20 s; an event is due every second from 11 s, acknowledged at these moments."""
    story = Story(1).tell(10.0, Kind.FAULT_BEGUN, detail="stop_delivery").tell(20.0, Kind.FAULT_ENDED, detail="stop_delivery")
    for number, t in enumerate(acknowledged):
        story.tell(t, Kind.PUBLISHED, stream=STREAM, seq=number + 1, value=(t - 11.0 - number) * 1000)
    for _ in range(failed):
        story.tell(12.0, Kind.PUBLISH_FAILED, stream=STREAM, value=10.0, detail="publishing_unavailable")
    return story


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (without_delivery(11.1, 12.1, 13.1), "PASS"),
        (without_delivery(11.1, 12.1, 20.5), "FAIL"),
        (without_delivery(11.1, failed=1), "FAIL"),
        (without_delivery(), "NO_DATA"),
    ],
    ids=["at once", "only afterwards", "never", "nothing due"],
)
def test_authority_served(story: Story, expected: str) -> None:
    drill = replace(storm_drill(1), faults=(StopDelivery(at_s=0.0, for_s=1.0),))
    assert state("drill.authority_served", story, drill) is State[expected]


def skewed(renewed_after_s: float) -> Story:
    """A token is got at 10 s, while clocks are off, and given up so much later; it is to be renewed after 270 s."""
    story = Story(2).tell(9.0, Kind.FAULT_BEGUN, detail="skew_clocks").tell(10.0, Kind.TOKEN_MINTED, 1, value=1.0)
    story.tell(10.0 + renewed_after_s, Kind.DISCONNECTED, 1, detail="token_refresh_due")
    return story.tell(20.0, Kind.FAULT_ENDED, detail="skew_clocks")


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (skewed(270.0), "PASS"),
        (skewed(0.1), "FAIL"),
        (skewed(0.1).changed(lambda row: row.kind is Kind.DISCONNECTED, detail="network"), "PASS"),
        (skewed(0.1).changed(lambda row: row.kind is Kind.DISCONNECTED, client=0), "PASS"),
        (Story(2), "NO_DATA"),
    ],
    ids=["in time", "at once", "for another reason", "another client's", "no token"],
)
def test_clocks(story: Story, expected: str) -> None:
    drill = replace(storm_drill(2), faults=(SkewClocks(at_s=0.0, by_s=300.0, for_s=1.0),))
    assert state("drill.clocks", story, drill) is State[expected]


def asked(*moments: float, status: float = 404.0) -> Story:
    """The routes that are gone were asked for at these moments; the drill's fault phase is from 20 s to 25 s."""
    story = good_storm(1)
    for t in moments:
        for method, path in RETIRED:
            story.tell(t, Kind.ROUTE_ANSWERED, value=status, detail=f"{method} {path}")
    return story


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (asked(1.0, 22.0, 30.0), "PASS"),
        (asked(1.0, 30.0), "INCONCLUSIVE"),
        (asked(1.0, 22.0, 30.0).tell(31.0, Kind.ROUTE_ANSWERED, value=200.0, detail="GET /x"), "FAIL"),
        (asked(1.0, 22.0, 30.0, status=503.0), "FAIL"),
        (asked(), "NO_DATA"),
    ],
    ids=["gone", "not asked in the storm", "served", "another error", "not asked"],
)
def test_retired_routes(story: Story, expected: str) -> None:
    assert state("drill.retired_routes", story, storm_drill(1, retired_routes=True)) is State[expected]


# --- a drill as a whole -----------------------------------------------------------------------------

QUICK = tuple(name for name in GATED if name != "reconnect.backoff_never_resets")


def judged(story: Story, drill: Drill | None = None) -> DrillVerdict:
    return gates.judge(drill or storm_drill(story.clients, QUICK), story.history(), THRESHOLDS, "observations.parquet")


def names(verdict: DrillVerdict) -> dict[str, State]:
    return {check.name: check.state for check in verdict.checks}


def test_a_good_storm_passes() -> None:
    verdict = judged(good_storm())
    assert {name: found for name, found in names(verdict).items() if found is not PASS} == {}
    assert verdict.status is PASS


def test_a_violation_fails_a_drill_whose_checks_all_pass() -> None:
    verdict = judged(good_storm().tell(30.0, Kind.UNGRANTED, 0, STREAM, 3))
    assert verdict.status is FAIL
    assert [violation.invariant for violation in verdict.violations] == ["cross_topic_leak"]
    assert names(verdict)["drill.invariants"] is FAIL


def test_laws_that_cannot_be_worked_out_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("sim.invariants.violations", broken)
    verdict = judged(good_storm())
    assert names(verdict)["drill.invariants"] is ERROR
    assert verdict.status is ERROR


def test_a_run_that_cannot_be_measured_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("sim.metrics.measures", broken)
    assert judged(good_storm()).status is ERROR


def test_a_failure_outweighs_an_error() -> None:
    story = good_storm().without(lambda row: row.kind in (Kind.STEADY, Kind.SETTLED))
    assert judged(story).status is FAIL


GOOD = good_storm(30)
LAX = storm_drill(
    30,
    (
        "error.stale_cursors",
        "replay.divergence",
        "replay.stale_loops",
        "delivery.dropped_deliveries",
        "ux.integrity",
        "reconnect.backoff_bounded",
        "reconnect.live_again_99_s",
    ),
)
SPOILT = {
    "a loss nobody speaks of": GOOD.without(lambda row: row.client == 3 and row.seq == 100 and row.kind == Kind.APPLIED),
    "an event applied twice": Story(30, [*GOOD.rows, next(row for row in GOOD.rows if row.kind == Kind.APPLIED)], GOOD.header),
    "a client that never settled": GOOD.without(lambda row: row.client == 3 and row.kind == Kind.SETTLED),
    "a fault nobody saw": GOOD.without(lambda row: row.kind == Kind.FAULT_OBSERVED),
    "a sick system": GOOD.changed(lambda row: row.kind == Kind.STEADY, value=0.0),
    "a client that never came back": GOOD.without(lambda row: row.client == 3 and row.t > 20.1),
    "a saturated generator": GOOD.changed(lambda row: row.kind == Kind.GENERATOR_LAG, value=900.0),
}
EVIDENCE = st.sets(st.sampled_from([*Kind]), max_size=6)  # the empty set too


def test_the_good_storm_of_the_property_passes() -> None:
    assert judged(GOOD, LAX).status is PASS


@pytest.mark.parametrize("spoilt", SPOILT)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(removed=EVIDENCE)
def test_taking_evidence_away_never_makes_a_spoilt_drill_pass(spoilt: str, removed: set[Kind]) -> None:
    story = SPOILT[spoilt].without(lambda row: row.kind in removed)
    assert judged(story, LAX).status is not PASS


# --- thresholds -------------------------------------------------------------------------------------


def rewritten(tmp_path: Path, old: str, new: str) -> Path:
    text = thresholds.DEFAULT_PATH.read_text()
    assert old in text
    path = tmp_path / "thresholds.toml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[ux.integrity]", "[ux.integrety]", "there is no check 'ux.integrety'"),
        ("threshold = 0.03", "threshold = nan", "threshold"),
        ("threshold = 0.03", "threshold = inf", "threshold"),
        ("threshold = 0.03", "threshold = -1", "threshold"),
        ("threshold = 0.03", 'threshold = "3 %"', "threshold"),
        ("threshold = 0.03", "treshold = 0.03", "treshold"),
        ("threshold = 0.03", "threshold = 0.03\nminimum_n = 5", "minimum_n"),
        ("minimum_n = 1000", "", "minimum_n"),
        ("minimum_n = 1000", "minimum_n = 0", "minimum_n"),
        ('comparator = "<="', 'comparator = ">="', "comparator"),
        ('unit = "ratio"', 'unit = "percent"', "unit"),
        ("[error.", "loose = 1\n[error.", "loose"),
    ],
)
def test_bad_thresholds_are_refused_in_one_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        gates.load_thresholds(rewritten(tmp_path, old, new))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_threshold_that_is_missing(tmp_path: Path) -> None:
    text = thresholds.DEFAULT_PATH.read_text()
    path = tmp_path / "thresholds.toml"
    path.write_text(text[: text.index("[drill.generator_lag_ms]")])
    with pytest.raises(UsageError, match=r"drill\.generator_lag_ms"):
        gates.load_thresholds(path)


@pytest.mark.parametrize("text", ["", "# nothing\n", "not toml"])
def test_a_file_without_thresholds(tmp_path: Path, text: str) -> None:
    path = tmp_path / "thresholds.toml"
    path.write_text(text)
    with pytest.raises(UsageError):
        gates.load_thresholds(path)


def test_a_check_nobody_knows_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match=r"there is no check 'ux\.happiness'"):
        gates.require_checks(storm_drill(2, ("ux.happiness",)), THRESHOLDS)


def test_a_number_of_the_file_decides(tmp_path: Path) -> None:
    strict = gates.load_thresholds(rewritten(tmp_path, "threshold = 60\n", "threshold = 0.5\n"))
    check = gates.REGISTRY["reconnect.live_again_99_s"]
    case = Case(storm_drill(1), back_after(1.0).history())
    assert gates.answer(check, case, strict[check.full_name], "").state is FAIL
    assert gates.answer(check, case, THRESHOLDS[check.full_name], "").state is PASS


def test_operators_may_ask_for_more_samples(tmp_path: Path) -> None:
    strict = gates.load_thresholds(rewritten(tmp_path, "minimum_n = 59", "minimum_n = 100"))
    check = gates.REGISTRY["replay.bootstrap_ms"]
    case = Case(storm_drill(1), many(99, Kind.REPLAY_COMPLETED, value=10.0).history())
    assert gates.answer(check, case, strict[check.full_name], "").state is INCONCLUSIVE
    assert gates.answer(check, case, THRESHOLDS[check.full_name], "").state is PASS


def test_no_value_that_is_no_number_passes() -> None:
    result = ask("drill.course", good_storm(2))
    assert math.isfinite(result.value)
    spoilt = type(result)(**{**result.__dict__, "value": NAN}).sound()
    assert spoilt.state is ERROR
