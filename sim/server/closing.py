"""How connections end by the fault `close_connections`: with which codes, and which upgrades are refused."""

import heapq
import math
from collections.abc import Callable, Mapping

import msgspec

from sim.base.errors import PeerError
from sim.protocols import endings
from sim.protocols.adapter import TransportEnd
from sim.server.counters import Counters
from sim.server.delivery.connection import Connection

CLOSE_CONNECTIONS = "close_connections"  # the fault


class CloseOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the connections of some devices end, by the fault `close_connections`; without codes, the fault is over.

    A code is that of a close frame, or below 1000 the HTTP status with which the upgrades of the device are refused.
    """

    fault: int  # its index
    codes: dict[str, int] = {}  # by device
    after_ms: float = 0.0  # new connections are closed, too, so long after they were accepted; 0: they stay
    retry_after_ms: float = 0.0  # 0: no hint


class UpgradeRefusedError(PeerError):
    """An upgrade is refused with an HTTP status."""

    def __init__(self, order: CloseOrder, status: int) -> None:
        super().__init__(f"upgrades are refused with {status} now")
        wait_ms = self.retry_after_ms = order.retry_after_ms
        headers = {"retry-after": str(math.ceil(wait_ms / 1000))} if wait_ms else {}
        self.end = TransportEnd(status=status, headers=headers, body=endings.reason_with(wait_ms).encode())


class Closing:
    """Closes connections with chosen codes, and refuses upgrades. `expel` takes a connection off the runtime's streams."""

    def __init__(
        self, connections: Mapping[int, Connection], counters: Counters, expel: Callable[[Connection], None], close_code: int
    ) -> None:
        self._connections = connections
        self._counters = counters
        self._expel = expel
        self._usual = TransportEnd(code=close_code)
        self._orders: dict[int, CloseOrder] = {}
        self._due: list[tuple[float, int, TransportEnd]] = []

    def follow(self, order: CloseOrder) -> int:
        """Close the open connections of these devices, and treat new ones as ordered; returns the number of closed ones."""
        self._orders.pop(order.fault, None)
        if order.codes:
            self._orders[order.fault] = order
        found = [each for each in self._connections.values() if each.claims.device_id in order.codes and not each.closing]
        for connection in found:
            self._close(connection, _end(order, order.codes[connection.claims.device_id]))
        return len(found)

    def admit(self, device: str, number: int, now: float) -> None:
        """Plan how the new connection of a device ends; raises `UpgradeRefusedError`."""
        for order in self._orders.values():
            code = order.codes.get(device)
            if code is not None and code < endings.FIRST_CLOSE_CODE:
                self._counters.act(CLOSE_CONNECTIONS)
                raise UpgradeRefusedError(order, code)
            if code is not None and order.after_ms:
                heapq.heappush(self._due, (now + order.after_ms / 1000, number, _end(order, code)))

    def wake_at(self) -> float:
        """Return when the next connection is to be closed."""
        return self._due[0][0] if self._due else math.inf

    def wake(self, now: float) -> None:
        """Close the connections that are due."""
        while self._due and self._due[0][0] <= now:
            _, number, end = heapq.heappop(self._due)
            if (connection := self._connections.get(number)) and not connection.closing:
                self._close(connection, end)

    def end_of(self, number: int) -> TransportEnd:
        """Return how a connection that is closing ends; without a code, it is cut."""
        connection = self._connections.get(number)
        return connection.end if connection is not None and connection.end is not None else self._usual

    def _close(self, connection: Connection, end: TransportEnd) -> None:
        connection.end = end
        self._counters.act(CLOSE_CONNECTIONS)
        self._expel(connection)


def _end(order: CloseOrder, code: int) -> TransportEnd:
    """Return the end by a code. Neither 1005 nor 1006 is sent; before an upgrade can be refused, a connection must end."""
    if code < endings.FIRST_CLOSE_CODE or code == endings.NO_CLOSE_FRAME:
        return TransportEnd()
    return TransportEnd(code=code, reason="" if code == endings.NO_CODE else endings.reason_with(order.retry_after_ms))
