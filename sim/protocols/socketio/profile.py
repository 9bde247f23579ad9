"""The habits of a Socket.IO server with connection state recovery and the memory adapter, whose application checks tokens.

The application's middleware checks the token of each join, also of a recovered session. Connections outlive their tokens.
"""

from sim.protocols import plain_streams
from sim.protocols.events import (
    RETRY,
    Answer,
    Closed,
    DisconnectReason,
    Event,
    Malformed,
    Message,
    Next,
    Position,
    Problem,
    Refused,
    Resumed,
    Step,
    StreamEnded,
)
from sim.protocols.habits import Asked, Sessions, Started, StreamHabits
from sim.protocols.intents import Request
from sim.protocols.profile import Refusals, ServerForms, ServerProfile
from sim.protocols.socketio.adapter import upgrade_refused

_NO_CODE = 1005  # of every close by the server, whatever its reason
_TERMINAL = Next(Step.TERMINAL)
_LOST: Message = (Closed(DisconnectReason.NETWORK, _NO_CODE),)
_WINDOW_S = 120.0


def _start(asked: Asked) -> Started:
    """Start a room from now on, whatever its client has."""
    return Started(asked.log.head, (Resumed(asked.ref, asked.stream),))


def _refused_token(ref: str, code: str) -> Message:
    """Return the refusal by the middleware, with its code. The socket stays open."""
    return (Refused(ref, code, DisconnectReason.UNAUTHORIZED, Next(Step.MINT), message=code),)


def _refused_request(ref: str, code: str, message: str, streams: tuple[str, ...]) -> Refused:
    return Refused(ref, "403", DisconnectReason.FORBIDDEN, _TERMINAL, message=message, streams=streams)


def _unknown(request: Request) -> Event:
    return Answer(request.ref, True)


def _read_session(text: str) -> tuple[str, int]:
    name, _, number = text.partition(" ")
    return name, int(number) if number.isdigit() else 0


HABITS = StreamHabits(
    start=_start,
    position=lambda number, epoch: Position(f"{epoch}-{number}"),
    endings={
        "revoked": (StreamEnded(None, "disconnected", _TERMINAL), *_LOST),
        "expired": _LOST,
        "slow_consumer": _LOST,
        "silent": _LOST,
        "malformed": _LOST,
        "stopped": _LOST,
    },
    refused_token=_refused_token,
    sessions=Sessions(
        _WINDOW_S, lambda name, number: f"{name} {number or ''}", _read_session, ("revoked", "malformed", "closed")
    ),
    checks_token_at_join=True,
    keeps_log=False,
)
PROFILE = ServerProfile(
    transport="socketio",
    topics=plain_streams.TOPICS,
    refusals=Refusals(
        plain_streams.not_connected,
        _refused_request,
        lambda *_: Problem("slow_consumer"),
        upgrade=upgrade_refused,
        closed=lambda end: Closed(DisconnectReason.NETWORK, end.code),
    ),
    payload_hash=plain_streams.no_hash,
    content=plain_streams.content,
    unknown_request=_unknown,
    not_joined=lambda ref, _: Answer(ref, False),
    expelled=(),
    silent=(),
    malformed=None,
    damaged=lambda stream: (Malformed("malformed_packet"), Problem("malformed_packet", DisconnectReason.NETWORK, RETRY)),
    close_code=_NO_CODE,
    answers_position=False,  # its number is the application's
    has_token_age=False,
    has_token_leeway=False,
    streams=HABITS,
    pings=True,
)
SERVER = ServerForms(PROFILE, plain_streams.intent_bytes, plain_streams.message_bytes)
