"""The typed frames of the sync channel. Fields are named as on the wire; `sim.protocols.spacetime.codec` has the JSON."""

from typing import Annotated, Any

import msgspec

from sim.protocols.intents import EMPTY_OBJECT, Compatibility

CHANNEL = "sync:v1"
TRANSPORT_CHANNEL = "phoenix"
JOIN_REF = "1"  # our clients join once per connection, with this reference

Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Watermark(msgspec.Struct, frozen=True, gc=False):
    """A stream's position: `watermark` is a sequence number."""

    topic: str
    watermark: Seq


class Update(msgspec.Struct, frozen=True, gc=False):
    """One event as it is delivered; `watermark` is its sequence number, `payload` its JSON text."""

    topic: str
    payload: msgspec.Raw
    watermark: Seq
    payload_hash: str | None = None  # None: not stated
    doc_key: str = ""
    doc_version: int | str | None = None
    hydration_required: bool = False


# --- client to server -------------------------------------------------------------------------------


class Join(msgspec.Struct, frozen=True):
    """`phx_join`."""

    ref: str
    compatibility: Compatibility
    join_ref: str = JOIN_REF


class Subscribe(msgspec.Struct, frozen=True):
    """`sync:subscribe`; a topic left out of `resume_after` starts without a cursor. `bad_cursor`: it, or all, is malformed."""

    ref: str
    topics: tuple[str, ...]
    resume_after: dict[str, int]
    replay_batch_size: int = 0  # 0: the runtime's own
    bad_cursor: bool = False


class Unsubscribe(msgspec.Struct, frozen=True):
    """`sync:unsubscribe`."""

    ref: str
    topics: tuple[str, ...]


class SyncBeat(msgspec.Struct, frozen=True):
    """The client's `sync:heartbeat`. Its other content has no meaning; a runtime ignores it."""

    ref: str
    payload: msgspec.Raw = EMPTY_OBJECT


class TransportBeat(msgspec.Struct, frozen=True):
    """`heartbeat` on the topic `phoenix`."""

    ref: str


class Leave(msgspec.Struct, frozen=True):
    """`phx_leave`."""

    ref: str


class Request(msgspec.Struct, frozen=True):
    """Any other event; the socket does not allow it, so a runtime refuses it."""

    ref: str
    event: str
    payload: msgspec.Raw = EMPTY_OBJECT


ClientFrame = Join | Subscribe | Unsubscribe | SyncBeat | TransportBeat | Leave | Request

# --- server to client -------------------------------------------------------------------------------


class StaleTopic(msgspec.Struct, frozen=True):
    """Why one topic's cursor is stale."""

    topic: str
    reason: str = ""  # the first of `reasons`
    qos_tier: str = ""
    resume_after: Seq = 0
    retention_floor: Seq = 0
    head_watermark: Seq = 0
    replay_lag: Seq = 0
    replay_budget_events: Seq = 0


class SnapshotTopic(msgspec.Struct, frozen=True):
    """The position of one topic's snapshot; `snapshot` is empty for a topic without one."""

    topic: str
    head_watermark: Seq = 0
    snapshot: dict[str, Any] | None = None


class SnapshotPlan(msgspec.Struct, frozen=True):
    """The snapshots from which a client with a stale cursor starts."""

    topics: tuple[SnapshotTopic, ...] = ()
    format: str = "openagents.sync.snapshot.v1"


class Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """The response of a reply, or the payload of a `sync:error`: the fields that any of them may have."""

    code: str = ""
    message: str = ""
    subscription_id: str = ""
    allowed_topics: tuple[str, ...] | None = None
    current_watermarks: tuple[Watermark, ...] | None = None
    forbidden_topics: tuple[str, ...] = ()
    full_resync_required: bool | None = None
    reason_codes: tuple[str, ...] = ()
    stale_topics: tuple[StaleTopic, ...] = ()
    snapshot_plan: SnapshotPlan | None = None
    action: str = ""
    topic: str = ""
    queue_depth: int = 0
    queue_limit: int = 0
    reconnect_after_ms: float | None = None
    retry_after_ms: float | None = None


class Reply(msgspec.Struct, frozen=True):
    """`phx_reply` to the request `ref`. An empty `join_ref` stands for the joined channel."""

    ref: str
    ok: bool
    body: Body = Body()
    channel: str = CHANNEL
    join_ref: str = ""


class UpdateBatch(msgspec.Struct, frozen=True):
    """`sync:update_batch`: a part of a replay, or of the live tail."""

    updates: tuple[Update, ...] = ()
    replay_complete: bool = False
    head_watermarks: tuple[Watermark, ...] = ()


class Envelope(msgspec.Struct, frozen=True):
    """`sync:frame`: one update as a canonical envelope."""

    update: Update


class HeartbeatPush(msgspec.Struct, frozen=True):
    """The server's `sync:heartbeat`."""

    watermarks: tuple[Watermark, ...] = ()


class SyncError(msgspec.Struct, frozen=True):
    """`sync:error`."""

    body: Body


class ChannelClosed(msgspec.Struct, frozen=True):
    """`phx_error` or `phx_close`: the channel ended."""

    event: str


class Malformed(msgspec.Struct, frozen=True):
    """A frame that a fault made unreadable for all clients."""


class Other(msgspec.Struct, frozen=True):
    """A push that the contract does not define; clients ignore it."""

    event: str


ServerFrame = Reply | UpdateBatch | Envelope | HeartbeatPush | SyncError | ChannelClosed | Malformed | Other
