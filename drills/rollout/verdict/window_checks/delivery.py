"""Checks of the gate `delivery` over a stage's window. What the endpoint calls dropped is trimmed, so clients are asked."""

from collections.abc import Mapping

from drills.judging.checks.base import Case
from drills.rollout.verdict.window_data import clients, growth, names, servers
from drills.rollout.verdict.window_data.base import Ask
from sim.analysis import samples
from sim.record.observations import Kind


def _failed(case: Case) -> int:
    return samples.failed_publishes(case.history).hits


def _dropped(case: Case) -> int:
    return case.ledger.dropped.count


def _evicted(case: Case) -> int:
    return len(case.history.fleet(Kind.EVICTED))


ASKS: Mapping[str, tuple[Ask, ...]] = {
    "delivery.failed_publish_ratio": (
        Ask("server", servers.ratio(names.PUBLISH_FAILED, names.PUBLISH_TRIES, "publishes failed"), names.PUBLISH_TRIES),
        Ask("synthetic", clients.ratio("publishes", samples.failed_publishes, "publishes failed")),
    ),
    "delivery.failed_publish_growth": (
        Ask("server", growth.of_servers(names.PUBLISH_FAILED, "failed publishes"), names.PUBLISH_FAILED),
        Ask("synthetic", growth.of_clients("publishes", _failed, "failed publishes")),
    ),
    "delivery.dropped_deliveries": (
        Ask("client", clients.counted("delivery.dropped_deliveries", "events never delivered", "expected deliveries")),
    ),
    "delivery.dropped_growth": (Ask("client", growth.of_clients("dropped", _dropped, "dropped deliveries")),),
    "delivery.slow_consumer_growth": (
        Ask("server", growth.of_servers(names.EVICTIONS, "evictions"), names.EVICTIONS),
        Ask("client", growth.of_clients("evicted", _evicted, "evictions")),
    ),
}
