"""The habits of the sync runtime's server."""

from datetime import UTC, datetime

from sim.protocols import endings
from sim.protocols.adapter import TransportEnd
from sim.protocols.events import Answer, DisconnectReason, Event, Next, Refused, Step, StreamEnded, Whose
from sim.protocols.intents import Request
from sim.protocols.phoenix_sync.payloads import payload_hash
from sim.protocols.profile import Publication, Refusals, ServerProfile, TopicClass, Topics
from sim.protocols.spacetime import codes
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS, FALLBACK, SINGLE_TOPICS, stream_id, topic_class, topic_of

UNMATCHED = "unmatched topic"  # answers what is sent without a joined channel, and to another channel
REJOIN = Next(Step.RESUBSCRIBE)
NO_CODE = "forbidden"  # a refused upgrade has no code


def connect_refused(code: str) -> Refused:
    """Return the refusal of a failed connect. The runtime states no code: only failures of the network are known."""
    is_known = code in ("network", "timeout", "refused", "protocol")
    return codes.connect_refused(code if is_known else NO_CODE)


def upgrade_refused(end: TransportEnd) -> Refused:
    """Return the refusal of an upgrade by an HTTP answer: only a failure of the server, or too many requests, is no refusal."""
    code = "protocol" if (end.status or 0) >= 500 or end.status == 429 else NO_CODE
    return endings.answered(connect_refused(code), end)


def _topic_class(topic: str) -> TopicClass:
    return topic_class(topic) if topic in SINGLE_TOPICS else FALLBACK


def _request_refused(ref: str, code: str, message: str, streams: tuple[str, ...]) -> Refused:
    return codes.refused(ref, code, message, streams)


def _content(published: Publication) -> object:
    at = datetime.fromtimestamp(published.at, UTC).isoformat().replace("+00:00", "Z")
    return {
        "eventType": published.event_type,
        "event_type": published.event_type,
        "occurredAt": at,
        "occurred_at": at,
        "payload": published.payload,
        "seq": published.number,
        "workerId": published.run_id,
        "worker_id": published.run_id,
    }


def _unknown(request: Request) -> Event:
    """The channel crashes on an unknown event; a frame for another channel is only refused."""
    return StreamEnded(None, "phx_error", REJOIN) if request.name else Answer(request.ref, False, UNMATCHED)


def _not_joined(ref: str, is_subscribe: bool) -> Event:
    if is_subscribe:
        return Refused(ref, UNMATCHED, DisconnectReason.UNKNOWN)
    return Answer(ref, False, UNMATCHED)


PROFILE = ServerProfile(
    transport="spacetime_ws",
    topics=Topics(
        fixed=SINGLE_TOPICS,
        fallback=FALLBACK,
        topic_class=_topic_class,
        stream_id=stream_id,
        topic_of=topic_of,
        of_event=lambda run_id, event_type: CODEX_WORKER_EVENTS,
        required_scope=lambda topic: topic,
        scopes=SINGLE_TOPICS,
        owner_of=lambda topic: None,
    ),
    refusals=Refusals(connect_refused, _request_refused, codes.slow_consumer, upgrade_refused),
    payload_hash=payload_hash,
    content=_content,
    unknown_request=_unknown,
    not_joined=_not_joined,
    expelled=(),
    silent=(StreamEnded(None, "phx_close", REJOIN),),
    malformed=None,
    first_event=("worker.started", {"status": "running"}),
    close_code=1011,
    answers_position=False,
    heads_in_beats=Whose.SOCKET,
    reply_has_heads=True,
    replays_nothing=False,
    has_second_form=True,
    clamps_cursors=True,
    beats_on_channel=True,
    keeps_silent_sockets=True,
    leave_ends=StreamEnded(None, "phx_close"),
    reads_metadata_of_join=False,
    checks_revocation_at_join=True,
    has_token_age=False,
    has_token_leeway=False,
    states_refusals=False,
    evicts=False,
)
