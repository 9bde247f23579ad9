"""Checks of the gate `error` over a stage's window."""

from drills.judging.checks.base import Answer, Case, needed
from drills.judging.checks.service import RATIO
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_checks import budget, surge
from drills.rollout.verdict.window_data import clients, names, servers
from drills.rollout.verdict.window_data.base import Ask, Decide, WindowCheck, by_clients
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis import samples

_REFUSED = "connects refused for their token"
_CLIENTS_COUNT = "clients' own counts stand in, labelled so"


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


def _surge(name: str, figures: tuple[str, ...], code: str, what: str) -> WindowCheck:
    return WindowCheck(
        "error",
        name,
        "ratio",
        f"{what} in 5 min / in 5 min of the hour before",
        "bounds between two answers; fewer than 10 do not count; in the first hour stage 0 stands for the hour before",
        (Ask("server", surge.of_servers(figures, what), figures), Ask("client", surge.of_clients(code, what))),
        window="worst 5 min against the trailing hour",
        absent="no baseline: inconclusive; where no server counts it, clients' own refusals stand in, labelled so",
        extras=frozenset({"window_s", "long_s", "minimum_events", "minimum_n"}),
    )


def _burn(name: str, spans: str) -> WindowCheck:
    return WindowCheck(
        "error",
        name,
        "times",
        f"how fast the error budget burns, over {spans}",
        "fails where the lower 95 % Wilson bounds of both spans are over it: stops a stage at once",
        _both(budget.BURN),
        window=f"worst {spans}",
        extras=frozenset({"window_s", "long_s", "budget"}),
    )


def _both(decide: tuple[Decide, Decide]) -> tuple[Ask, ...]:
    return Ask("server", decide[0], budget.BY_SERVERS), Ask("client", decide[1])


CHECKS = (
    WindowCheck(
        "error",
        "websocket_auth_error_ratio",
        "ratio",
        "connects refused for their token / attempts",
        RATIO,
        (
            Ask(
                "server", servers.ratio(names.AUTH_FAILURES, names.CONNECTS, _REFUSED), (*names.AUTH_FAILURES, *names.CONNECTS)
            ),
            Ask("client", clients.ratio("connects", samples.auth_refusals, _REFUSED)),
        ),
        absent=f"the metrics endpoint counts no attempts: {_CLIENTS_COUNT}",
    ),
    WindowCheck(
        "error",
        "websocket_auth_error_ratio_10m",
        "ratio",
        "connects refused for their token / attempts, in the worst ten minutes",
        f"{RATIO}; ten minutes without any error are no evidence, however few attempts they had",
        (Ask("client", clients.ratio_per_span("connects", samples.auth_refusals, _REFUSED)),),
        window="worst 10 min",
        absent=_CLIENTS_COUNT,
    ),
    WindowCheck(
        "error",
        "token_issue_failure_ratio",
        "ratio",
        "token requests refused / all",
        RATIO,
        (
            Ask(
                "server",
                servers.ratio(names.TOKEN_FAILURES, names.TOKEN_TRIES, "token requests refused"),
                (*names.TOKEN_TRIES,),
            ),
            Ask("client", clients.ratio("tokens", samples.token_refusals, "token requests refused")),
        ),
        absent=f"no_data; where the control service has no counters, {_CLIENTS_COUNT}",
    ),
    WindowCheck(
        "error",
        "stale_cursors",
        "answers",
        "stale answers to clients",
        "count in any ten minutes, by its bounds between two answers of a server",
        (
            Ask("server", servers.count_per_span(names.STALE_CURSORS, "stale answers"), names.STALE_CURSORS),
            Ask("client", _stale_by_clients),
        ),
        window="worst 10 min",
        absent=_CLIENTS_COUNT,
        extras=frozenset({"window_s"}),
        options=frozenset({"warn"}),
    ),
    _surge("unauthorized_surge", names.UNAUTHORIZED, "unauthorized", "refusals as unauthorized"),
    _surge("token_expired_surge", names.TOKEN_EXPIRED, "token_expired", "refusals of expired tokens"),
    WindowCheck(
        "error",
        "error_budget_ratio",
        "ratio",
        "tokens, connects and publishes that failed / all",
        RATIO,
        _both(budget.RATIO),
    ),
    _burn("error_budget_burn_fast", "1 h and 5 min"),
    _burn("error_budget_burn_slow", "6 h and 30 min"),
)
