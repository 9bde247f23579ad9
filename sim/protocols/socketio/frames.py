"""Packets of Engine.IO 4 and Socket.IO 5: a digit of each, an optional namespace and acknowledgement number, and JSON."""

import re
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple, TypeVar

import msgspec

from sim.base.errors import MalformedFrameError

T = TypeVar("T")

_NUMBER = re.compile(rb"[0-9]{0,15}")
_ARGUMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_NAME = msgspec.json.Decoder(str | int | float)
NO_STREAM = "event_without_stream"  # a valid packet, but not the application's form


class Engine(StrEnum):
    """The first digit: a packet of Engine.IO."""

    OPEN = "0"
    CLOSE = "1"
    PING = "2"
    PONG = "3"
    MESSAGE = "4"
    UPGRADE = "5"
    NOOP = "6"


class Kind(StrEnum):
    """The second digit, in a message: a packet of Socket.IO."""

    CONNECT = "0"
    DISCONNECT = "1"
    EVENT = "2"
    ACK = "3"
    CONNECT_ERROR = "4"
    BINARY_EVENT = "5"
    BINARY_ACK = "6"


class Handshake(msgspec.Struct, rename="camel"):
    """The server's first packet: how often it pings, and how long it waits for an answer, in milliseconds."""

    sid: str
    ping_interval: float
    ping_timeout: float

    @property
    def silence_s(self) -> float:
        """The longest silence of a server that is alive."""
        return (self.ping_interval + self.ping_timeout) / 1000


class Connected(msgspec.Struct):
    """The answer to a CONNECT. `pid` names the session to recover; a server without recovery has none."""

    sid: str = ""
    pid: str = ""


class ConnectError(msgspec.Struct):
    """A refused CONNECT. `data` is the application's."""

    message: str = ""
    data: object = None

    @property
    def code(self) -> str:
        """The application's code, or else its message."""
        code = self.data.get("code") if isinstance(self.data, dict) else None
        is_code = isinstance(code, str | int) and not isinstance(code, bool) and code != ""
        return str(code) if is_code else self.message


class Packet(NamedTuple):
    """A packet of Socket.IO. `number` is that of an acknowledgement, -1 without one; `body` is JSON, or empty."""

    kind: Kind
    namespace: str
    number: int
    body: bytes


class Emitted(NamedTuple):
    """An emitted event: its name, its arguments, and the offset that a server with recovery adds as the last argument."""

    name: str
    arguments: list[msgspec.Raw]
    offset: str | None

    def named(self, key: str) -> str:
        """Return the text under `key` in the first argument. Raises `MalformedFrameError`, code `NO_STREAM`, without one."""
        found = None
        if self.arguments:
            with suppress(MalformedFrameError):
                found = json_in(bytes(self.arguments[0]), dict[str, object]).get(key)
        if not isinstance(found, str) or not found:
            raise MalformedFrameError(NO_STREAM, f"no text under {key}")
        return found


def packet_in(data: bytes) -> tuple[Engine, Packet | None]:
    """Return the packet in a text frame; None if it is one of Engine.IO only. Raises `MalformedFrameError`."""
    try:
        engine = Engine(chr(data[0]))
        if engine is not Engine.MESSAGE:
            return engine, None
        kind, rest, namespace = Kind(chr(data[1])), data[2:], b"/"
    except (IndexError, ValueError) as error:
        raise MalformedFrameError("malformed_packet", "not a packet") from error
    if kind in (Kind.BINARY_EVENT, Kind.BINARY_ACK):
        return engine, Packet(kind, "/", -1, b"")
    if rest.startswith(b"/"):
        namespace, _, rest = rest.partition(b",")
    found = _NUMBER.match(rest)
    number = found[0] if found else b""
    return engine, Packet(kind, namespace.decode("utf-8", "replace"), int(number or -1), rest[len(number) :])


def emitted(body: bytes) -> Emitted:
    """Return the event in a packet's body. Raises `MalformedFrameError`.

    As in the official client, a last argument that is text is the offset, whatever the server meant by it.
    """
    try:
        name, *arguments = _ARGUMENTS.decode(body)
        has_offset = bool(arguments) and bytes(arguments[-1]).startswith(b'"')
        offset = _TEXT.decode(arguments.pop()) if has_offset else None
        return Emitted(str(_NAME.decode(name)), arguments, offset)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedFrameError("malformed_event", "not an event") from error


def json_in(body: bytes, kind: type[T]) -> T:
    """Return what a packet's body contains. Raises `MalformedFrameError`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedFrameError("malformed_packet", f"not a {kind.__name__}") from error


def packet(kind: Kind, namespace: str, content: object = None, number: int | None = None) -> bytes:
    """Return a packet as it is sent; `content` None: without JSON."""
    where = "" if namespace == "/" else f"{namespace},"
    body = b"" if content is None else msgspec.json.encode(content)
    return f"{Engine.MESSAGE}{kind}{where}{'' if number is None else number}".encode() + body
