"""What a runtime lets in: which clients may join (the compatibility window), and which events may be published."""

from dataclasses import dataclass

from sim.contract.frames import Compatibility
from sim.contract.settings import RuntimeSettings
from sim.contract.streams import topic_class

_BUILD_LENGTH = len("20260101T000000Z")


def incompatibility(settings: RuntimeSettings, told: Compatibility, query: Compatibility) -> str:
    """The code of a join's refusal, empty for a client that fits; what the join leaves out, the URL's query may say."""
    if (told.protocol_version or query.protocol_version) != settings.protocol_version:
        return "unsupported_protocol_version"
    schema = query.schema_version if told.schema_version is None else told.schema_version
    if str(schema) != str(settings.schema_version):
        return "unsupported_schema_version"
    build = told.client_build_id or query.client_build_id
    if len(build) != _BUILD_LENGTH or build[8] != "T" or build[-1] != "Z":
        return "invalid_client_build"
    if build < settings.min_client_build:
        return "upgrade_required"
    return "unsupported_client_build" if build > settings.max_client_build else ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A publish that is not accepted: HTTP status, code, a sentence, and when trying again makes sense, if ever."""

    status: int
    code: str
    message: str
    retry_after_ms: int | None = None


@dataclass(slots=True)
class _Bucket:
    """A token bucket: one second's worth of publishes."""

    rate: float
    level: float
    at: float

    def take(self, now: float) -> float:
        """Take one; returns 0, or the seconds until one is there."""
        self.level = min(self.rate, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level >= 1:
            self.level -= 1
            return 0.0
        return (1 - self.level) / self.rate


class PublishLimits:
    """How large an event of a topic may be, and how many of them may come a second."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._buckets: dict[str, _Bucket] = {}

    def refusal(self, topic: str, payload_bytes: int, now: float) -> Refusal | None:
        """Why a publish at `now` (s) is not accepted, None when it is."""
        kind = topic_class(topic)
        if payload_bytes > kind.max_payload_bytes:
            return Refusal(413, "spacetime_frame_payload_too_large", f"at most {kind.max_payload_bytes} bytes")
        rate = self._settings.publishes_per_s or kind.publishes_per_s
        bucket = self._buckets.setdefault(topic, _Bucket(rate, rate, now))
        if wait_s := bucket.take(now):
            return Refusal(429, "spacetime_publish_rate_limited", f"at most {rate} a second", int(wait_s * 1000) + 1)
        return None
