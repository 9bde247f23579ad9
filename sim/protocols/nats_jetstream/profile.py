"""The habits of a NATS server with a JetStream stream for each stream: file storage, limits retention, JWT credentials."""

from sim.protocols import plain_streams
from sim.protocols.adapter import TransportEnd
from sim.protocols.events import RETRY, Answer, Event, Malformed, Message, Position, PositionUnknown, Problem, Refused, Resumed
from sim.protocols.habits import Asked, Started, StreamHabits
from sim.protocols.intents import Request
from sim.protocols.nats_jetstream import endings
from sim.protocols.profile import Refusals, ServerForms, ServerProfile

_SHUTDOWN, _STALE, _POLICY = 1001, 1001, 1008
_VIOLATION, _EXPIRED, _REVOKED = "Authorization Violation", "User Authentication Expired", "User Authentication Revoked"


def _ending(code: int | None, error: str = "") -> Message:
    """Return what a client gets when the server closes the connection, after an `-ERR` or without."""
    ending = endings.fatal(error) if error else None
    said = (Problem(ending.code, ending.reason, message=error),) if ending else ()
    return (*said, endings.closed(TransportEnd(code=code), ending))


def _start(asked: Asked) -> Started:
    """Start at the position, or silently above it, at the first retained event.

    The client compares what STREAM.INFO states: a position of another log, or above its last event, is unknown.
    """
    ref, stream, after, log = asked
    head = Position(log.head, log.epoch)
    if after is not None and after.epoch not in (None, log.epoch):
        return Started(None, (PositionUnknown(stream, after, head, "other_log", ref=ref),))
    number = int(after.offset) if after is not None else 0
    if number > log.head:
        return Started(None, (PositionUnknown(stream, after, head, "above_head", ref=ref),))
    number = max(number, log.floor)
    return Started(number, (Resumed(ref, stream, Position(number, log.epoch), head),))


def _refused_request(ref: str, code: str, message: str, streams: tuple[str, ...]) -> Refused:
    return Refused(ref, "permissions_violation" if streams else code, next=endings.TERMINAL, message=message, streams=streams)


def _unknown(request: Request) -> Event:
    return Answer(request.ref, False, "unknown_operation")


HABITS = StreamHabits(
    start=_start,
    position=lambda number, epoch: Position(number, epoch),
    endings={
        "revoked": _ending(_POLICY, _REVOKED),
        "expired": _ending(_POLICY, _EXPIRED),
        "slow_consumer": _ending(None),  # without a word
        "silent": _ending(_STALE, "Stale Connection"),
        "malformed": _ending(None, "Unknown Protocol Operation"),
        "stopped": _ending(_SHUTDOWN),
    },
    refused_token=lambda ref, code: _ending(_POLICY, _VIOLATION),
    answers_first=True,
    says_caught_up=True,
    max_unsent_bytes=64 * 2**20,
    checks_token_at_join=True,
    expiry_grace_s=0.0,
    states_expiry=False,
)
PROFILE = ServerProfile(
    transport="nats_jetstream",
    topics=plain_streams.TOPICS,
    refusals=Refusals(
        plain_streams.not_connected,
        _refused_request,
        lambda *_: Problem("slow_consumer"),
        upgrade=endings.not_opened,
        closed=lambda end: endings.closed(end, None),
    ),
    payload_hash=plain_streams.no_hash,
    content=plain_streams.content,
    unknown_request=_unknown,
    not_joined=lambda ref, _: _refused_request(ref, "authorization_violation", "", ()),
    expelled=(),
    silent=(),
    malformed=None,
    damaged=lambda stream: (Malformed("malformed_message"), Problem("malformed_message", next=RETRY)),
    counts_deliveries=True,
    close_code=_SHUTDOWN,
    has_token_age=False,
    has_token_leeway=False,
    streams=HABITS,
    pings=True,
)
SERVER = ServerForms(PROFILE, plain_streams.intent_bytes, plain_streams.message_bytes)
