"""The addresses, secrets and forms of a target."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from sim.drill.target_rules import Rules, StreamRules, TargetKind
from sim.protocols import registry
from sim.protocols.markers import PUBLISHED_AT
from sim.server.settings import RuntimeSettings
from sim.service.forms import Service, ServiceForms
from sim.service.paths import RETIRED, SOCKET_PATH

EMBEDDED_MOCK = "embedded mock"  # target name of a mock that this process started


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The addresses of a target's sync service and control service, its secrets, its rules and the forms of its requests.

    `session` is the bearer session that mints tokens. If it is empty, each client has its own session of the mock.
    """

    name: str
    kind: TargetKind
    runtime_url: str
    control_url: str
    session: str = ""
    admin_token: str = ""
    signing_key: str = ""  # of tokens that are signed here
    protocol: str = registry.DEFAULT
    protocol_options: Mapping[str, object] = field(default_factory=dict)
    socket_path: str = SOCKET_PATH
    has_socket: bool = True
    payload_pointer: str = PUBLISHED_AT  # where the published payload stands in a delivered one
    retired_routes: tuple[str, ...] = RETIRED  # method and path of each
    rules: Rules = field(default_factory=Rules)
    forms: ServiceForms = field(default_factory=ServiceForms)
    streams: StreamRules = field(default_factory=StreamRules)
    service: RuntimeSettings = field(default_factory=RuntimeSettings)  # what is known of the service's own settings
    variables: Mapping[str, str] = field(default_factory=dict)  # secrets of templates, by `env:NAME`
    further_secrets: tuple[str, ...] = ()  # not sent to the service, but also kept out of every file

    @classmethod
    def of_embedded_mock(cls, url: str, admin_token: str, protocol: str = registry.DEFAULT) -> "Endpoints":
        """Return the endpoints of a mock that this process started."""
        spoken = registry.wire_forms(protocol)
        own = msgspec.convert(spoken.service_forms, ServiceForms)
        return cls(
            *(EMBEDDED_MOCK, "mock", url, url),
            admin_token=admin_token,
            protocol=protocol,
            socket_path=spoken.socket_path,
            forms=own,
        )

    @property
    def is_mock(self) -> bool:
        """Whether it is stormgate's own mock, whose fault switches may be set."""
        return self.kind == "mock"

    @property
    def urls(self) -> tuple[str, ...]:
        """The base addresses of both services."""
        return self.runtime_url, self.control_url

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must never be written to a file."""
        own = self.session, self.admin_token, self.signing_key, *self.variables.values(), *self.further_secrets
        return tuple(secret for secret in own if secret)

    def configuration(self, has_addresses: bool = True) -> list[object]:
        """Everything that describes the target, without secrets, as plain values. The port of an embedded mock changes."""
        addresses = [self.runtime_url, self.control_url, self.socket_path] if has_addresses else []
        described = (self.rules, self.forms, self.streams, self.service, self.has_socket)
        protocol = self.protocol, dict(self.protocol_options), self.payload_pointer
        return [self.name, self.kind, *addresses, *protocol, *map(msgspec.to_builtins, described)]

    @property
    def configuration_sha256(self) -> str:
        """Hex SHA-256 of the same."""
        return hashlib.sha256(msgspec.json.encode(self.configuration(), order="deterministic")).hexdigest()

    def __repr__(self) -> str:
        return f"Endpoints({self.name}, {self.kind}, {self.runtime_url}, {self.control_url})"

    @property
    def socket_url(self) -> str:
        """The WebSocket URL without its query."""
        return self.runtime_url.replace("http", "ws", 1) + self.socket_path

    def base_url(self, service: Service) -> str:
        """Return the base address of a service."""
        return self.control_url if service == "control" else self.runtime_url

    def values(self) -> dict[str, object]:
        """Return the values of the names that all templates may contain."""
        now = time.time()
        iso = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        own = {"session": self.session, "admin_token": self.admin_token, "now": int(now), "now_iso": iso}
        return {**own, **self.variables}
