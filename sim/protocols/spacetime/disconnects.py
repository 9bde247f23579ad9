"""Why a client lost its connection, in the contract's words, and how error texts are told apart."""

from enum import StrEnum


class DisconnectReason(StrEnum):
    """The contract's disconnect reasons."""

    STREAM_CLOSED = "stream_closed"
    TOKEN_REFRESH_DUE = "token_refresh_due"
    STALE_CURSOR = "stale_cursor"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NETWORK = "network"
    UNKNOWN = "unknown"


MINTS_FIRST = frozenset({DisconnectReason.TOKEN_REFRESH_DUE, DisconnectReason.UNAUTHORIZED, DisconnectReason.FORBIDDEN})
"""Reasons after which a client mints a new token before it connects again."""

RATE_LIMITED = "rate_limited"
NETWORK_CODES = frozenset({"network", "timeout", "refused", "protocol", RATE_LIMITED})
"""Codes of a failed connect that tell of the way to the runtime, not of the token."""

# First match wins: the lane's own codes stand before the words of HTTP and of operating systems.
_MARKS: tuple[tuple[DisconnectReason, tuple[str, ...]], ...] = (
    (DisconnectReason.TOKEN_REFRESH_DUE, ("token_refresh_due",)),
    (DisconnectReason.STALE_CURSOR, ("stale_cursor",)),
    (DisconnectReason.STREAM_CLOSED, ("stream_closed",)),
    (DisconnectReason.UNAUTHORIZED, ("unauthorized", "401")),
    (DisconnectReason.FORBIDDEN, ("forbidden", "403")),
    (
        DisconnectReason.NETWORK,
        ("websocket closed", "connection", "network", "timed out", "timeout", "reset by peer", "broken pipe", "unreachable"),
    ),
)


CLOSED = "spacetime websocket closed"
# Of the WebSocket's status codes (RFC 6455, 7.4.1) those that say what was wrong.
_WRONGS = (1002, 1003, 1007, 1008, 1009, 1010, 1011)


def closed(status: int | None) -> str:
    """The error text of a connection that the other side closed, which tells the status if that says what was wrong."""
    return f"{CLOSED} ({status})" if status in _WRONGS else CLOSED


def wrong_of(error_text: str) -> str:
    """What was wrong with a connection that the other side closed, e.g. `closed_1009`; empty where nothing says so."""
    return next((f"closed_{status}" for status in _WRONGS if error_text == closed(status)), "")


def classify(error_text: str) -> DisconnectReason:
    """The reason an error text stands for; case does not matter, and what fits nothing is `unknown`."""
    text = error_text.lower()
    for reason, marks in _MARKS:
        if any(mark in text for mark in marks):
            return reason
    return DisconnectReason.UNKNOWN


def reason_of_refusal(code: str) -> DisconnectReason:
    """Refused tokens make a client mint anew; whatever else happens to a connect is the network's."""
    if code in NETWORK_CODES:
        return DisconnectReason.NETWORK
    return DisconnectReason.UNAUTHORIZED if code == "unauthorized" else DisconnectReason.FORBIDDEN
