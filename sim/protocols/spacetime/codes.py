"""Codes and error texts of the sync service, and what each means for a client."""

from collections.abc import Mapping

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

RATE_LIMITED, REAUTH_REQUIRED, SLOW_CONSUMER, STALE_CURSOR = "rate_limited", "reauth_required", "slow_consumer", "stale_cursor"
MALFORMED_FRAME = Malformed("malformed_frame")

# The first match wins: the service's own codes stand before the words of HTTP and of operating systems.
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
    """The reason that an error text stands for, as the shipped client has it; case does not matter."""
    text = error_text.lower()
    for reason, marks in _MARKS:
        if any(mark in text for mark in marks):
            return reason
    return DisconnectReason.UNKNOWN


def connect_refused(code: str) -> Refused:
    """A connect that failed. A refused token has to be replaced; everything else is the network's fault."""
    if code in NETWORK_CODES:
        return Refused("", code, DisconnectReason.NETWORK, RETRY, is_open=False)
    reason = DisconnectReason.UNAUTHORIZED if code == "unauthorized" else DisconnectReason.FORBIDDEN
    return Refused("", code, reason, _next(reason), is_open=False)


def refused(ref: str, code: str, message: str = "", streams: tuple[str, ...] = (), wait_ms: float | None = None) -> Refused:
    """A join or a subscribe that was refused with a code; `wait_ms` is the server's hint."""
    reason = DisconnectReason.UNAUTHORIZED if code == REAUTH_REQUIRED else classify(code)
    return Refused(ref, code, reason, _next(reason, None if code == REAUTH_REQUIRED else wait_ms), True, message, streams)


def reauth_required(message: str = "") -> Problem:
    """The session was revoked, or its token is no longer good."""
    return Problem(REAUTH_REQUIRED, DisconnectReason.UNAUTHORIZED, Next(Step.MINT), message)


def slow_consumer(
    is_evicted: bool, wait_ms: float | None, message: str = "", details: Mapping[str, object] | None = None
) -> Problem:
    """The client does not read fast enough; it has to leave if it is evicted."""
    return Problem(SLOW_CONSUMER, next=retry_after(wait_ms) if is_evicted else INFORMED, message=message, details=details or {})


def _next(reason: DisconnectReason, wait_ms: float | None = None) -> Next:
    return Next(Step.MINT, wait_ms) if reason in MINTS_FIRST else retry_after(wait_ms)
