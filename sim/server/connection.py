"""The runtime's side of one client: its subscriptions, its outbound queue, and what it is still owed."""

from collections import deque
from dataclasses import dataclass, field

from sim.protocols.events import Event, Message
from sim.protocols.intents import Compatibility
from sim.server.tokens import Claims


@dataclass(slots=True)
class Replay:
    """A replay under way: the topics still to be sent, and the subscribe it answers when done."""

    ref: str
    topics: list[str]
    batch_size: int
    next_topic: int = 0


@dataclass(slots=True)
class Connection:
    """One open socket. `positions` holds, a topic, the last seq that was handed out for sending."""

    number: int
    claims: Claims
    client_key: int  # of the device, for faults that concern some clients only
    compatibility: Compatibility
    last_heard: float
    beat_at: float
    channel: str = "1"
    joined: bool = False
    closing: bool = False
    positions: dict[str, int] = field(default_factory=dict)
    pending: dict[str, None] = field(default_factory=dict)  # topics with undelivered events, in fair order
    outbox: deque[Message | Replay] = field(default_factory=deque)
    strikes: int = 0

    @property
    def is_replaying(self) -> bool:
        """Whether a replay is still to be sent."""
        return any(isinstance(item, Replay) for item in self.outbox)

    def drop_replays(self) -> None:
        """Send nothing more of what was asked for over a channel that is over."""
        self.outbox = deque(item for item in self.outbox if not isinstance(item, Replay))

    def close_with(self, *last: Event) -> None:
        """Send nothing more but this, each as a message, and close."""
        self.outbox.clear()
        self.outbox.extend((event,) for event in last)
        self.positions.clear()
        self.pending.clear()
        self.closing = True
