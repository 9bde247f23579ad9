"""Codec of Phoenix Channels V2: `[join_ref, ref, topic, event, payload]` as JSON text, to and from typed frames.

Any input either decodes to a frame or raises `MalformedFrameError`. Unknown fields are ignored, so that servers may add some.
"""

import base64
from typing import Annotated, Any, TypeVar

import msgspec

from sim.base.errors import BrokenMessageError, MalformedFrameError
from sim.protocols.intents import EMPTY_OBJECT, Compatibility
from sim.protocols.spacetime.frames import (
    CHANNEL,
    JOIN_REF,
    TRANSPORT_CHANNEL,
    Body,
    ChannelClosed,
    ClientFrame,
    Envelope,
    HeartbeatPush,
    Join,
    Leave,
    Malformed,
    Other,
    Reply,
    Request,
    Seq,
    ServerFrame,
    Subscribe,
    SyncBeat,
    SyncError,
    TransportBeat,
    Unsubscribe,
    Update,
    UpdateBatch,
    Watermark,
)

T = TypeVar("T")


class _Envelope(msgspec.Struct):
    topic: str
    seq: Seq
    payload_bytes: str
    kind: str = "update"
    schema_version: int = 1


class _EnvelopeContent(msgspec.Struct):
    payload: msgspec.Raw
    payload_hash: str | None = None
    doc_key: str = ""
    doc_version: int | str | None = None
    hydration_required: bool = False


class _ReplyPayload(msgspec.Struct):
    status: str
    response: msgspec.Raw = EMPTY_OBJECT


class _SubscribePayload(msgspec.Struct):
    topics: tuple[str, ...] = ()
    resume_after: msgspec.Raw = EMPTY_OBJECT
    replay_batch_size: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _TopicsPayload(msgspec.Struct):
    topics: tuple[str, ...] = ()


_ARRAY = msgspec.json.Decoder(tuple[str | None, str | None, str, str, msgspec.Raw])
_BATCH = msgspec.json.Decoder(UpdateBatch)
_BODY = msgspec.json.Decoder(Body)
_REPLY = msgspec.json.Decoder(_ReplyPayload)
_HEARTBEAT = msgspec.json.Decoder(HeartbeatPush)
_ENVELOPE = msgspec.json.Decoder(_Envelope)
_ENVELOPE_CONTENT = msgspec.json.Decoder(_EnvelopeContent)
_SUBSCRIBE = msgspec.json.Decoder(_SubscribePayload)
_TOPICS = msgspec.json.Decoder(_TopicsPayload)
_LENIENT: dict[Any, Any] = {
    decoder: msgspec.json.Decoder(decoder.type, strict=False) for decoder in (_BATCH, _BODY, _HEARTBEAT, _ENVELOPE)
}
_COMPATIBILITY = msgspec.json.Decoder(Compatibility)
_CURSORS = msgspec.json.Decoder(dict[str, Seq] | list[Watermark])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()
_NO_TEXT, _TOO_LONG = 1007, 1009  # RFC 6455, 7.4.1
_INPUT_ERRORS = (msgspec.DecodeError, RecursionError, ValueError)


def decode_server(text: str | bytes) -> ServerFrame:
    """Decode a server's frame; raises `MalformedFrameError`."""
    return decode_push(*open_frame(text))


def open_frame(text: str | bytes) -> tuple[str, str | None, msgspec.Raw]:
    """Return the event, the reference and the payload of a server's frame; raises `MalformedFrameError`."""
    try:
        _, ref, _, event, payload = _ARRAY.decode(text)
    except _INPUT_ERRORS as error:
        raise _not_a_frame(error) from None
    return event, ref, payload


def decode_push(event: str, ref: str | None, payload: msgspec.Raw) -> ServerFrame:
    """Decode the payload of a server's frame; raises `MalformedFrameError`."""
    try:
        return _decode_payload(event, ref, payload)
    except _INPUT_ERRORS as error:
        raise _not_a_frame(error) from None


def _not_a_frame(error: Exception) -> MalformedFrameError:
    return MalformedFrameError("malformed_frame", f"not a frame of the sync channel ({error})")


def _decode_payload(event: str, ref: str | None, payload: msgspec.Raw) -> ServerFrame:
    if event == "sync:update_batch":
        return _read(_BATCH, payload)
    if event == "phx_reply":
        reply = _REPLY.decode(payload)
        return Reply(ref or "", reply.status == "ok", _reply_body(reply))
    if event == "sync:heartbeat":
        return _read(_HEARTBEAT, payload)
    if event == "sync:frame":
        return Envelope(_open_envelope(_read(_ENVELOPE, payload)))
    if event == "sync:error":
        return SyncError(_read(_BODY, payload))
    if event in ("phx_error", "phx_close"):
        return ChannelClosed(event)
    return Other(event)


def _read(decoder: msgspec.json.Decoder[T], payload: msgspec.Raw) -> T:
    """Decode a payload; numbers may be text, as some servers write them."""
    try:
        return decoder.decode(payload)
    except msgspec.ValidationError:
        lenient: msgspec.json.Decoder[T] = _LENIENT[decoder]
        return lenient.decode(payload)


def _reply_body(reply: _ReplyPayload) -> Body:
    """Decode a reply's response. An unreadable response is empty if the status is `ok`; otherwise it raises."""
    try:
        return _read(_BODY, reply.response)
    except msgspec.DecodeError:
        if reply.status == "ok":
            return Body()
        raise


def _open_envelope(envelope: _Envelope) -> Update:
    content = _ENVELOPE_CONTENT.decode(base64.b64decode(envelope.payload_bytes, validate=True))
    return Update(
        topic=envelope.topic,
        payload=content.payload,
        payload_hash=content.payload_hash,
        watermark=envelope.seq,
        doc_key=content.doc_key,
        doc_version=content.doc_version,
        hydration_required=content.hydration_required,
    )


def decode_client(text: str | bytes) -> ClientFrame:
    """Decode a client's frame; raises `MalformedFrameError`."""
    try:
        join_ref, ref, topic, event, payload = _ARRAY.decode(text)
        if topic == TRANSPORT_CHANNEL and event == "heartbeat":
            return TransportBeat(ref or "")
        if topic != CHANNEL:
            raise MalformedFrameError("unknown_topic", f"there is no channel '{topic[:80]}'")
        return _decode_request(join_ref, ref or "", event, payload)
    except _INPUT_ERRORS as error:
        raise _not_a_frame(error) from None


def decode_message(data: bytes, is_text: bool, max_bytes: int) -> ClientFrame:
    """Decode a client's WebSocket message, as a server reads it; raises `MalformedFrameError`, `BrokenMessageError`."""
    if len(data) > max_bytes:
        raise BrokenMessageError(_TOO_LONG)
    try:
        return decode_client(data.decode() if is_text else data)
    except UnicodeDecodeError:
        raise BrokenMessageError(_NO_TEXT) from None


def _decode_request(join_ref: str | None, ref: str, event: str, payload: msgspec.Raw) -> ClientFrame:
    if event == "phx_join":
        return Join(ref, _COMPATIBILITY.decode(payload), join_ref or ref)
    if event == "sync:subscribe":
        return _decode_subscribe(ref, payload)
    if event == "sync:unsubscribe":
        return Unsubscribe(ref, _TOPICS.decode(payload).topics)
    if event == "sync:heartbeat":
        return SyncBeat(ref, _object(payload))
    if event == "phx_leave":
        _object(payload)
        return Leave(ref)
    return Request(ref, event, msgspec.Raw(bytes(payload)))


def _object(payload: msgspec.Raw) -> msgspec.Raw:
    """Return a payload, which must be an object with any content."""
    _OBJECT.decode(payload)
    return msgspec.Raw(bytes(payload))


def _decode_subscribe(ref: str, payload: msgspec.Raw) -> Subscribe:
    """Decode a subscribe. A malformed one is marked and not raised, because its client waits for a reply."""
    try:
        wanted = _SUBSCRIBE.decode(payload)
    except msgspec.DecodeError:
        return Subscribe(ref, (), {}, bad_cursor=True)
    try:
        cursors = _CURSORS.decode(wanted.resume_after)
    except msgspec.DecodeError:
        return Subscribe(ref, wanted.topics, {}, wanted.replay_batch_size or 0, bad_cursor=True)
    if isinstance(cursors, list):
        cursors = {cursor.topic: cursor.watermark for cursor in cursors}
    return Subscribe(ref, wanted.topics, cursors, wanted.replay_batch_size or 0)


def encode_client(frame: ClientFrame) -> str:
    """Encode a client's frame as wire text."""
    if isinstance(frame, TransportBeat):
        return _text(None, frame.ref, TRANSPORT_CHANNEL, "heartbeat", {})
    if isinstance(frame, Join):
        return _text(frame.join_ref, frame.ref, CHANNEL, "phx_join", frame.compatibility)
    if isinstance(frame, Subscribe):
        payload: dict[str, object] = {"topics": frame.topics, "resume_after": frame.resume_after}
        if frame.replay_batch_size:
            payload["replay_batch_size"] = frame.replay_batch_size
        return _text(JOIN_REF, frame.ref, CHANNEL, "sync:subscribe", payload)
    if isinstance(frame, Unsubscribe):
        return _text(JOIN_REF, frame.ref, CHANNEL, "sync:unsubscribe", {"topics": frame.topics})
    if isinstance(frame, SyncBeat):
        return _text(JOIN_REF, frame.ref, CHANNEL, "sync:heartbeat", {})
    if isinstance(frame, Leave):
        return _text(JOIN_REF, frame.ref, CHANNEL, "phx_leave", {})
    return _text(JOIN_REF, frame.ref, CHANNEL, frame.event, frame.payload)


def encode_server(frame: ServerFrame, join_ref: str) -> str:
    """Encode a server's frame as wire text, addressed to the channel joined as `join_ref`."""
    if isinstance(frame, Reply):
        payload = {"status": "ok" if frame.ok else "error", "response": frame.body}
        addressee = None if frame.channel == TRANSPORT_CHANNEL else frame.join_ref or join_ref
        return _text(addressee, frame.ref or None, frame.channel, "phx_reply", payload)
    if isinstance(frame, Malformed):
        return '["1",null,"sync:v1","sync:update_batch",{"updates":[{"topic":'
    event, payload_bytes = push_parts(frame)
    return wrap_push(join_ref, event, payload_bytes)


def push_parts(frame: ServerFrame) -> tuple[str, bytes]:
    """Return a push's event name and its payload as JSON: the same for all subscribers, so it is encoded once."""
    if isinstance(frame, UpdateBatch):
        return "sync:update_batch", _ENCODER.encode(frame)
    if isinstance(frame, HeartbeatPush):
        return "sync:heartbeat", _ENCODER.encode(frame)
    if isinstance(frame, SyncError):
        return "sync:error", _ENCODER.encode(frame.body)
    if isinstance(frame, Envelope):
        return "sync:frame", _ENCODER.encode(_seal_envelope(frame.update))
    if isinstance(frame, ChannelClosed | Other):
        return frame.event, b"{}"
    raise TypeError(f"{type(frame).__name__} is not a push")


def wrap_push(join_ref: str, event: str, payload: bytes) -> str:
    """Return the wire text of a push whose payload is already JSON."""
    return f'[{_quote(join_ref)},null,"{CHANNEL}","{event}",{payload.decode()}]'


def _seal_envelope(update: Update) -> _Envelope:
    content = _EnvelopeContent(
        update.payload, update.payload_hash, update.doc_key, update.doc_version, update.hydration_required
    )
    payload = base64.b64encode(_ENCODER.encode(content)).decode()
    return _Envelope(topic=update.topic, seq=update.watermark, payload_bytes=payload)


def _quote(text: str) -> str:
    return _ENCODER.encode(text).decode()


def _text(join_ref: str | None, ref: str | None, topic: str, event: str, payload: object) -> str:
    return _ENCODER.encode((join_ref, ref, topic, event, payload)).decode()
