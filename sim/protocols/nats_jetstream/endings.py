"""Refusals and endings of a NATS connection, and what a client does after each."""

import re
from typing import NamedTuple

from sim.protocols import endings
from sim.protocols.adapter import TransportEnd
from sim.protocols.events import RETRY, Closed, DisconnectReason, Next, Refused, Step

TERMINAL = Next(Step.TERMINAL)
_CONFIGURED = Next(Step.WAIT, 1000.0)  # [ours] a limit was reached: the server gives no hint
_QUOTED = re.compile(r'"([^"]*)"')


class Ending(NamedTuple):
    """What a fatal `-ERR` means."""

    code: str
    reason: DisconnectReason
    next: Next


# By a part of the text, in lower case. The server closes the connection after each of these.
_FATAL: tuple[tuple[str, Ending], ...] = (
    # One text for absent, wrong, expired and revoked credentials.
    ("authorization violation", Ending("authorization_violation", DisconnectReason.UNAUTHORIZED, TERMINAL)),
    ("authentication timeout", Ending("authentication_timeout", DisconnectReason.NETWORK, RETRY)),
    ("authentication expired", Ending("authentication_expired", DisconnectReason.UNAUTHORIZED, Next(Step.MINT))),
    ("authentication revoked", Ending("authentication_revoked", DisconnectReason.UNAUTHORIZED, TERMINAL)),
    ("connections exceeded", Ending("connections_exceeded", DisconnectReason.NETWORK, _CONFIGURED)),
    ("stale connection", Ending("stale_connection", DisconnectReason.NETWORK, RETRY)),
    ("slow consumer", Ending("slow_consumer", DisconnectReason.NETWORK, RETRY)),
    ("maximum payload violation", Ending("payload_too_large", DisconnectReason.UNKNOWN, TERMINAL)),
    ("maximum control line exceeded", Ending("line_too_long", DisconnectReason.UNKNOWN, TERMINAL)),
    ("unknown protocol operation", Ending("unknown_operation", DisconnectReason.UNKNOWN, TERMINAL)),
    ("parser error", Ending("unknown_operation", DisconnectReason.UNKNOWN, TERMINAL)),
)
# By close code, where no `-ERR` came before. 1000 is how the server removes a user: the next connect is then refused.
_BY_CLOSE_CODE = {1008: Ending("policy", DisconnectReason.UNAUTHORIZED, TERMINAL), 1009: _FATAL[7][1]}
_LOST = Ending("", DisconnectReason.NETWORK, RETRY)
# JetStream's error codes of requests. Others are final if their HTTP-like code is 400 to 499.
_BY_ERROR_CODE = {
    10014: ("consumer_not_found", RETRY),
    10059: ("stream_not_found", RETRY),  # it may be created again
    10077: ("stream_full", RETRY),
    10071: ("wrong_last_sequence", Next(Step.REFETCH)),
    10054: ("message_too_large", TERMINAL),
}
NO_RESPONDERS = "no_responders"  # no such stream, or JetStream is off, stopping or not yet ready


def fatal(text: str) -> Ending | None:
    """Return what a fatal `-ERR` means; None for another one, after which the connection stays open."""
    lower = text.lower()
    return next((ending for part, ending in _FATAL if part in lower), None)


def forbidden_subject(text: str) -> str | None:
    """Return the subject of a permissions violation; None for another error."""
    found = _QUOTED.search(text) if text.lower().startswith("permissions violation") else None
    return found[1] if found else None


def closed(end: TransportEnd, error: Ending | None) -> Closed:
    """Return the end of an open connection; `error` is the fatal error that came before."""
    ending = error or _BY_CLOSE_CODE.get(end.code or 0, _LOST)
    return Closed(ending.reason, end.code, ending.next)


def not_opened(end: TransportEnd) -> Refused:
    """Return the refusal of a connection that could not be opened. A status of 4xx is the listener's answer to the origin."""
    if endings.is_of_proxy(end):
        return endings.upgrade_refused(end)
    if end.status is not None and not endings.is_temporary(end.status):
        refused = Refused("", f"status_{end.status}", DisconnectReason.FORBIDDEN, TERMINAL, is_open=False)
    else:
        code = "protocol" if end.is_broken or end.status is not None else "network"
        refused = Refused("", code, DisconnectReason.NETWORK, RETRY, is_open=False)
    return endings.answered(refused, end)


def request_failed(code: int, error_code: int) -> tuple[str, Next]:
    """Return the code of a refused request, and what comes next. `code` is like a status of HTTP."""
    if code == 403:
        return "permissions_violation", TERMINAL
    known = _BY_ERROR_CODE.get(error_code)
    return known or (f"error_{error_code}", TERMINAL if 400 <= code < 500 else RETRY)
