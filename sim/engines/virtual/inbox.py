"""A simulated connection, and the messages in flight that need no event of their own on arrival.

Most messages only bring a client the events after those it has, or show that the service is alive. The effect of such a message
is known when it is sent. So it waits in the link's inbox until the client is read, or something else happens to the client. The
client then takes it as if at the moment of its arrival. Every other message has an event at its moment, after those that were
sent before it. If something unexpected happens, the messages that are left in the inbox get events, too.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from sim.client.notices import Run
from sim.client.session import Session
from sim.client.spans import go_on
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.links import RoughLink
from sim.protocols.events import Activity, Answer, Batch, Closed, Head, Message, Repeated
from sim.protocols.intents import Subscribe

_ALIVE = frozenset({Head, Activity, Repeated})  # the first event of a heartbeat message


class Reader(Protocol):
    """The client at the end of a link."""

    rough: RoughLink | None

    def arrives(self, message: Message, link: "Link", place: int) -> None:
        """Receive a message, after the first `place` frames that the link has ever put in its inbox."""

    def is_lost(self, link: "Link", event: Closed) -> None:
        """Learn that the connection is closed."""


class Link:
    """One connection of a client, from the attempt on, held by client and service. Its messages never reach a later connection.

    The link is foreseen while its client only takes the next events. `follows` is then the offset that the client will have,
    by topic, after everything that was sent. None: the effect of the next message is not known.
    """

    __slots__ = (
        *("_client", "_delay_s", "_env", "_run_of", "called", "down_free", "follows", "inbox", "is_dropped", "is_foreseen"),
        *("is_open", "number", "pongs", "request", "stream", "taken", "up_free"),
    )

    def __init__(
        self,
        client: Reader,
        env: VirtualClock,
        delay_s: float,
        run_of: Callable[[Message], Run | None],
        *,
        pongs: bool = False,
        request: Subscribe | None = None,
    ) -> None:
        self._client = client
        self._env = env
        self._delay_s = delay_s
        self._run_of = run_of
        self.pongs = pongs  # whether the client answers pings
        self.request = request  # for one stream, where each has a connection of its own
        self.stream = "" if request is None else next(iter(request.after))
        self.is_open = False  # as far as the client knows
        self.is_dropped = False  # the client has no longer this connection
        self.number = 0  # the service's number of the connection, once open
        self.up_free = self.down_free = 0.0  # when the last bytes each way arrive
        self.inbox: deque[tuple[float, Message, Run | None]] = deque()  # with the moment of arrival, earliest first
        self.taken = 0  # how many frames were ever taken from the inbox
        self.called = 0  # frames in flight that have an event
        self.is_foreseen = False
        self.follows: dict[str, int] | None = None

    # --- the service's end -----------------------------------------------------------------------------

    def sends(self, message: Message, moment: float) -> None:
        """Carry a message that the service puts on the wire at `moment`."""
        if (rough := self._client.rough) is not None:
            self.follows = None
            self.called += 1
            place = self.taken + len(self.inbox)
            rough.to_client.carry(self, moment, rough.size_of(message), self._client.arrives, message, self, place)
            return
        arrives = moment + self._delay_s
        if arrives < self.down_free:
            arrives = self.down_free
        self.down_free = arrives
        if (follows := self.follows) is not None:
            first = message[0].__class__
            run = self._run_of(message) if first is Batch else None
            if go_on(run.spans, follows) if run is not None else not self.pongs and _says_nothing(message, follows):
                self.inbox.append((arrives, message, run))
                return
            if first not in _ALIVE:
                self.follows = None
        self.called += 1
        self._env.call_at(arrives, self._client.arrives, message, self, self.taken + len(self.inbox))

    def lost(self, event: Closed) -> None:
        """Close the connection from the service's side; the client learns this one delay later."""
        if (rough := self._client.rough) is not None:
            rough.to_client.close(self, self._env.now, self._client.is_lost, self, event)
            return
        self._env.call_at(max(self.down_free, self._env.now + self._delay_s), self._client.is_lost, self, event)

    # --- the client's end ---------------------------------------------------------------------------

    @property
    def may_be_foreseen(self) -> bool:
        """Whether `follows` is not known and nothing is in flight, on a connection with all streams."""
        return self.follows is None and not self.called and not self.inbox and not self.stream

    def foresee(self, session: Session) -> None:
        """Keep the next frames in the inbox from now on, if the session only takes them."""
        self.is_foreseen = session.__class__ is Session and session.only_follows
        if self.is_foreseen:
            cursors = session.replica.cursors.values()
            self.follows = {c.topic: c.watermark for c in cursors if c.watermark is not None and c.watermark == c.checkpoint}

    def surprise(self, look: Callable[["Link"], None]) -> None:
        """Schedule an event for each frame in the inbox, because something happened to the client."""
        self.is_foreseen, self.follows = False, None
        for arrives in dict.fromkeys(arrives for arrives, _, _ in self.inbox):
            self._env.call_at(arrives, look, self)


def _says_nothing(message: Message, follows: dict[str, int]) -> bool:
    """Return whether a message only shows a live service: a heartbeat's answer, or heads that the client will have."""
    first = message[0]
    if isinstance(first, Answer):
        return first.is_beat
    return isinstance(first, Activity | Repeated) or all(
        isinstance(event, Head) and follows.get(event.stream) == event.position.offset for event in message
    )
