"""The checks of a window: each can pass and fail, which source may replace another, and less evidence never passes more."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drills.judging.checks import registry
from drills.judging.checks.verdicts import State
from drills.rollout.setup.records import Revisions, Snapshot
from drills.rollout.verdict import window
from drills.rollout.verdict.window import StageWindow
from drills.rollout.verdict.window_data import clients
from drills.rollout.verdict.window_data.base import answer
from drills.rollout.verdict.window_data.stage_window import moment_s
from sim.record.observations import Kind
from sim.service.metric_names import KNOWN, MEANINGS, PROFILES, STATUS_COUNTERS
from tests.histories import Story
from tests.known_bad_windows import KNOWN_BAD, KnownBad, a_hole, dated, of_metrics, of_monitoring, rates, reported, seen, values
from tests.windows import (
    BEGAN_S,
    INTERVAL_S,
    THRESHOLDS,
    Servers,
    canary_check,
    canary_series,
    changed,
    counting,
    good,
    judged,
    quiet,
    snapshot,
    states,
    with_metrics,
    without,
)

PASS, FAIL, INCONCLUSIVE, NO_DATA, ERROR, NOT_RUN = State
BY_COUNTERS = (
    *("error.token_issue_failure_ratio", "error.stale_cursors", "error.unauthorized_surge", "error.error_budget_ratio"),
    *("delivery.failed_publish_ratio", "delivery.failed_publish_growth"),
)


def of(found: StageWindow, *names: str) -> set[State]:
    results = judged(found)
    return {results[name].state for name in names}


# --- every check ----------------------------------------------------------------------------------------


def test_healthy_hour_passes_every_check() -> None:
    results = judged(good())
    assert {name: result.reason for name, result in results.items() if result.state is not PASS} == {}
    assert tuple(results) == tuple(window.REGISTRY)


@pytest.mark.parametrize("case", KNOWN_BAD, ids=str)
def test_one_problem_changes_its_check(case: KnownBad) -> None:
    result = answer(window.REGISTRY[case.name], case.window(), THRESHOLDS.get(case.name))
    assert result.state is case.state, result
    assert case.origin in ("", result.origin), result


def test_shared_name_has_one_threshold() -> None:
    expected = registry.expected()
    assert {name for name, check in window.REGISTRY.items() if check.spec.takes_threshold} <= expected.keys()
    assert expected["error.stale_cursors"].optional_keys == ("warn",)


@pytest.mark.parametrize("name", window.REGISTRY)
def test_no_check_passes_without_data(name: str) -> None:
    empty = StageWindow(0.0, 3600.0, 60.0, (), ())
    assert judged(empty)[name].state is NO_DATA


def test_every_metric_is_known_to_a_source() -> None:
    read = {metric for check in window.REGISTRY.values() for source in check.sources for metric in source.metrics}
    assert sorted(read - set(KNOWN)) == []
    assert read.isdisjoint(MEANINGS)  # metrics with a misleading name decide nothing


# --- coverage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "silent", "state"),
    [
        (60, range(0), PASS),
        (60, range(10, 12), PASS),
        (60, range(10, 13), INCONCLUSIVE),  # four minutes between two answers
        (48, range(0), INCONCLUSIVE),  # 49 snapshots
        (49, range(0), PASS),
        (100, range(0, 100, 9), INCONCLUSIVE),  # 11 in 100 are missing, never two in a row
        (60, range(61), NO_DATA),
        (60, range(4), INCONCLUSIVE),  # the first hole counts
        (60, range(57, 61), INCONCLUSIVE),  # and so does the last
    ],
)
def test_coverage(minutes: int, silent: range, state: State) -> None:
    whole = good(Servers(minutes=minutes))
    quiet_ones = {whole.began_s + minute * INTERVAL_S for minute in silent}
    found = changed(whole, lambda each: moment_s(each) in quiet_ones, outcome="timeout", metrics={})
    coverage = found.coverage
    assert coverage.state == state, coverage.reason
    assert coverage.expected == minutes
    assert judged(found)["window.coverage"].state is state
    if state is not PASS:
        assert PASS not in of(found, *BY_COUNTERS)


def test_missing_snapshot_is_an_error() -> None:
    found = without(good(), lambda each: each.n == 40)
    assert "snapshot 40 is missing" in found.coverage.reason
    assert of(found, *BY_COUNTERS) == {ERROR}


def test_missing_last_answers_are_inconclusive() -> None:
    """Removing the last minute does not hide what it showed."""
    found = burst(60)
    assert of(found, "delivery.failed_publish_ratio") == {FAIL}
    assert of(without(found, lambda each: each.n > 120), "delivery.failed_publish_ratio") == {INCONCLUSIVE}


def test_clock_that_was_set_back_is_an_error() -> None:
    found = changed(good(), lambda each: each.n == 60, at="2026-03-02T09:01:00.000Z")
    assert found.coverage.state == ERROR


def test_change_of_revisions_is_reported() -> None:
    found = changed(good(), lambda each: each.n == 61, revisions=Revisions(runtime="r2"))
    assert [each.runtime for each in found.revisions] == ["r1", "r2"]
    assert "revisions changed" in judged(found)["window.coverage"].reason


@pytest.mark.parametrize(
    ("reported", "pairs"),
    [
        ([("", "r1"), ("c1", ""), ("", "r1"), ("c1", "")], [("c1", "r1")]),
        ([("", "r1"), ("c1", ""), ("", "r2"), ("c1", "")], [("c1", "r1"), ("c1", "r2")]),
        ([("", "r1"), ("c1", ""), ("", ""), ("c2", "")], [("c1", "r1"), ("c2", "r1")]),
        ([("", "r1"), ("c1", ""), ("", "r2"), ("", "r1")], [("c1", "r1"), ("c1", "r2")]),
        ([("", "r1"), ("", "")], [("", "r1")]),
        ([("", ""), ("", "")], []),
    ],
)
def test_service_keeps_its_last_revision(reported: list[tuple[str, str]], pairs: list[tuple[str, str]]) -> None:
    taken = tuple(
        snapshot(n, n, "metrics", {}, revisions=Revisions(control=control, runtime=runtime))
        for n, (control, runtime) in enumerate(reported, 1)
    )
    found = StageWindow(0.0, 3600.0, 60.0, taken, ()).revisions
    assert [(pair.control, pair.runtime) for pair in found] == pairs


# --- counters -------------------------------------------------------------------------------------------


def restarting(minute: int) -> dict[str, float]:
    """The runtime restarts after half an hour."""
    return counting(PROFILES["full"])(minute if minute < 30 else minute - 30)


def test_unexplained_restart_is_inconclusive() -> None:
    results = judged(good(with_metrics("metrics", restarting)))
    for name in ("delivery.failed_publish_ratio", "error.error_budget_ratio"):
        assert results[name].state is INCONCLUSIVE, results[name]
        assert "decreased" in results[name].reason


def test_restart_during_a_fault_is_left_out() -> None:
    found = changed(good(with_metrics("metrics", restarting)), lambda each: 60 <= each.n <= 63, fault=True)
    assert of(found, "delivery.failed_publish_ratio", "error.error_budget_ratio") == {PASS}


def test_failures_after_a_restart_count() -> None:
    """A failure after a restart counts, although earlier counts are lost."""
    figures = counting(PROFILES["full"])

    def reset(minute: int) -> dict[str, float]:
        before = figures(minute)
        if minute < 30:
            return before
        return {**before, "mirror.published_total": 300.0 * (minute - 30), "mirror.failed_total": 50.0 * (minute - 29)}

    result = judged(good(with_metrics("metrics", reset)))["delivery.failed_publish_ratio"]
    assert result.state is FAIL
    assert result.origin == "server"


def test_minutes_with_a_fault_are_left_out() -> None:
    story = of_metrics("mirror.failed_total", lambda minute: 500.0 * (20 < minute <= 22) + 500.0 * (minute > 22))
    found = changed(story(), lambda each: 41 <= each.n <= 44, fault=True)
    assert of(story(), "delivery.failed_publish_ratio") == {FAIL}
    assert of(found, "delivery.failed_publish_ratio") == {PASS}
    assert found.coverage.state == PASS


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_missing(value: float) -> None:
    def spoil(each: Snapshot) -> Snapshot:
        known_bad = {**each.metrics, "mirror.failed_total": value, "sync.token.issue.failed": value}
        return msgspec.structs.replace(each, metrics=known_bad) if each.n in (40, 41) else each

    found = good()
    found = replace(found, snapshots=tuple(map(spoil, found.snapshots)))
    assert of(found, "delivery.failed_publish_ratio", "error.token_issue_failure_ratio") == {INCONCLUSIVE}


def test_clients_do_not_replace_a_promised_metric() -> None:
    name = "delivery.stale_cursor_events_total"
    found = good()
    figures = {each.n: {key: value for key, value in each.metrics.items() if key != name} for each in found.snapshots}
    gone = replace(found, snapshots=tuple(msgspec.structs.replace(each, metrics=figures[each.n]) for each in found.snapshots))
    assert judged(gone)["error.stale_cursors"].state is NO_DATA


def test_one_sample_of_each_source_passes_nothing() -> None:
    one = Story(1, header={"observations_rows": 0, "plan": []})
    first = tuple(each for each in Servers().snapshots() if each.n <= 2)
    found = StageWindow(BEGAN_S, BEGAN_S + 3600, INTERVAL_S, first, (canary_check(0.0, one),))
    assert {name: state for name, state in states(found).items() if state is PASS} in ({}, {"window.invariants": PASS})


# --- several sources ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late_by", "state"), [(0, PASS), (1, PASS), (2, PASS), (6, INCONCLUSIVE)])
def test_second_source_may_be_late_but_not_different(late_by: int, state: State) -> None:
    failed = [minute // 10 for minute in range(61)]

    def monitored(minute: int) -> dict[str, float]:
        return {"mirror.failed_total": float(failed[max(minute - late_by, 0)])}

    servers = with_metrics("metrics", lambda m: {**counting(PROFILES["full"])(m), "mirror.failed_total": float(failed[m])})
    found = good(replace(servers, metrics={**servers.metrics, "prometheus": monitored}))
    result = judged(found)["delivery.failed_publish_growth"]
    assert result.state is state, result.reason


def test_contradicting_sources_are_inconclusive() -> None:
    figures = {"mirror.published_total": 200.0, "mirror.duplicate_suppressed_total": 0.0, "mirror.failed_total": 0.0}
    found = of_monitoring(200.0, "mirror.published_total", **figures)()
    result = judged(found)["delivery.failed_publish_ratio"]
    assert result.state is INCONCLUSIVE
    assert "a scraping delay does not explain it" in result.reason


def pinned() -> StageWindow:
    """Servers with the few metrics of older runtimes: none of deliveries and tokens."""
    silent: Callable[[int], dict[str, float]] = lambda minute: {}  # noqa: E731
    servers = Servers({"metrics": counting(PROFILES["pinned"]), "control": silent}, profile="pinned")
    return changed(good(servers), lambda each: each.source == "control", outcome="no_metrics")


def test_clients_replace_metrics_of_a_pinned_profile() -> None:
    results = judged(pinned())
    assert {name: result.reason for name, result in results.items() if result.state is not PASS} == {}
    stood_in = {name for name, result in results.items() if result.origin == "client"}
    assert {"error.stale_cursors", "error.unauthorized_surge", "error.token_issue_failure_ratio"} <= stood_in
    assert results["delivery.failed_publish_ratio"].origin == "server"


def test_clients_do_not_replace_a_silent_control_service() -> None:
    found = changed(pinned(), lambda each: each.source == "control", outcome="timeout")
    assert of(found, "error.token_issue_failure_ratio") == {NO_DATA}


def test_failure_of_clients_overrides_servers() -> None:
    result = judged(seen(reported(Kind.TOKEN_REFUSED, 20, detail="forbidden"))())["error.token_issue_failure_ratio"]
    assert (result.state, result.origin) == (FAIL, "client")


# --- canary checks --------------------------------------------------------------------------------------


def test_missing_rows_are_an_error() -> None:
    cut = replace(canary_check(10.0, quiet().without(lambda row: row.kind is Kind.GENERATOR_LAG)), path="canary-checks/cut")
    cut.history.header.observations_rows += 1
    found = good(seen=(*canary_series(), cut))
    assert of(found, "ux.integrity", "window.invariants", "delivery.dropped_deliveries") == {ERROR}


def test_missing_canary_check_is_an_error() -> None:
    found = good()
    gone = replace(found, canary_checks=found.canary_checks[1:])
    assert of(gone, "ux.integrity", "window.invariants", "replay.bootstrap_ms") == {ERROR}
    assert "11 canary checks, but 12 are recorded" in judged(gone)["ux.integrity"].reason


def test_time_without_canary_checks_is_inconclusive() -> None:
    found = good(seen=canary_series()[:6])
    assert of(found, "ux.integrity", "replay.bootstrap_ms") == {INCONCLUSIVE}
    assert "no canary check started for" in judged(found)["ux.integrity"].reason


def test_late_load_generator_is_left_out_of_times() -> None:
    story = quiet()
    late = Story(
        story.clients, [r._replace(value=900.0) if r.kind is Kind.GENERATOR_LAG else r for r in story.rows], story.header
    )
    every = judged(good(seen=canary_series(of=lambda n: late)))
    assert {every[name].state for name in ("replay.bootstrap_ms", "ux.publish_to_apply_ms")} == {INCONCLUSIVE}
    assert every["ux.integrity"].state is PASS
    assert of(good(seen=canary_series(of=lambda n: late if n == 3 else None)), "replay.bootstrap_ms") == {PASS}


def test_generator_limit_equals_that_of_drills() -> None:
    asked, shipped = clients._GENERATOR, THRESHOLDS["drill.generator_lag_ms"]
    assert (asked.threshold, asked.unit, asked.minimum_n) == (shipped.threshold, shipped.unit, shipped.minimum_n)


def test_too_many_cut_short_canary_checks_are_inconclusive() -> None:
    assert of(good(cut_short=1), "window.canary_checks") == {PASS}
    assert of(good(cut_short=2), "window.canary_checks") == {INCONCLUSIVE}


# --- to stop at once ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (good, ""),
        (rates(mirror__failed_total=350.0), "error.error_budget_burn_fast"),
        (rates(mirror__failed_total=90.0), "error.error_budget_burn_slow"),
        (rates(mirror__failed_total=10.0), ""),
        (seen(reported(Kind.UNGRANTED, 1, stream="s", seq=1)), "cross_topic_leak"),
        (seen(reported(Kind.PROBED, 1, detail="expired_token:accepted")), "expired_token_accepted"),
        (of_monitoring(0.1, "replay.divergences_total"), "replay.divergence"),
        (of_monitoring(120.0, "sockets.reconnects_total"), "reconnect.reconnects_per_s"),
        (of_monitoring(6.0, "sockets.heartbeat_timeouts_total"), "reconnect.heartbeat_timeouts_per_s"),
        (a_hole, ""),
    ],
)
def test_severe_failures_stop_a_stage(found: Callable[[], StageWindow], expected: str) -> None:
    reason = window.abort_reason(found(), THRESHOLDS)
    assert reason.startswith(expected) if expected else reason == ""


# --- less evidence never passes more --------------------------------------------------------------------

BURST = {"mirror.failed_total": 900.0, "delivery.stale_cursor_events_total": 30.0, "sync.token.issue.failed": 300.0}


def burst(at: int) -> StageWindow:
    """All failures happen within one minute."""

    def of_source(names: Iterable[str]) -> Callable[[int], dict[str, float]]:
        rest = counting(names)
        return lambda minute: {name: value + BURST.get(name, 0.0) * (minute >= at) for name, value in rest(minute).items()}

    return good(Servers({"metrics": of_source(PROFILES["full"]), "control": of_source(STATUS_COUNTERS)}))


# Failures within one minute are the easiest to hide, so each of these windows is drawn more often.
BURSTS: dict[str, Callable[[], StageWindow]] = {
    f"{at} {again}": partial(burst, at) for at in (1, 2, 30, 59, 60) for again in range(8)
}
BASES: dict[str, Callable[[], StageWindow]] = {"good": good, "pinned": pinned, **BURSTS} | {
    str(case): case.window
    for case in KNOWN_BAD
    if case.origin == "server" or "one canary check" in case.what or "client" in case.what
}


@cache
def base(name: str) -> tuple[StageWindow, dict[str, State]]:
    found = BASES[name]()
    return found, states(found)


def less(data: st.DataObject, found: StageWindow) -> StageWindow:
    """The window without a part of its evidence."""
    what = data.draw(st.sampled_from(("snapshots", "metrics", "metric", "canary checks", "rows", "baseline")))
    numbers = [each.n for each in found.snapshots]
    if what == "snapshots":
        # Not from the front: the line numbers of the file, which start at 1, would show it.
        gone = data.draw(st.sets(st.sampled_from(numbers[2:]), min_size=1, max_size=6))
        return without(found, lambda each: each.n in gone)
    if what in ("metrics", "metric"):
        return fewer_metrics(data, found, every=what == "metric")
    if what == "canary checks":
        kept = data.draw(
            st.lists(st.sampled_from(range(len(found.canary_checks))), unique=True, max_size=len(found.canary_checks) - 1)
        )
        return replace(found, canary_checks=tuple(found.canary_checks[n] for n in sorted(kept)))
    if what == "rows":
        return fewer_rows(data, found)
    return replace(found, baseline=None)


def fewer_metrics(data: st.DataObject, found: StageWindow, every: bool) -> StageWindow:
    """Without some metrics in some answers, or one in all; a Prometheus reports what it did not find."""
    name = st.sampled_from(sorted(BURST)) | st.sampled_from(sorted({n for each in found.snapshots for n in each.metrics}))
    names = {data.draw(name)} if every else data.draw(st.sets(name, min_size=1))
    numbers = {each.n for each in found.snapshots}
    where = numbers if every else data.draw(st.sets(st.sampled_from(sorted(numbers)), min_size=1, max_size=6))

    def taken(each: Snapshot) -> Snapshot:
        left = {name: value for name, value in each.metrics.items() if name not in names}
        missing = tuple(sorted(names & each.metrics.keys())) if each.source == "prometheus" else each.missing
        return msgspec.structs.replace(each, metrics=left, missing=missing) if each.n in where else each

    return replace(found, snapshots=tuple(map(taken, found.snapshots)))


def fewer_rows(data: st.DataObject, found: StageWindow) -> StageWindow:
    n = data.draw(st.sampled_from(range(len(found.canary_checks))))
    kind = data.draw(st.sampled_from((Kind.APPLIED, Kind.CONNECT_ATTEMPTED, Kind.PUBLISHED, Kind.PHASE, Kind.SETTLED)))
    whole = quiet(clients=3, events=3)
    fewer = canary_check(0.0, whole.without(lambda row: row.kind is kind))
    fewer.history.header.observations_rows = len(whole.rows)
    cut = replace(fewer, began_s=found.canary_checks[n].began_s)
    return replace(found, canary_checks=(*found.canary_checks[:n], cut, *found.canary_checks[n + 1 :]))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_less_evidence_never_passes_more(data: st.DataObject) -> None:
    before, was = base(data.draw(st.sampled_from(sorted(BASES))))
    now = states(less(data, before))
    grown = {name: (was[name], now[name]) for name in was if was[name] is not PASS and now[name] is PASS}
    assert grown == {}


@pytest.mark.parametrize(
    "ahead_s",
    [lambda n: 900.0, lambda n: 0.0 if n % 2 else 0.9, lambda n: -3000.0 if n == 33 else 0.3, lambda n: n * 0.003],
    ids=["wrong all the time", "whole seconds", "one old answer", "a clock without synchronization"],
)
def test_clocks_that_keep_their_distance_spoil_nothing(ahead_s: Callable[[int], float]) -> None:
    assert dated(ahead_s)().snapshot_problem == ""


@pytest.mark.parametrize(("since", "state"), [(0.0, INCONCLUSIVE), (8.0, FAIL)])
def test_latencies_of_a_busy_machine_are_not_the_targets(since: float, state: State) -> None:
    slow = values(Kind.REPLAY_COMPLETED, lambda ms: ms + 3000.0)(quiet())
    slow = slow.changed(lambda row: row.kind is Kind.REPLAY_COMPLETED and row.t < 5.0, t=3.2)
    assert judged(good(seen=canary_series(of=lambda n: slow)))["replay.bootstrap_ms"].state is FAIL
    busy = slow.busy(since, since + 3.1)
    busy.rows.sort(key=lambda row: row.t)
    result = judged(good(seen=canary_series(of=lambda n: busy)))["replay.bootstrap_ms"]
    assert result.state is state
    assert ("the machine of the clients was too busy in 12 of 12 canary checks" in result.reason) is (state is INCONCLUSIVE)


@pytest.mark.parametrize(("busy", "state"), [((7.0, 9.5), INCONCLUSIVE), ((0.0, 6.0), FAIL), (None, FAIL)])
def test_what_may_come_late_on_a_busy_machine_is_not_lost(busy: tuple[float, float] | None, state: State) -> None:
    """Of one canary check, a client lacks the last events."""
    story = quiet()
    last = max(row.seq for row in story.rows)
    story = story.without(lambda row: row.client == 0 and row.seq >= last - 3 and row.kind is Kind.APPLIED)
    story = story.without(lambda row: row.client == 0 and row.seq >= last - 3 and row.kind is Kind.CHECKPOINT_WRITTEN)
    story = story.busy(*busy) if busy else story
    story.rows.sort(key=lambda row: row.t)
    found = good(seen=canary_series(of=lambda n: story if n == 3 else None))
    results = judged(found)
    for name in ("window.invariants", "delivery.dropped_deliveries"):
        assert results[name].state is state, results[name]
    assert window.abort_reason(found, THRESHOLDS).partition(":")[0] == ("missing_at_rest" if state is FAIL else "")
