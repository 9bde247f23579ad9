"""The runtime's state of one client: its subscriptions, its outbound queue and its undelivered events."""

import math
from collections import deque
from dataclasses import dataclass, field

from sim.protocols.adapter import TransportEnd
from sim.protocols.events import Event, Message
from sim.protocols.intents import Compatibility
from sim.server.tokens import Claims


@dataclass(slots=True)
class Replay:
    """A running replay: its topics, and the reference of the subscribe that is answered at its end."""

    ref: str
    topics: list[str]
    batch_size: int
    next_topic: int = 0
    answer: Message = ()  # where it is made before the replay


@dataclass(slots=True)
class Polled:
    """A request for one whole answer: what that begins with, and until when it waits for an event."""

    stream: str
    answer: Message
    until: float


@dataclass(slots=True)
class Connection:
    """One open socket. `positions` has, per topic, the last seq that was handed out for sending."""

    number: int
    claims: Claims
    client_key: int  # of the device; selects the clients that a fault affects
    compatibility: Compatibility
    last_heard: float
    beat_at: float
    channel: str = "1"
    session: str = ""  # that a join may resume
    is_deaf: bool = False  # by a defect of the protocol's server, it gets no events any more
    joined: bool = False
    closing: bool = False
    end: TransportEnd | None = None  # how it is closed; None: with the usual code
    positions: dict[str, int] = field(default_factory=dict)
    pending: dict[str, None] = field(default_factory=dict)  # topics with undelivered events, in fair order
    outbox: deque[Message | Replay] = field(default_factory=deque)
    strikes: int = 0
    poll: Polled | None = None  # the request that is not answered yet
    poll_due_at: float = math.inf  # when that is answered, or, after the answer, the connection closed

    @property
    def is_replaying(self) -> bool:
        """Whether a replay is not completely sent yet."""
        return any(isinstance(item, Replay) for item in self.outbox)

    def drop_replays(self) -> None:
        """Discard the replays of a channel that ended."""
        self.outbox = deque(item for item in self.outbox if not isinstance(item, Replay))

    def close_with(self, *last: Event) -> None:
        """Discard all that is queued, send each of these events as a message, and close."""
        self.outbox.clear()
        self.outbox.extend((event,) for event in last)
        self.positions.clear()
        self.pending.clear()
        self.closing = True
