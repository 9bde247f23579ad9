"""Intents: what a session asks of the server, in any protocol.

`ref` identifies an intent on its connection; the event that answers it has the same `ref`.
"""

import msgspec

from sim.protocols.events import Position

EMPTY_OBJECT = msgspec.Raw(b"{}")


class Compatibility(msgspec.Struct, frozen=True):
    """What a client reports about itself when it joins."""

    client: str = ""
    client_build_id: str = ""
    protocol_version: str = ""
    schema_version: int | str | None = None


class Join(msgspec.Struct, frozen=True):
    """Introduce the client. `session` is an earlier one to resume, with its position, in protocols whose join resumes."""

    ref: str
    metadata: Compatibility
    token: str = ""
    session: str | None = None
    channel: str = "1"  # the client's name for the joined channel; pushes and answers contain it


class Subscribe(msgspec.Struct, frozen=True):
    """Read these streams, each after a position (None: without one).

    One intent names all streams where servers replace the whole set (see `Subscribing`). `batch_size` 0: the server's default.
    `is_malformed` is set if a server could not read all of it.
    """

    ref: str
    after: dict[str, Position | None]
    batch_size: int = 0
    is_malformed: bool = False


class Poll(Subscribe, frozen=True):
    """Read one stream by one whole answer: all events after the position, at once or, if it `waits`, when there is one."""

    waits: bool = False


class Read(msgspec.Struct, frozen=True):
    """Fetch at most `limit` events of a stream after a position."""

    ref: str
    stream: str
    after: Position | None
    limit: int


class Unsubscribe(msgspec.Struct, frozen=True):
    """Stop reading these streams."""

    ref: str
    streams: tuple[str, ...]


class Renew(msgspec.Struct, frozen=True):
    """Replace the token on the open connection."""

    ref: str
    token: str


class AskHead(msgspec.Struct, frozen=True):
    """Ask for the last position of a stream."""

    ref: str
    stream: str


class Publish(msgspec.Struct, frozen=True):
    """Append an event under an idempotency key."""

    ref: str
    stream: str
    payload: msgspec.Raw
    key: str


class Beat(msgspec.Struct, frozen=True):
    """Show that the client is alive, to the transport or (`on_channel`) to the joined channel. The payload has no meaning."""

    ref: str
    on_channel: bool = False
    payload: msgspec.Raw = EMPTY_OBJECT


class Leave(msgspec.Struct, frozen=True):
    """Leave the channel; the connection may stay open."""

    ref: str


class Request(msgspec.Struct, frozen=True):
    """A request that the protocol does not know, as a server reads it. A session sends such a request as `Raw`."""

    ref: str
    name: str
    payload: msgspec.Raw = EMPTY_OBJECT


class Raw(msgspec.Struct, frozen=True):
    """Send these bytes as they are (negative clients); `ref` is the reference inside them, if they hold one."""

    data: bytes
    ref: str = ""
    is_text: bool = True  # the kind of message; the bytes may still be invalid UTF-8


Intent = Join | Subscribe | Read | Unsubscribe | Renew | AskHead | Publish | Beat | Leave | Raw | Request
