"""Client side of Socket.IO: one WebSocket; converts intents to packets, and packets to events.

The join resumes: it names the session of an earlier connection and the offset of the last event, and the missed events come
before its answer. The answer names the same session if it was resumed; otherwise the client subscribes again.
What an application names and refuses is in the target file.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import msgspec

from sim.base.config import to_struct
from sim.base.errors import MalformedFrameError
from sim.protocols import endings
from sim.protocols.adapter import (
    ActionQueue,
    Capabilities,
    CaughtUpSign,
    Credentials,
    FreshStart,
    HeadSource,
    Liveness,
    Open,
    Positions,
    Publishing,
    Refusals,
    Renewal,
    ResumingBy,
    StaleSign,
    Subscribing,
    Transport,
    TransportEnd,
    Write,
)
from sim.protocols.events import (
    RETRY,
    Activity,
    Answer,
    Batch,
    Closed,
    DisconnectReason,
    Item,
    Joined,
    Malformed,
    Message,
    Next,
    Opened,
    Position,
    Problem,
    Refused,
    Resumed,
    Step,
    StreamEnded,
    Whose,
)
from sim.protocols.intents import Intent, Join, Leave, Raw, Subscribe, Unsubscribe
from sim.protocols.shared_decoding import BoundedCache
from sim.protocols.socketio.frames import (
    NO_STREAM,
    Connected,
    ConnectError,
    Engine,
    Handshake,
    Kind,
    Packet,
    emitted,
    json_in,
    packet,
    packet_in,
)

CAPABILITIES = Capabilities(
    positions=Positions.OPAQUE,
    has_epochs=False,
    head=(HeadSource.NONE,),
    head_of=Whose.AUTHORITY,
    caught_up=CaughtUpSign.REPLY,
    stale=StaleSign.FLAG,
    has_snapshots=False,
    fresh_start=FreshStart.FROM_NOW_ON,
    is_one_connection=True,
    refusals=Refusals.CODES,
    liveness=Liveness.SERVER_PINGS,
    hash_form="",
    can_resubscribe=False,
    resuming_by=ResumingBy.JOIN,
    renewal=Renewal.NONE,
    publishing=Publishing.HTTP,
    subscribing=Subscribing.EACH_STREAM,
    evicts=False,
    silence_codes=("1005",),  # as of every end
)
_SOCKET = 0
_TOO_LARGE = 1009
_TERMINAL = Next(Step.TERMINAL)


class SocketIoOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[targets.NAME.protocol_options]`: what the application calls things, and what its refusals mean."""

    namespace: str = "/"
    event: str = "event"  # name of a delivered event; its first argument is a JSON object
    stream_key: str = "stream"  # in that object: the stream
    subscribe: str = "subscribe"  # event that asks for a stream, which is its argument; it must be acknowledged
    unsubscribe: str = "leave"  # event that ends it
    mint_codes: tuple[str, ...] = ("401", "unauthorized", "token_expired", "token_revoked")  # refusals that need a new token
    terminal_codes: tuple[str, ...] = ("403", "forbidden", "Invalid namespace")  # refusals that no retry changes


class Delivery(NamedTuple):
    """An event as it means the same to all clients. `item` None: it is of no stream, or the application's own."""

    stream: str
    item: Item | None
    offset: str | None


class SocketIoConnection(ActionQueue):
    """See `sim.protocols.adapter.Connection`. `url` is the socket's, without a query."""

    shared: ClassVar[BoundedCache[tuple[str, str, bytes], Delivery]] = BoundedCache()

    def __init__(self, url: str, options: Mapping[str, object]) -> None:
        super().__init__()
        self._url = url
        self._options = to_struct(dict(options), SocketIoOptions, "protocol_options")
        self._is_open = self._is_broken = False
        self._join_ref = ""
        self._pid = ""  # of the session; before the answer to the join: of the session to resume
        self._offset = ""  # of the last event
        self._ping_s: float | None = None
        self._number = 0
        self._asked: dict[int, Subscribe | Unsubscribe] = {}  # by number: unacknowledged requests, each for one stream

    def connect(self, credentials: Credentials) -> Message:
        """See `Connection`. The token is part of the join."""
        self._actions.append(Open(_SOCKET, Transport.WEBSOCKET, f"{self._url}?EIO=4&transport=websocket"))
        return ()

    def send(self, intent: Intent) -> Message:
        """See `Connection`."""
        if isinstance(intent, Raw):
            self._actions.append(Write(_SOCKET, intent.data, intent.is_text))
        elif isinstance(intent, Join):
            self._send_join(intent)
        elif isinstance(intent, Subscribe):
            for stream in intent.after:
                self._emit(self._options.subscribe, stream, Subscribe(intent.ref, {stream: None}))
        elif isinstance(intent, Unsubscribe):
            for stream in intent.streams:
                self._emit(self._options.unsubscribe, stream, Unsubscribe(intent.ref, (stream,)))
        elif isinstance(intent, Leave):
            self._write(Kind.DISCONNECT)
        else:
            raise TypeError(f"Socket.IO has no {type(intent).__name__}")
        return ()

    def _send_join(self, intent: Join) -> None:
        self._join_ref = intent.ref
        self._pid, _, self._offset = (intent.session or "").partition(" ")
        wanted = {"token": intent.token, "pid": self._pid, "offset": self._offset}
        self._write(Kind.CONNECT, {name: text for name, text in wanted.items() if text})

    def _emit(self, name: str, stream: str, asked: Subscribe | Unsubscribe) -> None:
        self._number += 1
        self._asked[self._number] = asked
        self._write(Kind.EVENT, [name, stream], self._number)

    def _write(self, kind: Kind, content: object = None, number: int | None = None) -> None:
        self._actions.append(Write(_SOCKET, packet(kind, self._options.namespace, content, number)))

    def opened(self, id: int, status: int, headers: Mapping[str, str]) -> Message:
        """See `Connection`."""
        self._is_open = True
        return (Opened(),)

    def received(self, id: int, data: bytes, is_text: bool) -> Message:
        """See `Connection`. Binary messages are parts of binary events, which no stream has."""
        if self._is_broken:
            return ()
        if not is_text:
            return (Activity(),)
        if (known := self.shared.get(self._key(data))) is not None:
            return self._deliver(known)
        try:
            engine, found = packet_in(data)
            if engine is Engine.PING:
                self._actions.append(Write(_SOCKET, Engine.PONG.encode()))
            elif engine is Engine.OPEN:
                self._ping_s = json_in(data[1:], Handshake).silence_s
            if found is None or found.namespace != self._options.namespace:
                return (Activity(),)
            return self._deliver(self._delivery(data, found)) if found.kind is Kind.EVENT else self._read(found)
        except MalformedFrameError as error:
            if error.code == NO_STREAM:
                return (Malformed(error.code),)
            # Its official client closes, too: "parse error". The next join recovers what the packet contained.
            self._is_broken = True
            return (Malformed(error.code), Problem(error.code, DisconnectReason.NETWORK, RETRY, str(error)))

    def _key(self, data: bytes) -> tuple[str, str, bytes]:
        return self._options.event, self._options.stream_key, data

    def _read(self, found: Packet) -> Message:
        if found.kind is Kind.CONNECT:
            return self._joined(json_in(found.body or b"{}", Connected))
        if found.kind is Kind.CONNECT_ERROR:
            return (self._refused(json_in(found.body or b"{}", ConnectError)),)
        if found.kind is Kind.DISCONNECT:
            return (StreamEnded(None, "disconnected", _TERMINAL),)
        if found.kind is Kind.ACK:
            return (self._acknowledged(found),)
        return (Activity(),)

    def _joined(self, answer: Connected) -> Message:
        is_resumed = bool(answer.pid) and answer.pid == self._pid
        self._pid, self._offset = answer.pid, self._offset if is_resumed else ""
        return (Joined(self._join_ref, self._session, resumed=is_resumed, ping_s=self._ping_s),)

    @property
    def _session(self) -> str:
        """The session to resume; without an offset, no server resumes it."""
        return f"{self._pid} {self._offset}" if self._pid else ""

    def _refused(self, error: ConnectError) -> Refused:
        code, options = error.code, self._options
        if code in options.mint_codes:
            return Refused(self._join_ref, code, DisconnectReason.UNAUTHORIZED, Next(Step.MINT), message=error.message)
        following = _TERMINAL if code in options.terminal_codes else RETRY
        reason = DisconnectReason.FORBIDDEN if code in options.terminal_codes else DisconnectReason.UNKNOWN
        return Refused(self._join_ref, code, reason, following, message=error.message)

    def _acknowledged(self, found: Packet) -> Resumed | Refused | Answer:
        asked = self._asked.pop(found.number, None)
        if asked is None:
            return Answer("", True)
        (answer, *_) = json_in(found.body or b"[]", list[object]) or [None]
        code = answer.get("code", "refused") if isinstance(answer, dict) and answer.get("ok") is False else ""
        if isinstance(asked, Unsubscribe):
            return Answer(asked.ref, not code, str(code))
        (stream,) = asked.after
        if code:
            following = _TERMINAL if str(code) in self._options.terminal_codes else RETRY
            return Refused(asked.ref, str(code), DisconnectReason.FORBIDDEN, following, streams=(stream,))
        return Resumed(asked.ref, stream)

    def _delivery(self, data: bytes, found: Packet) -> Delivery:
        event = emitted(found.body)
        stream = event.named(self._options.stream_key) if event.name == self._options.event else ""
        place = None if event.offset is None else Position(event.offset)
        delivery = Delivery(stream, Item(place, event.arguments[0]) if stream else None, event.offset)
        self.shared.put(self._key(data), delivery, 2 * len(data))
        return delivery

    def _deliver(self, delivery: Delivery) -> Message:
        """Return an event for this client. The offset of any event moves the session, also of one that is of no stream."""
        stream, item, offset = delivery
        if offset is not None and self._pid:
            self._offset = offset
        elif item is None:
            return (Activity(),)
        elif offset is not None:  # without a session it is no offset, but an argument of the application
            item = msgspec.structs.replace(item, position=None)
        return (Batch(stream, () if item is None else (item,), session=self._session or None),)

    def closed(self, id: int, end: TransportEnd) -> Message:
        """See `Connection`. A server closes without a code (1005), whatever the reason was."""
        if self._is_open:
            return (Closed(DisconnectReason.NETWORK, end.code, _TERMINAL if end.code == _TOO_LARGE else RETRY),)
        return (upgrade_refused(end),)


def upgrade_refused(end: TransportEnd) -> Refused:
    """Return the refusal of an upgrade, or a failed connection. Hints are a proxy's; the server itself states none."""
    if end.status is None:
        return Refused("", "protocol" if end.is_broken else "network", DisconnectReason.NETWORK, is_open=False)
    if endings.is_of_proxy(end):
        return endings.upgrade_refused(end)
    refused = Refused("", f"status_{end.status}", DisconnectReason.UNKNOWN, _TERMINAL, is_open=False)
    if endings.is_temporary(end.status):
        refused = Refused("", "protocol", DisconnectReason.NETWORK, is_open=False)
    return endings.answered(refused, end)
