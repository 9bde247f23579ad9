"""The interface of a protocol adapter: it turns intents into bytes and bytes into events, without I/O.

A session knows positions, intents and events, but no names on the wire. Other code reads an adapter's capabilities and never
checks which protocol it is.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Protocol

import msgspec

from sim.protocols.events import Message, Position, Whose
from sim.protocols.intents import Compatibility, Intent, Raw

MAX_HELD_BYTES = 8 * 2**20  # limit for data that an adapter cannot yet assign to a stream or a position
HELD_ITEM_BYTES = 200  # [ours] what it costs to hold a message, besides its content


class Positions(StrEnum):
    """Kind of the positions of a stream."""

    DENSE = "dense"  # consecutive numbers: a missing event is visible
    ORDERED = "ordered"  # increasing numbers; gaps are normal
    OPAQUE = "opaque"


class HeadSource(StrEnum):
    """Where a client learns the head of a stream."""

    REPLY = "reply"
    HEARTBEATS = "heartbeats"
    QUERY = "query"
    NONE = "none"


class CaughtUpSign(StrEnum):
    """What shows that a replay is complete."""

    EXPLICIT = "explicit"
    REPLY = "reply"
    HEAD = "head"
    NONE = "none"  # a client assumes it as soon as its subscribe is accepted; nothing judges it


class StaleSign(StrEnum):
    """How a server says that a position cannot be resumed."""

    EXPLICIT = "explicit"
    FLAG = "flag"
    SILENT = "silent"


class FreshStart(StrEnum):
    """What a client without a position receives."""

    RETAINED = "retained"
    FROM_NOW_ON = "from_now_on"


class Refusals(StrEnum):
    """How much detail a refusal contains."""

    CODES_AND_HINTS = "codes_and_hints"
    CODES = "codes"  # of the protocol's own
    BARE_STATUS = "bare_status"


class Liveness(StrEnum):
    """Who shows that the connection is alive."""

    CLIENT_BEATS = "client_beats"
    SERVER_PINGS = "server_pings"
    BOTH = "both"


class ResumingBy(StrEnum):
    """Which intent resumes."""

    SUBSCRIBE = "subscribe"
    JOIN = "join"  # all streams at once, by `Join.session`
    REQUEST = "request"


class Subscribing(StrEnum):
    """What a subscribe names."""

    WHOLE_SET = "whole_set"  # all streams of the client: a stream that is not named is no longer read
    EACH_STREAM = "each_stream"  # any streams; those that are not named are not affected


class Renewal(StrEnum):
    """How a token is renewed."""

    ON_CONNECTION = "on_connection"
    BY_RECONNECT = "by_reconnect"
    NONE = "none"


class Publishing(StrEnum):
    """How events are published."""

    HTTP = "http"
    PROTOCOL = "protocol"


class Capabilities(msgspec.Struct, frozen=True):
    """What a protocol supports. Other code reads this, and never checks which protocol it is."""

    positions: Positions
    has_epochs: bool
    head: tuple[HeadSource, ...]
    head_of: Whose
    caught_up: CaughtUpSign
    stale: StaleSign
    has_snapshots: bool  # sent inline, in the answer to a stale position
    fresh_start: FreshStart
    is_one_connection: bool  # otherwise one connection per stream
    refusals: Refusals
    liveness: Liveness
    hash_form: str  # empty: none
    can_resubscribe: bool  # on an open connection
    resuming_by: ResumingBy
    renewal: Renewal
    publishing: Publishing
    subscribing: Subscribing = Subscribing.WHOLE_SET
    evicts: bool = True  # the server disconnects clients that read too slowly, and says so
    has_one_order: bool = False  # where positions are opaque: all readers get the events of a stream in one order
    silence_codes: tuple[str, ...] | None = None  # codes of ends for silence or slow reading; None: any may be one
    states_builds: bool = False  # a join states the client's build, protocol and schema, which the server checks
    beats_on_channel: bool = False  # only beats on the joined channel count as a sign of life
    resumes_without_epoch: bool = False  # a position with an empty epoch is resumed in any log


# --- adapters -------------------------------------------------------------------------------------------


class Transport(StrEnum):
    """How bytes travel."""

    WEBSOCKET = "websocket"
    SSE = "sse"
    LONG_POLL = "long_poll"


class Open(msgspec.Struct, frozen=True):
    """Open a connection; `id` is the adapter's identifier of it."""

    id: int
    transport: Transport
    url: str
    headers: dict[str, str] = {}
    subprotocols: tuple[str, ...] = ()


class Write(msgspec.Struct, frozen=True):
    """Send one message."""

    id: int
    data: bytes
    is_text: bool = True


class Close(msgspec.Struct, frozen=True):
    """Close a connection."""

    id: int


Action = Open | Write | Close


class Credentials(msgspec.Struct, frozen=True):
    """Who connects. `sign` signs a server's nonce, in protocols that ask for it; `metadata` is what the join will report."""

    token: str
    metadata: Compatibility = Compatibility()
    sign: Callable[[bytes], bytes] | None = None


class Connection(Protocol):
    """An adapter's side of one session's connection, sans-I/O and without timers.

    The driver carries out `actions`, in order, after each call, and passes each non-empty `Message` to the session.
    `connect` and `send` usually return none; a protocol without connections or without a join returns its `Opened` or
    `Joined` there.
    Discard the connection after it returned a `Closed`, or a `Refused` with `is_open` false and without streams.
    """

    def actions(self) -> list[Action]:
        """Actions to carry out now; each is returned once."""

    def connect(self, credentials: Credentials) -> Message:
        """Start to connect."""

    def send(self, intent: Intent) -> Message:
        """Carry out an intent of the session. An intent that the protocol does not have raises `TypeError`."""

    def opened(self, id: int, status: int, headers: Mapping[str, str]) -> Message:
        """Take an opened connection."""

    def received(self, id: int, data: bytes, is_text: bool) -> Message:
        """Take a message or a part of a body. Malformed data never raises."""

    def closed(self, id: int, end: "TransportEnd") -> Message:
        """Take a connection that ended or could not be opened."""


class ActionQueue:
    """The actions of a connection that are not yet carried out. Adapters may inherit it for their `actions`."""

    def __init__(self) -> None:
        self._actions: list[Action] = []

    def actions(self) -> list[Action]:
        """See `Connection`."""
        out, self._actions = self._actions, []
        return out


class TransportEnd(msgspec.Struct, frozen=True):
    """How a connection ended: a WebSocket's close code and reason, or the HTTP answer that refused it (at most 64 KiB).

    `is_broken`: the peer violated the transport's protocol. If no field is set, the network failed.
    """

    code: int | None = None
    reason: str = ""
    status: int | None = None
    headers: Mapping[str, str] = {}
    body: bytes = b""
    is_broken: bool = False


class NegativeForms(Protocol):
    """The messages of negative clients that a session's intents cannot express."""

    @property
    def mutations(self) -> tuple[str, ...]:
        """Names of requests that a client might mistake for commands; the server must refuse each."""

    def request(self, ref: str, name: str, payload: object) -> Raw:
        """A request by its name."""

    def hidden_mutations(
        self, refs: tuple[str, str], mutation: dict[str, object], after: Mapping[str, Position | None]
    ) -> tuple[Raw, Raw]:
        """A heartbeat and a subscribe that also carry a mutation."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of `malformed`, in order."""

    def malformed(self, topic: str, ref: str, max_bytes: int) -> Mapping[str, Raw]:
        """Malformed messages by name. Those with a field for a reference carry `ref`.

        One message is longer than `max_bytes`.
        """

    @property
    def lawful(self) -> tuple[str, ...]:
        """The names in `malformed` whose messages are only unusual: the server may accept them."""

    @property
    def foreign_stream(self) -> str:
        """A stream that only another user may read; the server must refuse a subscribe to it."""

    @property
    def unmintable_streams(self) -> tuple[str, str]:
        """A stream of another user, and one that does not exist; no token may grant either."""
