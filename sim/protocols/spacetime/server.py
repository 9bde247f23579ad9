"""Server side of the sync channel: converts frames to intents, and events to frames. The server itself is `sim.server`."""

from typing import Any

from sim.protocols.events import (
    Answer,
    Batch,
    CaughtUp,
    Head,
    Joined,
    Malformed,
    Message,
    Position,
    Problem,
    Refused,
    Resumed,
    Stale,
    StreamEnded,
)
from sim.protocols.intents import Beat, Intent, Join, Leave, Raw, Request, Subscribe, Unsubscribe
from sim.protocols.profile import ServerForms, WireForms
from sim.protocols.spacetime import codes, frames
from sim.protocols.spacetime.adapter import frame_of as client_frame_of
from sim.protocols.spacetime.codec import decode_message, encode_client, encode_server
from sim.protocols.spacetime.frames import (
    CHANNEL,
    TRANSPORT_CHANNEL,
    Body,
    ClientFrame,
    Reply,
    ServerFrame,
    SnapshotPlan,
    SnapshotTopic,
    StaleTopic,
    Update,
    UpdateBatch,
    Watermark,
)
from sim.protocols.spacetime.profile import PROFILE
from sim.protocols.spacetime.streams import topic_class

_STALE = "a replay no longer covers the cursor; take the snapshot and subscribe without one"

CLIENTS_CHANNEL = "1"  # a client's name for its channel, as sessions choose it


def read(data: bytes, is_text: bool, max_bytes: int) -> Intent:
    """Decode a client's WebSocket message as an intent; raises `MalformedFrameError`, `BrokenMessageError`."""
    return intent_of(decode_message(data, is_text, max_bytes))


def write(message: Message, join_ref: str) -> str:
    """Encode a message as wire text, addressed to the channel joined as `join_ref`."""
    return encode_server(frame_of(message), join_ref)


def intent_of(frame: ClientFrame) -> Intent:
    """Convert a client's frame to an intent."""
    if isinstance(frame, frames.TransportBeat):
        return Beat(frame.ref)
    if isinstance(frame, frames.SyncBeat):
        return Beat(frame.ref, on_channel=True, payload=frame.payload)
    if isinstance(frame, frames.Join):
        return Join(frame.ref, frame.compatibility, channel=frame.join_ref)
    if isinstance(frame, frames.Subscribe):
        after = {topic: _position(frame.resume_after.get(topic)) for topic in frame.topics}
        return Subscribe(frame.ref, after, frame.replay_batch_size, frame.bad_cursor)
    if isinstance(frame, frames.Unsubscribe):
        return Unsubscribe(frame.ref, frame.topics)
    if isinstance(frame, frames.Leave):
        return Leave(frame.ref)
    return Request(frame.ref, frame.event, frame.payload)


def frame_of(message: Message) -> ServerFrame:
    """Convert a message to a frame. A batch or a stale stream comes first in its message."""
    first = message[0]
    if isinstance(first, Batch):
        return _delivery(first, message)
    if isinstance(first, Stale):
        body = _stale_body([event for event in message if isinstance(event, Stale)])
        return Reply(first.ref, False, body) if first.ref else frames.SyncError(body)
    if isinstance(first, Answer):
        channel = TRANSPORT_CHANNEL if first.is_beat else CHANNEL
        body = Body(code=first.code, message=first.message)
        return Reply(first.ref, first.ok, body, channel, first.channel)
    if isinstance(first, Resumed):
        return Reply(first.ref, True, Body(subscription_id=first.subscription))
    if isinstance(first, Joined):
        return Reply(first.ref, True, Body(subscription_id=first.session, allowed_topics=first.streams, current_watermarks=()))
    if isinstance(first, Refused):
        return Reply(first.ref, False, Body(code=first.code, message=first.message, forbidden_topics=first.streams))
    if isinstance(first, Problem):
        return frames.SyncError(Body(code=first.code, message=first.message, **first.details))
    if isinstance(first, StreamEnded):
        return frames.ChannelClosed(first.code)
    return frames.Malformed() if isinstance(first, Malformed) else frames.HeartbeatPush(watermarks(message))


def _delivery(first: Batch, message: Message) -> ServerFrame:
    if first.is_single:
        (item,) = first.items
        return frames.Envelope(_update(first.stream, item))
    updates = tuple(_update(batch.stream, item) for batch in message if isinstance(batch, Batch) for item in batch.items)
    return UpdateBatch(updates, any(isinstance(event, CaughtUp) for event in message), watermarks(message))


def _update(topic: str, item: Any) -> Update:
    seq = _seq(item.position)
    return Update(topic, item.payload, seq, item.payload_hash, topic, seq)


def watermarks(message: Message) -> tuple[Watermark, ...]:
    """Return the heads in a message."""
    return tuple(Watermark(event.stream, _seq(event.position)) for event in message if isinstance(event, Head))


def _stale_body(stale: list[Stale]) -> Body:
    plan = [SnapshotTopic(s.stream or "", _seq(s.head), s.snapshot.content if s.snapshot else None) for s in stale]
    return Body(
        code=codes.STALE_CURSOR,
        message=_STALE,
        full_resync_required=True,
        reason_codes=tuple(dict.fromkeys(reason for each in stale for reason in each.reasons)),
        stale_topics=tuple(_stale_topic(each) for each in stale),
        snapshot_plan=SnapshotPlan(tuple(plan)),
    )


def _stale_topic(stale: Stale) -> StaleTopic:
    topic = stale.stream or ""
    qos = topic_class(topic).qos
    places = _seq(stale.asked), _seq(stale.floor), _seq(stale.head)
    return StaleTopic(topic, stale.reasons[0], qos, *places, stale.lag, stale.budget)


def _position(seq: int | None) -> Position | None:
    return None if seq is None else Position(seq)


def _seq(position: Position | None) -> int:
    return 0 if position is None else int(position.offset)


def _intent_bytes(intent: Intent) -> int:
    return len(intent.data if isinstance(intent, Raw) else encode_client(client_frame_of(intent)))


def _message_bytes(message: Message) -> int:
    return len(write(message, CLIENTS_CHANNEL))


SERVER = ServerForms(PROFILE, _intent_bytes, _message_bytes, WireForms(read, write, "/sync/socket/websocket"))
