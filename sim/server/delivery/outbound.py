"""What a runtime sends: the next message of each connection, from its outbox, its replays and the live tail.

Messages that were not pulled yet are the outbound queue. A replay is read from the log batch by batch as it is pulled, so
a connection needs no memory for events that it has not got yet.
"""

from sim.protocols.events import Batch, Event, Item, Message, Resumed
from sim.protocols.profile import ServerProfile
from sim.server.counters import Counters
from sim.server.delivery.connection import Connection, Replay
from sim.server.delivery.disorder import Disorder
from sim.server.delivery.fanout import Fanout, Readers, as_singles
from sim.server.settings import RuntimeSettings, Switches
from sim.server.streams import Streams, answering


class Outbound:
    """The messages to all connections of a runtime, which fills their outboxes."""

    def __init__(self, settings: RuntimeSettings, profile: ServerProfile, switches: Switches) -> None:
        self.settings = settings
        self.profile = profile
        self.switches = switches
        self.counters = Counters()
        self.streams = Streams(settings, profile)
        self._fanout = Fanout(settings, self.streams, self.counters, switches)
        self._disorder = Disorder(self.counters, profile, switches)
        self._connections: dict[int, Connection] = {}
        self._readers = Readers(settings.slow_consumer_tick_s)
        self._ready: set[int] = set()

    def _send(self, connection: Connection, *message: Event) -> None:
        connection.outbox.append(message)
        self._ready.add(connection.number)

    def ready(self) -> set[int]:
        """Return the connections that got something to pull since the last call."""
        out, self._ready = self._ready, set()
        return out

    def pull(self, number: int, now: float) -> Message | None:
        """Return the next message for this connection, or None if nothing is due."""
        connection = self._connections.get(number)
        if connection is None:
            return None
        self.counters.polls += 1
        if usual := self._usual_message(connection):
            return usual
        while True:
            if connection.outbox:
                item = connection.outbox[0]
                if isinstance(item, Replay):
                    if replayed := self._replay_batch(connection, item, now):
                        return self._deliver(connection, replayed)
                    continue
                connection.outbox.popleft()
                return item
            if not connection.pending:
                return None
            message, count = self._live_batch(connection, now)
            if count and not self._disorder.is_idle:
                message = self._disorder.disturb(connection, message, now)
                count = sum(len(event.items) for event in message if isinstance(event, Batch))
                if message and not count:
                    return message  # a malformed frame
            if count:
                return self._deliver(connection, message)

    def owes(self, number: int) -> bool:
        """Whether the connection has something to pull now."""
        connection = self._connections.get(number)
        return connection is not None and bool(connection.outbox or connection.pending)

    def waiting(self, number: int) -> int:
        """Return the number of queued messages of the connection; events after its positions do not count."""
        connection = self._connections.get(number)
        return 0 if connection is None else len(connection.outbox)

    def _replay_batch(self, connection: Connection, replay: Replay, now: float) -> Message | None:
        """Return the replay's next batch; queues the answer after the last one. None: it is stale, so it is refused."""
        items: tuple[Item, ...] = ()
        topic = ""
        while replay.next_topic < len(replay.topics) and not items:
            topic = replay.topics[replay.next_topic]
            if stale := self._fall_off(connection, topic, now):
                connection.outbox.popleft()
                connection.outbox.extendleft((answering(stale, replay.ref), stale))
                return None
            items = self._fanout.replay(connection, topic, replay.batch_size)
            if self._fanout.is_current(connection, topic):
                replay.next_topic += 1
        complete = all(self._fanout.is_current(connection, rest) for rest in replay.topics[replay.next_topic :])
        if complete:
            heads = self._fanout.positions(connection, replay.topics) if self.profile.reply_has_heads else ()
            connection.outbox[0] = (Resumed(replay.ref, subscription=f"sub-{connection.number}"), *heads)
            if not items and not self.profile.replays_nothing:
                return None
        heads = self._fanout.heads(replay.topics if complete else [topic])
        return self._fanout.replay_message(topic, items, complete, heads)

    def _usual_message(self, connection: Connection) -> Message | None:
        """Return the message with everything that is pending, if it was built for another connection and is sent unchanged."""
        if connection.outbox or self.settings.sync_frames or self.profile.has_second_form or not self._disorder.is_idle:
            return None
        found = self._fanout.last_message(connection)
        if found is None:
            return None
        connection.pending.clear()
        connection.strikes = 0
        self._readers.behind.pop(connection.number, None)  # `got_everything` without a call: most messages come here
        self.counters.served += found[1]
        return found[0]

    def _live_batch(self, connection: Connection, now: float) -> tuple[Message, int]:
        """Return events of up to `topics_per_drain` topics. These then go to the back, so no busy topic starves another."""
        served = list(connection.pending)[: self.settings.topics_per_drain]
        there = [topic for topic in served if not self._fell_off(connection, topic, now)]
        message, count = self._fanout.live_message(connection, there) if there else ((), 0)
        for topic in served:
            connection.pending.pop(topic, None)
            if not self._fanout.is_current(connection, topic):
                connection.pending[topic] = None
        if not connection.pending:
            self._readers.got_everything(connection)
        return message, count

    def _fell_off(self, connection: Connection, topic: str, now: float) -> bool:
        """Whether the window no longer retains this connection's next live event; if so, queue a stale signal."""
        stale = self._fall_off(connection, topic, now)
        if stale:
            connection.outbox.append(stale)
        return bool(stale)

    def _fall_off(self, connection: Connection, topic: str, now: float) -> Message:
        """Unsubscribe a connection whose next event is no longer retained, and return its stale signal; otherwise empty."""
        if not self._fanout.has_fallen_off(connection, topic):
            return ()
        position = connection.positions[topic]
        self._readers.remove(connection, topic)
        self.counters.stale_cursors += 1
        return self.streams.fell_off(topic, position, self.switches, now)

    def _deliver(self, connection: Connection, message: Message) -> Message:
        batches = [event for event in message if isinstance(event, Batch) and event.items]
        self.counters.served += sum(len(batch.items) for batch in batches)
        if self.profile.has_second_form and batches:
            connection.outbox.appendleft(self._fanout.repeated(message))
        if not self.settings.sync_frames or not batches:
            return message
        first, *rest = as_singles(message, batches)
        connection.outbox.extendleft(reversed(rest))
        return first
