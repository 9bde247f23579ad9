"""What a client session asks its driver to do, its token and its settings."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sim.client.notices import Run, no_run
from sim.protocols.adapter import NegativeForms
from sim.protocols.events import Message
from sim.protocols.intents import Compatibility, Intent
from sim.server.settings import RuntimeSettings


@dataclass(frozen=True, slots=True)
class Token:
    """A minted token; moments in unix seconds of the client's own clock, worked out from how long it is good for.

    `server_*` are as the control service reported them, by its own clock (NaN: it did not).
    """

    text: str
    refresh_at: float
    expires_at: float
    key_id: str = ""
    session_id: str = ""
    server_refresh_at: float = math.nan
    server_expires_at: float = math.nan

    def by_clock(self, ahead_s: float) -> "Token":
        """As a client takes it that trusts the reported moments, with a clock of its own that is ahead."""
        moments = self.server_refresh_at - ahead_s, self.server_expires_at - ahead_s
        return self if math.isnan(sum(moments)) else replace(self, refresh_at=moments[0], expires_at=moments[1])

    def __repr__(self) -> str:
        return f"Token(refresh_at={self.refresh_at}, expires_at={self.expires_at})"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a client wants its next token to be: for whom, for which topics, for how long (s; None: as the service likes)."""

    account: str
    topics: tuple[str, ...]
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class Mint:
    """Ask the control service for the session's `token_request`; answer with `minted` or `mint_failed`, in any case: nothing
    here times out."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a socket with this token; answer with `connected` or `connect_failed`."""

    token: Token


@dataclass(frozen=True, slots=True)
class Send:
    """Send an intent over the open connection."""

    intent: Intent


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket, or give up opening it; no answer, and nothing more from that socket."""


Action = Mint | Connect | Send | Close


SILENCE_FLOOR_S = 10.0  # [ours] a client never takes a shorter silence for a dead connection


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What is the same for every client of a fleet. Defaults are the sync service's own or marked [ours]."""

    seed: int
    compatibility: Compatibility
    reply_timeout_s: float = 10.0  # [ours] for a connect, a join or a subscribe
    replay_batch_size: int = 200
    token_ttl_s: int | None = None  # asked of the control service; None: its own default
    service: RuntimeSettings = field(default_factory=RuntimeSettings)  # so that negative clients know what it must refuse
    run_of: Callable[[Message], Run | None] = no_run  # what a message does to a client that has all that came before it
    forms: NegativeForms | None = None  # what negative clients send
    stream_id: Callable[[str], str] = str  # a topic's name in observations
    heartbeat_interval_s: float = field(init=False)  # the service's
    silence_limit_s: float = field(init=False)  # [ours] three missed heartbeats of the service

    def __post_init__(self) -> None:
        interval_s = self.service.heartbeat_interval_s
        object.__setattr__(self, "heartbeat_interval_s", interval_s)
        object.__setattr__(self, "silence_limit_s", max(3 * interval_s, SILENCE_FLOOR_S))
