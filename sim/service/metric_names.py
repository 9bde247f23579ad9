"""Names of the service's metrics: those of its metrics endpoint by profile, the counters of its control service,
those that only its own monitoring has, and what misleading names mean."""

_MIRROR = ("published_total", "duplicate_suppressed_total", "failed_total", "duplicate_suppression_rate_pct")
_DELIVERY = (
    *("active_consumers", "total_polls", "served_messages", "max_replay_lag"),
    *("dropped_messages_total", "stale_cursor_events_total"),
)
_AUTH = (
    *("unauthorized_total", "forbidden_total", "invalid_token_total", "token_expired_total"),
    *("token_not_yet_valid_total", "token_revoked_total"),
)
# Metrics by profile; older runtimes have the pinned profile, which lacks most metrics.
PROFILES: dict[str, tuple[str, ...]] = {
    "full": (
        *(f"mirror.{name}" for name in _MIRROR),
        *(f"delivery.{name}" for name in _DELIVERY),
        *(f"auth_failures.{name}" for name in _AUTH),
    ),
    "pinned": (*(f"mirror.{name}" for name in _MIRROR), "delivery.stream_count", "delivery.event_count"),
    "none": (),
}
STATUS_COUNTERS = (
    *("sync.token.issued", "sync.token.issue.failed", "sync.token.issue.policy_denied"),
    *("sync.token.issue.auth_failed", "sync.token.issue.policy_eval_failed"),
)
# Metrics [ours] of the operators' alert list that no endpoint serves; only a Prometheus may have them.
MONITORED = {
    "sockets.connects_total": "WebSocket upgrades that were asked for, refused ones included",
    "sockets.reconnects_total": "those of clients that had been connected before",
    "sockets.heartbeat_timeouts_total": "sockets closed because nothing more came from the client",
    "delivery.slow_consumer_evictions_total": "sockets closed because the client did not take what was sent to it",
    "replay.errors_total": "replays that ended in an error",
    "replay.divergences_total": "replays that were found to differ from the authority's log",
}
# All names that any source of metrics has; any other name is a mistake.
KNOWN = (*dict.fromkeys((*PROFILES["full"], *PROFILES["pinned"], *STATUS_COUNTERS, *MONITORED)),)
# What metrics with misleading names measure.
MEANINGS = {
    "delivery.max_replay_lag": "the depth of the fullest retained window, not a client's lag",
    "delivery.dropped_messages_total": "entries trimmed from full windows, as on any busy stream; no lost deliveries",
}
_OTHER_COUNTERS = ("delivery.total_polls", "delivery.served_messages")


def is_counter(name: str) -> bool:
    """Whether a metric only grows while the runtime's process lives."""
    return name.endswith("_total") or name in _OTHER_COUNTERS or name in STATUS_COUNTERS
