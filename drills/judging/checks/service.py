"""Checks of the gates `error`, `replay`, `delivery` and `ux`."""

from drills.judging.checks.base import Answer, Case, Check, by_count, by_percentile, by_ratio, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.analysis import corrupted, invariants, samples
from sim.record.observations import Kind

RATIO = "one-sided 95 % Wilson bound"
P95 = "p95, distribution-free one-sided 95 % bound by order statistic"
COUNT = "count"
_P95 = 0.95
_MINIMUM_N = frozenset({"minimum_n"})


def _auth_errors(case: Case, threshold: Threshold | None) -> Answer:
    return by_ratio(samples.auth_refusals(case.history), needed(threshold), "connects refused for their token")


def _token_failures(case: Case, threshold: Threshold | None) -> Answer:
    return by_ratio(samples.token_refusals(case.history), needed(threshold), "token requests refused")


def _stale_cursors(case: Case, threshold: Threshold | None) -> Answer:
    limit = needed(threshold)
    width_s = limit.window_s or 0.0
    worst = samples.fullest_window(samples.stale_answers(case.history).t, width_s)
    answers = samples.subscribe_answers(case.history)
    return by_count(worst, answers, limit, f"stale answers in the worst {width_s:g} s", "answers to subscribes")


def _bootstrap(case: Case, threshold: Threshold | None) -> Answer:
    return by_percentile(samples.bootstrap_ms(case.history), _P95, needed(threshold), "bootstraps")


def _client_lag(case: Case, threshold: Threshold | None) -> Answer:
    return by_percentile(samples.client_lag_events(case.history), _P95, needed(threshold), "lag samples")


def _divergence(case: Case, threshold: Threshold | None) -> Answer:
    diverged = samples.divergences(case.history)
    return by_count(diverged.hits, diverged.n, needed(threshold), "events out of place", "replays")


def _stale_loops(case: Case, threshold: Threshold | None) -> Answer:
    loops, answers = len(samples.stale_loops(case.history)), samples.subscribe_answers(case.history)
    return by_count(loops, answers, needed(threshold), "stale loops", "answers to subscribes")


def _failed_publishes(case: Case, threshold: Threshold | None) -> Answer:
    return by_ratio(samples.failed_publishes(case.history), needed(threshold), "publishes failed")


def _dropped(case: Case, threshold: Threshold | None) -> Answer:
    dropped, expected = case.ledger.dropped, case.ledger.expected
    return by_count(dropped.count, expected, needed(threshold), "events never delivered", "expected deliveries")


def _evictions(case: Case, threshold: Threshold | None) -> Answer:
    evicted, lives = len(case.history.fleet(Kind.EVICTED)), len(case.history.fleet(Kind.SUBSCRIBED))
    return by_count(evicted, lives, needed(threshold), "slow clients evicted", "live periods")


def _integrity(case: Case, threshold: Threshold | None) -> Answer:
    limit = needed(threshold)
    found = invariants.integrity(case.history)
    mismatches = corrupted.unexplained(case.history, Kind.HASH_MISMATCH)
    wrong = len(found.applied_twice) + len(found.out_of_order) + len(found.holes)
    wrong += int(((mismatches.client >= 0) & (mismatches.client < case.history.header.clients)).sum())
    applied = len(case.history.fleet(Kind.APPLIED))
    answer = by_count(wrong, applied, limit, "events doubled, out of order, missing or jumbled", "applied events")
    if answer.state is State.PASS and applied < (limit.minimum_n or 0):
        reason = f"{applied} applied events are too few; {limit.minimum_n} are needed"
        return Answer(State.INCONCLUSIVE, answer.value, applied, reason)
    return answer


def _publish_to_apply(case: Case, threshold: Threshold | None) -> Answer:
    return by_percentile(
        samples.publish_to_apply_ms(case.history, case.ledger), _P95, needed(threshold), "deliveries outside the fault phase"
    )


_OUTSIDE_FAULT = "outside the fault phase"
CHECKS = (
    Check(
        "error",
        "websocket_auth_error_ratio",
        "ratio",
        "connects refused for their token / attempts",
        RATIO,
        _auth_errors,
        across="ratio",
    ),
    Check(
        "error", "token_issue_failure_ratio", "ratio", "token requests refused / all", RATIO, _token_failures, across="ratio"
    ),
    Check(
        "error",
        "stale_cursors",
        "answers",
        "stale answers to clients",
        COUNT,
        _stale_cursors,
        window="worst 10 min",
        extras=frozenset({"window_s"}),
    ),
    Check(
        "replay",
        "bootstrap_ms",
        "ms",
        "connect due -> caught up",
        P95,
        _bootstrap,
        window="after the first fault",
        timed=True,
        across="mean",
        extras=_MINIMUM_N,
    ),
    Check(
        "replay",
        "client_lag_events",
        "events",
        "head - applied, sampled",
        P95,
        _client_lag,
        window=_OUTSIDE_FAULT,
        timed=True,
        across="mean",
        extras=_MINIMUM_N,
    ),
    Check("replay", "divergence", "events", "events that a replay skipped or began below the cursor", COUNT, _divergence),
    Check("replay", "stale_loops", "loops", "two or more stale answers in a row for one client", COUNT, _stale_loops),
    Check(
        "delivery",
        "failed_publish_ratio",
        "ratio",
        "failed publishes / all publishes",
        RATIO,
        _failed_publishes,
        origin="synthetic",
        across="ratio",
    ),
    Check("delivery", "dropped_deliveries", "events", "published, never applied, not declared lost", COUNT, _dropped),
    Check("delivery", "slow_consumer_evictions", "evictions", "slow clients told to go", COUNT, _evictions),
    Check(
        "ux",
        "integrity",
        "events",
        "applied twice, out of order, holes, hash mismatches",
        COUNT,
        _integrity,
        extras=_MINIMUM_N,
    ),
    Check(
        "ux",
        "publish_to_apply_ms",
        "ms",
        "publish due -> applied",
        P95,
        _publish_to_apply,
        window=_OUTSIDE_FAULT,
        timed=True,
        across="mean",
        extras=_MINIMUM_N,
    ),
)
