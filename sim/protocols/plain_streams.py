"""What the simulated servers of several protocols share: streams without kinds, owners or scopes, and lengths of messages."""

import msgspec

from sim.protocols.adapter import TransportEnd
from sim.protocols.events import Batch, Closed, DisconnectReason, Message, Refused
from sim.protocols.intents import Intent, Raw, Subscribe
from sim.protocols.profile import Publication, TopicClass, Topics

_LIMITS = {"retention_s": 300.0, "publishes_per_s": 1_000_000, "max_payload_bytes": 64 * 1024, "snapshot_every_s": None}
_STREAM = TopicClass("stream", "hot", 0, **_LIMITS)  # type: ignore[arg-type]
_UNKNOWN = TopicClass("unknown", "hot", 0, **_LIMITS)  # type: ignore[arg-type]
_SCOPE = "read"
_FRAME_BYTES = 64  # [ours] of a frame, besides its payloads
_encode = msgspec.json.Encoder().encode

TOPICS = Topics(
    fixed=(),
    fallback=_UNKNOWN,
    topic_class=lambda topic: _STREAM,
    stream_id=str,
    topic_of=lambda stream: stream,
    of_event=lambda run_id, event_type: run_id,
    required_scope=lambda topic: _SCOPE,
    scopes=(_SCOPE,),
    owner_of=lambda topic: None,
)


def content(published: Publication) -> object:
    """Return what is delivered of a published event."""
    return {"payload": published.payload}


def not_connected(code: str) -> Refused:
    """Return the refusal of a connection that could not be opened, by the simulation's code."""
    is_network = code in ("network", "refused", "timeout")
    return Refused("", "network" if is_network else "protocol", DisconnectReason.NETWORK, is_open=False)


def end_in(events: Message, end: TransportEnd) -> Closed:
    """Return the end of the connection in the events that an adapter makes of its close; without one, a plain one."""
    found = [event for event in events if isinstance(event, Closed)]
    return found[-1] if found else Closed(code=end.code)


def no_hash(payload: bytes) -> str:
    """Return the hash of a payload, in protocols without hashes."""
    return ""


def intent_bytes(intent: Intent) -> int:
    """Return about the length of an intent on the wire."""
    if isinstance(intent, Raw):
        return len(intent.data)
    streams = len(intent.after) if isinstance(intent, Subscribe) else 1
    return _FRAME_BYTES * streams + len(getattr(intent, "token", ""))


def message_bytes(message: Message) -> int:
    """Return about the length of a message on the wire."""
    payloads = (len(item.payload) for event in message if isinstance(event, Batch) for item in event.items)
    return sum(_FRAME_BYTES + size for size in payloads) or _FRAME_BYTES
