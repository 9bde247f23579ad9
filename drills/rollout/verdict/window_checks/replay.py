"""Checks of the gate `replay` over a stage's window."""

from collections.abc import Mapping

from drills.judging.checks.base import Answer, Case, by_count, needed
from drills.judging.checks.thresholds import Threshold
from drills.rollout.verdict.window_data import clients, names, servers
from drills.rollout.verdict.window_data.base import Ask, by_clients
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis import samples
from sim.analysis.samples import Share
from sim.record.history import Floats, History
from sim.record.observations import Kind


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


ASKS: Mapping[str, tuple[Ask, ...]] = {
    "replay.bootstrap_ms": (Ask("client", clients.p95("bootstrap", _bootstrap_ms, "bootstraps")),),
    "replay.bootstrap_vs_baseline": (Ask("client", clients.p95_against_baseline("bootstrap", _bootstrap_ms, "bootstraps")),),
    "replay.client_lag_events": (Ask("client", clients.p95_per_span("lag", _client_lag, "lag samples")),),
    "replay.errors": (
        Ask("server", servers.count(names.REPLAY_ERRORS, "replay errors"), names.REPLAY_ERRORS),
        Ask("client", _errors_by_clients),
    ),
    "replay.divergence": (
        Ask("server", servers.count(names.DIVERGENCES, "divergences"), names.DIVERGENCES),
        Ask("client", clients.counted("replay.divergence", "events out of place", "replays")),
    ),
    "replay.stale_loops": (Ask("client", clients.counted("replay.stale_loops", "stale loops", "answers to subscribes")),),
}
