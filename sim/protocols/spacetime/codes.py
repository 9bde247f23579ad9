"""Codes and error texts of the sync service, and how a client reacts to each."""

from collections.abc import Mapping

import msgspec

from sim.protocols import endings
from sim.protocols.adapter import TransportEnd
from sim.protocols.events import (
    INFORMED,
    MINTS_FIRST,
    NETWORK_CODES,
    RETRY,
    DisconnectReason,
    Malformed,
    Next,
    Problem,
    Refused,
    Step,
    retry_after,
)

CLIENT_TIMEOUT = "client_timeout"  # the server heard nothing from this client
RATE_LIMITED, REAUTH_REQUIRED, SLOW_CONSUMER, STALE_CURSOR = "rate_limited", "reauth_required", "slow_consumer", "stale_cursor"
MALFORMED_FRAME = Malformed("malformed_frame")
_ERROR_CODE = msgspec.json.Decoder(dict[str, dict[str, object]])

# The first match wins: the service's own codes come before the words of HTTP and of operating systems.
_MARKS: tuple[tuple[DisconnectReason, tuple[str, ...]], ...] = (
    (DisconnectReason.TOKEN_REFRESH_DUE, ("token_refresh_due",)),
    (DisconnectReason.STALE_CURSOR, (STALE_CURSOR,)),
    (DisconnectReason.STREAM_CLOSED, ("stream_closed",)),
    (DisconnectReason.UNAUTHORIZED, ("unauthorized", "401")),
    (DisconnectReason.FORBIDDEN, ("forbidden", "403")),
    (
        DisconnectReason.NETWORK,
        ("websocket closed", "connection", "network", "timed out", "timeout", "reset by peer", "broken pipe", "unreachable"),
    ),
)


def classify(error_text: str) -> DisconnectReason:
    """Return the disconnect reason of an error text, as the shipped client classifies it; ignores case."""
    text = error_text.lower()
    for reason, marks in _MARKS:
        if any(mark in text for mark in marks):
            return reason
    return DisconnectReason.UNKNOWN


def connect_refused(code: str) -> Refused:
    """Return the refusal of a failed connect. `NETWORK_CODES` are network errors; any other code requires a new token."""
    if code in NETWORK_CODES:
        return Refused("", code, DisconnectReason.NETWORK, RETRY, is_open=False)
    reason = DisconnectReason.UNAUTHORIZED if code == "unauthorized" else DisconnectReason.FORBIDDEN
    return Refused("", code, reason, _next(reason), is_open=False)


def upgrade_refused(end: TransportEnd) -> Refused:
    """Return the refusal of an upgrade by an HTTP answer."""
    return endings.answered(connect_refused(_refusal_code(end.status or 0, end.body)), end)


def _refusal_code(status: int, body: bytes) -> str:
    """Return why an upgrade was refused: the code in the runtime's answer or, without one, by its status."""
    try:
        code = _ERROR_CODE.decode(body)["error"]["code"]
        if isinstance(code, str) and code:
            return code
    except (msgspec.DecodeError, KeyError):
        pass
    return {401: "unauthorized", 403: "forbidden"}.get(status, "protocol")


def refused(ref: str, code: str, message: str = "", streams: tuple[str, ...] = (), wait_ms: float | None = None) -> Refused:
    """Return the refusal of a join or a subscribe, by its code; `wait_ms` is the server's hint."""
    reason = DisconnectReason.UNAUTHORIZED if code == REAUTH_REQUIRED else classify(code)
    return Refused(ref, code, reason, _next(reason, None if code == REAUTH_REQUIRED else wait_ms), True, message, streams)


def reauth_required(message: str = "") -> Problem:
    """Return the problem of a revoked session or a token that is no longer valid."""
    return Problem(REAUTH_REQUIRED, DisconnectReason.UNAUTHORIZED, Next(Step.MINT), message)


def slow_consumer(
    is_evicted: bool, wait_ms: float | None, message: str = "", details: Mapping[str, object] | None = None
) -> Problem:
    """Return the problem of a client that reads too slowly; an evicted client must disconnect."""
    return Problem(SLOW_CONSUMER, next=retry_after(wait_ms) if is_evicted else INFORMED, message=message, details=details or {})


def _next(reason: DisconnectReason, wait_ms: float | None = None) -> Next:
    return Next(Step.MINT, wait_ms) if reason in MINTS_FIRST else retry_after(wait_ms)
