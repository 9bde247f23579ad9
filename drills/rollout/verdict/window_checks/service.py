"""The sources of the checks of the gates error, replay, delivery and ux."""

from collections.abc import Mapping

from drills.judging.checks.base import Answer, Case, by_count
from drills.judging.checks.service import count_dropped
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_checks import budget, surge
from drills.rollout.verdict.window_data import clients, growth, names, servers
from drills.rollout.verdict.window_data.base import Source, from_clients
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis import samples
from sim.analysis.samples import Share
from sim.record.history import Floats
from sim.record.observations import Kind

_REFUSED, _NO_TOKEN = "connects refused for their token", "token requests refused"
_WRONG_EVENTS = "events applied twice, out of order, past a gap or with a wrong hash"


def bootstrap_ms(case: Case) -> Floats:
    """Times from connect due to caught up."""
    return samples.bootstrap_ms(case.history, case.busy)


def publish_to_apply_ms(case: Case) -> Floats:
    """Times from publish due to applied."""
    return samples.publish_to_apply_ms(case.history, case.ledger, case.busy)


def _client_lag(case: Case) -> Floats:
    return samples.client_lag_events(case.history, case.busy)


def _stale(window: StageWindow, limit: Threshold) -> Answer:
    worst = max(
        (sum(check.once("stale", _count_stale) for check in span.canary_checks) for span in clients.spans(window)), default=0
    )
    n = sum(check.once("subscribes", lambda case: samples.subscribe_answers(case.history)) for check in window.canary_checks)
    state = State.FAIL if worst > limit.threshold else State.PASS if n else State.NO_DATA
    reason = f"{worst} stale answers in the worst {limit.window_s:g} s, among {n} answers to subscribes of the canary checks"
    return Answer(state, worst, n, reason + servers.warning(worst, limit))


def _count_stale(case: Case) -> int:
    return len(samples.stale_answers(case.history))


def _replay_errors(window: StageWindow, limit: Threshold) -> Answer:
    share = clients.pooled(window, "replay.errors", _share_of_replay_errors)
    return by_count(share.hits, share.n, limit, "replay errors", "answers to subscribes")


def _share_of_replay_errors(case: Case) -> Share:
    """Malformed frames and subscribes refused for other reasons than the token, among all answers to subscribes."""
    history = case.history
    refused = history.fleet(Kind.SUBSCRIBE_REFUSED)
    others = len(refused) - int(history.detail_is(refused, samples.AUTH_CODES).sum())
    return Share(others + len(history.fleet(Kind.MALFORMED)), samples.subscribe_answers(history))


def _count_failed_publishes(case: Case) -> int:
    return clients.publishes(case).hits


def _count_evicted(case: Case) -> int:
    return len(case.history.fleet(Kind.EVICTED))


def _surge(metrics: tuple[str, ...], code: str, what: str) -> tuple[Source, ...]:
    return surge.of_servers(metrics, what), surge.of_clients(code, what)


SOURCES: Mapping[str, tuple[Source, ...]] = {
    "error.websocket_auth_error_ratio": (
        servers.ratio(names.AUTH_FAILURES, names.CONNECTS, _REFUSED),
        clients.ratio("connects", clients.connects, _REFUSED),
    ),
    "error.websocket_auth_error_ratio_10m": (clients.ratio_per_span("connects", clients.connects, _REFUSED),),
    "error.token_issue_failure_ratio": (
        servers.ratio(names.TOKEN_FAILURES, names.TOKEN_TRIES, _NO_TOKEN),
        clients.ratio("tokens", clients.tokens, _NO_TOKEN),
    ),
    "error.stale_cursors": (servers.count_per_span(names.STALE_CURSORS, "stale answers"), from_clients(_stale)),
    "error.unauthorized_surge": _surge(names.UNAUTHORIZED, "unauthorized", "refusals as unauthorized"),
    "error.token_expired_surge": _surge(names.TOKEN_EXPIRED, "token_expired", "refusals of expired tokens"),
    "error.error_budget_ratio": budget.RATIO,
    "error.error_budget_burn_fast": budget.BURN,
    "error.error_budget_burn_slow": budget.BURN,
    "replay.bootstrap_ms": (clients.p95("bootstrap", bootstrap_ms, "bootstraps"),),
    "replay.bootstrap_vs_baseline": (clients.p95_against_baseline("bootstrap", bootstrap_ms, "bootstraps"),),
    "replay.client_lag_events": (clients.p95_per_span("lag", _client_lag, "lag samples"),),
    "replay.errors": (servers.count(names.REPLAY_ERRORS, "replay errors"), from_clients(_replay_errors)),
    "replay.divergence": (
        servers.count(names.DIVERGENCES, "divergences"),
        clients.counted("replay.divergence", "events out of place", "replays"),
    ),
    "replay.stale_loops": (clients.counted("replay.stale_loops", "stale loops", "answers to subscribes"),),
    "delivery.failed_publish_ratio": (
        servers.ratio(names.PUBLISH_FAILED, names.PUBLISH_TRIES, "publishes failed"),
        clients.ratio("failed_publishes", clients.publishes, "publishes failed", "synthetic"),
    ),
    "delivery.failed_publish_growth": (
        growth.of_servers(names.PUBLISH_FAILED, "failed publishes"),
        growth.of_clients("publishes", _count_failed_publishes, "failed publishes", "synthetic"),
    ),
    # The metrics endpoint counts trimmed deliveries as dropped, so only clients are a source.
    "delivery.dropped_deliveries": (
        clients.counted("delivery.dropped_deliveries", "events never delivered", "expected deliveries"),
    ),
    "delivery.dropped_growth": (growth.of_clients("dropped", count_dropped, "dropped deliveries"),),
    "delivery.slow_consumer_growth": (
        growth.of_servers(names.EVICTIONS, "evictions"),
        growth.of_clients("evicted", _count_evicted, "evictions"),
    ),
    "ux.integrity": (clients.counted("ux.integrity", _WRONG_EVENTS, "applied events"),),
    "ux.publish_to_apply_ms": (clients.p95("publish_to_apply", publish_to_apply_ms, "deliveries"),),
}
