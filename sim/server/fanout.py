"""What connections are sent of the logs: the events after their positions, as frames that those at one position share.

One event goes to a thousand subscribers as one and the same object, so it is built, and by an edge encoded,
once. Shared frames hold until the topic's log or the switches change.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec

from sim.protocols.spacetime.frames import Update, UpdateBatch, Watermark
from sim.server import misbehaviours
from sim.server.connection import Connection
from sim.server.counters import Counters
from sim.server.retained import Streams
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_log import Entry

FROM_OLDEST = -1  # the position of a subscription without a cursor, until its replay begins
NO_LIMIT = 2**63  # the position of a topic that is not subscribed to: nothing is owed
_MAX_KNOWN = 4096  # events of a topic whose updates are kept; more than any window of late


class Fanout:
    """Moves connections forward through the logs. It changes nothing of a connection but its positions."""

    def __init__(self, settings: RuntimeSettings, streams: Streams, counters: Counters, switches: Switches) -> None:
        self._settings = settings
        self._streams = streams
        self._counters = counters
        self._switches = switches
        self._all_alike = misbehaviours.treats_alike(switches)
        self._built: dict[str, dict[int, Update]] = {}  # by topic and seq: an event is one object, wherever it is sent from
        self._updates: dict[str, dict[int, tuple[Update, ...]]] = {}  # by topic and position
        self._frames: dict[str, dict[int, UpdateBatch]] = {}
        self._replay_frames: dict[tuple[int, bool, tuple[Watermark, ...]], UpdateBatch] = {}
        self._joint_frames: dict[tuple[tuple[str, int], ...], UpdateBatch] = {}  # of several topics and positions

    def set_switches(self, switches: Switches) -> None:
        """Misdeliver, or no longer, from now on."""
        self._switches = switches
        self._all_alike = misbehaviours.treats_alike(switches)
        self._updates.clear()
        self._frames.clear()
        self._replay_frames.clear()
        self._joint_frames.clear()

    def forget(self, topic: str) -> None:
        """The topic's log has changed."""
        self._updates.pop(topic, None)
        self._frames.pop(topic, None)
        self._replay_frames.clear()
        self._joint_frames.clear()

    def is_current(self, connection: Connection, topic: str) -> bool:
        """Whether nothing more of the topic is owed for now."""
        return connection.positions.get(topic, NO_LIMIT) >= self._streams.head(topic)

    def has_fallen_off(self, connection: Connection, topic: str) -> bool:
        """Whether the window no longer holds the connection's next event."""
        log, position = self._streams.logs.get(topic), connection.positions.get(topic)
        if log is None or position is None or position == FROM_OLDEST:
            return False
        return position < log.oldest - 1 and "no_stale_signal" not in self._switches.defects

    def last_frame(self, connection: Connection) -> UpdateBatch | None:
        """All that the only topic with something pending has for this connection, if it was made before; moves it on."""
        if len(connection.pending) != 1 or not (self._all_alike or self._may_share(connection)):
            return None
        (topic,) = connection.pending
        frames = self._frames.get(topic)
        frame = frames.get(connection.positions.get(topic, NO_LIMIT)) if frames else None
        if frame is None or (last := frame.updates[-1].watermark) < frame.head_watermarks[0].watermark:
            return None
        connection.positions[topic] = last
        return frame

    def joint_frame(self, connection: Connection, topics: Sequence[str]) -> UpdateBatch:
        """What all of these topics have after their positions; moves the connection on."""
        places = tuple((topic, connection.positions.get(topic, NO_LIMIT)) for topic in topics)
        frame = self._joint_frames.get(places)
        if frame is not None and self._may_share(connection):
            for update in frame.updates:
                connection.positions[update.topic] = update.watermark
            return frame
        updates = tuple(chain.from_iterable(self.live_updates(connection, topic) for topic in topics))
        frame = UpdateBatch(updates, True, tuple(Watermark(topic, self._streams.head(topic)) for topic in topics))
        if updates and self._may_share(connection):
            self._joint_frames[places] = frame
        return frame

    def live_frame(self, connection: Connection, topic: str) -> UpdateBatch:
        """What the topic has after this position, up to a batch; moves the connection on."""
        position = connection.positions.get(topic, NO_LIMIT)
        frame = self._frames.setdefault(topic, {}).get(position)
        if frame is not None and self._may_share(connection):
            connection.positions[topic] = frame.updates[-1].watermark
            return frame
        updates = self.live_updates(connection, topic)
        frame = UpdateBatch(updates, True, (Watermark(topic, self._streams.head(topic)),))
        if updates and self._may_share(connection):
            self._frames[topic][position] = frame
        return frame

    def live_updates(self, connection: Connection, topic: str) -> tuple[Update, ...]:
        """What the topic has after this position, up to a batch; moves the connection on."""
        position = connection.positions.get(topic, NO_LIMIT)
        if shared := self._shared_updates(connection, topic):
            return shared
        updates = self._as_updates(topic, self._take(connection, topic, self._settings.replay_batch_size, live=True))
        if self._switches.defects:
            updates = misbehaviours.disfigure(self._switches, connection.client_key, updates, replay=False)
        self._share_updates(connection, topic, position, updates)
        return updates

    def replay(self, connection: Connection, topic: str, limit: int) -> tuple[Update, ...]:
        """Up to `limit` events of a replay; moves the connection on. Who comes back from one place gets one and the same."""
        if self._switches.defects:
            updates = self._as_updates(topic, self._take(connection, topic, limit, live=False))
            return misbehaviours.disfigure(self._switches, connection.client_key, updates, replay=True)
        is_usual = limit == self._settings.replay_batch_size
        if is_usual and (shared := self._shared_updates(connection, topic)):
            return shared
        position = connection.positions.get(topic, NO_LIMIT)
        updates = self._as_updates(topic, self._take(connection, topic, limit, live=False))
        if is_usual:
            self._share_updates(connection, topic, position, updates)
        return updates

    def replay_frame(self, updates: tuple[Update, ...], complete: bool, heads: tuple[Watermark, ...]) -> UpdateBatch:
        """A replay's frame: one and the same for all who get the very same updates."""
        key = (id(updates), complete, heads)  # the frame holds its updates, so no others can have their identity
        frame = self._replay_frames.get(key)
        if frame is None:
            frame = self._replay_frames[key] = UpdateBatch(updates, complete, heads)
        return frame

    def _shared_updates(self, connection: Connection, topic: str) -> tuple[Update, ...]:
        """What was found before to follow this position, or nothing; moves the connection on."""
        shared = self._updates.setdefault(topic, {}).get(connection.positions.get(topic, NO_LIMIT), ())
        if not shared or not self._may_share(connection):
            return ()
        connection.positions[topic] = shared[-1].watermark
        return shared

    def _share_updates(self, connection: Connection, topic: str, position: int, updates: tuple[Update, ...]) -> None:
        if updates and self._may_share(connection):
            self._updates[topic][position] = updates

    def _as_updates(self, topic: str, entries: Sequence[Entry]) -> tuple[Update, ...]:
        built = self._built.setdefault(topic, {})
        if len(built) > _MAX_KNOWN:
            built.clear()
        return tuple(_known(built, topic, entry) for entry in entries)

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


def as_updates(topic: str, entries: Iterable[Entry]) -> tuple[Update, ...]:
    """Entries of a log in the form in which they are delivered."""
    return tuple(_as_update(topic, entry) for entry in entries)


def _as_update(topic: str, entry: Entry) -> Update:
    return Update(topic, msgspec.Raw(entry.payload), entry.payload_hash, entry.seq, topic, entry.seq)


def _known(built: dict[int, Update], topic: str, entry: Entry) -> Update:
    """The update made of an entry before; a log that was taken back may have another under the same seq."""
    update = built.get(entry.seq)
    if update is None or update.payload_hash is not entry.payload_hash:
        update = built[entry.seq] = _as_update(topic, entry)
    return update
