"""A simulated connection, and the frames on their way over it that need not be called out when they arrive.

Most frames only bring a client the events that follow those it has, or show that the lane is alive, and it does nothing but
take them. What such a frame will do is known when it is sent, so it waits in the link's inbox until somebody looks at the
client, or something else happens to it: then it is taken, as at the moment of its arrival. Every other frame is called out at
its moment, behind those that were sent before it. Should something happen that was not foreseen, what is left in the inbox is
called out, too.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from sim.client.session import ClientSession
from sim.client.shared_frames import Run, run_of
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.links import RoughLink
from sim.protocols.spacetime.frames import TRANSPORT_CHANNEL, HeartbeatPush, Reply, ServerFrame, Update, UpdateBatch
from sim.server.stream_log import is_intact

_MAX_KNOWN = 10_000  # updates and frames of late, which need not be looked at again


class Reader(Protocol):
    """The client at the end of a link."""

    rough: RoughLink | None

    def arrives(self, frame: ServerFrame, link: "Link", place: int) -> None:
        """A frame is here, and so are the first `place` that the link was ever to keep in its inbox."""

    def is_lost(self, link: "Link", why: str) -> None:
        """The news that the connection is closed is here."""


class Link:
    """One connection of a client, from its attempt on, as client and lane hold it: what it says never reaches a later one.

    It is foreseen while its client only follows: `follows` is then where that will stand, by topic, behind all that was
    sent; None: what comes next is not known.
    """

    __slots__ = (
        *("_client", "_delay_s", "_env", "_run_of", "called", "down_free", "follows", "inbox", "is_foreseen", "number"),
        *("taken", "up_free"),
    )

    def __init__(self, client: Reader, env: VirtualClock, delay_s: float, run_of: Callable[[UpdateBatch], Run | None]) -> None:
        self._client = client
        self._env = env
        self._delay_s = delay_s
        self._run_of = run_of
        self.number = 0  # the lane's, once open
        self.up_free = self.down_free = 0.0  # when the last bytes each way arrive
        self.inbox: deque[tuple[float, ServerFrame, Run | None]] = deque()  # when each arrives, first come first
        self.taken = 0  # how many were ever taken out of it
        self.called = 0  # frames on their way that are called out
        self.is_foreseen = False
        self.follows: dict[str, int] | None = None

    # --- the lane's end -----------------------------------------------------------------------------

    def sends(self, frame: ServerFrame, moment: float) -> None:
        """The lane puts a frame on the wire at `moment`."""
        if (rough := self._client.rough) is not None:
            self.follows = None
            self.called += 1
            place = self.taken + len(self.inbox)
            rough.to_client.carry(self, moment, rough.size_of(frame), self._client.arrives, frame, self, place)
            return
        arrives = moment + self._delay_s
        if arrives < self.down_free:
            arrives = self.down_free
        self.down_free = arrives
        if (follows := self.follows) is not None:
            run = self._run_of(frame) if isinstance(frame, UpdateBatch) else None
            if _goes_on(run, follows) if run is not None else _says_nothing(frame, follows):
                self.inbox.append((arrives, frame, run))
                return
            if not isinstance(frame, HeartbeatPush):
                self.follows = None
        self.called += 1
        self._env.call_at(arrives, self._client.arrives, frame, self, self.taken + len(self.inbox))

    def lost(self, why: str) -> None:
        """The lane closes the connection now; the news takes a delay."""
        if (rough := self._client.rough) is not None:
            rough.to_client.close(self, self._env.now, self._client.is_lost, self, why)
            return
        self._env.call_at(max(self.down_free, self._env.now + self._delay_s), self._client.is_lost, self, why)

    # --- the client's end ---------------------------------------------------------------------------

    @property
    def may_be_foreseen(self) -> bool:
        """Whether nothing is on its way of which it is not known what it will do."""
        return self.follows is None and not self.called and not self.inbox

    def foresee(self, session: ClientSession) -> None:
        """Keep what follows in the inbox from now on, if the session does nothing but take it."""
        self.is_foreseen = session.__class__ is ClientSession and session.only_follows
        if self.is_foreseen:
            cursors = session.replica.cursors.values()
            self.follows = {c.topic: c.watermark for c in cursors if c.watermark is not None and c.watermark == c.checkpoint}

    def surprise(self, look: Callable[["Link"], None]) -> None:
        """Something happened to the client: call out what is on its way."""
        self.is_foreseen, self.follows = False, None
        for arrives in dict.fromkeys(arrives for arrives, _, _ in self.inbox):
            self._env.call_at(arrives, look, self)


def _goes_on(run: Run, follows: dict[str, int]) -> bool:
    """Whether a run goes on from where the client will stand; if so, it will stand behind it."""
    spans = run.spans
    if len(spans) == 1:
        topic, after, last, _ = spans[0]
        if follows.get(topic) != after:
            return False
        follows[topic] = last
        return True
    for topic, after, _, _ in spans:
        if follows.get(topic) != after:
            return False
    for topic, _, last, _ in spans:
        follows[topic] = last
    return True


def _says_nothing(frame: ServerFrame, follows: dict[str, int]) -> bool:
    """Whether a frame only shows that the lane is alive: its answer to a heartbeat, or heads that the client will stand at."""
    if isinstance(frame, Reply):
        return frame.channel == TRANSPORT_CHANNEL
    return isinstance(frame, HeartbeatPush) and all(follows.get(mark.topic) == mark.watermark for mark in frame.watermarks)


class IntactOnce:
    """Whether updates are what their hashes say, worked out once for each.

    Frames pass by reference, so that a thousand clients are handed one and the same update, which can never change. It is
    known by its identity alone, and held, so that no other object can have the same: whatever differs is looked at anew.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Update, bool]] = {}
        self._runs: dict[int, tuple[UpdateBatch, Run | None]] = {}

    def __call__(self, update: Update) -> bool:
        """Whether the payload is the one that the hash was made of."""
        known = self._known.get(id(update))
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[id(update)] = (update, is_intact(update))
        return known[1]

    def run_of(self, batch: UpdateBatch) -> Run | None:
        """See `sim.client.shared_frames`."""
        known = self._runs.get(id(batch))
        if known is None:
            if len(self._runs) >= _MAX_KNOWN:
                self._runs.clear()
            known = self._runs[id(batch)] = (batch, run_of(batch, self))
        return known[1]
