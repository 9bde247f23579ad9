"""The addresses and secrets of a target."""

from dataclasses import dataclass, field

from sim.drill.target_rules import Rules, TargetKind
from sim.service.paths import SOCKET_PATH

EMBEDDED_MOCK = "embedded mock"  # target name of a mock that this process started


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The addresses of a target's sync service and control service, its secrets and its rules.

    `session` is the bearer session that mints tokens. If it is empty, each client has its own session of the mock.
    Without `admin_token` the metrics endpoint is not polled.
    """

    name: str
    kind: TargetKind
    runtime_url: str
    control_url: str
    session: str = ""
    admin_token: str = ""
    socket_path: str = SOCKET_PATH
    rules: Rules = field(default_factory=Rules)
    further_secrets: tuple[str, ...] = ()  # not sent to the service, but also kept out of every file

    @classmethod
    def of_embedded_mock(cls, url: str, admin_token: str) -> "Endpoints":
        """Return the endpoints of a mock that this process started."""
        return cls(EMBEDDED_MOCK, "mock", url, url, admin_token=admin_token)

    @property
    def is_mock(self) -> bool:
        """Whether it is stormgate's own mock, whose fault switches may be set."""
        return self.kind == "mock"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must never be written to a file."""
        return tuple(secret for secret in (self.session, self.admin_token, *self.further_secrets) if secret)

    def __repr__(self) -> str:
        return f"Endpoints({self.name}, {self.kind}, {self.runtime_url}, {self.control_url})"

    @property
    def socket_url(self) -> str:
        """The WebSocket URL without its query."""
        return self.runtime_url.replace("http", "ws", 1) + self.socket_path
