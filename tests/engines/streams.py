"""A tiny adapter for `tests.peers.stream_server`: one request a stream, opaque positions."""

from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from sim.base.errors import MalformedFrameError
from sim.protocols.adapter import (
    Action,
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
from sim.protocols.events import (
    MINT,
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
    Refused,
    Resumed,
    Step,
    StreamEnded,
    Whose,
)
from sim.protocols.intents import Intent, Join, Subscribe, Unsubscribe
from sim.protocols.registry import ConnectionOptions, Protocol
from sim.protocols.sse import SseParser

CAPABILITIES = Capabilities(
    positions=Positions.OPAQUE,
    has_epochs=False,
    head=(HeadSource.NONE,),
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
)


class _Answer(msgspec.Struct, rename="camel"):
    items: list[tuple[str, msgspec.Raw]]
    next: str
    up_to_date: bool


_POLL = msgspec.json.Decoder(_Answer)


class StreamConnection:
    """See `Connection`."""

    def __init__(self, options: ConnectionOptions) -> None:
        self._url = options.url
        self._transport = Transport(str(options.options.get("transport", "sse")))
        self._actions: list[Action] = []
        self._requests: dict[int, tuple[str, str]] = {}  # by id: reference and stream
        self._readers: dict[int, SseParser] = {}
        self._last = 0
        self._token = ""

    def actions(self) -> list[Action]:
        out, self._actions = self._actions, []
        return out

    def connect(self, credentials: Credentials) -> Message:
        self._token = credentials.token
        return (Opened(),)

    def send(self, intent: Intent) -> Message:
        if isinstance(intent, Join):
            return (Joined(intent.ref),)
        if isinstance(intent, Unsubscribe | Subscribe):
            for stream in intent.after if isinstance(intent, Subscribe) else intent.streams:
                self._close(stream)
        if isinstance(intent, Subscribe):
            for stream, position in intent.after.items():
                self._ask(intent.ref, stream, position)
        return ()

    def _close(self, stream: str) -> None:
        for id in [id for id, (_, of) in self._requests.items() if of == stream]:
            del self._requests[id]
            self._readers.pop(id, None)
            self._actions.append(Close(id))

    def _ask(self, ref: str, stream: str, position: Position | None) -> None:
        self._last += 1
        live = "sse" if self._transport is Transport.SSE else "poll"
        after = "" if position is None else f"&after={position.offset}"
        url = f"{self._url}/streams/{quote(stream)}?live={live}{after}"
        self._requests[self._last] = ref, stream
        self._readers[self._last] = SseParser()
        self._actions.append(Open(self._last, self._transport, url, {"Authorization": f"Bearer {self._token}"}))

    def opened(self, id: int, status: int, headers: Mapping[str, str]) -> Message:
        ref, stream = self._requests[id]
        return (Resumed(ref, stream),)

    def received(self, id: int, data: bytes, is_text: bool) -> Message:
        _, stream = self._requests[id]
        try:
            return self._polled(stream, data) if self._transport is Transport.LONG_POLL else self._streamed(id, stream, data)
        except (msgspec.DecodeError, MalformedFrameError):
            return (Malformed("malformed"),)

    @staticmethod
    def _polled(stream: str, data: bytes) -> Message:
        if not data:
            return (Activity(stream),)
        answer = _POLL.decode(data)
        items = tuple(Item(Position(place), payload) for place, payload in answer.items)
        return (Batch(stream, items), *((CaughtUp(stream),) if answer.up_to_date else ()))

    def _streamed(self, id: int, stream: str, data: bytes) -> Message:
        out: list[Event] = []
        for event in self._readers[id].feed(data):
            if event.kind == "up-to-date":
                out.append(CaughtUp(stream))
            else:
                out.append(Batch(stream, (Item(Position(event.id), msgspec.Raw(event.data.encode())),)))
        return tuple(out) or (Activity(stream),)

    def closed(self, id: int, end: TransportEnd) -> Message:
        _, stream = self._requests.pop(id)
        self._readers.pop(id, None)
        if end.status == 401:
            return (Refused("", "unauthorized", next=MINT, streams=(stream,)),)
        if end.status in (404, 410):
            return (Refused("", f"status_{end.status}", next=Next(Step.TERMINAL), streams=(stream,)),)
        if end.status is not None and self._transport is Transport.LONG_POLL:
            return (StreamEnded(stream, "poll", Next(Step.RESUBSCRIBE)),)
        return (StreamEnded(stream, "ended", RETRY),)


def protocol(transport: Transport) -> Protocol:
    """Its entry in the registry."""
    return Protocol(
        name="streams",
        capabilities=CAPABILITIES,
        new_connection=lambda options: StreamConnection(ConnectionOptions(options.url, {"transport": transport.value})),
        stream_id=str,
        streams_of=lambda runs, worker_events: [(run, run, "event") for run in runs],
    )
