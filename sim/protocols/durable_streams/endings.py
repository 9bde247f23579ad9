"""How a request for a stream ends in Durable Streams, and what a client does next."""

from sim.protocols.adapter import TransportEnd
from sim.protocols.events import MINT, Next, Refused, Step, retry_after

BODY_ENDED = "body_ended"  # the answer ended, and its stream did not
_CODES = {401: "unauthorized", 403: "forbidden"}  # of a proxy before the server
_ENDED_FOR_GOOD = frozenset({400, 405, 410})


def refused(end: TransportEnd, stream: str = "") -> Refused:
    """Return the refusal of a request for a stream, by the status of its answer."""
    code = _CODES.get(end.status or 0, f"status_{end.status}")
    return Refused("", code, next=_next(end), streams=(stream,))


def _next(end: TransportEnd) -> Next:
    """Return what a client does after a refusal. A missing stream may be created again, but then from its start."""
    if end.status == 404:
        return Next(Step.REFETCH)
    if end.status in _CODES:
        return MINT
    if end.status in _ENDED_FOR_GOOD:
        return Next(Step.TERMINAL)
    seconds = end.headers.get("retry-after", "")
    return retry_after(float(seconds) * 1000 if seconds.isascii() and seconds.isdigit() else None)
