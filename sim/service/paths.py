"""HTTP and WebSocket paths of the sync service and its control service, for requests and for the mock."""

from typing import Final

TOKEN_PATH = "/api/spacetime/token"
STATUS_PATH = "/api/status"
SOCKET_PATH = "/sync/socket/websocket"
READY_PATH = "/readyz"
HEALTH_PATH = "/healthz"
RUNS_PATH = "/internal/v1/runs"
EVENTS_PATH = RUNS_PATH + "/{run_id}/events"
ROUTING_PATH = "/api/v1/control/runtime-routing/evaluate"
REVOKE_PATH = "/internal/v1/sync/sessions/revoke"
METRICS_PATH = "/internal/v1/spacetime/sync/metrics"
SIGN_IN_PATH = "/api/auth/session"  # of stormgate's own mock only
MOCK_PATH = "/_mock/{name}"  # of stormgate's own mock only
# Retired routes of the runtime, where a target names no others. They must answer 404, because an old client would trust any
# other answer.
RETIRED: Final = (
    "GET /internal/v1/spacetime/topics/run:stormgate:events/messages",
    "POST /internal/v1/spacetime/fanout/hooks",
    "GET /internal/v1/spacetime/fanout/metrics",
)
