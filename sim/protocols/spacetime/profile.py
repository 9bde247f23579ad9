"""The habits of the sync channel's server."""

from sim.protocols.events import Answer, Event, Problem, Refused
from sim.protocols.payloads import payload_hash
from sim.protocols.profile import Publication, Refusals, ServerProfile, Topics
from sim.protocols.spacetime import codes
from sim.protocols.spacetime.streams import (
    CODEX_WORKER_EVENTS,
    FALLBACK,
    SINGLE_TOPICS,
    run_events,
    stream_id,
    topic_class,
    topic_of,
)

CODEX_EVENT_PREFIX = "codex.worker."  # events of these types go to the one topic without snapshots
_USER_FLEET = "fleet:user:"
# The scope that each topic class needs. Ours: the contract requires a scope, but does not name it.
_SCOPES = {
    "run_events": "runtime.run_events",
    "run_summaries": "runtime.run_events",
    "worker_lifecycle": "runtime.worker_lifecycle",
    "fleet": "runtime.fleet_workers",
    "codex_worker_events": "runtime.codex_worker_events",
    "codex_worker_summaries": "runtime.codex_worker_events",
    "notifications": "runtime.notifications",
    "fallback": "runtime.topics",
}


def _topic_of_event(run_id: str, event_type: str) -> str:
    return CODEX_WORKER_EVENTS if event_type.startswith(CODEX_EVENT_PREFIX) else run_events(run_id)


def _owner_of(topic: str) -> str | None:
    return topic.split(":")[2] if topic.startswith(_USER_FLEET) else None


def _content(published: Publication) -> object:
    return {"run_id": published.run_id, "event_type": published.event_type, "payload": published.payload}


def _not_joined(ref: str, is_subscribe: bool) -> Event:
    code, message = "not_joined", "join the channel first"
    return codes.refused(ref, code, message) if is_subscribe else Answer(ref, False, code, message)


def _request_refused(ref: str, code: str, message: str, streams: tuple[str, ...]) -> Refused:
    return codes.refused(ref, code, message, streams)


PROFILE = ServerProfile(
    transport="spacetime_ws",
    topics=Topics(
        fixed=SINGLE_TOPICS,
        fallback=FALLBACK,
        topic_class=topic_class,
        stream_id=stream_id,
        topic_of=topic_of,
        of_event=_topic_of_event,
        required_scope=lambda topic: _SCOPES[topic_class(topic).name],
        scopes=tuple(dict.fromkeys(scope for name, scope in _SCOPES.items() if name != FALLBACK.name)),
        owner_of=_owner_of,
    ),
    refusals=Refusals(codes.connect_refused, _request_refused, codes.slow_consumer, codes.upgrade_refused),
    payload_hash=payload_hash,
    content=_content,
    unknown_request=lambda request: Answer(
        request.ref, False, "mutation_refused", "the sync socket only delivers; send commands over HTTP"
    ),
    not_joined=_not_joined,
    expelled=(codes.reauth_required("authenticate again with a new token"),),
    silent=(Problem(codes.CLIENT_TIMEOUT, message="nothing heard from this client"),),
    malformed=lambda code: Problem(code, message="not a frame of this channel"),
)
