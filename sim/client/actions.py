"""What a client session asks its driver to do, its token and its settings."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sim.client.notices import KnownRuns, Run, no_run
from sim.protocols import registry
from sim.protocols.adapter import Capabilities, Credentials, NegativeForms, Positions
from sim.protocols.events import Message
from sim.protocols.intents import Compatibility, Intent
from sim.protocols.markers import PUBLISHED_AT, MarkerReader
from sim.server.settings import RuntimeSettings


@dataclass(frozen=True, slots=True)
class Token:
    """A minted token. Its times are unix seconds of the client's own clock, computed from its lifetime.

    `server_*` are the times that the control service reported by its own clock (NaN: not reported). `sign` signs a
    server's nonce. `signed_in` are the values that `account` got when it signed in (None: it did not have to).
    """

    text: str
    refresh_at: float
    expires_at: float
    key_id: str = ""
    session_id: str = ""
    server_refresh_at: float = math.nan
    server_expires_at: float = math.nan
    sign: Callable[[bytes], bytes] | None = None
    account: str = ""
    signed_in: Mapping[str, object] | None = None

    def by_clock(self, ahead_s: float) -> "Token":
        """Return the token as a client sees it that uses the reported times, with a clock that is `ahead_s` ahead."""
        moments = self.server_refresh_at - ahead_s, self.server_expires_at - ahead_s
        return self if math.isnan(sum(moments)) else replace(self, refresh_at=moments[0], expires_at=moments[1])

    def __repr__(self) -> str:
        return f"Token(refresh_at={self.refresh_at}, expires_at={self.expires_at})"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A client's request for its next token: for whom, for which topics, for how long (s; None: the service's default)."""

    account: str
    topics: tuple[str, ...]
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class Mint:
    """Ask the control service for the session's `token_request`; always answer with `minted` or `mint_failed`, because the
    session has no time-out for it."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a connection with this token; answer with `connected` or `connect_failed`. `metadata` is what the join reports."""

    token: Token
    metadata: Compatibility

    @property
    def credentials(self) -> Credentials:
        """What the adapter needs."""
        return Credentials(self.token.text, self.metadata, self.token.sign)


@dataclass(frozen=True, slots=True)
class Send:
    """Send an intent over the open connection."""

    intent: Intent


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket, or stop opening it. Do not answer, and report nothing more from that socket."""


Action = Mint | Connect | Send | Close


SILENCE_FLOOR_S = 10.0  # [ours] a shorter silence never counts as a dead connection


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Settings that all clients of a fleet share. Defaults are the sync service's own or marked [ours]."""

    seed: int
    compatibility: Compatibility
    capabilities: Capabilities  # of the protocol
    reply_timeout_s: float = 10.0  # [ours] for a connect, a join or a subscribe
    replay_batch_size: int = 200
    token_ttl_s: int | None = None  # requested from the control service; None: its default
    service: RuntimeSettings = field(default_factory=RuntimeSettings)  # so that negative clients know what it must refuse
    shares_runs: bool = True  # compute once what a message does to all clients that have the earlier events
    forms: NegativeForms | None = None  # what negative clients send
    protocol: str = registry.DEFAULT
    stream_id: Callable[[str], str] = str  # a topic's name in observations
    marker_run: str = ""  # of the markers of this run's payloads; empty: without markers
    protocol_options: Mapping[str, object] = field(default_factory=dict)  # of the target file
    payload_pointer: str = PUBLISHED_AT  # JSON pointer to the published payload in a delivered one
    markers: MarkerReader = field(init=False)
    run_of: Callable[[Message], Run | None] = field(init=False)  # see `sim.client.notices.run_of`
    heartbeat_interval_s: float = field(init=False)  # the service's
    silence_limit_s: float = field(init=False)  # [ours] three missed heartbeats of the service

    def __post_init__(self) -> None:
        interval_s = self.service.heartbeat_interval_s
        object.__setattr__(self, "markers", MarkerReader(self.marker_run, self.payload_pointer))
        shares = self.shares_runs and self.capabilities.positions is not Positions.OPAQUE  # whose order no client knows
        object.__setattr__(self, "run_of", KnownRuns(self.stream_id, self.markers) if shares else no_run)
        object.__setattr__(self, "heartbeat_interval_s", interval_s)
        object.__setattr__(self, "silence_limit_s", max(3 * interval_s, SILENCE_FLOOR_S))
