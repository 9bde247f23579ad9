"""What network faults make of one simulated client's link: bytes later, fewer at once, held, or never.

A client has a `RoughLink` only while some fault concerns it, so that a link with nothing wrong costs one look at an
attribute. Messages count by the length of their JSON. What an edge would have to keep, since nobody takes it, fills the
buffers between runtime and client; once they are full the service puts nothing more on the wire, and its queue fills.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from sim.base.randomness import draw
from sim.drill.fault_schedule import CALM, LinkConditions, Way
from sim.engines.virtual.clock import VirtualClock
from sim.protocols.events import Message
from sim.protocols.intents import Intent, Raw
from sim.protocols.spacetime import server
from sim.protocols.spacetime.adapter import frame_of
from sim.protocols.spacetime.codec import encode_client
from sim.protocols.spacetime.frames import JOIN_REF


class Connection(Protocol):
    """One connection, as a link's ways see it."""

    number: int
    up_free: float
    down_free: float


class Line(Protocol):
    """The service's side: whom it may send to."""

    def hold(self, number: int) -> None:
        """Send nothing more to this connection: the way to it is full."""

    def release(self, number: int) -> None:
        """There is room again."""


_MAX_KNOWN = 10_000  # recent messages, whose lengths need not be worked out again
Carried = tuple[Connection, float, Callable[..., None], tuple[object, ...], bool]
"""What is on its way: over which connection, how many bytes, what to call on arrival, and whether it is a connection's end."""


def intent_bytes(intent: Intent) -> int:
    """The length of an intent on the wire."""
    return len(intent.data if isinstance(intent, Raw) else encode_client(frame_of(intent)))


class MessageSizes:
    """The length of messages' JSON, worked out once for a message that many are sent.

    It is known by its identity alone, and held, so that no other object can have the same.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Message, int]] = {}

    def __call__(self, message: Message) -> int:
        """In bytes."""
        known = self._known.get(id(message))
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[id(message)] = (message, len(server.write(message, JOIN_REF)))
        return known[1]


class RoughLink:
    """Both ways of one link. `acted` counts by what was done: slowed, stalled, unread, refused, cut, closed_late.

    `reset` is called with a connection that is cut; `size_of` says how long a message is.
    """

    def __init__(
        self,
        clock: VirtualClock,
        service: Line,
        client: int,
        seed: int,
        delay_s: float,
        buffer_bytes: float,
        reset: Callable[[Connection], None],
        size_of: Callable[[Message], int],
    ) -> None:
        self.acted: Counter[str] = Counter()
        self.size_of = size_of
        self.refuses = False
        self.is_calm = True

        def way(name: str, line: Line | None) -> RoughWay:
            chance = Chance(seed, f"jitter:{name}", client)
            return RoughWay(clock, line, chance, delay_s, buffer_bytes, self.acted, reset)

        self.to_runtime, self.to_client = way("to_runtime", None), way("to_client", service)

    def change(self, conditions: LinkConditions, *, reads: bool) -> None:
        """Be like that from now on; what is no longer held goes on its way."""
        self.refuses = conditions.refuses
        self.to_runtime.change(conditions.to_runtime, reads=True)
        self.to_client.change(conditions.to_client, reads=reads)
        self.is_calm = conditions == CALM and reads

    def is_refused(self) -> bool:
        """Whether a connect is refused now; counted."""
        self.acted["refused"] += self.refuses
        return self.refuses


class Chance:
    """A client's own draws for one way of its link, one after the other."""

    def __init__(self, seed: int, purpose: str, client: int) -> None:
        self._key = (seed, purpose, client)
        self._drawn = 0

    def next(self) -> float:
        """A uniform number in [0, 1)."""
        self._drawn += 1
        return draw(*self._key, self._drawn)


class RoughWay:
    """One direction. `line` is None for the one towards the runtime, in which clients send too little to fill anything."""

    def __init__(
        self,
        clock: VirtualClock,
        line: Line | None,
        chance: Chance,
        delay_s: float,
        buffer_bytes: float,
        acted: Counter[str],
        reset: Callable[[Connection], None],
    ) -> None:
        self._clock = clock
        self._line = line
        self._chance = chance
        self._delay_s = delay_s
        self._buffer_bytes = buffer_bytes
        self._acted = acted
        self._reset = reset
        self._way, self._reads = Way(), True
        self._held: deque[Carried] = deque()
        self._held_bytes = 0.0
        self._free_at = 0.0  # when the bytes put on a narrow way so far are through
        self._passed: dict[Connection, float] = {}  # bytes of each connection since the fault began that counts them

    def change(self, way: Way, *, reads: bool) -> None:
        """Be like that from now on."""
        if way.cut_after_bytes != self._way.cut_after_bytes:
            self._passed.clear()
        self._way, self._reads = way, reads
        if not self._is_shut:
            held, self._held, self._held_bytes = self._held, deque(), 0.0
            for each in held:
                self._pass(self._clock.now, each)
            for connection in dict.fromkeys(each[0] for each in held):
                self._let_go(connection)

    @property
    def _is_shut(self) -> bool:
        return self._way.stalled or not self._reads

    def carry(self, connection: Connection, moment: float, size: float, do: Callable[..., None], *arguments: object) -> None:
        """Put bytes on the way at `moment`; `do(*arguments)` when they arrive."""
        self._put(moment, (connection, size, do, arguments, False))

    def close(self, connection: Connection, moment: float, do: Callable[..., None], *arguments: object) -> None:
        """The sender closes the connection at `moment`, which the other side learns behind all bytes."""
        self._put(moment, (connection, 0.0, do, arguments, True))

    def _put(self, moment: float, carried: Carried) -> None:
        if not self._is_shut:
            self._pass(moment, carried)
            return
        self._acted["stalled" if self._way.stalled else "unread"] += 1
        self._held.append(carried)
        self._held_bytes += carried[1]
        if self._line is not None and self._held_bytes > self._buffer_bytes:
            self._line.hold(carried[0].number)

    def _pass(self, moment: float, carried: Carried) -> None:
        connection, size, do, arguments, is_end = carried
        way = self._way
        if self._is_cut(connection, size):
            return
        departs = moment
        if way.bytes_per_s < math.inf:
            departs = self._free_at = max(moment, self._free_at) + size / way.bytes_per_s
            self._hold_back(connection)
        arrives = departs + self._delay_s + way.latency_s
        if way.jitter_s:
            arrives += way.jitter_s * self._chance.next()
        self._acted["slowed"] += arrives > moment + self._delay_s
        arrives = self._in_order(connection, arrives)
        if is_end and way.close_delay_s:
            self._acted["closed_late"] += 1
            arrives += way.close_delay_s
        self._clock.call_at(arrives, do, *arguments)

    def _is_cut(self, connection: Connection, size: float) -> bool:
        """Whether these bytes are one too many, for which the connection is cut."""
        if self._way.cut_after_bytes == math.inf:
            return False
        passed = self._passed[connection] = self._passed.get(connection, 0.0) + size
        if passed <= self._way.cut_after_bytes:
            return False
        if passed < math.inf:
            self._passed[connection] = math.inf
            self._acted["cut"] += 1
            self._reset(connection)
        return True

    def _in_order(self, connection: Connection, arrives: float) -> float:
        """Not before what was put on the way before."""
        if self._line is None:
            arrives = connection.up_free = max(arrives, connection.up_free)
        else:
            arrives = connection.down_free = max(arrives, connection.down_free)
        return arrives

    def _hold_back(self, connection: Connection) -> None:
        """A narrow way is full while more is on it than the buffers hold."""
        fits_s = self._buffer_bytes / self._way.bytes_per_s
        if self._line is not None and self._free_at - fits_s > self._clock.now:
            self._line.hold(connection.number)
            self._clock.call_at(self._free_at - fits_s, self._let_go, connection)

    def _let_go(self, connection: Connection) -> None:
        if self._line is not None and not self._is_shut:
            self._line.release(connection.number)
