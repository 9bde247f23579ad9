"""Lines of Centrifugo's JSON protocol. A text frame has one or more of them, each a JSON object; zero values are left out."""

from typing import Annotated, Any

import msgspec

from sim.protocols.events import Position
from sim.protocols.intents import AskHead, Intent, Join, Publish, Read, Renew

Offset = Annotated[int, msgspec.Meta(ge=0)]
_encode = msgspec.json.Encoder().encode
PONG = b"{}"  # answers a ping, which is the same


class Publication(msgspec.Struct, frozen=True, gc=False):
    """One event. `epoch` is stated only in the first of an epoch."""

    data: msgspec.Raw
    offset: Offset = 0
    epoch: str = ""


class Error(msgspec.Struct, frozen=True):
    """Why a command failed."""

    code: int
    message: str = ""


class Session(msgspec.Struct, frozen=True):
    """The answer to a connect or a refresh."""

    expires: bool = False
    ttl: float = 0.0
    ping: float = 0.0
    pong: bool = False


class Subscription(msgspec.Struct, frozen=True):
    """The answer to a subscribe. If `recovered`, `offset` repeats the requested one; otherwise it is the head."""

    epoch: str = ""
    offset: Offset = 0
    publications: tuple[Publication, ...] = ()
    recovered: bool = False
    was_recovering: bool = False


class Page(msgspec.Struct, frozen=True):
    """The answer to a question for history; `offset` is the head."""

    epoch: str = ""
    offset: Offset = 0
    publications: tuple[Publication, ...] = ()


class Ended(msgspec.Struct, frozen=True):
    """A subscription that the server ended."""

    code: int = 0


class Push(msgspec.Struct, frozen=True, gc=False):
    """What no command asked for. Other kinds, such as joins, have neither."""

    channel: str = ""
    pub: Publication | None = None
    unsubscribe: Ended | None = None


class Line(msgspec.Struct, frozen=True):
    """An answer (with an `id`), a push, or a ping (empty)."""

    id: int = 0
    error: Error | None = None
    push: Push | None = None
    connect: Session | None = None
    refresh: Session | None = None
    subscribe: Subscription | None = None
    history: Page | None = None


decode = msgspec.json.Decoder(Line).decode
"""Decode a line. Raises `msgspec.MsgspecError`, and for bytes that are no UTF-8 or nested too deeply, as JSON does."""


def command(number: int, name: str, body: dict[str, Any]) -> bytes:
    """Return a command line."""
    return _encode({"id": number, name: body})


def subscribe_body(channel: str, after: Position | None) -> dict[str, Any]:
    """Return the body of a subscribe; from a position, it asks to recover what follows.

    The two flags ask for positions where a namespace allows them, but does not force them.
    """
    since = _since(after)
    return {"channel": channel, "recoverable": True, "positioned": True, **({"recover": True, **since} if since else {})}


def _since(after: Position | None) -> dict[str, Any]:
    """Return the fields of a position. Without an epoch they are left out: a server would take any log for the right one."""
    return {} if after is None or after.epoch is None else {"epoch": after.epoch, "offset": after.offset}


def request_of(intent: Intent) -> tuple[str, dict[str, Any]]:
    """Return name and body of the command for an intent about one thing. Raises `TypeError` for any other."""
    if isinstance(intent, Join):
        return "connect", {"token": intent.token}
    if isinstance(intent, Renew):
        return "refresh", {"token": intent.token}
    if isinstance(intent, AskHead):
        return "history", {"channel": intent.stream, "limit": 0}
    if isinstance(intent, Read):
        since = _since(intent.after)
        return "history", {"channel": intent.stream, "limit": intent.limit, **({"since": since} if since else {})}
    if isinstance(intent, Publish):
        return "publish", {"channel": intent.stream, "data": intent.payload}
    raise TypeError(f"Centrifugo has no {type(intent).__name__}")
