"""Checks of the gate `delivery` over a stage's window. What the endpoint calls dropped is trimmed, so clients are asked."""

from drills.judging.checks.base import Case
from drills.judging.checks.service import COUNT, RATIO
from drills.rollout.verdict.window_data import clients, growth, names, servers
from drills.rollout.verdict.window_data.base import Ask, WindowCheck
from sim.analysis import samples
from sim.record.observations import Kind

_GROWTH = (
    "Mann and Kendall on the increments of six equal blocks, S >= 13, and the last block above the first by more than that: "
    "fail; minute by minute p < 0.01 alone: inconclusive"
)


def _failed(case: Case) -> int:
    return samples.failed_publishes(case.history).hits


def _dropped(case: Case) -> int:
    return case.ledger.dropped.count


def _evicted(case: Case) -> int:
    return len(case.history.fleet(Kind.EVICTED))


CHECKS = (
    WindowCheck(
        "delivery",
        "failed_publish_ratio",
        "ratio",
        "failed publishes / all publishes",
        RATIO,
        (
            Ask("server", servers.ratio(names.PUBLISH_FAILED, names.PUBLISH_TRIES, "publishes failed"), names.PUBLISH_TRIES),
            Ask("synthetic", clients.ratio("publishes", samples.failed_publishes, "publishes failed")),
        ),
    ),
    WindowCheck(
        "delivery",
        "failed_publish_growth",
        "publishes/10 min",
        "how many more publishes fail in the last sixth than in the first",
        _GROWTH,
        (
            Ask("server", growth.of_servers(names.PUBLISH_FAILED, "failed publishes"), names.PUBLISH_FAILED),
            Ask("synthetic", growth.of_clients("publishes", _failed, "failed publishes")),
        ),
    ),
    WindowCheck(
        "delivery",
        "dropped_deliveries",
        "events",
        "published, never applied, not declared lost",
        COUNT,
        (Ask("client", clients.counted("delivery.dropped_deliveries", "events never delivered", "expected deliveries")),),
        absent="no server counts it (delivery.dropped_messages_total counts trimmed entries): the client ledger",
    ),
    WindowCheck(
        "delivery",
        "dropped_growth",
        "events/10 min",
        "how many more deliveries are dropped in the last sixth than in the first",
        _GROWTH,
        (Ask("client", growth.of_clients("dropped", _dropped, "dropped deliveries")),),
        absent="the client ledger",
    ),
    WindowCheck(
        "delivery",
        "slow_consumer_growth",
        "evictions/10 min",
        "how many more slow clients are told to go in the last sixth than in the first",
        _GROWTH,
        (
            Ask("server", growth.of_servers(names.EVICTIONS, "evictions"), names.EVICTIONS),
            Ask("client", growth.of_clients("evicted", _evicted, "evictions")),
        ),
        absent="reported, not gating",
    ),
)
