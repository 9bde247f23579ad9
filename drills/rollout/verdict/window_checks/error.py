"""Checks of the gate `error` over a stage's window."""

from collections.abc import Mapping

from drills.judging.checks.base import Answer, Case, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_checks import budget, surge
from drills.rollout.verdict.window_data import clients, names, servers
from drills.rollout.verdict.window_data.base import Ask, Decide, by_clients
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis import samples

_REFUSED = "connects refused for their token"
_NO_TOKEN = "token requests refused"


def _stale_by_clients(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    def judged() -> Answer:
        limit = needed(threshold)
        worst = max((_stale_in(span) for span in clients.spans(window)), default=0)
        n = sum(
            watch.once("subscribes", lambda case: samples.subscribe_answers(case.history)) for watch in window.canary_checks
        )
        state = State.FAIL if worst > limit.threshold else State.PASS if n else State.NO_DATA
        said = f"{worst} stale answers in the worst {limit.window_s:g} s, among {n} answers to subscribes of the watches"
        return Answer(state, worst, n, said + servers.warning(worst, limit))

    return by_clients(window, judged)


def _stale_in(span: StageWindow) -> int:
    return sum(watch.once("stale", _stale) for watch in span.canary_checks)


def _stale(case: Case) -> int:
    return len(samples.stale_answers(case.history))


def _surge(figures: tuple[str, ...], code: str, what: str) -> tuple[Ask, ...]:
    return Ask("server", surge.of_servers(figures, what), figures), Ask("client", surge.of_clients(code, what))


def _both(decide: tuple[Decide, Decide]) -> tuple[Ask, ...]:
    return Ask("server", decide[0], budget.BY_SERVERS), Ask("client", decide[1])


ASKS: Mapping[str, tuple[Ask, ...]] = {
    "error.websocket_auth_error_ratio": (
        Ask("server", servers.ratio(names.AUTH_FAILURES, names.CONNECTS, _REFUSED), (*names.AUTH_FAILURES, *names.CONNECTS)),
        Ask("client", clients.ratio("connects", samples.auth_refusals, _REFUSED)),
    ),
    "error.websocket_auth_error_ratio_10m": (
        Ask("client", clients.ratio_per_span("connects", samples.auth_refusals, _REFUSED)),
    ),
    "error.token_issue_failure_ratio": (
        Ask("server", servers.ratio(names.TOKEN_FAILURES, names.TOKEN_TRIES, _NO_TOKEN), names.TOKEN_TRIES),
        Ask("client", clients.ratio("tokens", samples.token_refusals, _NO_TOKEN)),
    ),
    "error.stale_cursors": (
        Ask("server", servers.count_per_span(names.STALE_CURSORS, "stale answers"), names.STALE_CURSORS),
        Ask("client", _stale_by_clients),
    ),
    "error.unauthorized_surge": _surge(names.UNAUTHORIZED, "unauthorized", "refusals as unauthorized"),
    "error.token_expired_surge": _surge(names.TOKEN_EXPIRED, "token_expired", "refusals of expired tokens"),
    "error.error_budget_ratio": _both(budget.RATIO),
    "error.error_budget_burn_fast": _both(budget.BURN),
    "error.error_budget_burn_slow": _both(budget.BURN),
}
