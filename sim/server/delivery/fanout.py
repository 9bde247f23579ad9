"""Fan-out: the events after each connection's positions, in messages that connections at the same position share.

One event goes to a thousand subscribers as the same object, so it is built once, and a socket server encodes it once.
Shared messages are valid until the topic's log or the switches change.
"""

from collections.abc import Iterable, Sequence

import msgspec

from sim.protocols.events import Activity, Batch, CaughtUp, Event, Hash, Head, Item, Message, Position, Repeated, Whose
from sim.server import misbehaviours
from sim.server.counters import Counters
from sim.server.delivery.connection import Connection
from sim.server.misbehaviours import seq_of
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_log import Entry
from sim.server.streams import Streams

FROM_OLDEST = -1  # the position of a subscription without a cursor, until its replay begins
NO_LIMIT = 2**63  # the position of a topic without a subscription: no event is pending
_MAX_KNOWN = 4096  # cached items of a topic; more than a default window retains
_Items = tuple[Item, ...]


class _Shared(msgspec.Struct, frozen=True):
    """A live message of one topic: its number of events, its last seq, and whether that is the topic's head."""

    message: Message
    count: int
    last: int
    is_at_head: bool


class Fanout:
    """Moves connections forward through the logs. Of a connection, it changes only the positions."""

    def __init__(self, settings: RuntimeSettings, streams: Streams, counters: Counters, switches: Switches) -> None:
        self._settings = settings
        self._streams = streams
        self._counters = counters
        self._switches = switches
        self._all_alike = misbehaviours.treats_alike(switches)
        self._built: dict[str, dict[int, Item]] = {}  # by topic and seq: each event is one object, in live messages and replays
        self._items: dict[str, dict[int, _Items]] = {}  # by topic and position
        self._live: dict[str, dict[int, _Shared]] = {}
        self._replays: dict[tuple[int, str, bool, tuple[Head, ...]], tuple[_Items, Message]] = {}
        self._joint: dict[tuple[tuple[str, int], ...], tuple[Message, int]] = {}  # by several topics with their positions
        self._repeated: dict[int, tuple[Message, Message]] = {}  # by the id() of the message that each entry keeps

    def set_switches(self, switches: Switches) -> None:
        """Apply these switches from now on."""
        self._switches = switches
        self._all_alike = misbehaviours.treats_alike(switches)
        self._items.clear()
        self._live.clear()
        self._replays.clear()
        self._joint.clear()

    def forget(self, topic: str) -> None:
        """Discard the shared messages of a topic whose log changed."""
        self._items.pop(topic, None)
        self._live.pop(topic, None)
        self._replays.clear()
        self._joint.clear()

    def forget_log(self, topic: str) -> None:
        """Discard everything about a topic whose log was created again: its positions now belong to other events."""
        self._built.pop(topic, None)
        self.forget(topic)

    def is_current(self, connection: Connection, topic: str) -> bool:
        """Whether the connection has all events of the topic up to its head."""
        return connection.positions.get(topic, NO_LIMIT) >= self._streams.head(topic)

    def has_fallen_off(self, connection: Connection, topic: str) -> bool:
        """Whether the window no longer retains the connection's next event."""
        log, position = self._streams.logs.get(topic), connection.positions.get(topic)
        if log is None or position is None or position == FROM_OLDEST:
            return False
        return position < log.oldest - 1 and "no_stale_signal" not in self._switches.defects

    def heads(self, topics: Iterable[str]) -> tuple[Head, ...]:
        """Return the last positions of these topics."""
        return tuple(Head(topic, Position(self._streams.head(topic))) for topic in topics)

    def positions(self, connection: Connection, topics: Iterable[str]) -> tuple[Head, ...]:
        """Return the positions up to which the connection was sent these topics."""
        places = ((topic, connection.positions.get(topic)) for topic in topics)
        return tuple(Head(topic, Position(max(at, 0)), Whose.SOCKET) for topic, at in places if at is not None)

    def beat(self, connection: Connection, whose: Whose) -> Message:
        """Return a heartbeat: the heads of the connection's streams, or its own positions."""
        topics = connection.positions
        return (self.positions(connection, topics) if whose is Whose.SOCKET else self.heads(topics)) or (Activity(),)

    def newest(self, topic: str) -> Message:
        """Return the newest event of a topic as a live message."""
        log = self._streams.logs[topic]
        return (Batch(topic, tuple(as_item(entry) for entry in log.after(log.head - 1, 1))), CaughtUp())

    def repeated(self, message: Message) -> Message:
        """Return a message in its second form: the same object for all that get the same."""
        known = self._repeated.get(id(message))
        if known is None:
            if len(self._repeated) >= _MAX_KNOWN:
                self._repeated.clear()
            known = self._repeated[id(message)] = (message, (Repeated(message),))
        return known[1]

    def last_message(self, connection: Connection) -> tuple[Message, int] | None:
        """Return the message with all pending events, and their number, if only one topic is pending and it was built before.
        Then moves the connection on."""
        if len(connection.pending) != 1 or not (self._all_alike or self._may_share(connection)):
            return None
        (topic,) = connection.pending
        live = self._live.get(topic)
        shared = live.get(connection.positions.get(topic, NO_LIMIT)) if live else None
        if shared is None or not shared.is_at_head:
            return None
        connection.positions[topic] = shared.last
        return shared.message, shared.count

    def live_message(self, connection: Connection, topics: Sequence[str]) -> tuple[Message, int]:
        """Return a message with the next events of these topics, and their number; moves the connection on."""
        if len(topics) != 1:
            return self._joint_message(connection, topics)
        (topic,) = topics
        position = connection.positions.get(topic, NO_LIMIT)
        shared = self._live.setdefault(topic, {}).get(position)
        if shared is not None and self._may_share(connection):
            connection.positions[topic] = shared.last
            return shared.message, shared.count
        items = self._live_items(connection, topic)
        message: Message = (Batch(topic, items), *self.heads(topics), CaughtUp())
        if items and self._may_share(connection):
            last = seq_of(items[-1])
            self._live[topic][position] = _Shared(message, len(items), last, last >= self._streams.head(topic))
        return message, len(items)

    def _joint_message(self, connection: Connection, topics: Sequence[str]) -> tuple[Message, int]:
        places = tuple((topic, connection.positions.get(topic, NO_LIMIT)) for topic in topics)
        known = self._joint.get(places)
        if known is not None and self._may_share(connection):
            for event in known[0]:
                if isinstance(event, Batch):
                    connection.positions[event.stream] = seq_of(event.items[-1])
            return known
        batches = [Batch(topic, items) for topic in topics if (items := self._live_items(connection, topic))]
        found: tuple[Message, int] = (
            (*batches, *self.heads(topics), CaughtUp()),
            sum(len(batch.items) for batch in batches),
        )
        if batches and self._may_share(connection):
            self._joint[places] = found
        return found

    def _live_items(self, connection: Connection, topic: str) -> _Items:
        """Return the next events of the topic, at most one batch; moves the connection on."""
        position = connection.positions.get(topic, NO_LIMIT)
        if shared := self._shared_items(connection, topic):
            return shared
        items = self._as_items(topic, self._take(connection, topic, self._settings.replay_batch_size, live=True))
        if self._switches.defects:
            items = misbehaviours.disfigure(self._switches, connection.client_key, topic, items, False, self._streams.hash_of)
        self._share_items(connection, topic, position, items)
        return items

    def replay(self, connection: Connection, topic: str, limit: int) -> _Items:
        """Return up to `limit` events of a replay; moves the connection on. Replays from one position share an object."""
        if self._switches.defects:
            items = self._as_items(topic, self._take(connection, topic, limit, live=False))
            return misbehaviours.disfigure(self._switches, connection.client_key, topic, items, True, self._streams.hash_of)
        is_usual = limit == self._settings.replay_batch_size
        if is_usual and (shared := self._shared_items(connection, topic)):
            return shared
        position = connection.positions.get(topic, NO_LIMIT)
        items = self._as_items(topic, self._take(connection, topic, limit, live=False))
        if is_usual:
            self._share_items(connection, topic, position, items)
        return items

    def replay_message(self, topic: str, items: _Items, complete: bool, heads: tuple[Head, ...]) -> Message:
        """Return a replay's message: the same object for all that get the same events."""
        key = (id(items), topic, complete, heads)  # the entry keeps its items, so their id() stays unique
        known = self._replays.get(key)
        if known is None:
            end: tuple[Event, ...] = (CaughtUp(),) if complete else ()
            known = self._replays[key] = (items, (Batch(topic, items), *heads, *end))
        return known[1]

    def _shared_items(self, connection: Connection, topic: str) -> _Items:
        """Return the cached events after this position, or nothing; moves the connection on."""
        shared = self._items.setdefault(topic, {}).get(connection.positions.get(topic, NO_LIMIT), ())
        if not shared or not self._may_share(connection):
            return ()
        connection.positions[topic] = seq_of(shared[-1])
        return shared

    def _share_items(self, connection: Connection, topic: str, position: int, items: _Items) -> None:
        if items and self._may_share(connection):
            self._items[topic][position] = items

    def _as_items(self, topic: str, entries: Sequence[Entry]) -> _Items:
        built = self._built.setdefault(topic, {})
        if len(built) > _MAX_KNOWN:
            built.clear()
        return tuple(_known(built, entry) for entry in entries)

    def _may_share(self, connection: Connection) -> bool:
        if self._all_alike:
            return True
        key = connection.client_key
        return not misbehaviours.may_skip(self._switches, key) and not misbehaviours.has_own_version(self._switches, key)

    def _take(self, connection: Connection, topic: str, limit: int, *, live: bool) -> list[Entry]:
        log, position = self._streams.logs.get(topic), connection.positions.get(topic)
        if position == FROM_OLDEST:
            position = connection.positions[topic] = log.oldest - 1 if log else 0
        if log is None or position is None:
            return []
        entries = log.after(position, limit)
        if not entries:
            return []
        connection.positions[topic] = entries[-1].seq
        if not misbehaviours.may_skip(self._switches, connection.client_key):
            return entries
        kept = misbehaviours.keep_unskipped(self._switches, connection.client_key, entries, live)
        if len(kept) < len(entries):
            self._counters.act("skip_deliveries", len(entries) - len(kept))
        return kept


def as_item(entry: Entry) -> Item:
    """Convert a log entry to the form in which it is delivered."""
    return Item(Position(entry.seq), msgspec.Raw(entry.payload), entry.payload_hash, Hash.OK)


def as_singles(message: Message, batches: Sequence[Batch]) -> list[Message]:
    """Return a message's events as one message each, and the rest of the message as the last."""
    rest = tuple(event for event in message if not isinstance(event, Batch))
    singles: list[Message] = [(Batch(batch.stream, (item,), is_single=True),) for batch in batches for item in batch.items]
    return [*singles, (Batch(batches[-1].stream, ()), *rest)]


def _known(built: dict[int, Item], entry: Entry) -> Item:
    """Return the cached item of an entry. A truncated log may have another entry with the same seq."""
    item = built.get(entry.seq)
    if item is None or item.payload_hash is not entry.payload_hash:
        item = built[entry.seq] = as_item(entry)
    return item


class Readers:
    """All subscriptions of a runtime's connections. Those with undelivered events are checked every `tick_s` seconds."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._tick_at = 0.0
        self._of_topic: dict[str, dict[int, Connection]] = {}
        self.behind: dict[int, Connection] = {}  # connections with undelivered events

    def add(self, connection: Connection, topic: str, position: int) -> None:
        """Subscribe the connection to the topic, after this position."""
        connection.positions[topic] = position
        self._of_topic.setdefault(topic, {})[connection.number] = connection

    def remove(self, connection: Connection, topic: str) -> None:
        """Unsubscribe the connection from the topic."""
        connection.positions.pop(topic, None)
        connection.pending.pop(topic, None)
        self._of_topic.get(topic, {}).pop(connection.number, None)
        if not connection.pending:
            self.behind.pop(connection.number, None)

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection."""
        for topic in connection.positions:
            self._of_topic.get(topic, {}).pop(connection.number, None)
        self.behind.pop(connection.number, None)

    def announce(self, topic: str, now: float) -> dict[int, Connection]:
        """Mark the topic as pending for all its readers; returns them by their numbers."""
        if not self.behind:
            self._tick_at = now + self._tick_s  # readers get that long before the first check
        readers = self._of_topic.get(topic, {})
        for connection in readers.values():
            connection.pending[topic] = None
        self.behind.update(readers)
        return readers

    def got_everything(self, connection: Connection) -> None:
        """Record that the connection has no pending events, so it is not slow."""
        connection.strikes = 0
        self.behind.pop(connection.number, None)

    def tick_at(self) -> float:
        """When to check connections with undelivered events next; infinity without any."""
        return self._tick_at if self.behind else float("inf")

    def due(self, now: float) -> list[Connection]:
        """Return the connections to check now."""
        if not self.behind or now < self._tick_at:
            return []
        self._tick_at = now + self._tick_s
        return list(self.behind.values())
