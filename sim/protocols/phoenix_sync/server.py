"""Server side of the sync runtime's channel: converts frames to intents, and events to frames."""

import base64
from collections.abc import Mapping

import msgspec

from sim.base.errors import MalformedFrameError
from sim.protocols.events import Answer, Batch, Joined, Message, Refused, Repeated, Resumed, StreamEnded
from sim.protocols.intents import Beat, Intent, Raw, Request
from sim.protocols.phoenix_sync.profile import PROFILE, UNMATCHED
from sim.protocols.profile import ServerForms, WireForms
from sim.protocols.spacetime import frames
from sim.protocols.spacetime import server as spacetime
from sim.protocols.spacetime.adapter import frame_of as client_frame_of
from sim.protocols.spacetime.codec import decode_message, encode_client, encode_server, push_parts, wrap_push
from sim.protocols.spacetime.frames import CHANNEL, TRANSPORT_CHANNEL

KIND = "KHALA_FRAME_KIND_UPDATE_BATCH"  # of the second form of a batch
SOCKET_PATH = "/socket/websocket"
_MAX_BYTES = 64 * 2**20  # frames of 9 MiB pass
_encode = msgspec.json.Encoder().encode


def read(data: bytes, is_text: bool, max_bytes: int) -> Intent:
    """Decode a client's WebSocket message as an intent; raises `MalformedFrameError`, `BrokenMessageError`.

    The runtime has no limit of its own, so `max_bytes` does not count, and it reads no binary messages.
    """
    if not is_text:
        raise MalformedFrameError("malformed_frame", "a binary message")
    try:
        return spacetime.intent_of(decode_message(data, is_text, _MAX_BYTES))
    except MalformedFrameError as error:
        if error.code == "unknown_topic":
            return Request(_ref_of(data), "")
        raise


def _ref_of(data: bytes) -> str:
    ref = msgspec.json.decode(data)[1]
    return ref if isinstance(ref, str) else ""


def write(message: Message, join_ref: str) -> str:
    """Encode a message as wire text, addressed to the channel joined as `join_ref`."""
    first = message[0]
    if isinstance(first, Repeated):
        return _second_form(first.message, join_ref)
    if isinstance(first, StreamEnded):
        return _text(join_ref, join_ref, first.code, {})
    if isinstance(first, Resumed):
        marks = spacetime.watermarks(message)
        body = {"current_watermarks": marks, "subscription_id": first.subscription, "topics": [mark.topic for mark in marks]}
        return _reply(join_ref, first.ref, body)
    if isinstance(first, Joined):
        body = {
            "allowed_topics": first.streams or PROFILE.topics.fixed,
            "current_watermarks": (),
            "subscription_id": first.session,
        }
        return _reply(join_ref, first.ref, body)
    if isinstance(first, Answer):
        return _answer(first, message, join_ref)
    if isinstance(first, Refused):
        return _refusal(first, join_ref)
    return encode_server(spacetime.frame_of(message), join_ref)


def _answer(answer: Answer, message: Message, join_ref: str) -> str:
    if answer.is_beat:
        return _encode((None, answer.ref, TRANSPORT_CHANNEL, "phx_reply", {"response": {}, "status": "ok"})).decode()
    if answer.code == UNMATCHED:
        return _unmatched(answer.ref)
    if not answer.ok:
        return _reply(join_ref, answer.ref, {"code": answer.code}, "error")
    marks = spacetime.watermarks(message)
    return _reply(answer.channel or join_ref, answer.ref, {"watermarks": marks} if marks else {})


def _refusal(refused: Refused, join_ref: str) -> str:
    if refused.code == UNMATCHED:
        return _unmatched(refused.ref)
    body: dict[str, object] = {"code": refused.code}
    if refused.streams:
        body["forbidden_topics"] = refused.streams
    if refused.code == "reauth_required":
        body |= {"message": refused.message, "reason": "user_requested", "reauth_required": True}
    return _reply(join_ref, refused.ref, body, "error")


def _unmatched(ref: str) -> str:
    body = {"response": {"reason": UNMATCHED}, "status": "error"}
    return _encode((None, ref, CHANNEL, "phx_reply", body)).decode()


def _reply(join_ref: str, ref: str, response: Mapping[str, object], status: str = "ok") -> str:
    return _text(join_ref, ref, "phx_reply", {"response": response, "status": status})


def _text(join_ref: str, ref: str, event: str, payload: object) -> str:
    return _encode((join_ref, ref or None, CHANNEL, event, payload)).decode()


def _second_form(message: Message, join_ref: str) -> str:
    """Return the whole batch in a `sync:frame`."""
    frame = spacetime.frame_of(message)
    assert isinstance(frame, frames.UpdateBatch)
    _, batch = push_parts(frame)
    first = message[0]
    assert isinstance(first, Batch)
    payload = {
        "kind": KIND,
        "payload_bytes": base64.b64encode(batch).decode(),
        "schema_version": 1,
        "seq": frame.updates[-1].watermark if frame.updates else 0,
        "topic": first.stream,
    }
    return wrap_push(join_ref, "sync:frame", _encode(payload))


def _intent_bytes(intent: Intent) -> int:
    if isinstance(intent, Raw):
        return len(intent.data)
    if isinstance(intent, Beat):
        return len(encode_client(frames.SyncBeat(intent.ref)))
    return len(encode_client(client_frame_of(intent)))


_WORKERS = "/internal/v1/codex/workers"
SERVICE_FORMS = {
    "create": {"path": _WORKERS, "body": {"worker_id": "{name}"}, "run_id": "/data/workerId"},
    "publish": {
        "path": _WORKERS + "/{run_id}/events",
        "position": "/data/seq",
        "position_of": "publisher",
        "payload_hash": "none",
    },
    "revoke": {"count": "/data/revoked_session_ids"},
    "ready": {"path": "/api/status"},  # the runtime has no route for it; any cheap request serves
    "health": {"path": "/api/status", "revision": "/data/revision"},
}


def _message_bytes(message: Message) -> int:
    return len(write(message, spacetime.CLIENTS_CHANNEL))


WIRE = WireForms(read, write, SOCKET_PATH, has_workers=True, service_forms=SERVICE_FORMS)
SERVER = ServerForms(PROFILE, _intent_bytes, _message_bytes, WIRE)
