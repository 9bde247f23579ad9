"""Faults of live updates: sent twice, with a wrong payload, malformed, out of order, or late.

Which clients and events a fault affects is a function of (seed, kind, client, seq). Faults never affect a replay, so a client
can request every affected event again. The log has every event as it was published.
"""

import heapq
import zlib
from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec

from sim.base.randomness import draw
from sim.protocols.events import Batch, CaughtUp, Event, Hash, Item, Message
from sim.protocols.profile import ServerProfile
from sim.server.counters import Counters
from sim.server.delivery.connection import Connection
from sim.server.misbehaviours import seq_of
from sim.server.settings import LiveFault, Switches

LIVE_FAULTS = ("duplicate_deliveries", "jumble_deliveries", "reorder_deliveries", "delay_deliveries", "malform_frames")
_JUMBLED = msgspec.Raw(b'{"jumbled":true}')
_Items = list[tuple[str, Item]]  # each with its stream


def client_key(device_id: str) -> int:
    """Return the number that identifies a client in random draws."""
    return zlib.crc32(device_id.encode())


def concerns(seed: int, kind: str, key: int, clients_share: float) -> bool:
    """Whether a fault of this kind affects a client at all."""
    return draw(seed, kind, key) < clients_share


def concerns_event(seed: int, kind: str, key: int, seq: int, events_share: float) -> bool:
    """Whether a fault of this kind affects an event, for a client that it affects."""
    return draw(seed, f"{kind}:event", key, seq) < events_share


class Disorder:
    """The active faults, and the events that they hold back."""

    def __init__(self, counters: Counters, profile: ServerProfile, switches: Switches) -> None:
        self._counters = counters
        self._profile = profile
        self._faults: dict[str, LiveFault] = {}
        self._seed = 0
        self._waiting: dict[int, dict[str, list[Item]]] = {}  # by connection and topic: to send after the next event
        self._late: list[tuple[float, int, int, str, Item]] = []  # due time, serial number, connection, stream, event
        self._serial = 0
        self._missing: set[tuple[int, str]] = set()  # connections and streams with a delivery that no later one has shown
        self.set_switches(switches)

    def set_switches(self, switches: Switches) -> None:
        """Replace the active faults; events that are held back are still sent."""
        found = {kind: getattr(switches, kind) for kind in LIVE_FAULTS}
        self._faults = {kind: fault for kind, fault in found.items() if fault is not None}
        self._seed = switches.seed

    @property
    def is_idle(self) -> bool:
        """Whether every frame is sent unchanged."""
        return not self._faults and not self._waiting and not self._missing

    def disturb(self, connection: Connection, message: Message, now: float) -> Message:
        """Return a live message as the faults change it; empty: it is not sent."""
        items = [(event.stream, item) for event in message if isinstance(event, Batch) for item in event.items]
        rest = tuple(event for event in message if not isinstance(event, Batch))
        planned, waiting = items, self._waiting.pop(connection.number, {})
        for kind, fault in self._faults.items():
            hits = self._hits(kind, fault, connection, items)
            if not hits:
                continue
            if kind == "malform_frames":
                self._counters.act(kind)
                return self._profile.damaged(items[0][0])
            self._counters.act(kind, sum(seq_of(item) in hits for _, item in items))
            items = self._one(kind, fault, connection, items, hits, waiting, now)
        items = self._let_follow(items, waiting)
        if waiting:
            self._waiting[connection.number] = waiting
        if self._profile.counts_deliveries:
            counted = self._counted(connection, planned, items)
            return (*counted, *rest) if items else ()
        return (*as_batches(items), *rest) if items else ()

    def _counted(self, connection: Connection, planned: _Items, items: _Items) -> tuple[Event, ...]:
        """Return the batches of some events. One whose predecessor was not sent says so. `planned`: in their usual order."""
        sent, gaps = {id(item) for _, item in items}, set()
        for stream, item in planned:
            place = connection.number, stream
            if id(item) not in sent:
                self._missing.add(place)
            elif place in self._missing:
                self._missing.discard(place)
                gaps.add(id(item))
        runs = groupby(items, lambda each: (each[0], id(each[1]) if id(each[1]) in gaps else 0))
        return tuple(Batch(stream, tuple(item for _, item in run), is_after_gap=gap > 0) for (stream, gap), run in runs)

    def takes_missing(self, number: int, stream: str) -> bool:
        """Return whether a delivery on this connection is missing, and no later one has shown it; the caller shows it."""
        is_missing = (number, stream) in self._missing
        self._missing.discard((number, stream))
        return is_missing

    def restart(self, number: int, stream: str) -> None:
        """Start to count the deliveries of a stream again, without those that are held back."""
        self._missing.discard((number, stream))
        self._waiting.get(number, {}).pop(stream, None)

    def _hits(self, kind: str, fault: LiveFault, connection: Connection, items: _Items) -> set[int]:
        """Return the sequence numbers that the fault affects."""
        key = connection.client_key
        if not concerns(self._seed, kind, key, fault.clients):
            return set()
        seqs = {seq_of(item) for _, item in items}
        return {seq for seq in seqs if concerns_event(self._seed, kind, key, seq, fault.events)}

    def _one(
        self,
        kind: str,
        fault: LiveFault,
        connection: Connection,
        items: _Items,
        hits: set[int],
        waiting: dict[str, list[Item]],
        now: float,
    ) -> _Items:
        """Return the events that are sent now under one fault; others are put into `waiting` or sent late."""
        if kind == "duplicate_deliveries":
            return [copy for each in items for copy in ([each, each] if seq_of(each[1]) in hits else [each])]
        if kind == "jumble_deliveries":
            return [(stream, _jumbled(item) if seq_of(item) in hits else item) for stream, item in items]
        for stream, item in items:
            if seq_of(item) in hits and kind == "reorder_deliveries":
                waiting.setdefault(stream, []).append(item)
            elif seq_of(item) in hits:
                self._serial += 1
                heapq.heappush(self._late, (now + fault.delay_ms / 1000, self._serial, connection.number, stream, item))
        return [each for each in items if seq_of(each[1]) not in hits]

    def _let_follow(self, items: _Items, waiting: dict[str, list[Item]]) -> _Items:
        """Append the waiting events of each stream that has an event in `items`."""
        streams = {stream for stream, _ in items} & waiting.keys()
        return items + [(stream, item) for stream in sorted(streams) for item in waiting.pop(stream)]

    def forget(self, number: int) -> None:
        """Drop the waiting events of a closed connection."""
        self._waiting.pop(number, None)
        self._missing = {place for place in self._missing if place[0] != number}

    def due_at(self) -> float:
        """Return when to call `due` next; infinity without late events."""
        return self._late[0][0] if self._late else float("inf")

    def due(self, now: float) -> Iterable[tuple[int, Message]]:
        """Yield the late messages to send now, each with the number of its connection."""
        while self._late and self._late[0][0] <= now:
            _, _, number, stream, item = heapq.heappop(self._late)
            yield number, (Batch(stream, (item,)), CaughtUp())


def _jumbled(item: Item) -> Item:
    return msgspec.structs.replace(item, payload=_JUMBLED, check=Hash.BAD)


def as_batches(items: Sequence[tuple[str, Item]]) -> tuple[Event, ...]:
    """Group events of several streams, in order, into one batch for each run of the same stream."""
    runs = groupby(items, lambda each: each[0])
    return tuple(Batch(stream, tuple(item for _, item in run)) for stream, run in runs)
