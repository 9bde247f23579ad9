"""Client side of NATS JetStream: each subscription makes an ephemeral push consumer that starts at a position.

The server never says that a position is stale or unknown, nor which log it reads. So STREAM.INFO is asked after the consumer
was created: `created` is the epoch. What the consumer delivers meanwhile is held.
"""

from collections.abc import Callable, Mapping

import msgspec

from sim.base.errors import MalformedFrameError
from sim.protocols.adapter import (
    MAX_HELD_BYTES,
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
    DisconnectReason,
    Event,
    Head,
    Joined,
    Malformed,
    Message,
    Next,
    Opened,
    Outcome,
    Position,
    Problem,
    Published,
    PublishFailed,
    Refused,
    Step,
    StreamEnded,
    Whose,
)
from sim.protocols.intents import AskHead, Beat, Intent, Join, Leave, Publish, Raw, Subscribe, Unsubscribe
from sim.protocols.nats_jetstream import codec, endings
from sim.protocols.nats_jetstream.answers import ConsumerFound, Failure, PublishAck, ServerInfo, StreamInfo
from sim.protocols.nats_jetstream.codec import Delivery, Line, Parser
from sim.protocols.nats_jetstream.options import Options
from sim.protocols.nats_jetstream.subscription import Subscription
from sim.protocols.registry import ConnectionOptions

CAPABILITIES = Capabilities(
    positions=Positions.ORDERED,
    has_epochs=True,
    head=(HeadSource.REPLY, HeadSource.QUERY),
    head_of=Whose.AUTHORITY,
    caught_up=CaughtUpSign.EXPLICIT,
    stale=StaleSign.SILENT,
    has_snapshots=False,
    fresh_start=FreshStart.RETAINED,
    is_one_connection=True,
    refusals=Refusals.CODES,
    liveness=Liveness.SERVER_PINGS,
    hash_form="",
    can_resubscribe=True,
    resuming_by=ResumingBy.SUBSCRIBE,
    renewal=Renewal.BY_RECONNECT,
    publishing=Publishing.PROTOCOL,
    subscribing=Subscribing.EACH_STREAM,
    evicts=False,  # it disconnects slow consumers without a word
    silence_codes=("1001",),
)
_SOCKET = 0
_INBOX_SID = 1
_CONNECT = {
    "verbose": False,
    "pedantic": False,
    "headers": True,
    "no_responders": True,
    "protocol": 1,
    "lang": "python",
    "version": "0",
    "name": "stormgate",
}
_RESUBSCRIBE = Next(Step.RESUBSCRIBE)
_encode = msgspec.json.Encoder().encode

Reader = Callable[[Delivery], Message]  # takes the answer to a request


class JetStreamConnection(ActionQueue):
    """See `sim.protocols.adapter.Connection`."""

    def __init__(self, options: ConnectionOptions) -> None:
        super().__init__()
        self._url = options.url
        self._options = Options.read(options.options)
        self._parser = Parser()
        self._info: ServerInfo | None = None
        self._credentials = Credentials("")
        self._join_ref: str | None = None  # of a join that waits for INFO
        self._pings: list[str] = []  # references of what waits for a PONG
        self._is_open = self._is_joined = self._is_broken = False
        self._error: endings.Ending | None = None
        self._requests: dict[str, tuple[str, Reader]] = {}  # by the last part of the reply's subject: subject, reader
        self._last_request = 0
        self._last_sid = _INBOX_SID
        self._by_sid: dict[int, Subscription] = {}
        self._by_stream: dict[str, Subscription] = {}

    # --- what the driver does -----------------------------------------------------------------------

    def connect(self, credentials: Credentials) -> Message:
        """See `Connection`. The server speaks first; the credentials follow its INFO."""
        self._credentials = credentials
        self._actions.append(Open(_SOCKET, Transport.WEBSOCKET, self._url))
        return ()

    def opened(self, id: int, status: int, headers: Mapping[str, str]) -> Message:
        """See `Connection`."""
        self._is_open = True
        return (Opened(),)

    def closed(self, id: int, end: TransportEnd) -> Message:
        """See `Connection`."""
        return (endings.closed(end, self._error) if self._is_open else endings.not_opened(end),)

    def send(self, intent: Intent) -> Message:
        """See `Connection`."""
        if isinstance(intent, Raw):
            self._actions.append(Write(_SOCKET, intent.data, intent.is_text))
        elif isinstance(intent, Join):
            self._join_ref = intent.ref
            self._introduce()
        elif isinstance(intent, Subscribe):
            self._write(*(self._subscribe(intent.ref, *each) for each in intent.after.items()))
        elif isinstance(intent, Unsubscribe):
            self._write(*map(self._drop, intent.streams))
        elif isinstance(intent, Leave):
            self._write(*map(self._drop, list(self._by_stream)))
        elif isinstance(intent, AskHead):
            self._ask_head(intent)
        elif isinstance(intent, Publish):
            self._publish(intent)
        elif isinstance(intent, Beat):
            self._pings.append(intent.ref)
            self._write(b"PING\r\n")
        else:
            raise TypeError(f"NATS has no {type(intent).__name__}")
        return ()

    def received(self, id: int, data: bytes, is_text: bool) -> Message:
        """See `Connection`."""
        parts: list[Message] = []
        try:
            for each in self._parser.feed(data) if not self._is_broken else ():
                parts.append(self._take(each))
        except MalformedFrameError as error:
            self._is_broken = True
            parts.append((Malformed(error.code), Problem(error.code, next=RETRY, message=str(error))))
        if len(parts) == 1:
            return parts[0]  # the same object for all clients that get the same event
        return tuple(event for part in parts for event in part if not isinstance(event, Activity)) or (Activity(),)

    def _take(self, each: Delivery | Line) -> Message:
        if isinstance(each, Line):
            return self._take_line(each)
        if each.sid == _INBOX_SID:
            return self._take_answer(each)
        subscription = self._by_sid.get(each.sid)  # None: it was given up
        return (Activity(),) if subscription is None else self._take_delivery(subscription, each)

    def _write(self, *lines: bytes) -> None:
        if data := b"".join(lines):
            self._actions.append(Write(_SOCKET, data, is_text=False))

    # --- joining ------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        """Send the credentials, as soon as the server has introduced itself and the session wants to join."""
        if self._info is None or self._join_ref is None:
            return
        self._pings.append(self._join_ref)
        own = self._options.introduction(self._credentials, self._info.nonce)
        self._write(b"CONNECT " + _encode(_CONNECT | own) + b"\r\n", b"PING\r\n")
        self._join_ref = None

    def _take_line(self, line: Line) -> Message:
        if line.word == "PING":
            self._write(b"PONG\r\n")
        elif line.word == "PONG" and self._pings:
            return self._ponged(self._pings.pop(0))
        elif line.word == "INFO":
            return self._take_info(line.rest)
        elif line.word == "-ERR":
            return self._take_error(line.rest.strip("'"))
        return (Activity(),)

    def _take_info(self, text: str) -> Message:
        try:
            info = msgspec.json.decode(text, type=ServerInfo)
        except msgspec.MsgspecError:
            return (Malformed("malformed_info"),)
        if self._info is None:
            self._info = info
            self._introduce()
        if info.ldm:
            return (Problem("lame_duck", DisconnectReason.NETWORK, RETRY, "the server is about to shut down"),)
        return (Activity(),)

    def _ponged(self, ref: str) -> Message:
        if self._is_joined:
            return (Answer(ref, True, is_beat=True),)
        self._is_joined = True
        self._write(codec.subscribe(f"{self._inbox}.*", _INBOX_SID))
        return (Joined(ref, ping_s=self._options.idle_heartbeat_s),)

    @property
    def _inbox(self) -> str:
        """A subject that is unique on the server."""
        assert self._info is not None
        return f"_INBOX.{self._info.server_id}.{self._info.client_id}"

    def _take_error(self, text: str) -> Message:
        if (ending := endings.fatal(text)) is not None:  # the close follows
            self._error = ending
            return (Problem(ending.code, ending.reason, message=text),)
        subject = endings.forbidden_subject(text)
        if subject is None:
            return (Problem("server_error", message=text),)
        out: list[Event] = [Problem("permissions_violation", DisconnectReason.FORBIDDEN, message=text)]
        for key in [key for key, (asked, _) in self._requests.items() if asked == subject]:
            out += self._requests.pop(key)[1](Delivery(subject, _INBOX_SID, "", b"", _FORBIDDEN))
        for each in [each for each in self._by_sid.values() if each.subject == subject]:
            out += self._refuse(each, "permissions_violation", endings.TERMINAL)
        return tuple(out)

    # --- requests -----------------------------------------------------------------------------------

    def _request(self, subject: str, payload: bytes, reader: Reader, headers: Mapping[str, str] | None = None) -> bytes:
        self._last_request += 1
        key = str(self._last_request)
        self._requests[key] = subject, reader
        return codec.publish(subject, f"{self._inbox}.{key}", payload, headers)

    def _take_answer(self, answer: Delivery) -> Message:
        asked = self._requests.pop(answer.subject.rpartition(".")[2], None)
        return (Activity(),) if asked is None else asked[1](answer)

    def _publish(self, intent: Publish) -> None:
        def answered(answer: Delivery) -> Message:
            found = PublishAck.read(answer)
            if isinstance(found, Failure):
                return (PublishFailed(intent.key, found.code, found.next, Outcome.REFUSED),)
            return (Published(intent.key, Position(found.seq), found.duplicate),)

        headers = {"Nats-Msg-Id": intent.key} if self._options.message_ids else None
        subject = self._options.subject_of(intent.stream)
        self._write(self._request(subject, bytes(intent.payload), answered, headers))

    def _ask_head(self, intent: AskHead) -> None:
        """Ask for the head, and whether the consumer still exists: it disappears with its stream, without a word."""
        subscription = self._by_stream.get(intent.stream)

        def stream_found(answer: Delivery) -> Message:
            found = StreamInfo.read(answer)
            if isinstance(found, Failure):
                return (Answer(intent.ref, False, found.code),)
            return (Head(intent.stream, Position(found.state.last_seq, found.created)),)

        def consumer_found(answer: Delivery) -> Message:
            found = ConsumerFound.read(answer)
            if not isinstance(found, Failure) or self._by_stream.get(intent.stream) is not subscription:
                return (Activity(),)
            self._write(self._drop(intent.stream))
            return (StreamEnded(intent.stream, found.code, _RESUBSCRIBE),)

        asked = self._request(self._options.api("STREAM.INFO", intent.stream), b"", stream_found)
        if subscription is None or not subscription.is_assigned:
            self._write(asked)
            return
        api = f"{self._options.api('CONSUMER.INFO', intent.stream)}.{subscription.consumer}"
        self._write(asked, self._request(api, b"", consumer_found))

    # --- subscriptions ------------------------------------------------------------------------------

    def _subscribe(self, ref: str, stream: str, after: Position | None) -> bytes:
        given_up = self._drop(stream)
        self._last_sid += 1
        new = Subscription(ref, stream, after, self._last_sid, f"{self._inbox}.d.{self._last_sid}")
        self._by_sid[new.sid] = self._by_stream[stream] = new
        config = self._options.consumer(stream, new.subject, after)
        body = _encode({"stream_name": self._options.stream_of(stream), "config": config})
        api = self._options.api("CONSUMER.CREATE", stream)
        create = self._request(api, body, lambda answer: self._created(new, answer))
        return given_up + codec.subscribe(new.subject, new.sid) + create

    def _drop(self, stream: str) -> bytes:
        """Give up a stream's subscription; returns what to send."""
        old = self._by_stream.pop(stream, None)
        if old is None:
            return b""
        del self._by_sid[old.sid]
        if not old.consumer:
            return codec.unsubscribe(old.sid)
        api = f"{self._options.api('CONSUMER.DELETE', stream)}.{old.consumer}"
        return self._request(api, b"", lambda _: (Activity(),)) + codec.unsubscribe(old.sid)

    def _refuse(self, subscription: Subscription, code: str, following: Next) -> Message:
        stream = subscription.stream
        self._write(self._drop(stream))
        reason = DisconnectReason.FORBIDDEN if following == endings.TERMINAL else DisconnectReason.STREAM_CLOSED
        return (Refused(subscription.ref, code, reason, following, streams=(stream,)),)

    def _created(self, subscription: Subscription, answer: Delivery) -> Message:
        if self._by_sid.get(subscription.sid) is not subscription:
            return (Activity(),)
        found = ConsumerFound.read(answer)
        if isinstance(found, Failure):
            return self._refuse(subscription, found.code, found.next)
        subscription.created(found)
        api = self._options.api("STREAM.INFO", subscription.stream)  # before the consumer exists, it could be of an earlier log
        self._write(self._request(api, b"", lambda answer: self._assign(subscription, answer)))
        return (Activity(subscription.stream),)

    def _assign(self, subscription: Subscription, answer: Delivery) -> Message:
        """Take the log that a consumer reads, and with it all that was held."""
        if self._by_sid.get(subscription.sid) is not subscription:
            return (Activity(),)
        found = StreamInfo.read(answer)
        if isinstance(found, Failure):
            return self._refuse(subscription, found.code, found.next)
        if (unknown := subscription.unknown_position(found)) is not None:
            self._write(self._drop(subscription.stream))
            return (unknown,)
        self._write(*subscription.flow_control())
        return subscription.assign(found)

    def _take_delivery(self, subscription: Subscription, delivery: Delivery) -> Message:
        place = codec.place_of(delivery.reply)
        if place is None:
            return self._take_status(subscription, delivery)
        if subscription.is_assigned:
            return subscription.deliver(place, delivery.payload)
        subscription.hold(place, delivery.payload)
        return self._held_too_much() or (Activity(subscription.stream),)

    def _held_too_much(self) -> Message:
        if sum(each.held_bytes for each in self._by_sid.values()) <= MAX_HELD_BYTES:
            return ()
        self._is_broken = True
        return (Problem("held_too_much", next=RETRY, message="the server does not say which log it reads"),)

    def _take_status(self, subscription: Subscription, delivery: Delivery) -> Message:
        """Take a heartbeat, a request of the flow control, or the end of a consumer."""
        status, fields = codec.status_of(delivery.header)
        if status != 100:
            stream = subscription.stream
            self._write(self._drop(stream))
            return (StreamEnded(stream, f"status_{status}", _RESUBSCRIBE),)
        to = delivery.reply or fields.get("Nats-Consumer-Stalled", "")
        if to and subscription.is_assigned:
            self._write(codec.publish(to, "", b""))
        elif to:
            subscription.stall(to)
            if too_much := self._held_too_much():
                return too_much
        if delivery.reply:
            return (Activity(subscription.stream),)
        last = fields.get("Nats-Last-Consumer", "")
        return subscription.beat(int(last) if last.isascii() and last.isdigit() and len(last) <= 18 else None, bool(to))


_FORBIDDEN = _encode({"error": {"code": 403, "err_code": 0, "description": "permissions violation"}})
