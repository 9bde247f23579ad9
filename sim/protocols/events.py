"""Events: what a session is given, by an adapter or by the simulated server, whatever the protocol.

They come in messages: a tuple of all that one received message says. Every message, an empty one too, shows that the other
side is alive.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Any, ClassVar

import msgspec


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in one stream's log: behind the event `offset`. An offset is a number, or text that only its server can read."""

    offset: int | str
    epoch: str | None = None  # which log it is, where the protocol says so

    def __post_init__(self) -> None:
        if isinstance(self.offset, int) and self.offset < 0:
            raise ValueError(f"a position's offset is {self.offset}, expected 0 or more")


# --- what comes next ------------------------------------------------------------------------------------


class DisconnectReason(StrEnum):
    """Why a client lost its connection, or leaves it."""

    STREAM_CLOSED = "stream_closed"
    TOKEN_REFRESH_DUE = "token_refresh_due"
    STALE_CURSOR = "stale_cursor"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NETWORK = "network"
    UNKNOWN = "unknown"


MINTS_FIRST = frozenset({DisconnectReason.TOKEN_REFRESH_DUE, DisconnectReason.UNAUTHORIZED, DisconnectReason.FORBIDDEN})
"""Reasons after which a client mints a new token before it connects again."""

NETWORK_CODES = frozenset({"network", "timeout", "refused", "protocol", "rate_limited"})
"""Codes of a failed connect or token request that are about the way to the service, not about the token."""


class Step(StrEnum):
    """What a client should do after a refusal or an end."""

    NOTHING = "nothing"  # it was only informed
    RETRY = "retry"
    WAIT = "wait"  # retry after `wait_ms` at the earliest
    MINT = "mint"  # get a new token, then retry
    RESUBSCRIBE = "resubscribe"  # on the open connection
    REFETCH = "refetch"  # drop the position and start from a snapshot, or from what is retained
    TERMINAL = "terminal"  # a retry cannot succeed


class Next(msgspec.Struct, frozen=True, gc=False):
    """The hint of a refusal or an end."""

    step: Step = Step.RETRY
    wait_ms: float | None = None


INFORMED, RETRY, MINT = Next(Step.NOTHING), Next(), Next(Step.MINT)


def retry_after(wait_ms: float | None) -> Next:
    """Retry after that time; None: whenever the client likes."""
    return RETRY if wait_ms is None else Next(Step.WAIT, wait_ms)


class Hash(Enum):
    """Whether a payload is the one that its declared hash was made of."""

    OK = "ok"
    BAD = "bad"
    NONE = "none"  # the protocol has no hashes


class Whose(StrEnum):
    """Whose position a reported head is."""

    AUTHORITY = "authority"
    SOCKET = "socket"  # only what this connection was sent


class Item(msgspec.Struct, frozen=True, gc=False):
    """One delivered event. `payload` is its JSON text; `position` is None where only a whole batch has one."""

    position: Position | None
    payload: msgspec.Raw
    payload_hash: str = ""  # as declared
    check: Hash = Hash.NONE


class Opened(msgspec.Struct, frozen=True):
    """The connection is open."""


class Joined(msgspec.Struct, frozen=True):
    """The join was accepted. `streams` are those the token grants; `resumed`: the earlier session goes on."""

    ok: ClassVar[bool] = True
    code: ClassVar[str] = ""
    ref: str
    session: str = ""
    streams: tuple[str, ...] | None = None
    resumed: bool = False
    token_ttl_s: float | None = None
    ping_s: float | None = None


class Renewed(msgspec.Struct, frozen=True):
    """The new token is in force."""

    ref: str
    token_ttl_s: float | None = None


class Refused(msgspec.Struct, frozen=True):
    """A connect (`ref` is empty), a join or a subscribe was refused, with the server's code."""

    ok: ClassVar[bool] = False
    ref: str
    code: str
    reason: DisconnectReason = DisconnectReason.UNKNOWN
    next: Next = RETRY
    is_open: bool = True  # whether the connection stays open
    message: str = ""
    streams: tuple[str, ...] = ()  # those it is about, where it says so


class Resumed(msgspec.Struct, frozen=True):
    """A subscribe was accepted. `stream` None: all its streams, at the positions that were asked for."""

    ok: ClassVar[bool] = True
    code: ClassVar[str] = ""
    ref: str
    stream: str | None = None
    at: Position | None = None
    head: Position | None = None
    subscription: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """Where a snapshot that came inline stands; None: it does not say. `content` is as the server sent it."""

    at: Position | None
    content: dict[str, Any]


class Stale(msgspec.Struct, frozen=True):
    """A position cannot be resumed: what lies behind it is no longer retained, or it is too far behind.

    `ref` is the subscribe that it answers, empty for a message of its own. `stream` None: the server does not say which.
    `subscribed_at` is where the server went on all the same.
    """

    ok: ClassVar[bool] = False
    code: ClassVar[str] = "stale_cursor"
    stream: str | None
    asked: Position | None = None
    floor: Position | None = None  # the lowest that misses nothing
    head: Position | None = None
    reasons: tuple[str, ...] = ()
    lag: int = 0  # events between asked and head, as the server counts
    budget: int = 0  # the largest lag that it replays
    snapshot: Snapshot | None = None
    subscribed_at: Position | None = None
    ref: str = ""


class PositionUnknown(msgspec.Struct, frozen=True):
    """The server does not know the position: another log, or above its head."""

    stream: str
    asked: Position | None = None
    head: Position | None = None
    reason: str = ""
    subscribed_at: Position | None = None
    ref: str = ""


class CaughtUp(msgspec.Struct, frozen=True):
    """The replay of a stream is complete; None: of every stream that was asked for."""

    stream: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """Events of one stream, in the order in which they were sent, perhaps none.

    `after` is the position behind the batch where only that is known, `session` the one to resume by. `is_single`: the
    protocol's form for one event.
    """

    stream: str
    items: tuple[Item, ...]
    after: Position | None = None
    session: str | None = None
    is_single: bool = False


class Head(msgspec.Struct, frozen=True, gc=False):
    """The last position of a stream. In a message without a batch it is a report of its own, such as a heartbeat's."""

    stream: str
    position: Position
    whose: Whose = Whose.AUTHORITY


class Published(msgspec.Struct, frozen=True):
    """An event was appended, or had been under the same key (`duplicate`)."""

    key: str
    position: Position | None
    duplicate: bool = False


class Outcome(StrEnum):
    """What is known of a publish that failed."""

    REFUSED = "refused"
    UNKNOWN = "unknown"  # it may have been appended all the same


class PublishFailed(msgspec.Struct, frozen=True):
    """An event was not acknowledged."""

    key: str
    code: str
    next: Next = RETRY
    outcome: Outcome = Outcome.UNKNOWN


class Activity(msgspec.Struct, frozen=True):
    """The other side is alive, and says nothing else; None: on the whole connection."""

    stream: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """The answer to any other intent. `is_beat`: to a transport's heartbeat."""

    ref: str
    ok: bool
    code: str = ""
    message: str = ""
    channel: str = ""  # empty: what is joined now
    is_beat: bool = False


class Problem(msgspec.Struct, frozen=True):
    """The server reports a problem that no intent caused. `next` says whether the client has to leave."""

    code: str
    reason: DisconnectReason = DisconnectReason.UNKNOWN
    next: Next = INFORMED
    message: str = ""
    details: Mapping[str, Any] = {}


class Malformed(msgspec.Struct, frozen=True):
    """A message that the protocol cannot read; `code` says what is wrong with it."""

    code: str


class StreamEnded(msgspec.Struct, frozen=True):
    """A stream ended while the connection stays; None: all of them."""

    stream: str | None
    code: str
    next: Next = RETRY


class Closed(msgspec.Struct, frozen=True):
    """The connection is gone. `code` is the transport's close code, where there was one."""

    reason: DisconnectReason = DisconnectReason.NETWORK
    code: int | None = None
    next: Next = RETRY


Event = (
    Opened
    | Joined
    | Renewed
    | Refused
    | Resumed
    | Stale
    | PositionUnknown
    | CaughtUp
    | Batch
    | Head
    | Published
    | PublishFailed
    | Activity
    | Answer
    | Problem
    | Malformed
    | StreamEnded
    | Closed
)
Message = tuple[Event, ...]
"""All that one message says, in order; the simulator shares one object among all clients that get the same."""

Reply = Joined | Resumed | Refused | Stale | Answer
"""Events that carry the `ref` of the intent they answer, `ok`, and a `code`."""
