"""Sessions that a join resumes, of clients that a server lost, and one series of numbers for the events of all streams."""

import math
from bisect import bisect_right
from typing import NamedTuple

from sim.protocols.habits import Sessions
from sim.server.delivery.connection import Connection
from sim.server.stream_log import StreamLog


class _Lost(NamedTuple):
    """The session of a client that was lost: its streams, and until when it is kept."""

    topics: tuple[str, ...]
    until: float


class Resumed(NamedTuple):
    """A session that goes on: its name, and after which event of each stream."""

    name: str
    after: dict[str, int]


class SessionStore:
    """The sessions of one process. A lost session stays known after it was resumed, so it may be resumed twice."""

    def __init__(self, habits: Sessions) -> None:
        self._habits = habits
        self._made = 0
        self._lost: dict[str, _Lost] = {}
        self._numbers: dict[str, list[int]] = {}  # by stream: of each event
        self._times: list[float] = []  # by number, from 1

    def new(self) -> str:
        """Return the name of a new session."""
        self._made += 1
        return f"session-{self._made}"

    def number(self, topic: str, log: StreamLog, now: float) -> None:
        """Give numbers to the events of a stream that have none."""
        numbers = self._numbers.setdefault(topic, [])
        while len(numbers) < log.head:
            self._times.append(now)
            numbers.append(len(self._times))

    def number_of(self, topic: str, seq: int) -> int:
        """Return the number of an event."""
        return self._numbers[topic][seq - 1]

    def written(self, connection: Connection) -> str:
        """Return the session of a connection as its client gets it, with all that was sent to it."""
        sent = (self.number_of(topic, seq) for topic, seq in connection.positions.items() if seq > 0)
        return self._habits.write(connection.session, max(sent, default=0))

    def keep(self, connection: Connection, now: float) -> None:
        """Keep the session of a lost client."""
        self._lost[connection.session] = _Lost(tuple(connection.positions), now + self._habits.window_s)

    def resume(self, text: str, now: float) -> Resumed | None:
        """Return the session that a join names; None if it is not known, or its last event is too old."""
        name, number = self._habits.read(text)
        lost = self._lost.get(name)
        sent_at = self._times[number - 1] if 0 < number <= len(self._times) else -math.inf
        if lost is None or now > lost.until or now > sent_at + self._habits.window_s:
            return None
        return Resumed(name, {topic: bisect_right(self._numbers.get(topic, []), number) for topic in lost.topics})
