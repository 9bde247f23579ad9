"""One simulated client's link under network faults: bytes arrive later, at a lower rate, are held, or never arrive.

A client has a `RoughLink` only while a fault concerns it, so that a healthy link costs one attribute check. The size of a
message is the length of its JSON. Bytes that the receiver does not take fill the buffers between runtime and client. When these
are full, the service puts nothing more on the wire, and its queue fills.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from sim.base.randomness import draw
from sim.drill.fault_schedule import CALM, LinkConditions, Way
from sim.engines.virtual.clock import VirtualClock
from sim.protocols.events import Message
from sim.protocols.profile import ServerForms


class Connection(Protocol):
    """One connection, as both directions of a link see it."""

    number: int
    up_free: float
    down_free: float


class Line(Protocol):
    """The service, which can stop and resume sending to a connection."""

    def hold(self, number: int) -> None:
        """Stop sending to this connection: its link is full."""

    def release(self, number: int) -> None:
        """Resume sending to this connection: its link has room again."""


_MAX_KNOWN = 10_000  # entries in the cache of recent messages' lengths
Carried = tuple[Connection, float, Callable[..., None], tuple[object, ...], bool]
"""Data in flight: its connection, its bytes, the call on arrival with its arguments, and whether it ends the connection."""


class MessageSizes:
    """Lengths on the wire, in bytes. That of a message is computed once, as it is sent to many clients.

    The key is a message's `id`. The cache holds the message, so that no other object can have the same `id`.
    """

    def __init__(self, forms: ServerForms) -> None:
        self.of_intent = forms.intent_bytes
        self._of_message = forms.message_bytes
        self._known: dict[int, tuple[Message, int]] = {}

    def __call__(self, message: Message) -> int:
        """Return the length of a message."""
        known = self._known.get(id(message))
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[id(message)] = (message, self._of_message(message))
        return known[1]


class RoughLink:
    """Both directions of one link. `acted` counts effects by name: slowed, stalled, unread, refused, cut, closed_late.

    `reset` is called with a connection that is cut.
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
        size_of: MessageSizes,
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
        """Apply these conditions from now on; send what is no longer held."""
        self.refuses = conditions.refuses
        self.to_runtime.change(conditions.to_runtime, reads=True)
        self.to_client.change(conditions.to_client, reads=reads)
        self.is_calm = conditions == CALM and reads

    def is_refused(self) -> bool:
        """Return whether a connect is refused now, and count the refusal."""
        self.acted["refused"] += self.refuses
        return self.refuses


class Chance:
    """A client's own sequence of random draws for one direction of its link."""

    def __init__(self, seed: int, purpose: str, client: int) -> None:
        self._key = (seed, purpose, client)
        self._drawn = 0

    def next(self) -> float:
        """Return the next uniform number in [0, 1)."""
        self._drawn += 1
        return draw(*self._key, self._drawn)


class RoughWay:
    """One direction of a link. `line` is None towards the runtime: clients send too little to fill the buffers."""

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
        self._free_at = 0.0  # when all bytes so far have passed the rate limit
        self._limited: deque[tuple[float, Carried]] = deque()  # put on the link, but not yet past the rate limit
        self._changes = 0  # so that what was scheduled under earlier conditions does not happen
        self._passed: dict[Connection, float] = {}  # bytes by connection since the start of the fault that counts them

    def change(self, way: Way, *, reads: bool) -> None:
        """Apply these conditions from now on; send what is no longer held."""
        if way.cut_after_bytes != self._way.cut_after_bytes:
            self._passed.clear()
        self._way, self._reads = way, reads
        now, limited, self._limited = self._clock.now, self._limited, deque()
        self._free_at, self._changes = min(self._free_at, now), self._changes + 1
        if self._is_shut:
            self._held.extendleft(each for _, each in reversed(limited))
            self._held_bytes += sum(each[1] for _, each in limited)
            return
        held, self._held, self._held_bytes = self._held, deque(), 0.0
        for moment, each in limited:
            self._send(max(moment, now), each)
        for each in held:
            self._pass(now, each)
        for connection in dict.fromkeys(each[0] for each in (*(each for _, each in limited), *held)):
            self._let_go(connection)

    @property
    def _is_shut(self) -> bool:
        return self._way.stalled or not self._reads

    def carry(self, connection: Connection, moment: float, size: float, do: Callable[..., None], *arguments: object) -> None:
        """Put bytes on the link at `moment`; call `do(*arguments)` when they arrive."""
        self._put(moment, (connection, size, do, arguments, False))

    def close(self, connection: Connection, moment: float, do: Callable[..., None], *arguments: object) -> None:
        """Close the connection from the sender's side at `moment`; the other side learns this after all bytes."""
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
        if not self._is_cut(carried[0], carried[1]):
            self._send(moment, carried)

    def _send(self, moment: float, carried: Carried) -> None:
        """Send bytes at `moment`, or when the rate limit lets them pass."""
        if self._way.bytes_per_s == math.inf:
            self._depart(moment, moment, carried)
            return
        self._free_at = max(moment, self._free_at) + carried[1] / self._way.bytes_per_s
        self._limited.append((moment, carried))
        self._clock.call_at(self._free_at, self._let_pass, self._changes)
        self._hold_back(carried[0])

    def _let_pass(self, changes: int) -> None:
        """Send the next bytes that the rate limit held, unless the conditions changed in the meantime."""
        if changes == self._changes:
            moment, carried = self._limited.popleft()
            self._depart(moment, self._clock.now, carried)

    def _depart(self, moment: float, departs: float, carried: Carried) -> None:
        """Let bytes arrive that were put on the link at `moment` and leave it at `departs`."""
        connection, _, do, arguments, is_end = carried
        way = self._way
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
        """Return whether these bytes exceed the limit; cut the connection the first time that they do."""
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
        """Return the moment of arrival, but not before that of earlier bytes."""
        if self._line is None:
            arrives = connection.up_free = max(arrives, connection.up_free)
        else:
            arrives = connection.down_free = max(arrives, connection.down_free)
        return arrives

    def _hold_back(self, connection: Connection) -> None:
        """Stop sending to a connection while a rate-limited link carries more bytes than the buffers hold."""
        fits_s = self._buffer_bytes / self._way.bytes_per_s
        if self._line is not None and self._free_at - fits_s > self._clock.now:
            self._line.hold(connection.number)
            self._clock.call_at(self._free_at - fits_s, self._let_go, connection)

    def _let_go(self, connection: Connection) -> None:
        if self._line is not None and not self._is_shut:
            self._line.release(connection.number)
