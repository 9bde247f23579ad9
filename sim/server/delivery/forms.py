"""Messages of the core in the form of a protocol that answers each stream by itself. Equal ones are the same object for all."""

from collections.abc import Sequence

import msgspec

from sim.protocols.events import Batch, CaughtUp, Event, Head, Item, Message, Position
from sim.protocols.habits import StreamHabits, as_delivered
from sim.server.delivery.connection import Connection
from sim.server.delivery.sessions import SessionStore
from sim.server.misbehaviours import seq_of
from sim.server.streams import Streams

_MAX_KNOWN = 4096


class Forms:
    """Converts what connections pull. `sessions` are those of a server whose join resumes."""

    def __init__(self, habits: StreamHabits, streams: Streams, sessions: SessionStore | None) -> None:
        self._habits = habits
        self._streams = streams
        self._sessions = sessions
        self._known: dict[int, tuple[Message, Message]] = {}  # by the id() of the message that each entry keeps

    def converted(self, message: Message, connection: Connection) -> Message:
        """Return a message with events as the connection gets it."""
        known = self._known.get(id(message))
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[id(message)] = message, self._convert(message)
        if self._sessions is None or connection.pending or connection.is_replaying:
            return known[1]
        return self._with_session(known[1], self._sessions.written(connection))

    def _with_session(self, message: Message, session: str) -> Message:
        """Return the message with the session in its last batch, as everything was sent."""
        last = max(place for place, event in enumerate(message) if isinstance(event, Batch))
        batch = msgspec.structs.replace(message[last], session=session)
        return (*message[:last], batch, *message[last + 1 :])

    def _convert(self, message: Message) -> Message:
        out: list[Event] = []
        for event in message:
            if isinstance(event, Batch):
                if event.items or event.after is not None or event.is_after_gap:
                    out.append(self._batch(event))
            elif not isinstance(event, Head | CaughtUp):
                out.append(event)
        return tuple(out)

    def _batch(self, batch: Batch) -> Batch:
        if batch.after is not None:
            return batch
        places = [self.position(batch.stream, seq_of(item)) for item in batch.items]
        if self._habits.items_have_positions:
            items = tuple(as_delivered(item, place) for item, place in zip(batch.items, places, strict=True))
            return Batch(batch.stream, items, is_after_gap=batch.is_after_gap)
        return Batch(batch.stream, tuple(as_delivered(item, None) for item in batch.items), places[-1])

    def whole(self, connection: Connection, topic: str, items: Sequence[Item]) -> Message:
        """Return a whole answer: events, the position after them, and that they are all there are."""
        delivered = tuple(as_delivered(item, None) for item in items)
        return (Batch(topic, delivered, self.position(topic, connection.positions[topic])), CaughtUp(topic))

    def position(self, topic: str, seq: int) -> Position:
        """Return the position of an event in the form that clients see."""
        number = seq if self._sessions is None or not seq else self._sessions.number_of(topic, seq)
        return self._habits.position(number, self._streams.epoch(topic))
