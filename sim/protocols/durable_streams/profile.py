"""The habits of the Durable Streams reference server with file storage, whose clients read by SSE or long polls.

A client's request is answered by the events after its offset and by all that follow. Each part of the answer ends with the
offset after it, and the answer to a long poll is such a part. The server keeps all events, asks for no token, and never asks
whether a reader is still there.
"""

from sim.protocols import plain_streams
from sim.protocols.adapter import TransportEnd
from sim.protocols.durable_streams import endings
from sim.protocols.events import (
    Answer,
    Closed,
    Event,
    Malformed,
    Message,
    Position,
    PositionUnknown,
    Problem,
    Refused,
    Resumed,
    StreamEnded,
)
from sim.protocols.habits import Asked, Polls, Started, StreamHabits
from sim.protocols.intents import Request
from sim.protocols.profile import Refusals, ServerForms, ServerProfile

_NOT_FOUND, _BEFORE_RETENTION, _NOT_SERVED = 404, 410, 503
_KEEP_ALIVE_S = 5.0  # default of Node.js
_ENDED: Message = (Closed(code=endings.BODY_ENDED),)


def _position(number: int, epoch: str) -> Position:
    """Return an offset in the server's form: text that grows. It counts bytes there, and events here."""
    return Position(f"{0:016d}_{number:016d}")


def _number(position: Position | None) -> int:
    return 0 if position is None else int(str(position.offset).rpartition("_")[2])


def _start(asked: Asked) -> Started:
    """Start at the offset, in whatever log. Only an answer with an earlier offset shows that the log is another one."""
    number, log, accepted = _number(asked.after), asked.log, Resumed(asked.ref, asked.stream)
    if number > log.head:
        return Started(None, (accepted, PositionUnknown(asked.stream, asked.after, _position(log.head, ""), "above_head")))
    if asked.after is not None and number < log.floor:
        return Started(None, (endings.refused(TransportEnd(status=_BEFORE_RETENTION), asked.stream),))
    return Started(max(number, log.floor), (accepted,))


def _not_connected(code: str) -> Refused:
    is_network = plain_streams.not_connected(code).code == "network"
    return plain_streams.not_connected(code) if is_network else endings.refused(TransportEnd(status=_NOT_SERVED))


def _unknown(request: Request) -> Event:
    return Answer(request.ref, False, "unknown_request")


HABITS = StreamHabits(
    start=_start,
    position=_position,
    endings=dict.fromkeys(("revoked", "expired", "slow_consumer", "silent", "malformed", "stopped"), _ENDED),
    refused_token=lambda ref, code: _ENDED,
    items_have_positions=False,
    answers_first=True,
    drops_events=False,
    reads_tokens=False,
    has_join=False,
    asks_clients=False,
    tells_of_new_log=False,
    polls=Polls(_KEEP_ALIVE_S, lambda stream: endings.refused(TransportEnd(status=_NOT_FOUND), stream)),
)
PROFILE = ServerProfile(
    transport="durable_streams",
    topics=plain_streams.TOPICS,
    refusals=Refusals(
        _not_connected,
        lambda ref, code, message, streams: Refused(ref, code, message=message, streams=streams),
        lambda *_: Problem("slow_consumer"),
        upgrade=endings.refused,
        closed=lambda end: Closed(code=endings.BODY_ENDED),
    ),
    payload_hash=plain_streams.no_hash,
    content=plain_streams.content,
    unknown_request=_unknown,
    not_joined=lambda ref, _: Answer(ref, False),
    expelled=(),
    silent=(),
    malformed=None,
    damaged=lambda stream: (Malformed("malformed"), StreamEnded(stream, "malformed")),
    has_token_age=False,
    has_token_leeway=False,
    evicts=False,
    streams=HABITS,
)
SERVER = ServerForms(PROFILE, plain_streams.intent_bytes, plain_streams.message_bytes)
