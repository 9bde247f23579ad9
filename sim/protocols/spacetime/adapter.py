"""Client side of the sync channel: one WebSocket; converts intents to frames, and frames to events."""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import ClassVar
from urllib.parse import quote

import msgspec

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
    Transport,
    TransportEnd,
    Write,
)
from sim.protocols.events import (
    INFORMED,
    Activity,
    Answer,
    Batch,
    CaughtUp,
    Event,
    Hash,
    Head,
    Item,
    Joined,
    Malformed,
    Message,
    Opened,
    Position,
    Problem,
    Refused,
    Resumed,
    Snapshot,
    Stale,
    StreamEnded,
    Whose,
    retry_after,
)
from sim.protocols.intents import Beat, Intent, Join, Leave, Raw, Subscribe, Unsubscribe
from sim.protocols.payloads import hash_matches, is_hex_form
from sim.protocols.shared_decoding import SharedDecoding
from sim.protocols.spacetime import codes, frames
from sim.protocols.spacetime.codec import decode_push, encode_client, open_frame
from sim.protocols.spacetime.frames import Body, ClientFrame, ServerFrame, StaleTopic, Update, Watermark

CAPABILITIES = Capabilities(
    positions=Positions.DENSE,
    has_epochs=False,
    head=(HeadSource.HEARTBEATS,),
    head_of=Whose.AUTHORITY,
    caught_up=CaughtUpSign.EXPLICIT,
    stale=StaleSign.EXPLICIT,
    has_snapshots=True,
    fresh_start=FreshStart.RETAINED,
    is_one_connection=True,
    refusals=Refusals.CODES_AND_HINTS,
    liveness=Liveness.BOTH,
    hash_form="sha256 of canonical JSON, hex",
    can_resubscribe=True,
    resuming_by=ResumingBy.SUBSCRIBE,
    renewal=Renewal.BY_RECONNECT,
    publishing=Publishing.HTTP,
    states_builds=True,
    silence_codes=(codes.CLIENT_TIMEOUT, codes.SLOW_CONSUMER),
)
_SOCKET = 0
_SAME_FOR_ALL = frozenset({"sync:update_batch", "sync:frame", "sync:heartbeat"})  # what they mean depends on no request

Check = Callable[[bytes, str], Hash]


class SpacetimeConnection(ActionQueue):
    """See `sim.protocols.adapter.Connection`. `url` is the socket's, without a query."""

    shared: ClassVar[SharedDecoding] = SharedDecoding()  # one for each protocol: equal bytes may mean different events
    beats_report: ClassVar[Whose] = Whose.AUTHORITY  # whose position is in a server's heartbeat

    def __init__(self, url: str, shared: SharedDecoding | None = None) -> None:
        super().__init__()
        self._url = url
        self._shared = self.shared if shared is None else shared
        self._is_open = False
        self._was_silent = False  # the server's last frame says that it heard nothing from this client
        self._asked: dict[str, type[Join | Subscribe | Beat]] = {}  # by reference: unanswered requests

    @staticmethod
    def check(payload: bytes, declared: str) -> Hash:
        """Compare a payload with its declared hash. `NONE` for a hash in another form: it says nothing that we could check."""
        if hash_matches(payload, declared):
            return Hash.OK
        return Hash.BAD if is_hex_form(declared) else Hash.NONE

    def connect(self, credentials: Credentials) -> Message:
        """See `Connection`. The token is part of the URL."""
        url = f"{self._url}?token={quote(credentials.token)}&vsn=2.0.0"
        self._actions.append(Open(_SOCKET, Transport.WEBSOCKET, url))
        return ()

    def send(self, intent: Intent) -> Message:
        """See `Connection`."""
        if isinstance(intent, Raw):
            self._actions.append(Write(_SOCKET, intent.data, intent.is_text))
            return ()
        if isinstance(intent, Join | Subscribe | Beat):
            self._asked[intent.ref] = type(intent)
        self._actions.append(Write(_SOCKET, encode_client(frame_of(intent)).encode()))
        return ()

    def opened(self, id: int, status: int, headers: Mapping[str, str]) -> Message:
        """See `Connection`."""
        self._is_open = True
        return (Opened(),)

    def received(self, id: int, data: bytes, is_text: bool) -> Message:
        """See `Connection`."""
        self._was_silent = False
        if (known := self._shared.get(data)) is not None:
            return known
        try:
            event, ref, payload = open_frame(data)
            if event in _SAME_FOR_ALL:
                return self._shared.message(data, event, bytes(payload), lambda: self.read(decode_push(event, ref, payload)))
            return self.read(decode_push(event, ref, payload))
        except MalformedFrameError as error:
            return (Malformed(error.code),)

    def read(self, frame: ServerFrame) -> Message:
        """Convert a frame to events."""
        if isinstance(frame, frames.UpdateBatch):
            return _delivery(frame, self.check)
        if isinstance(frame, frames.Envelope):
            return (Batch(frame.update.topic, (_item(frame.update, self.check),), is_single=True),)
        if isinstance(frame, frames.HeartbeatPush):
            return heads(frame.watermarks, self.beats_report) or (Activity(),)
        if isinstance(frame, frames.Reply):
            return self._answer(frame)
        if isinstance(frame, frames.SyncError):
            self._was_silent = frame.body.code == codes.CLIENT_TIMEOUT
            return _problem(frame.body)
        if isinstance(frame, frames.ChannelClosed):
            return (StreamEnded(None, frame.event),)
        return (codes.MALFORMED_FRAME if isinstance(frame, frames.Malformed) else Activity(),)

    def closed(self, id: int, end: TransportEnd) -> Message:
        """See `Connection`. A close says 1000 whatever came before it, so its code is that of the frame that announced it."""
        if self._is_open:
            closed = endings.closed(end)
            return (msgspec.structs.replace(closed, code=codes.CLIENT_TIMEOUT) if self._was_silent else closed,)
        if end.status is not None:
            return (codes.upgrade_refused(end),)
        return (codes.connect_refused("protocol" if end.is_broken else "network"),)

    def _answer(self, reply: frames.Reply) -> Message:
        ref, body = reply.ref, reply.body
        asked = self._asked.pop(ref, None)
        if asked is None or asked is Beat:
            return (Answer(ref, reply.ok, body.code, body.message, is_beat=asked is Beat),)
        if reply.ok and asked is Join:
            return (Joined(ref, body.subscription_id, body.allowed_topics),)
        if reply.ok:
            return (Resumed(ref, subscription=body.subscription_id),)
        return _stale(body, ref) if body.code == codes.STALE_CURSOR else (_refused(ref, body),)


def frame_of(intent: Intent) -> ClientFrame:
    """Convert an intent to a frame. Raises `TypeError` for one that the sync channel does not have."""
    if isinstance(intent, Beat):
        return frames.SyncBeat(intent.ref, intent.payload) if intent.on_channel else frames.TransportBeat(intent.ref)
    if isinstance(intent, Join):
        return frames.Join(intent.ref, intent.metadata, intent.channel)
    if isinstance(intent, Subscribe):
        after = {topic: int(position.offset) for topic, position in intent.after.items() if position is not None}
        return frames.Subscribe(intent.ref, tuple(intent.after), after, intent.batch_size)
    if isinstance(intent, Unsubscribe):
        return frames.Unsubscribe(intent.ref, intent.streams)
    if isinstance(intent, Leave):
        return frames.Leave(intent.ref)
    raise TypeError(f"the sync channel has no {type(intent).__name__}")


def _delivery(frame: frames.UpdateBatch, check: Check) -> Message:
    batches: list[Event] = [
        Batch(topic, tuple(_item(update, check) for update in updates))
        for topic, updates in groupby(frame.updates, lambda update: update.topic)
    ]
    if not batches:
        batches = [Batch(frame.head_watermarks[0].topic if frame.head_watermarks else "", ())]
    return (*batches, *heads(frame.head_watermarks), *((CaughtUp(),) if frame.replay_complete else ()))


def _item(update: Update, check: Check) -> Item:
    declared = update.payload_hash or ""
    return Item(Position(update.watermark), update.payload, declared, check(bytes(update.payload), declared))


def heads(marks: Iterable[Watermark], whose: Whose = Whose.AUTHORITY) -> tuple[Head, ...]:
    """Convert watermarks to heads."""
    return tuple(Head(mark.topic, Position(mark.watermark), whose) for mark in marks)


def _problem(body: Body) -> Message:
    if body.code == codes.STALE_CURSOR:
        return _stale(body, "")
    if body.code == codes.SLOW_CONSUMER:
        return (codes.slow_consumer(body.action == "disconnect", body.reconnect_after_ms, body.message),)
    if body.code == codes.REAUTH_REQUIRED:
        return (codes.reauth_required(body.message),)
    if body.code == codes.RATE_LIMITED:
        return (Problem(body.code, next=retry_after(body.retry_after_ms), message=body.message),)
    return (Problem(body.code, message=body.message),)


def _refused(ref: str, body: Body) -> Refused:
    if body.code == codes.SLOW_CONSUMER:  # only an evicted client must disconnect
        hint = retry_after(body.reconnect_after_ms) if body.action == "disconnect" else INFORMED
        return Refused(ref, body.code, next=hint, message=body.message)
    return codes.refused(ref, body.code, body.message, body.forbidden_topics, body.retry_after_ms)


def _stale(body: Body, ref: str) -> Message:
    """Return one event for each stale topic; without topics, one event for all."""
    reasons = "+".join(body.reason_codes)
    if not body.stale_topics:
        return (Stale(None, reasons=(reasons,), ref=ref),)
    plan = {entry.topic: entry.snapshot for entry in body.snapshot_plan.topics} if body.snapshot_plan else {}
    return tuple(_stale_topic(topic, reasons, plan.get(topic.topic), ref) for topic in body.stale_topics)


def _stale_topic(topic: StaleTopic, reasons: str, content: dict[str, object] | None, ref: str) -> Stale:
    return Stale(
        topic.topic,
        Position(topic.resume_after),
        Position(topic.retention_floor),
        Position(topic.head_watermark),
        (topic.reason or reasons,),
        topic.replay_lag,
        topic.replay_budget_events,
        None if content is None else Snapshot(_snapshot_position(content), content),
        ref=ref,
    )


def _snapshot_position(content: dict[str, object]) -> Position | None:
    watermark = content.get("watermark")
    if isinstance(watermark, str) and watermark.isdecimal():
        watermark = int(watermark)
    return Position(watermark) if isinstance(watermark, int) and watermark >= 0 else None
