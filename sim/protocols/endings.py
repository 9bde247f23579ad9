"""What a client does next after a close code, or after an answer that refused its connection.

Adapters use it where their protocol says nothing else. Hints come from `Retry-After` or from `retry_after_ms` in a JSON body or
in the reason of a close.
"""

from email.utils import parsedate_to_datetime

import msgspec

from sim.protocols.adapter import TransportEnd
from sim.protocols.events import MINT, RETRY, Closed, DisconnectReason, Next, Refused, Step, retry_after

POLICY_VIOLATION, NO_CODE, NO_CLOSE_FRAME = 1008, 1005, 1006
FIRST_CLOSE_CODE = 1000  # lower numbers are HTTP statuses
FIRST_TERMINAL, LAST_TERMINAL = 4500, 4999  # [ours] as in Centrifugo's protocol: 4000-4499 reconnect, 4500-4999 do not
_OF_TOKENS = {401: ("unauthorized", DisconnectReason.UNAUTHORIZED), 403: ("forbidden", DisconnectReason.FORBIDDEN)}
_UNAUTHORIZED = 401
_TEMPORARY = (408, 425, 429)  # also of a proxy before a server that knows no limits
_JSON = msgspec.json.Decoder(dict[str, object])


def closed(end: TransportEnd) -> Closed:
    """Return the end of an open connection. A policy violation asks for a new token."""
    code, wait_ms = end.code, hint_in(end.reason)
    if code == POLICY_VIOLATION:
        return Closed(code=code, next=Next(Step.MINT, wait_ms))
    if code is not None and FIRST_TERMINAL <= code <= LAST_TERMINAL:
        return Closed(code=code, next=Next(Step.TERMINAL))
    return Closed(code=code, next=retry_after(wait_ms))


def is_temporary(status: int) -> bool:
    """Return whether a refusal with this status may pass by itself."""
    return status >= 500 or status in _TEMPORARY


def upgrade_refused(end: TransportEnd) -> Refused:
    """Return the refusal of an upgrade by a server that states no codes: 401 and 403 ask for a new token."""
    code, reason = _OF_TOKENS.get(end.status or 0, ("protocol", DisconnectReason.NETWORK))
    hint = RETRY if reason is DisconnectReason.NETWORK else MINT
    return answered(Refused("", code, reason, hint, is_open=False), end)


def is_of_proxy(end: TransportEnd) -> bool:
    """Return whether an answer is that of a proxy which asks for credentials: servers that read tokens later never say 401."""
    return end.status == _UNAUTHORIZED


def answered(refused: Refused, end: TransportEnd) -> Refused:
    """Return the refusal of a connection with the status and the hint of the HTTP answer.

    Whoever says when to retry does not mean that a retry cannot succeed (RFC 9110, 10.2.3).
    """
    wait_ms = retry_after_ms(end)
    step = refused.next.step
    waits = step in (Step.RETRY, Step.TERMINAL)
    hint = refused.next if wait_ms is None else Next(Step.WAIT if waits else step, wait_ms)
    return msgspec.structs.replace(refused, status=end.status, next=hint)


def retry_after_ms(end: TransportEnd) -> float | None:
    """Return the hint of an HTTP answer in ms: in its body or, less exact, in its header. None without one."""
    found = hint_in(end.body)
    return _of_header(end.headers.get("retry-after", ""), end.headers.get("date", "")) if found is None else found


def hint_in(text: str | bytes) -> float | None:
    """Return `retry_after_ms` of a JSON object, or of the object `error` in it; None without one."""
    try:
        said = _JSON.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    inner = said.get("error")
    wait_ms = said.get("retry_after_ms", inner.get("retry_after_ms") if isinstance(inner, dict) else None)
    is_number = isinstance(wait_ms, int | float) and not isinstance(wait_ms, bool)
    return max(float(str(wait_ms)), 0.0) if is_number else None


def reason_with(wait_ms: float) -> str:
    """Return a close reason with a hint; empty without one."""
    return msgspec.json.encode({"retry_after_ms": wait_ms}).decode() if wait_ms else ""


def _of_header(value: str, date: str) -> float | None:
    """Return the milliseconds of a `Retry-After`: seconds, or a moment after that of the answer's `Date`."""
    if value.strip().isdecimal():
        return float(value) * 1000
    try:
        return max((parsedate_to_datetime(value) - parsedate_to_datetime(date)).total_seconds() * 1000, 0.0)
    except (TypeError, ValueError):
        return None
