"""Withhold live events between adapter and session: the fault `skip_deliveries` where no server injects it.

Where positions are dense, the client notices the gap and must recover. Elsewhere it cannot notice that an event is missing.
"""

import zlib
from collections.abc import Iterator

import msgspec

from sim.base.randomness import draw
from sim.client.session import Session
from sim.drill.fault_bases import Fault
from sim.drill.fault_kinds import SkipDeliveries
from sim.engines.shared.endpoints import Endpoints
from sim.protocols.adapter import Capabilities, Positions
from sim.protocols.events import Batch, Event, Item, Message
from sim.record.observations import NAN, Row


def is_withheld(fault: Fault, capabilities: Capabilities, endpoints: Endpoints | None) -> bool:
    """Return whether a run withholds a fault's deliveries itself. `endpoints`: of the target; None: a simulated service.

    The mock skips them itself, and a hook may. Where clients cannot notice it, the run must know exactly what is missing.
    """
    if not isinstance(fault, SkipDeliveries):
        return False
    if capabilities.positions is not Positions.DENSE:
        return True
    return endpoints is not None and not endpoints.is_mock and fault.kind not in endpoints.rules.hooks


class Withholding:
    """One such fault while it lasts. `count` is the number of withheld deliveries."""

    def __init__(self, fault: SkipDeliveries, index: int) -> None:
        """`index`: of the fault in the fault schedule."""
        self._fault = fault
        self._purpose = f"withhold:{index}"
        self.count = 0

    def split(self, session: Session, message: Message) -> tuple[Message, list[Row]]:
        """Return what the session gets of a message, and a row for each withheld event. A replay has all its events."""
        seed, client = session.settings.seed, session.client
        if not session.follows_live or draw(seed, self._purpose, client) >= self._fault.clients_share:
            return message, []
        rows: list[Row] = []
        kept = tuple(self._kept(session, message, rows))
        self.count += len(rows)
        return (kept, rows) if rows else (message, rows)

    def _kept(self, session: Session, message: Message, rows: list[Row]) -> Iterator[Event]:
        for event in message:
            if not isinstance(event, Batch) or not event.items or event.stream not in session.replica.cursors:
                yield event
                continue
            hit = [self._takes(session, event.stream, item) for item in event.items]
            rows += [self._row(session, event.stream, item) for item, is_hit in zip(event.items, hit, strict=True) if is_hit]
            items = tuple(item for item, is_hit in zip(event.items, hit, strict=True) if not is_hit)
            if items:  # an empty batch may still state a position, which the client must not learn from a lost one
                yield event if len(items) == len(event.items) else msgspec.structs.replace(event, items=items)

    def _takes(self, session: Session, stream: str, item: Item) -> bool:
        """Return whether an event is withheld: the same answer for each live copy of it."""
        what = f"{stream}:{item.position.epoch}:{item.position.offset}".encode() if item.position else bytes(item.payload)
        return (
            draw(session.settings.seed, f"{self._purpose}:event", session.client, zlib.crc32(what)) < self._fault.events_share
        )

    def _row(self, session: Session, stream: str, item: Item) -> Row:
        cursor = session.replica.cursors[stream]
        marker = session.settings.markers.read(item.payload, cursor.stream).number
        if session.settings.capabilities.positions is not Positions.DENSE and marker > 0:
            cursor.marks.take((marker,))  # so that the run does not wait for what the client cannot miss
        seq = item.position.offset if item.position is not None and isinstance(item.position.offset, int) else -1
        return ("withheld", cursor.stream, cursor.shown(seq), 0, NAN, "", marker)
