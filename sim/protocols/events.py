"""Events that a session receives from an adapter or from the simulated server, in any protocol.

A `Message` is a tuple with all events of one received message. Every message, even an empty one, shows that the other side is
alive.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Any, ClassVar

import msgspec


class Position(msgspec.Struct, frozen=True, gc=False):
    """A position in a stream's log, after the event `offset`. An offset is a number, or text that only its server can read."""

    offset: int | str
    epoch: str | None = None  # identifies the log, if the protocol has epochs

    def __post_init__(self) -> None:
        if isinstance(self.offset, int) and self.offset < 0:
            raise ValueError(f"a position's offset is {self.offset}, expected 0 or more")


# --- what comes next ------------------------------------------------------------------------------------


class DisconnectReason(StrEnum):
    """Why a client lost its connection or closes it."""

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
"""Codes of a failed connect or token request that concern the network or the service, not the token."""


class Step(StrEnum):
    """What a client should do after a refusal or an end."""

    NOTHING = "nothing"  # for information only
    RETRY = "retry"
    WAIT = "wait"  # retry after `wait_ms` at the earliest
    MINT = "mint"  # get a new token, then retry
    RESUBSCRIBE = "resubscribe"  # on the open connection; after the end of all streams, with a new join
    REFETCH = "refetch"  # drop the position and start from a snapshot or the retained events
    TERMINAL = "terminal"  # a retry cannot succeed; with a new token, once


class Next(msgspec.Struct, frozen=True, gc=False):
    """The server's hint in a refusal or at an end."""

    step: Step = Step.RETRY
    wait_ms: float | None = None


INFORMED, RETRY, MINT = Next(Step.NOTHING), Next(), Next(Step.MINT)


def retry_after(wait_ms: float | None) -> Next:
    """Return a hint to retry after `wait_ms`; None: after any delay."""
    return RETRY if wait_ms is None else Next(Step.WAIT, wait_ms)


class EndedBy(StrEnum):
    """Who ended a connection or an attempt to connect."""

    CLIENT = "client"
    SERVER = "server"  # it said so, by a code or an answer
    NETWORK = "network"  # nobody said anything
    FAULT = "fault"  # of a drill, on this client


class Hash(Enum):
    """Whether a payload matches its declared hash."""

    OK = "ok"
    BAD = "bad"
    NONE = "none"  # the protocol has no hashes


class Whose(StrEnum):
    """Whose position a reported head is."""

    AUTHORITY = "authority"
    SOCKET = "socket"  # the last position that was sent on this connection


class Item(msgspec.Struct, frozen=True, gc=False):
    """One delivered event. `payload` is its JSON text; `position` is None if only the whole batch has one."""

    position: Position | None
    payload: msgspec.Raw
    payload_hash: str = ""  # as declared
    check: Hash = Hash.NONE


class Opened(msgspec.Struct, frozen=True):
    """The connection is open."""


class Joined(msgspec.Struct, frozen=True):
    """The join was accepted. The token grants `streams`.

    `resumed`: the session of the `Join` continues, with all its streams; the events that it missed came before. `ping_s`: the
    server sends something at least this often.
    """

    ok: ClassVar[bool] = True
    code: ClassVar[str] = ""
    ref: str
    session: str = ""
    streams: tuple[str, ...] | None = None
    resumed: bool = False
    token_ttl_s: float | None = None
    ping_s: float | None = None


class Renewed(msgspec.Struct, frozen=True):
    """The new token is now used."""

    ok: ClassVar[bool] = True
    code: ClassVar[str] = ""
    ref: str
    token_ttl_s: float | None = None


class Refused(msgspec.Struct, frozen=True):
    """A connect (`ref` is empty), a join, a subscribe or a renewal was refused, with the server's code."""

    ok: ClassVar[bool] = False
    ref: str
    code: str
    reason: DisconnectReason = DisconnectReason.UNKNOWN
    next: Next = RETRY
    is_open: bool = True  # whether the connection stays open
    message: str = ""
    streams: tuple[str, ...] = ()  # the refused streams, if the server names them
    status: int | None = None  # of the HTTP answer, if there was one


class Resumed(msgspec.Struct, frozen=True):
    """A subscribe was accepted. `stream` None: all its streams, at the requested positions.

    `at` is where the server really starts: above the requested position, if events are lost; in another epoch, if the log is
    another one. The session compares. Its replay may come before or after it.
    """

    ok: ClassVar[bool] = True
    code: ClassVar[str] = ""
    ref: str
    stream: str | None = None
    at: Position | None = None
    head: Position | None = None
    subscription: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot inside a message. `at` is its position (None: not stated), `content` is as the server sent it."""

    at: Position | None
    content: dict[str, Any]


class Stale(msgspec.Struct, frozen=True):
    """A position cannot be resumed: the next event is no longer retained, or the position is too far behind the head.

    `ref` is the subscribe that it answers, empty for a push. `stream` None: the server does not say which.
    `subscribed_at` is the position at which the server subscribed the client nevertheless.
    """

    ok: ClassVar[bool] = False
    code: ClassVar[str] = "stale_cursor"
    stream: str | None
    asked: Position | None = None
    floor: Position | None = None  # the lowest position that misses no event
    head: Position | None = None
    reasons: tuple[str, ...] = ()
    lag: int = 0  # events between asked and head, as the server counts them
    budget: int = 0  # the largest lag that it replays
    snapshot: Snapshot | None = None
    subscribed_at: Position | None = None
    ref: str = ""


class PositionUnknown(msgspec.Struct, frozen=True):
    """The server does not know the position: it is of another log, above the head, or the reason is not stated.

    `ref` is the subscribe that it answers. `subscribed_at` is the position at which the server subscribed the client
    nevertheless; without it, the client subscribes again, without a position.
    """

    ok: ClassVar[bool] = False
    code: ClassVar[str] = "position_unknown"
    stream: str
    asked: Position | None = None
    head: Position | None = None
    reason: str = ""
    subscribed_at: Position | None = None
    ref: str = ""


class CaughtUp(msgspec.Struct, frozen=True):
    """The replay of a stream is complete; None: of every requested stream."""

    stream: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """Events of one stream in the order of sending; may be empty.

    `after` is the position after the batch, if its events have none of their own; `session` is the session to resume.
    `is_single`: in the protocol's form for one event. `is_after_gap`: deliveries before it are missing, by the protocol's own
    count of them, which says more than the positions.
    """

    stream: str
    items: tuple[Item, ...]
    after: Position | None = None
    session: str | None = None
    is_single: bool = False
    is_after_gap: bool = False


class Repeated(msgspec.Struct, frozen=True):
    """The events of the previous message again, in the protocol's second form. A client takes it only as a sign of life."""

    message: tuple[Any, ...]


class Head(msgspec.Struct, frozen=True, gc=False):
    """The last position of a stream. In a message without a batch it is a separate report, such as a heartbeat."""

    stream: str
    position: Position
    whose: Whose = Whose.AUTHORITY


class Published(msgspec.Struct, frozen=True):
    """An event was appended, or was already appended under the same key (`duplicate`)."""

    key: str
    position: Position | None
    duplicate: bool = False


class Outcome(StrEnum):
    """What is known about a failed publish."""

    REFUSED = "refused"
    UNKNOWN = "unknown"  # it may have been appended nevertheless


class PublishFailed(msgspec.Struct, frozen=True):
    """An event was not acknowledged."""

    key: str
    code: str
    next: Next = RETRY
    outcome: Outcome = Outcome.UNKNOWN


class Activity(msgspec.Struct, frozen=True):
    """A sign of life without other content; `stream` None: for the whole connection."""

    stream: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """The answer to any other intent. `is_beat`: to a transport's heartbeat."""

    ref: str
    ok: bool
    code: str = ""
    message: str = ""
    channel: str = ""  # empty: the joined channel
    is_beat: bool = False


class Problem(msgspec.Struct, frozen=True):
    """The server reports a problem that no intent caused. `next` says whether the client must disconnect."""

    code: str
    reason: DisconnectReason = DisconnectReason.UNKNOWN
    next: Next = INFORMED
    message: str = ""
    details: Mapping[str, Any] = {}


class Malformed(msgspec.Struct, frozen=True):
    """A message that is invalid in the protocol; `code` says why."""

    code: str


class StreamEnded(msgspec.Struct, frozen=True):
    """A stream ended while the connection stays open; None: all streams, and what was joined.

    With one connection per stream, it is the end of that stream's connection; `RESUBSCRIBE` is then the end of a poll.
    """

    stream: str | None
    code: str
    next: Next = RETRY


class Closed(msgspec.Struct, frozen=True):
    """The connection ended. `code` is the transport's close code or the server's own, None if the server said nothing."""

    reason: DisconnectReason = DisconnectReason.NETWORK
    code: int | str | None = None
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
    | Repeated
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
"""All events of one message, in order; the simulator shares one object among all clients that get the same."""

Reply = Joined | Resumed | Renewed | Refused | Stale | PositionUnknown | Answer
"""Events that carry the `ref` of the intent they answer, `ok`, and a `code`."""
