"""Names and limits of streams: the topic and the stream id of each log, and the limits of its class."""

from functools import lru_cache

from sim.protocols.profile import TopicClass

CODEX_WORKER_EVENTS = "runtime.codex_worker_events"
_CODEX_WORKER_STREAM = "runtime.codex.worker.events"
_OTHER = "runtime.topic."

# topic prefix, topic suffix, stream prefix, stream suffix, class name
_PATTERNS = (
    ("run:", ":events", "runtime.run.", ".events", "run_events"),
    ("worker:", ":lifecycle", "runtime.worker.", ".lifecycle", "worker_lifecycle"),
    ("fleet:user:", ":workers", "runtime.fleet.user.", ".workers", "fleet"),
    ("fleet:guest:", ":workers", "runtime.fleet.guest.", ".workers", "fleet"),
)


def run_events(run_id: str) -> str:
    """The topic of one run's events."""
    return f"run:{run_id}:events"


def stream_id(topic: str) -> str:
    """Return the stream id of a topic. A topic of unknown form becomes `runtime.topic.` and the topic with dots for colons."""
    if topic == CODEX_WORKER_EVENTS:
        return _CODEX_WORKER_STREAM
    for prefix, suffix, stream_prefix, stream_suffix, _ in _PATTERNS:
        middle = _between(topic, prefix, suffix)
        if middle is not None:
            return f"{stream_prefix}{middle}{stream_suffix}"
    return _OTHER + topic.replace(":", ".")


def topic_of(stream_id: str) -> str | None:
    """Return the topic of a stream id; None for an unknown form or an empty id.

    Not the inverse of `stream_id` for every topic: after `runtime.topic.`, dots become colons,
    so `runtime.topic.runtime.run_summaries` gives `runtime:run_summaries`. The shipped client does so too.
    """
    if stream_id == _CODEX_WORKER_STREAM:
        return CODEX_WORKER_EVENTS
    for prefix, suffix, stream_prefix, stream_suffix, _ in _PATTERNS:
        middle = _between(stream_id, stream_prefix, stream_suffix)
        if middle is not None:
            return f"{prefix}{middle}{suffix}" if middle else None
    rest = stream_id.removeprefix(_OTHER)
    return rest.replace(".", ":") if rest and rest != stream_id else None


def _between(text: str, prefix: str, suffix: str) -> str | None:
    """Return the text between prefix and suffix, which may be empty; None if the text has another form."""
    if not text.startswith(prefix):
        return None
    rest = text[len(prefix) :]  # search the suffix only in the rest: "run:events" is not a run without an id
    return rest[: -len(suffix)] if rest.endswith(suffix) else None


_KIB = 1024
_DAY_S = 86_400.0


def _runs(name: str) -> TopicClass:
    return TopicClass(name, "warm", 20_000, 7 * _DAY_S, 240, 256 * _KIB, 300.0)


def _workers(name: str) -> TopicClass:
    return TopicClass(name, "warm", 10_000, 3 * _DAY_S, 180, 64 * _KIB, 120.0)


def _cold(name: str) -> TopicClass:
    return TopicClass(name, "cold", 500, _DAY_S / 2, 90, 64 * _KIB, None)


FALLBACK = _cold("fallback")
_CLASSES = {
    "run_events": _runs("run_events"),
    "worker_lifecycle": _workers("worker_lifecycle"),
    "fleet": _workers("fleet"),
}
_SINGLES = {
    "runtime.run_summaries": _runs("run_summaries"),
    "runtime.codex_worker_summaries": _workers("codex_worker_summaries"),
    CODEX_WORKER_EVENTS: TopicClass("codex_worker_events", "hot", 3_000, _DAY_S, 240, 128 * _KIB, None),
    "runtime.notifications": _cold("notifications"),
}
SINGLE_TOPICS = tuple(_SINGLES)  # topics with a single log, without an id in their name


@lru_cache(maxsize=65_536)
def topic_class(topic: str) -> TopicClass:
    """Return the class of a topic; `FALLBACK` for a form that the sync service does not know, or an empty id."""
    single = _SINGLES.get(topic)
    if single is not None:
        return single
    for prefix, suffix, _, _, name in _PATTERNS:
        if _between(topic, prefix, suffix):
            return _CLASSES[name]
    return FALLBACK
