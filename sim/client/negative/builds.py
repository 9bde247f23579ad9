"""Negative clients of the compatibility window: builds inside and outside of it, and the required answers to their joins.

Each joins once as another build, records the answer, and is then an ordinary client. For the builds at the window's
edges the answer must be `served`.
"""

from abc import abstractmethod

from sim.client.negative.base import OneQuestion, verdict
from sim.client.transitions import State
from sim.protocols.events import Reply
from sim.protocols.intents import Compatibility
from sim.server.settings import RuntimeSettings

_CLIENT = "stormgate"


class OtherBuild(OneQuestion):
    """Joins as another build. Subclasses say which."""

    needs_builds = True

    @abstractmethod
    def _build(self, service: RuntimeSettings) -> Compatibility:
        """Return the build to report to a runtime with these settings."""

    def _metadata(self) -> Compatibility:
        return super()._metadata() if self._has_answer else self._build(self.settings.service)

    def _take_reply(self, reply: Reply, now: float) -> None:
        if reply.ref == self._join_ref and self.state is State.JOINING:
            self._report("served" if reply.ok and "served" in self.expects else verdict(reply))
        super()._take_reply(reply, now)


def _fitting(service: RuntimeSettings, build: str) -> Compatibility:
    """Return the compatible values of a runtime, with this build."""
    return Compatibility(_CLIENT, build, service.protocol_version, service.schema_version)


class OldBuild(OtherBuild):
    """Older than the window."""

    name, expects = "old_build", ("upgrade_required",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return _fitting(service, "20000101T000000Z")


class NewBuild(OtherBuild):
    """Newer than the window."""

    name, expects = "new_build", ("unsupported_client_build",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return _fitting(service, "99991231T235959Z")


class MalformedBuild(OtherBuild):
    """A build name that is malformed."""

    name, expects = "malformed_build", ("invalid_client_build",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return _fitting(service, "yesterday's")


class OtherProtocol(OtherBuild):
    """Speaks another protocol."""

    name, expects = "other_protocol", ("unsupported_protocol_version",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return Compatibility(_CLIENT, service.min_client_build, f"{service.protocol_version}.no", service.schema_version)


class OtherSchema(OtherBuild):
    """Requests another schema."""

    name, expects = "other_schema", ("unsupported_schema_version",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return Compatibility(_CLIENT, service.min_client_build, service.protocol_version, service.schema_version + 1)


class OldestBuild(OtherBuild):
    """The oldest build inside the window."""

    name, expects = "oldest_build", ("served",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return _fitting(service, service.min_client_build)


class NewestBuild(OtherBuild):
    """The newest build inside the window."""

    name, expects = "newest_build", ("served",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return _fitting(service, service.max_client_build)


CLIENTS = (OldBuild, NewBuild, MalformedBuild, OtherProtocol, OtherSchema, OldestBuild, NewestBuild)
