"""The names of the servers' metrics that checks of a window read."""

PUBLISH_FAILED = ("mirror.failed_total",)
PUBLISH_TRIES = ("mirror.published_total", "mirror.duplicate_suppressed_total", "mirror.failed_total")
TOKEN_FAILURES = (
    *("sync.token.issue.failed", "sync.token.issue.policy_denied", "sync.token.issue.auth_failed"),
    "sync.token.issue.policy_eval_failed",
)
TOKEN_TRIES = ("sync.token.issued", *TOKEN_FAILURES)
AUTH_FAILURES = (
    *("auth_failures.unauthorized_total", "auth_failures.forbidden_total", "auth_failures.invalid_token_total"),
    *("auth_failures.token_expired_total", "auth_failures.token_not_yet_valid_total", "auth_failures.token_revoked_total"),
)
UNAUTHORIZED, TOKEN_EXPIRED = ("auth_failures.unauthorized_total",), ("auth_failures.token_expired_total",)
STALE_CURSORS = ("delivery.stale_cursor_events_total",)
# From the operators' alert list. No endpoint serves these metrics; a Prometheus may have them.
CONNECTS = ("sockets.connects_total",)
RECONNECTS = ("sockets.reconnects_total",)
HEARTBEAT_TIMEOUTS = ("sockets.heartbeat_timeouts_total",)
EVICTIONS = ("delivery.slow_consumer_evictions_total",)
REPLAY_ERRORS = ("replay.errors_total",)
DIVERGENCES = ("replay.divergences_total",)
