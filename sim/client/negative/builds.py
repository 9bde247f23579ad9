"""Probes of the compatibility window: clients of other builds, and what a runtime must answer to their join.

Each joins once as another build, notes the answer, and is an ordinary client from then on. Of the builds at the window's
edges the answer must be `served`.
"""

from sim.client.actions import Send
from sim.client.session import ClientSession
from sim.client.states import State
from sim.protocols.spacetime.frames import Body, Compatibility, Join, Reply
from sim.server.settings import RuntimeSettings

_CLIENT = "stormgate"


class BuildProbe(ClientSession):
    """Joins as another build. Subclasses say which, and what they must hear."""

    name = ""
    expects: tuple[str, ...] = ()
    _has_answer = False

    def _build(self, service: RuntimeSettings) -> Compatibility:
        """What to say of itself, to a runtime with these settings."""
        return self.settings.compatibility

    def connected(self, now: float) -> None:
        """See `ClientSession`; the join is another."""
        super().connected(now)
        if not self._has_answer:
            self._actions[-1] = Send(Join(self._join_ref, self._build(self.settings.service)))

    def _take_reply(self, reply: Reply, now: float) -> None:
        if reply.ref == self._join_ref and self.state is State.JOINING and not self._has_answer:
            self._has_answer = True
            self._note("probed", detail=f"{self.name}:{self._told(reply.ok, reply.body)}")
        super()._take_reply(reply, now)

    def _told(self, ok: bool, body: Body) -> str:
        if ok:
            return "served" if "served" in self.expects else "accepted"
        return f"refused:{body.code or 'error'}"


def _fitting(service: RuntimeSettings, build: str) -> Compatibility:
    """A client that differs from what the runtime wants in its build at most."""
    return Compatibility(_CLIENT, build, service.protocol_version, service.schema_version)


class OldBuild(BuildProbe):
    """Older than the window."""

    name, expects = "old_build", ("upgrade_required",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return _fitting(service, "20000101T000000Z")


class NewBuild(BuildProbe):
    """Newer than the window."""

    name, expects = "new_build", ("unsupported_client_build",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return _fitting(service, "99991231T235959Z")


class MalformedBuild(BuildProbe):
    """A build that is none."""

    name, expects = "malformed_build", ("invalid_client_build",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return _fitting(service, "yesterday's")


class OtherProtocol(BuildProbe):
    """Speaks another protocol."""

    name, expects = "other_protocol", ("unsupported_protocol_version",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return Compatibility(_CLIENT, service.min_client_build, f"{service.protocol_version}.no", service.schema_version)


class OtherSchema(BuildProbe):
    """Wants another schema."""

    name, expects = "other_schema", ("unsupported_schema_version",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return Compatibility(_CLIENT, service.min_client_build, service.protocol_version, service.schema_version + 1)


class OldestBuild(BuildProbe):
    """The oldest build inside the window."""

    name, expects = "oldest_build", ("served",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return _fitting(service, service.min_client_build)


class NewestBuild(BuildProbe):
    """The newest build inside the window."""

    name, expects = "newest_build", ("served",)

    def _build(self, service: RuntimeSettings) -> Compatibility:
        return _fitting(service, service.max_client_build)


PROBES = (OldBuild, NewBuild, MalformedBuild, OtherProtocol, OtherSchema, OldestBuild, NewestBuild)
