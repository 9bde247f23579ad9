"""Checks of the gates `error`, `replay`, `delivery` and `ux`."""

from collections.abc import Mapping

from drills.judging.checks.base import NAN, Answer, Case, Decide, by_count, by_percentile, by_ratio, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.analysis import corrupted, reconnects, samples
from sim.analysis.invariants import watermarks
from sim.analysis.invariants.rest import may_come
from sim.record.observations import Kind

_P95 = 0.95


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
    return by_percentile(samples.bootstrap_ms(case.history, case.busy), _P95, needed(threshold), "bootstraps")


def _client_lag(case: Case, threshold: Threshold | None) -> Answer:
    return by_percentile(samples.client_lag_events(case.history, case.busy), _P95, needed(threshold), "lag samples")


def _divergence(case: Case, threshold: Threshold | None) -> Answer:
    diverged = samples.divergences(case.history)
    return by_count(diverged.hits, diverged.n, needed(threshold), "events out of place", "replays")


def _stale_loops(case: Case, threshold: Threshold | None) -> Answer:
    loops, answers = len(samples.stale_loops(case.history)), samples.subscribe_answers(case.history)
    return by_count(loops, answers, needed(threshold), "stale loops", "answers to subscribes")


def _failed_publishes(case: Case, threshold: Threshold | None) -> Answer:
    return by_ratio(samples.failed_publishes(case.history, case.busy), needed(threshold), "publishes failed")


def _failed_tries(case: Case, threshold: Threshold | None) -> Answer:
    """Judge the tries while no fault is active. Of a few tries, none may fail."""
    if len(case.history.of(Kind.PUBLISH_TRIED)) == 0:
        return Answer(State.NO_DATA, NAN, 0, "no try of a publish was recorded")
    tries = samples.failed_tries(case.history, (case.history.first_fault_t, reconnects.calm_t(case.history)), case.busy)
    if tries.n and not tries.hits:
        return Answer(State.PASS, 0.0, tries.n, f"none of {tries.n} tries of publishes failed while no fault was active")
    return by_ratio(tries, needed(threshold), "tries of publishes failed while no fault was active")


def count_dropped(case: Case) -> int:
    """The deliveries that never came; without those that may still come, if nobody could settle on a busy machine."""
    late = may_come(case.ledger, case.ledger.missing("behind")[1]).sum() if case.had_no_time("settle", "end") else 0
    return case.ledger.dropped.count - int(late)


def _dropped(case: Case, threshold: Threshold | None) -> Answer:
    return by_count(
        count_dropped(case), case.ledger.expected, needed(threshold), "events never delivered", "expected deliveries"
    )


def _evictions(case: Case, threshold: Threshold | None) -> Answer:
    evicted, lives = len(case.history.fleet(Kind.EVICTED)), len(case.history.fleet(Kind.SUBSCRIBED))
    return by_count(evicted, lives, needed(threshold), "slow clients evicted", "live periods")


def _integrity(case: Case, threshold: Threshold | None) -> Answer:
    limit = needed(threshold)
    found = watermarks.integrity(case.history)
    mismatches = corrupted.unexplained(case.history, Kind.HASH_MISMATCH)
    wrong = len(found.applied_twice) + len(found.out_of_order) + len(found.holes)
    wrong += int(((mismatches.client >= 0) & (mismatches.client < case.history.header.clients)).sum())
    applied = len(case.history.fleet(Kind.APPLIED))
    answer = by_count(wrong, applied, limit, "events applied twice, out of order, missing or corrupt", "applied events")
    if answer.state is State.PASS and applied < (limit.minimum_n or 0):
        reason = f"{applied} applied events are too few; {limit.minimum_n} are needed"
        return Answer(State.INCONCLUSIVE, answer.value, applied, reason)
    return answer


def _publish_to_apply(case: Case, threshold: Threshold | None) -> Answer:
    found = samples.publish_to_apply_ms(case.history, case.ledger, case.busy)
    return by_percentile(found, _P95, needed(threshold), "deliveries outside the fault phase")


DECISIONS: Mapping[str, Decide] = {
    "error.websocket_auth_error_ratio": _auth_errors,
    "error.token_issue_failure_ratio": _token_failures,
    "error.stale_cursors": _stale_cursors,
    "replay.bootstrap_ms": _bootstrap,
    "replay.client_lag_events": _client_lag,
    "replay.divergence": _divergence,
    "replay.stale_loops": _stale_loops,
    "delivery.failed_publish_ratio": _failed_publishes,
    "error.failed_tries_ratio": _failed_tries,
    "delivery.dropped_deliveries": _dropped,
    "delivery.slow_consumer_evictions": _evictions,
    "ux.integrity": _integrity,
    "ux.publish_to_apply_ms": _publish_to_apply,
}
