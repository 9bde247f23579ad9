"""Client side of Durable Streams: one HTTP request for each stream; converts intents to requests, and answers to events.

There is no connection and no join. A stream is read from a position to its end by a catch-up, and then by SSE or long polls.
SSE does both in one request. Messages have no position: an answer, or a control event, states that after all its messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import quote, urlencode

import msgspec

from sim.base.errors import MalformedFrameError
from sim.protocols.adapter import (
    HELD_ITEM_BYTES,
    MAX_HELD_BYTES,
    ActionQueue,
    Capabilities,
    CaughtUpSign,
    Close,
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
)
from sim.protocols.durable_streams import endings
from sim.protocols.durable_streams import options as target_options
from sim.protocols.events import (
    RETRY,
    Activity,
    Batch,
    CaughtUp,
    Event,
    Item,
    Joined,
    Malformed,
    Message,
    Next,
    Opened,
    Position,
    PositionUnknown,
    Resumed,
    Step,
    StreamEnded,
    Whose,
)
from sim.protocols.intents import Intent, Join, Leave, Subscribe, Unsubscribe
from sim.protocols.shared_decoding import SharedDecoding
from sim.protocols.sse import SseEvent, SseParser

CAPABILITIES = Capabilities(
    positions=Positions.OPAQUE,
    has_epochs=False,
    head=(HeadSource.NONE,),  # the next offset is the head, too, but offsets are the server's own
    head_of=Whose.AUTHORITY,
    caught_up=CaughtUpSign.EXPLICIT,
    stale=StaleSign.SILENT,
    has_snapshots=False,
    fresh_start=FreshStart.RETAINED,
    is_one_connection=False,
    refusals=Refusals.BARE_STATUS,
    liveness=Liveness.SERVER_PINGS,
    hash_form="",
    can_resubscribe=True,
    resuming_by=ResumingBy.REQUEST,
    renewal=Renewal.NONE,
    publishing=Publishing.HTTP,
    subscribing=Subscribing.EACH_STREAM,
    evicts=False,
    has_one_order=True,
    silence_codes=(),  # an answer that ends says nothing
)
START = "-1"  # the offset before the first message
_NEXT_OFFSET, _UP_TO_DATE, _CURSOR, _IS_CLOSED = "stream-next-offset", "stream-up-to-date", "stream-cursor", "stream-closed"
_TERMINAL, _ASK_AGAIN = Next(Step.TERMINAL), Next(Step.RESUBSCRIBE)
_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])


class _Control(msgspec.Struct, rename="camel"):
    """What an answer states beside its messages; SSE does so in a control event."""

    stream_next_offset: str
    stream_cursor: str = ""
    up_to_date: bool = False
    stream_closed: bool = False

    @classmethod
    def of_headers(cls, headers: Mapping[str, str]) -> "_Control":
        """Return what the headers of a whole answer state; without an offset, an empty one."""
        up_to_date, closed = (headers.get(name, "").lower() == "true" for name in (_UP_TO_DATE, _IS_CLOSED))
        return cls(headers.get(_NEXT_OFFSET, ""), headers.get(_CURSOR, ""), up_to_date, closed)


_CONTROL = msgspec.json.Decoder(_Control)


@dataclass(slots=True)
class _Request:
    """One request under way. `is_live`: it waits for new messages at the end of the stream."""

    ref: str
    stream: str
    offset: str
    cursor: str = ""
    is_live: bool = False
    is_answered: bool = False  # the session knows that its subscribe was accepted
    headers: Mapping[str, str] = field(default_factory=dict)
    parser: SseParser = field(default_factory=SseParser)
    held: list[str] = field(default_factory=list)  # data events whose control event has not come
    held_bytes: int = 0


class DurableStreamsConnection(ActionQueue):
    """See `sim.protocols.adapter.Connection`. `url` is the base of the streams' paths, with `ws` in place of `http`."""

    shared: ClassVar = SharedDecoding()

    def __init__(self, url: str, options: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._url = "http" + url.removeprefix("ws").removeprefix("http")
        self._options = target_options.read(options or {})
        self._streams_sse = self._options.live == "sse"
        self._headers: dict[str, str] = {}
        self._requests: dict[int, _Request] = {}  # by the id of its transport
        self._ends: dict[str, str] = {}  # by stream: the offset at which the last answer was up to date
        self._last_id = 0

    def connect(self, credentials: Credentials) -> Message:
        """See `Connection`. Nothing is opened."""
        self._headers = {"Authorization": f"Bearer {credentials.token}"} if self._options.bearer else {}
        return (Opened(),)

    def send(self, intent: Intent) -> Message:
        """See `Connection`."""
        match intent:
            case Join(ref=ref):
                return (Joined(ref, ping_s=self._options.long_poll_timeout_s),)
            case Subscribe(ref=ref, after=after):
                for stream, position in after.items():
                    self._stop(stream)
                    self._ask(_Request(ref, stream, START if position is None else str(position.offset)))
            case Unsubscribe(streams=streams):
                for stream in streams:
                    self._stop(stream)
            case Leave():
                for stream in {request.stream for request in self._requests.values()}:
                    self._stop(stream)
            case _:
                raise TypeError(f"the protocol has no {type(intent).__name__}")
        return ()

    def _stop(self, stream: str) -> None:
        for id in [id for id, request in self._requests.items() if request.stream == stream]:
            del self._requests[id]
            self._actions.append(Close(id))

    def _ask(self, request: _Request) -> None:
        """Send a request. A long poll is only sent from the end of a stream, because it may wait without an answer."""
        query = {"offset": request.offset}
        if self._streams_sse:
            query |= {"live": "sse"}
        elif self._ends.get(request.stream) == request.offset:
            request.is_live = True
            query |= {"live": "long-poll"} | ({"cursor": request.cursor} if request.cursor else {})
        self._last_id += 1
        self._requests[self._last_id] = request
        url = f"{self._url}/{quote(request.stream)}?{urlencode(query)}"
        transport = Transport.SSE if self._streams_sse else Transport.LONG_POLL
        self._actions.append(Open(self._last_id, transport, url, self._headers))

    def opened(self, id: int, status: int, headers: Mapping[str, str]) -> Message:
        """See `Connection`."""
        if (request := self._requests.get(id)) is None:
            return ()
        request.headers = headers
        if request.is_answered:
            return (Activity(request.stream),)
        request.is_answered = True
        return (Resumed(request.ref, request.stream),)

    def received(self, id: int, data: bytes, is_text: bool) -> Message:
        """See `Connection`."""
        if (request := self._requests.get(id)) is None:
            return ()
        try:
            return self._streamed(id, request, data) if self._streams_sse else self._answered(id, request, data)
        except (MalformedFrameError, ValueError, RecursionError, msgspec.MsgspecError):
            return (Malformed("malformed"), *self._give_up(id, request, "malformed"))

    def closed(self, id: int, end: TransportEnd) -> Message:
        """See `Connection`."""
        if (request := self._requests.pop(id, None)) is None:
            return ()
        stream = request.stream
        if end.status is None or 200 <= end.status < 300:
            self._ends.pop(stream, None)
            ended = "network" if end.status is None else endings.BODY_ENDED
            return (StreamEnded(stream, "protocol" if end.is_broken else ended),)
        return (endings.refused(end, stream),)

    # --- whole answers ------------------------------------------------------------------------------

    def _answered(self, id: int, request: _Request, data: bytes) -> Message:
        """Take the answer to a catch-up or a long poll, and ask for what follows it."""
        control = _Control.of_headers(request.headers)
        if not control.stream_next_offset:
            raise ValueError("an answer without its next offset")
        if (unknown := self._unknown(id, request, control)) is not None:
            return (unknown,)
        events = self._events(request.stream, [data.decode()] if data else [], control)
        del self._requests[id]
        moved, request.offset = control.stream_next_offset != request.offset, control.stream_next_offset
        if control.up_to_date:
            self._ends[request.stream] = request.offset
        if control.stream_closed:
            return (*events, StreamEnded(request.stream, "stream_closed", _TERMINAL))
        if not moved and (request.is_live or not control.up_to_date):  # the session decides when to ask again
            return (*events, StreamEnded(request.stream, "poll", _ASK_AGAIN))
        self._ask(_Request(request.ref, request.stream, request.offset, control.stream_cursor, is_answered=True))
        return events

    # --- SSE ----------------------------------------------------------------------------------------

    def _streamed(self, id: int, request: _Request, data: bytes) -> Message:
        out: list[Event] = []
        for event in request.parser.feed(data):
            out += self._take(id, request, event)
            if id not in self._requests:
                break
        return tuple(out) or (Activity(request.stream),)

    def _take(self, id: int, request: _Request, event: SseEvent) -> Message:
        """Hold data until its control event states the position after it."""
        if event.kind == "data":
            request.held.append(event.data)
            request.held_bytes += len(event.data) + HELD_ITEM_BYTES
            return self._give_up(id, request, "held_too_much") if request.held_bytes > MAX_HELD_BYTES else ()
        if event.kind != "control":
            return ()
        control = _CONTROL.decode(event.data)
        if (unknown := self._unknown(id, request, control)) is not None:
            return (unknown,)
        held, request.held, request.held_bytes = request.held, [], 0
        request.offset = control.stream_next_offset
        events = self._events(request.stream, held, control)
        if not control.stream_closed:
            return events
        self._stop(request.stream)
        return (*events, StreamEnded(request.stream, "stream_closed", _TERMINAL))

    # --- both ---------------------------------------------------------------------------------------

    def _unknown(self, id: int, request: _Request, control: _Control) -> PositionUnknown | None:
        """Return the event for an answer whose next offset is before the requested one: this stream is another one.

        Nothing else shows it. Offsets are compared as text, as the protocol says.
        """
        if request.offset == START or control.stream_next_offset >= request.offset:
            return None
        self._stop(request.stream)
        self._ends.pop(request.stream, None)
        asked, head = Position(request.offset), Position(control.stream_next_offset)
        return PositionUnknown(request.stream, asked, head, "above_head")

    def _events(self, stream: str, parts: list[str], control: _Control) -> Message:
        """Return the events of some messages and what is stated after them; equal ones are the same object."""
        is_end = control.up_to_date or control.stream_closed
        key = stream, control.stream_next_offset, is_end, *parts
        if (known := self.shared.get(key)) is None:
            items = tuple(Item(None, payload) for part in parts for payload in _MESSAGES.decode(part))
            batch = Batch(stream, items, Position(control.stream_next_offset))
            known = (batch, CaughtUp(stream)) if is_end else (batch,)
            self.shared.put(key, known, 2 * sum(map(len, parts)))
        return known

    def _give_up(self, id: int, request: _Request, code: str) -> Message:
        """End a request that cannot be read any further."""
        if self._requests.pop(id, None) is not None:
            self._actions.append(Close(id))
        self._ends.pop(request.stream, None)
        return (StreamEnded(request.stream, code, RETRY),)
