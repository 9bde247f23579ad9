"""A simulated connection, and the messages on their way over it that need no event of their own when they arrive.

Most messages only bring a client the events that follow those it has, or show that the service is alive, and it only takes
them. What such a message will do is known when it is sent. So it waits in the link's inbox until the client is looked at, or
something else happens to it; then it is taken as at the moment of its arrival. Every other message has an event at its moment,
behind those that were sent before it. Should something unexpected happen, what is left in the inbox gets events, too.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from sim.client.cursor import go_on
from sim.client.notices import Run, run_of
from sim.client.session import Session
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.links import RoughLink
from sim.protocols.events import Activity, Answer, Batch, Closed, Head, Message

_MAX_KNOWN = 10_000  # recent messages, which need not be looked at again
_ALIVE = frozenset({Head, Activity})  # what begins a heartbeat


class Reader(Protocol):
    """The client at the end of a link."""

    rough: RoughLink | None

    def arrives(self, message: Message, link: "Link", place: int) -> None:
        """A message is here, and so are the first `place` that the link was ever to keep in its inbox."""

    def is_lost(self, link: "Link", event: Closed) -> None:
        """The news that the connection is closed is here."""


class Link:
    """One connection of a client, from its attempt on, as client and service hold it: what it says never reaches a later one.

    It is foreseen while its client only follows: `follows` is then where that will stand, by topic, behind all that was
    sent; None: what comes next is not known.
    """

    __slots__ = (
        *("_client", "_delay_s", "_env", "_run_of", "called", "down_free", "follows", "inbox", "is_foreseen", "number"),
        *("taken", "up_free"),
    )

    def __init__(self, client: Reader, env: VirtualClock, delay_s: float, run_of: Callable[[Message], Run | None]) -> None:
        self._client = client
        self._env = env
        self._delay_s = delay_s
        self._run_of = run_of
        self.number = 0  # the service's, once open
        self.up_free = self.down_free = 0.0  # when the last bytes each way arrive
        self.inbox: deque[tuple[float, Message, Run | None]] = deque()  # when each arrives, first come first
        self.taken = 0  # how many were ever taken out of it
        self.called = 0  # frames on their way that are called out
        self.is_foreseen = False
        self.follows: dict[str, int] | None = None

    # --- the service's end -----------------------------------------------------------------------------

    def sends(self, message: Message, moment: float) -> None:
        """The service puts a message on the wire at `moment`."""
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
            if go_on(run.spans, follows) if run is not None else _says_nothing(message, follows):
                self.inbox.append((arrives, message, run))
                return
            if first not in _ALIVE:
                self.follows = None
        self.called += 1
        self._env.call_at(arrives, self._client.arrives, message, self, self.taken + len(self.inbox))

    def lost(self, event: Closed) -> None:
        """The service closes the connection now; the news takes a delay."""
        if (rough := self._client.rough) is not None:
            rough.to_client.close(self, self._env.now, self._client.is_lost, self, event)
            return
        self._env.call_at(max(self.down_free, self._env.now + self._delay_s), self._client.is_lost, self, event)

    # --- the client's end ---------------------------------------------------------------------------

    @property
    def may_be_foreseen(self) -> bool:
        """Whether nothing is on its way of which it is not known what it will do."""
        return self.follows is None and not self.called and not self.inbox

    def foresee(self, session: Session) -> None:
        """Keep what follows in the inbox from now on, if the session does nothing but take it."""
        self.is_foreseen = session.__class__ is Session and session.only_follows
        if self.is_foreseen:
            cursors = session.replica.cursors.values()
            self.follows = {c.topic: c.watermark for c in cursors if c.watermark is not None and c.watermark == c.checkpoint}

    def surprise(self, look: Callable[["Link"], None]) -> None:
        """Something happened to the client: call out what is on its way."""
        self.is_foreseen, self.follows = False, None
        for arrives in dict.fromkeys(arrives for arrives, _, _ in self.inbox):
            self._env.call_at(arrives, look, self)


def _says_nothing(message: Message, follows: dict[str, int]) -> bool:
    """Whether a message only shows that the service is alive: its answer to a heartbeat, or heads that the client will have."""
    first = message[0]
    if isinstance(first, Answer):
        return first.is_beat
    return isinstance(first, Activity) or all(
        isinstance(event, Head) and follows.get(event.stream) == event.position.offset for event in message
    )


class KnownRuns:
    """The runs that messages are, worked out once for each.

    Messages pass by reference, so that a thousand clients are handed one and the same, which can never change. It is
    known by its identity alone, and held, so that no other object can have the same.
    """

    def __init__(self, stream_id: Callable[[str], str]) -> None:
        self._stream_id = stream_id
        self._known: dict[int, tuple[Message, Run | None]] = {}

    def __call__(self, message: Message) -> Run | None:
        """See `sim.client.notices.run_of`."""
        known = self._known.get(id(message))
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[id(message)] = (message, run_of(message, self._stream_id))
        return known[1]
