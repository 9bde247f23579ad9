"""Admission checks of the runtime: connects, joins (the compatibility window), subscribes and publishes."""

import math
from collections.abc import Container
from dataclasses import dataclass

from sim.base.randomness import draw
from sim.protocols.events import Problem, Refused
from sim.protocols.intents import Compatibility, Join, Subscribe
from sim.protocols.profile import ServerProfile
from sim.server.counters import Counters
from sim.server.delivery.connection import Connection
from sim.server.deployment import Throttle
from sim.server.settings import RuntimeSettings, Switches
from sim.server.tokens import Claims, Keyring, TokenRefusedError, may_read, verify

REVOKED = "reauth_required"
_BUILD_LENGTH = len("20260101T000000Z")


def admitted(
    token: str | None,
    keyring: Keyring,
    now: float,
    settings: RuntimeSettings,
    switches: Switches,
    revoked: Container[str],
    profile: ServerProfile,
) -> Claims:
    """Verify a connect's token and return its claims; raises `TokenRefusedError`. `revoked` are ids of sessions and devices."""
    claims = verify(
        token,
        keyring,
        now,
        leeway_s=settings.token_leeway_s,
        expiry_leeway_s=None if profile.has_token_leeway else 0.0,
        max_age_s=settings.token_max_age_s if profile.has_token_age else math.inf,
        void_before=switches.tokens_void_before,
        defects=switches.defects,
    )
    if "introspect_tokens" in switches.defects and switches.mint_outage:
        raise TokenRefusedError("unauthorized", "the token cannot be checked now")
    if not profile.checks_revocation_at_join and is_revoked(claims, switches, revoked):
        raise TokenRefusedError("token_revoked", "the session was revoked")
    return claims


def is_revoked(claims: Claims, switches: Switches, revoked: Container[str]) -> bool:
    """Whether the runtime refuses these claims because their session or device was revoked."""
    is_out = claims.session_id in revoked or claims.device_id in revoked
    return is_out and "accept_revoked_token" not in switches.defects


def incompatibility(
    settings: RuntimeSettings, joined: Compatibility, query: Compatibility, defects: Container[str] = ()
) -> str:
    """Return the refusal code of a join, empty for a compatible client. `query` supplies what the join leaves out."""
    if (joined.protocol_version or query.protocol_version) != settings.protocol_version:
        return "unsupported_protocol_version"
    schema = query.schema_version if joined.schema_version is None else joined.schema_version
    if str(schema) != str(settings.schema_version):
        return "unsupported_schema_version"
    build = joined.client_build_id or query.client_build_id
    if len(build) != _BUILD_LENGTH or build[8] != "T" or build[-1] != "Z":
        return "invalid_client_build"
    is_oldest = build == settings.min_client_build and "refuse_oldest_build" in defects
    if is_oldest or (build < settings.min_client_build and "accept_old_builds" not in defects):
        return "upgrade_required"
    return "unsupported_client_build" if build > settings.max_client_build else ""


def join_refusal(
    connection: Connection,
    intent: Join,
    settings: RuntimeSettings,
    switches: Switches,
    revoked: Container[str],
    profile: ServerProfile,
) -> Refused | None:
    """Return the refusal of a join of a revoked session or an incompatible client; None for any other."""
    if profile.checks_revocation_at_join and is_revoked(connection.claims, switches, revoked):
        return profile.refusals.request(intent.ref, REVOKED, "session access was revoked; sign in again", ())
    joined = intent.metadata if profile.reads_metadata_of_join else Compatibility()
    code = incompatibility(settings, joined, connection.compatibility, switches.defects)
    return profile.refusals.request(intent.ref, code, "this build cannot sync here", ()) if code else None


def subscribe_refusal(claims: Claims, intent: Subscribe, defects: Container[str], profile: ServerProfile) -> Refused | None:
    """Return the refusal of a subscribe that is empty, malformed, or not granted by its token; None for any other."""
    if not intent.after or intent.is_malformed:
        message = "a subscription needs topics, and cursors that are numbers"
        return profile.refusals.request(intent.ref, "bad_subscription", message, ())
    forbidden = tuple(topic for topic in intent.after if not may_read(claims, topic, profile.topics))
    if forbidden and "ignore_grants" not in defects:
        return profile.refusals.request(intent.ref, "forbidden_topic", "not granted by this token", forbidden)
    return None


def slow_consumer(settings: RuntimeSettings, profile: ServerProfile, topic: str, depth: int, is_evicted: bool) -> Problem:
    """Return the warning for a client with a full outbound queue: read faster or, if it is evicted, disconnect."""
    wait_ms = float(settings.slow_consumer_reconnect_after_ms)
    details = {
        "full_resync_required": False,
        "action": "disconnect" if is_evicted else "throttle",
        "topic": topic,
        "queue_depth": depth,
        "queue_limit": settings.outbound_queue_events,
        "reconnect_after_ms": wait_ms,
    }
    return profile.refusals.slow_consumer(is_evicted, wait_ms, "the outbound queue of this connection is full", details)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused publish or connect: HTTP status, code, message, and the delay before a retry (None: no hint)."""

    status: int
    code: str
    message: str
    retry_after_ms: int | None = None
    is_taken: bool = False  # by a fault: the event was appended nevertheless


# Code and message of a publish that a fault or defect refuses, by HTTP status.
_FAILURES = {
    413: ("spacetime_frame_payload_too_large", "the payload is called too large"),
    429: ("spacetime_publish_rate_limited", "publishes are called too many"),
    500: ("internal_error", "something went wrong"),
    503: ("publishing_unavailable", "publishing is not available"),
}


def is_final(status: int) -> bool:
    """Whether a retry of the refused publish is useless; 5xx and 429 are temporary."""
    return status < 500 and status != 429


def may_be_taken(status: int) -> bool:
    """Whether a refused publish may have been appended nevertheless: true for 5xx except 503."""
    return status >= 500 and status != 503


def no_answer() -> Refusal:
    """Return what a publish gets whose outcome is unknown."""
    return Refusal(500, *_FAILURES[500], is_taken=True)


def is_acknowledged_unwritten(switches: Switches) -> bool:
    """Whether a defect acknowledges publishes that were not appended."""
    lost = "lose_undelivered" in switches.defects and switches.delivery_down
    return lost or "acknowledge_unwritten" in switches.defects


def failure(switches: Switches, counters: Counters) -> Refusal | None:
    """Return a publish's refusal by a defect or by the fault `fail_publishes` (drawn by the publish's number), or None."""
    counters.publish_tries += 1
    if switches.delivery_down and switches.defects & {"publish_needs_delivery", "lose_undelivered"}:
        return Refusal(503, *_FAILURES[503])
    if "refuse_every_other_publish" in switches.defects and counters.publish_tries % 2:
        return Refusal(503, *_FAILURES[503])
    share = switches.publish_fail_share
    if share <= 0 or draw(switches.seed, "fail_publish", counters.publish_tries) >= share:
        return None
    counters.act("fail_publishes")
    code, message = _FAILURES[switches.publish_fail_status]
    retry_after_ms = switches.publish_fail_retry_after_ms or None
    return Refusal(switches.publish_fail_status, code, message, retry_after_ms, switches.publish_fail_taken)


class Appends:
    """The appends under way. With the defect `stall_on_concurrent_appends`, two at once stall their stream for good."""

    def __init__(self) -> None:
        self._under_way: dict[str, int] = {}
        self._stalled: set[str] = set()

    def begin(self, topic: str, switches: Switches) -> Refusal | None:
        """Begin an append, which `end` ends; return its refusal if the stream is stalled."""
        self._under_way[topic] = self._under_way.get(topic, 0) + 1
        if self._under_way[topic] > 1 and "stall_on_concurrent_appends" in switches.defects:
            self._stalled.add(topic)
        return Refusal(500, "sequence_conflict", "another append took this event's number") if topic in self._stalled else None

    def end(self, topic: str) -> None:
        """End an append, whether it succeeded or not."""
        self._under_way[topic] -= 1


@dataclass(slots=True)
class TokenBucket:
    """A token bucket: `rate` tokens per second. It holds the tokens of one second, at least one; `level` is what is left."""

    rate: float
    level: float
    at: float

    def take(self, now: float) -> float:
        """Take one token and return 0, or return the seconds until one is available."""
        self.level = min(max(self.rate, 1.0), self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level >= 1:
            self.level -= 1
            return 0.0
        return (1 - self.level) / self.rate


class ServiceLimits:
    """Limits of the whole service by its throttle, in addition to each topic's own limit."""

    def __init__(self, throttle: Throttle, now: float) -> None:
        self._publishes = _bucket(throttle.publishes_per_s, now)
        self._connects = _bucket(throttle.connects_per_s, now)

    def publish_refusal(self, now: float) -> Refusal | None:
        """Return the refusal of a publish at `now` (s); None if it is accepted."""
        return _over(self._publishes, "spacetime_publish_rate_limited", now)

    def connect_refusal(self, now: float) -> Refusal | None:
        """Return the refusal of a connect at `now` (s); None if it is accepted."""
        return _over(self._connects, "rate_limited", now)


def _bucket(rate: float | None, now: float) -> TokenBucket | None:
    return TokenBucket(rate, max(rate, 1.0), now) if rate else None


def _over(bucket: TokenBucket | None, code: str, now: float) -> Refusal | None:
    wait_s = bucket.take(now) if bucket else 0.0
    if bucket is None or not wait_s:
        return None
    return Refusal(429, code, f"the service is throttled to {bucket.rate:g} a second", int(wait_s * 1000) + 1)


class PublishLimits:
    """Limits of each topic: bytes per event, and publishes per second."""

    def __init__(self, settings: RuntimeSettings, profile: ServerProfile) -> None:
        self._settings = settings
        self._class_of = profile.topics.topic_class
        self._buckets: dict[str, TokenBucket] = {}

    def refusal(self, topic: str, payload_bytes: int, now: float) -> Refusal | None:
        """Return the refusal of a publish at `now` (s); None if it is accepted."""
        kind = self._class_of(topic)
        if payload_bytes > kind.max_payload_bytes:
            return Refusal(413, "spacetime_frame_payload_too_large", f"at most {kind.max_payload_bytes} bytes")
        rate = self._settings.publishes_per_s or kind.publishes_per_s
        bucket = self._buckets.setdefault(topic, TokenBucket(rate, rate, now))
        if wait_s := bucket.take(now):
            return Refusal(429, "spacetime_publish_rate_limited", f"at most {rate} a second", int(wait_s * 1000) + 1)
        return None
