"""How live updates go wrong by a fault: sent twice, jumbled, cut to what is no frame, out of order, or late.

Which client and which event a fault concerns is a function of (seed, kind, client, seq). A replay is never touched, so
whatever went wrong can be asked for again. The log has every event as it was published.
"""

import heapq
import zlib
from collections.abc import Iterable

import msgspec

from sim.base.randomness import draw
from sim.protocols.spacetime.frames import Malformed, Update, UpdateBatch
from sim.server.connection import Connection
from sim.server.counters import Counters
from sim.server.settings import LiveFault, Switches

LIVE_FAULTS = ("duplicate_deliveries", "jumble_deliveries", "reorder_deliveries", "delay_deliveries", "malform_frames")
_JUMBLED = msgspec.Raw(b'{"jumbled":true}')
_NO_FRAME = Malformed("malformed_frame")
_Updates = list[Update]


def client_key(device_id: str) -> int:
    """What the draws know a client by."""
    return zlib.crc32(device_id.encode())


def concerns(seed: int, kind: str, key: int, clients_share: float) -> bool:
    """Whether a fault of this kind concerns a client at all."""
    return draw(seed, kind, key) < clients_share


def concerns_event(seed: int, kind: str, key: int, seq: int, events_share: float) -> bool:
    """Whether a fault of this kind concerns an event, of a client that it concerns."""
    return draw(seed, f"{kind}:event", key, seq) < events_share


class Disorder:
    """The faults in force, and what they hold back."""

    def __init__(self, counters: Counters, switches: Switches) -> None:
        self._counters = counters
        self._faults: dict[str, LiveFault] = {}
        self._seed = 0
        self._waiting: dict[int, dict[str, _Updates]] = {}  # by connection and topic: to go out after the next one
        self._late: list[tuple[float, int, int, Update]] = []  # when, a serial number, connection, update
        self._serial = 0
        self.set_switches(switches)

    def set_switches(self, switches: Switches) -> None:
        """Other faults from now on; what is held back still goes out."""
        found = {kind: getattr(switches, kind) for kind in LIVE_FAULTS}
        self._faults = {kind: fault for kind, fault in found.items() if fault is not None}
        self._seed = switches.seed

    @property
    def is_idle(self) -> bool:
        """Whether every frame goes out as it is."""
        return not self._faults and not self._waiting

    def spoil(self, connection: Connection, frame: UpdateBatch, now: float) -> UpdateBatch | Malformed:
        """What becomes of a live frame; without updates it need not be sent."""
        updates = list(frame.updates)
        waiting = self._waiting.pop(connection.number, {})
        for kind, fault in self._faults.items():
            hits = self._hits(kind, fault, connection, updates)
            if not hits:
                continue
            if kind == "malform_frames":
                self._counters.act(kind)
                return _NO_FRAME
            self._counters.act(kind, sum(update.watermark in hits for update in updates))
            updates = self._one(kind, fault, connection, updates, hits, waiting, now)
        updates = self._let_follow(updates, waiting)
        if waiting:
            self._waiting[connection.number] = waiting
        return UpdateBatch(tuple(updates), frame.replay_complete, frame.head_watermarks)

    def _hits(self, kind: str, fault: LiveFault, connection: Connection, updates: _Updates) -> set[int]:
        """The seqs that the fault concerns."""
        key = connection.client_key
        if not concerns(self._seed, kind, key, fault.clients):
            return set()
        return {u.watermark for u in updates if concerns_event(self._seed, kind, key, u.watermark, fault.events)}

    def _one(
        self,
        kind: str,
        fault: LiveFault,
        connection: Connection,
        updates: _Updates,
        hits: set[int],
        waiting: dict[str, _Updates],
        now: float,
    ) -> _Updates:
        """What one fault leaves of the updates."""
        if kind == "duplicate_deliveries":
            return [copy for u in updates for copy in ([u, u] if u.watermark in hits else [u])]
        if kind == "jumble_deliveries":
            return [msgspec.structs.replace(u, payload=_JUMBLED) if u.watermark in hits else u for u in updates]
        for update in updates:
            if update.watermark in hits and kind == "reorder_deliveries":
                waiting.setdefault(update.topic, []).append(update)
            elif update.watermark in hits:
                self._serial += 1
                heapq.heappush(self._late, (now + fault.delay_ms / 1000, self._serial, connection.number, update))
        return [update for update in updates if update.watermark not in hits]

    def _let_follow(self, updates: _Updates, waiting: dict[str, _Updates]) -> _Updates:
        """Whatever waits for the next update of its topic goes out after it."""
        topics = {update.topic for update in updates} & waiting.keys()
        return updates + [update for topic in sorted(topics) for update in waiting.pop(topic)]

    def forget(self, number: int) -> None:
        """The connection is gone."""
        self._waiting.pop(number, None)

    def due_at(self) -> float:
        """When to call `due` next."""
        return self._late[0][0] if self._late else float("inf")

    def due(self, now: float) -> Iterable[tuple[int, UpdateBatch]]:
        """What was late and goes out now, with its connection's number."""
        while self._late and self._late[0][0] <= now:
            _, _, number, update = heapq.heappop(self._late)
            yield number, UpdateBatch((update,), True)
