"""Checks of the gate `replay` over a stage's window."""

from drills.judging.checks.base import Answer, Case, by_count, needed
from drills.judging.checks.service import COUNT, P95
from drills.judging.checks.thresholds import Threshold
from drills.rollout.verdict.window_data import clients, names, servers
from drills.rollout.verdict.window_data.base import Ask, WindowCheck, by_clients
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis import samples
from sim.analysis.samples import Share
from sim.record.history import Floats, History
from sim.record.observations import Kind

_MINIMUM_N = frozenset({"minimum_n"})


def _bootstrap_ms(case: Case) -> Floats:
    return samples.bootstrap_ms(case.history)


def _client_lag(case: Case) -> Floats:
    return samples.client_lag_events(case.history)


def _errors(history: History) -> Share:
    """Subscribes refused for another reason than the token, and frames that are none, among all answers to subscribes."""
    refused = history.fleet(Kind.SUBSCRIBE_REFUSED)
    others = len(refused) - int(history.detail_is(refused, samples.AUTH_CODES).sum())
    return Share(others + len(history.fleet(Kind.MALFORMED)), samples.subscribe_answers(history))


def _errors_by_clients(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    def judged() -> Answer:
        share = clients.pooled(window, "replay.errors", _errors)
        return by_count(share.hits, share.n, needed(threshold), "replay errors", "answers to subscribes")

    return by_clients(window, judged)


CHECKS = (
    WindowCheck(
        "replay",
        "bootstrap_ms",
        "ms",
        "connect due -> caught up",
        P95,
        (Ask("client", clients.p95("bootstrap", _bootstrap_ms, "bootstraps")),),
        absent="n < 59: inconclusive",
        extras=_MINIMUM_N,
    ),
    WindowCheck(
        "replay",
        "bootstrap_vs_baseline",
        "times",
        "connect due -> caught up, against stage 0",
        "upper 95 % bound of the p95 against the p95 of stage 0; fails where even the lower is beyond the upper then",
        (Ask("client", clients.p95_against_baseline("bootstrap", _bootstrap_ms, "bootstraps")),),
        absent="no baseline: inconclusive",
        extras=_MINIMUM_N,
    ),
    WindowCheck(
        "replay",
        "client_lag_events",
        "events",
        "head - applied, sampled",
        P95,
        (Ask("client", clients.p95_per_span("lag", _client_lag, "lag samples")),),
        window="worst 10 min",
        extras=_MINIMUM_N,
    ),
    WindowCheck(
        "replay",
        "errors",
        "errors",
        "subscribes refused for another reason than the token or the cursor, and malformed frames",
        COUNT,
        (
            Ask("server", servers.count(names.REPLAY_ERRORS, "replay errors"), names.REPLAY_ERRORS),
            Ask("client", _errors_by_clients),
        ),
    ),
    WindowCheck(
        "replay",
        "divergence",
        "events",
        "events that a replay skipped or began below the cursor",
        COUNT,
        (
            Ask("server", servers.count(names.DIVERGENCES, "divergences"), names.DIVERGENCES),
            Ask("client", clients.counted("replay.divergence", "events out of place", "replays")),
        ),
    ),
    WindowCheck(
        "replay",
        "stale_loops",
        "loops",
        "two or more stale answers in a row for one client",
        COUNT,
        (Ask("client", clients.counted("replay.stale_loops", "stale loops", "answers to subscribes")),),
    ),
)
