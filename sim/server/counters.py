"""The runtime's counters, and the two forms in which its metrics endpoint shows them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sim.server.settings import Profile
from sim.server.stream_log import StreamLog

# The endpoint's counter of a refusal, by its code.
_AUTH_COUNTERS = {
    "unauthorized": "unauthorized_total",
    "forbidden": "forbidden_total",
    "forbidden_topic": "forbidden_total",
    "invalid_token": "invalid_token_total",
    "token_expired": "token_expired_total",
    "token_too_old": "token_expired_total",  # [ours] the endpoint has no counter of its own for it
    "token_not_yet_valid": "token_not_yet_valid_total",
    "token_revoked": "token_revoked_total",
}


@dataclass(slots=True)
class Counters:
    """Totals since the process began."""

    published: int = 0
    duplicates_suppressed: int = 0
    publish_failed: int = 0
    publish_tries: int = 0
    polls: int = 0
    served: int = 0
    trimmed: int = 0
    stale_cursors: int = 0
    evicted: int = 0
    silent_clients: int = 0
    upgrades: int = 0  # requested, including refused ones; counted by the mock's socket server
    returns: int = 0  # sockets of clients that were admitted before
    acted: dict[str, int] = field(default_factory=dict)  # how often each fault took effect, by kind
    came_before: set[int] = field(default_factory=set)  # keys of the clients that were admitted
    auth: dict[str, int] = field(default_factory=lambda: dict.fromkeys(dict.fromkeys(_AUTH_COUNTERS.values()), 0))

    def act(self, kind: str, times: int = 1) -> None:
        """Count that a fault took effect."""
        self.acted[kind] = self.acted.get(kind, 0) + times

    def came(self, client: int) -> None:
        """Count an admitted client, by its key."""
        self.returns += client in self.came_before
        self.came_before.add(client)

    def refused(self, code: str) -> None:
        """Count a refusal by its code."""
        self.auth[_AUTH_COUNTERS.get(code, "unauthorized_total")] += 1


def monitored(counters: Counters) -> dict[str, float]:
    """Return the metrics that only the service's own monitoring has, as far as a runtime counts them."""
    return {
        "sockets.connects_total": counters.upgrades,
        "sockets.reconnects_total": counters.returns,
        "sockets.heartbeat_timeouts_total": counters.silent_clients,
        "delivery.slow_consumer_evictions_total": counters.evicted,
    }


def metrics(
    counters: Counters, logs: Iterable[StreamLog], consumers: int, profile: Profile, now: float, transport: str
) -> dict[str, object]:
    """Return the body of the metrics endpoint.

    In the full profile `max_replay_lag` is the depth of the fullest retained window, not a client's lag, and
    `dropped_messages_total` counts entries trimmed from full windows, so it grows on every busy stream of a healthy service.
    """
    logs = list(logs)
    attempts = counters.published + counters.duplicates_suppressed
    rate = 100.0 * counters.duplicates_suppressed / attempts if attempts else 0.0
    mirror = {
        "published_total": counters.published,
        "duplicate_suppressed_total": counters.duplicates_suppressed,
        "failed_total": counters.publish_failed,
        "duplicate_suppression_rate_pct": rate,
    }
    generated_at = datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")
    if profile == "pinned":
        delivery: dict[str, object] = {"stream_count": len(logs), "event_count": sum(log.retained for log in logs)}
        return {"transport": transport, "mirror": mirror, "delivery": delivery, "generated_at": generated_at}
    delivery = {
        "active_consumers": consumers,
        "total_polls": counters.polls,
        "served_messages": counters.served,
        "max_replay_lag": max((log.retained for log in logs), default=0),
        "dropped_messages_total": counters.trimmed,
        "stale_cursor_events_total": counters.stale_cursors,
    }
    return {
        "transport": transport,
        "mirror": mirror,
        "delivery": delivery,
        "auth_failures": dict(counters.auth),
        "generated_at": generated_at,
    }
