"""Error codes, close codes and unsubscribe codes of Centrifugo, and what a client does after each."""

from sim.protocols import endings
from sim.protocols.adapter import TransportEnd
from sim.protocols.centrifugo.codec import Error
from sim.protocols.events import (
    MINT,
    RETRY,
    Closed,
    DisconnectReason,
    Message,
    Next,
    Problem,
    Refused,
    Step,
    StreamEnded,
)

TERMINAL = Next(Step.TERMINAL)
RESUBSCRIBE = Next(Step.RESUBSCRIBE)
TOKEN_EXPIRED = "token_expired"
SLOW_CONSUMER = "slow_consumer"
_ERRORS = {
    100: "internal_error",
    101: "unauthorized",
    102: "unknown_channel",
    103: "permission_denied",
    104: "method_not_found",
    105: "already_subscribed",
    106: "limit_exceeded",
    107: "bad_request",
    108: "not_available",
    109: TOKEN_EXPIRED,
    110: "expired",
    111: "too_many_requests",
    112: "unrecoverable_position",
}
_PASSING = (100, 111, 113)  # errors that the server calls temporary
_UNAUTHORIZED = (101, 109)
_EXPIRED, _SLOW, _INVALID_TOKEN, _BAD_REQUEST, _STALE, _TOO_BIG = 3005, 3008, 3500, 3501, 3502, 1009
_NO_TOKEN = {_INVALID_TOKEN: "invalid_token", _EXPIRED: TOKEN_EXPIRED, _BAD_REQUEST: "unauthorized"}
"""Close codes that refuse a connect for its token. A connect without a token is a bad request."""
_FINAL = ((3500, 4000), (4500, 5000))  # ranges of close codes after which a client must not reconnect
_LATE_UNSUBSCRIBE = 2500  # from here on, a client may subscribe again
_SUBSCRIPTION_EXPIRED = 2501
_UPGRADES = {403: ("forbidden", DisconnectReason.FORBIDDEN), 503: ("rate_limited", DisconnectReason.NETWORK)}


def name_of(error: Error) -> str:
    """Return the name of an error."""
    return _ERRORS.get(error.code, f"error_{error.code}")


def refused(ref: str, error: Error, streams: tuple[str, ...] = ()) -> Refused:
    """Return the refusal of a command. The connection stays open."""
    reason = DisconnectReason.UNAUTHORIZED if error.code in _UNAUTHORIZED else DisconnectReason.UNKNOWN
    return Refused(ref, name_of(error), reason, next_of(error), True, error.message, streams)


def next_of(error: Error) -> Next:
    """Return what a client does after an error: a new token if it expired; the same again only after a temporary one."""
    if error.code == 109:
        return MINT
    return RETRY if error.code in _PASSING else TERMINAL


def stream_ended(channel: str, code: int) -> StreamEnded:
    """Return the end of a subscription by the server."""
    if code == _SUBSCRIPTION_EXPIRED:
        return StreamEnded(channel, f"unsubscribed_{code}", MINT)
    return StreamEnded(channel, f"unsubscribed_{code}", RESUBSCRIBE if code >= _LATE_UNSUBSCRIBE else TERMINAL)


def closed(end: TransportEnd, join_ref: str) -> Message:
    """Return the end of an open connection; `join_ref` is the unanswered connect, if there is one."""
    code, reason, following = end.code, DisconnectReason.NETWORK, RETRY
    if code == _SLOW:
        return (Problem(SLOW_CONSUMER, DisconnectReason.NETWORK, RETRY, end.reason),)
    if code == _EXPIRED:
        reason, following = DisconnectReason.UNAUTHORIZED, MINT
    elif code == _INVALID_TOKEN:
        reason, following = DisconnectReason.UNAUTHORIZED, TERMINAL
    elif code is not None and is_final(code):
        reason, following = DisconnectReason.FORBIDDEN, TERMINAL
    ended = Closed(reason, code, following)
    if join_ref and code in _NO_TOKEN:  # a close is the answer to the connect
        return (Refused(join_ref, _NO_TOKEN[code], reason, Next(Step.NOTHING), message=end.reason), ended)
    return (ended,)


def is_final(code: int) -> bool:
    """Whether a client must not reconnect after this close code. A connect that only came too late may be repeated."""
    return code == _TOO_BIG or (code != _STALE and any(first <= code < after for first, after in _FINAL))


def connect_refused(end: TransportEnd) -> Refused:
    """Return the refusal of an upgrade, or a failed connection. Hints are a proxy's; the server itself states none."""
    if end.status is None:
        return Refused("", "protocol" if end.is_broken else "network", DisconnectReason.NETWORK, is_open=False)
    if endings.is_of_proxy(end):
        return endings.upgrade_refused(end)
    code, reason = _UPGRADES.get(end.status, ("protocol", DisconnectReason.NETWORK))
    following = RETRY if endings.is_temporary(end.status) else TERMINAL
    return endings.answered(Refused("", code, reason, following, is_open=False), end)  # a proxy may give a hint
