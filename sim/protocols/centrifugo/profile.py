"""The habits of a Centrifugo server with the memory engine, in a namespace with history, recovery and positioning."""

from sim.protocols import plain_streams
from sim.protocols.adapter import TransportEnd
from sim.protocols.centrifugo import codes
from sim.protocols.centrifugo.adapter import started
from sim.protocols.centrifugo.codec import Error, Subscription
from sim.protocols.events import Answer, Event, Message, Position, Problem, Refused
from sim.protocols.habits import Asked, Started, StreamHabits
from sim.protocols.intents import Request
from sim.protocols.profile import Refusals, ServerForms, ServerProfile

_CLOSE_CODES = {"revoked": 3503, "expired": 3005, "slow_consumer": 3008, "silent": 3012, "malformed": 3501, "stopped": 3001}
_SHUTDOWN, _INVALID_TOKEN, _INSUFFICIENT_STATE = 3001, 3500, 2500
_NOT_NOW = ("token_expired", "token_not_yet_valid", "token_too_old")  # refused with error 109, on an open socket
_EXPIRED_ERROR, _DENIED_ERROR, _BAD_REQUEST_ERROR = 109, 103, 107


def _closed(code: int, join_ref: str = "") -> Message:
    return codes.closed(TransportEnd(code=code), join_ref)


def _ending(code: int) -> Message:
    """Return what a client gets when the server closes the connection. After a problem, the client itself leaves."""
    events = _closed(code)
    end = plain_streams.end_in(events, TransportEnd(code=code))
    return events if end is events[-1] else (*events, end)


def _start(asked: Asked) -> Started:
    """Recover from a position of this log that is retained; otherwise go on from the head."""
    after, log = asked.after, asked.log
    is_known = after is not None and after.epoch == log.epoch and isinstance(after.offset, int)
    if is_known and after is not None and log.floor <= int(after.offset) <= log.head:
        answer = Subscription(log.epoch, log.head, recovered=True, was_recovering=True)
        return Started(int(after.offset), (started(asked.ref, asked.stream, after, answer),))
    answer = Subscription(log.epoch, log.head, was_recovering=after is not None)
    return Started(log.head, (started(asked.ref, asked.stream, after, answer),))


def _refused_token(ref: str, code: str) -> Message:
    if code in _NOT_NOW:
        return (codes.refused(ref, Error(_EXPIRED_ERROR, "token expired")),)
    return _closed(_INVALID_TOKEN, ref)


def _refused_request(ref: str, code: str, message: str, streams: tuple[str, ...]) -> Refused:
    return codes.refused(ref, Error(_DENIED_ERROR if streams else _BAD_REQUEST_ERROR, message), streams)


def _unknown(request: Request) -> Event:
    return Answer(request.ref, False, "method_not_found")


HABITS = StreamHabits(
    start=_start,
    position=lambda number, epoch: Position(number, epoch),
    endings={cause: _ending(code) for cause, code in _CLOSE_CODES.items()},
    refused_token=_refused_token,
    max_replayed=300,
    fell_off=lambda stream: codes.stream_ended(stream, _INSUFFICIENT_STATE),
    max_unsent_bytes=2**20,
    checks_token_at_join=True,
    expiry_grace_s=25.0,
    keeps_log=False,
)
PROFILE = ServerProfile(
    transport="centrifugo",
    topics=plain_streams.TOPICS,
    refusals=Refusals(
        plain_streams.not_connected,
        _refused_request,
        lambda *_: Problem(codes.SLOW_CONSUMER),
        upgrade=codes.connect_refused,
        closed=lambda end: plain_streams.end_in(codes.closed(end, ""), end),
    ),
    payload_hash=plain_streams.no_hash,
    content=plain_streams.content,
    unknown_request=_unknown,
    not_joined=lambda ref, _: _refused_request(ref, "bad_request", "", ()),
    expelled=(),
    silent=(),
    malformed=None,
    close_code=_SHUTDOWN,
    has_token_age=False,
    has_token_leeway=False,
    streams=HABITS,
    pings=True,
)
SERVER = ServerForms(PROFILE, plain_streams.intent_bytes, plain_streams.message_bytes)
