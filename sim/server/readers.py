"""Who reads which topic, and whom events of it wait for: those are looked at now and then, as they may be slow."""

from sim.server.connection import Connection


class Readers:
    """All subscriptions of a runtime's connections. `tick_s` is how often those with undelivered events are looked at."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._tick_at = 0.0
        self._of_topic: dict[str, dict[int, Connection]] = {}
        self.behind: dict[int, Connection] = {}  # with undelivered events

    def add(self, connection: Connection, topic: str, position: int) -> None:
        """The connection reads the topic, from after this position on."""
        connection.positions[topic] = position
        self._of_topic.setdefault(topic, {})[connection.number] = connection

    def remove(self, connection: Connection, topic: str) -> None:
        """The connection reads the topic no more."""
        connection.positions.pop(topic, None)
        connection.pending.pop(topic, None)
        self._of_topic.get(topic, {}).pop(connection.number, None)
        if not connection.pending:
            self.behind.pop(connection.number, None)

    def forget(self, connection: Connection) -> None:
        """Its socket is gone."""
        for topic in connection.positions:
            self._of_topic.get(topic, {}).pop(connection.number, None)
        self.behind.pop(connection.number, None)

    def announce(self, topic: str, now: float) -> dict[int, Connection]:
        """There are new events for all who read the topic; returns those, by their numbers."""
        if not self.behind:
            self._tick_at = now + self._tick_s  # readers get that long before the first look
        readers = self._of_topic.get(topic, {})
        for connection in readers.values():
            connection.pending[topic] = None
        self.behind.update(readers)
        return readers

    def got_everything(self, connection: Connection) -> None:
        """Nothing more waits for it, so it is not slow."""
        connection.strikes = 0
        self.behind.pop(connection.number, None)

    def tick_at(self) -> float:
        """When to look next at who has undelivered events; infinity: nobody has."""
        return self._tick_at if self.behind else float("inf")

    def due(self, now: float) -> list[Connection]:
        """Whom to look at now."""
        if not self.behind or now < self._tick_at:
            return []
        self._tick_at = now + self._tick_s
        return list(self.behind.values())
