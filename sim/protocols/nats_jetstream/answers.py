"""The server's JSON: its introduction, and the answers to requests."""

from typing import Annotated, NamedTuple, TypeVar

import msgspec

from sim.protocols.events import RETRY, Next
from sim.protocols.nats_jetstream import endings
from sim.protocols.nats_jetstream.codec import Delivery, status_of

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
T = TypeVar("T", bound="ServerAnswer")


class ServerInfo(msgspec.Struct, frozen=True):
    """INFO. `ldm`: the server will shut down."""

    server_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
    client_id: Number = 0
    nonce: str = ""
    ldm: bool = False


class Failure(NamedTuple):
    """A request was refused, and why."""

    code: str
    next: Next


class _Error(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0


class ServerAnswer(msgspec.Struct, frozen=True):
    """An answer that is not a failure."""

    @classmethod
    def read(cls: type[T], answer: Delivery) -> T | Failure:
        """Read an answer. Never raises."""
        if answer.header and (status := status_of(answer.header)[0]):
            return Failure(endings.NO_RESPONDERS if status == 503 else f"status_{status}", RETRY)
        try:
            error = msgspec.json.decode(answer.payload, type=_Refusal).error
            if error is not None:
                return Failure(*endings.request_failed(error.code, error.err_code))
            return msgspec.json.decode(answer.payload, type=cls)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return Failure("malformed_answer", RETRY)


class _Refusal(msgspec.Struct, frozen=True):
    error: _Error | None = None


class _Delivered(msgspec.Struct, frozen=True):
    stream_seq: Number


class ConsumerFound(ServerAnswer, frozen=True):
    """CONSUMER.CREATE and CONSUMER.INFO. `delivered.stream_seq` of a new consumer is where it starts, minus 1."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,200}$")]
    delivered: _Delivered
    num_pending: Number = 0


class _State(msgspec.Struct, frozen=True):
    first_seq: Number
    last_seq: Number


class StreamInfo(ServerAnswer, frozen=True):
    """STREAM.INFO. `created` identifies the log."""

    created: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    state: _State


class PublishAck(ServerAnswer, frozen=True):
    """The acknowledgement of an event."""

    seq: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    duplicate: bool = False
