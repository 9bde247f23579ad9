"""What the runtime's metrics endpoint serves in each of its profiles, and what its figures mean."""

_MIRROR = ("published_total", "duplicate_suppressed_total", "failed_total", "duplicate_suppression_rate_pct")
_DELIVERY = (
    *("active_consumers", "total_polls", "served_messages", "max_replay_lag"),
    *("dropped_messages_total", "stale_cursor_events_total"),
)
_AUTH = (
    *("unauthorized_total", "forbidden_total", "invalid_token_total", "token_expired_total"),
    *("token_not_yet_valid_total", "token_revoked_total"),
)
METRICS_PATH = "/internal/v1/spacetime/sync/metrics"
# Figures by profile; the pinned one is what older runtimes have, and lacks most.
PROFILES: dict[str, tuple[str, ...]] = {
    "full": (
        *(f"mirror.{name}" for name in _MIRROR),
        *(f"delivery.{name}" for name in _DELIVERY),
        *(f"auth_failures.{name}" for name in _AUTH),
    ),
    "pinned": (*(f"mirror.{name}" for name in _MIRROR), "delivery.stream_count", "delivery.event_count"),
    "none": (),
}
# Figures whose names promise something else than they are.
MEANINGS = {
    "delivery.max_replay_lag": "the depth of the fullest retained window, not a client's lag",
    "delivery.dropped_messages_total": "entries trimmed from full windows, as on any busy stream; no lost deliveries",
}
_OTHER_COUNTERS = ("delivery.total_polls", "delivery.served_messages")


def is_counter(name: str) -> bool:
    """Whether a figure only grows while the runtime's process lives."""
    return name.endswith("_total") or name in _OTHER_COUNTERS
