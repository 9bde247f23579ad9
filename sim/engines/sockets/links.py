"""Network faults over real sockets, injected by a proxy between clients and service.

The fault schedule defines which faults affect each client. All clients with the same set of network faults share one port
of the proxy. Clients without network faults connect directly. Without any network fault, there is no proxy.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from websockets.uri import parse_uri

from sim.drill.fault_kinds import (
    CutAfterBytes,
    HalfOpenLinks,
    LinkFault,
    RefuseConnects,
    ResetLinks,
    SlowClose,
    SlowLinks,
    StallLinks,
    StopReading,
)
from sim.drill.fault_lifecycle import Record
from sim.drill.fault_schedule import PlannedFault, link_during, links_concerned
from sim.engines.sockets.client import ClientDriver
from sim.engines.sockets.proxy import Connection, FaultProxy, Group

# The effect of the proxy that is observed for each kind.
_ACTS: dict[type[LinkFault], str] = {
    SlowLinks: "slowed",
    StallLinks: "stalled",
    RefuseConnects: "refused",
    CutAfterBytes: "cut",
    SlowClose: "closed_late",
}


class LinkActions:
    """Injects and reverts all network faults of one run."""

    def __init__(
        self,
        proxy: FaultProxy | None,
        groups: Mapping[frozenset[int], Group],
        ports: Mapping[int, int],
        clients: Mapping[int, ClientDriver],
        record: Record,
    ) -> None:
        self._clients = clients
        self._record = record
        self._proxy = proxy
        self._groups = groups
        self._ports = ports
        self._active: dict[int, PlannedFault] = {}
        self._half_open: dict[int, list[Connection]] = {}
        self._counting: dict[int, ExitStack] = {}
        self._seen: dict[int, list[set[int]]] = {}

    @classmethod
    async def open(
        cls, plan: Sequence[PlannedFault], socket_url: str, seed: int, clients: Mapping[int, ClientDriver], record: Record
    ) -> "LinkActions":
        """Listen for the clients whose links these faults affect. `clients` may be filled later."""
        concerned = links_concerned(plan)
        if not concerned:
            return cls(None, {}, {}, clients, record)
        uri = parse_uri(socket_url)
        proxy = FaultProxy(uri.host, uri.port, seed)
        groups = {faults: await proxy.open_group() for faults in sorted(set(concerned.values()), key=sorted)}
        return cls(proxy, groups, {client: groups[faults].port for client, faults in concerned.items()}, clients, record)

    def port_of(self, client: int) -> int | None:
        """Return the proxy's port for this client; None if it connects to the service directly."""
        return self._ports.get(client)

    def inject(self, planned: PlannedFault) -> float:
        """See `Links`."""
        groups = self._concerned(planned)
        match planned.fault:
            case StopReading():
                return sum(self._clients[client].read(False) for client in planned.clients)
            case ResetLinks():
                return sum(group.reset() for group in groups)
            case HalfOpenLinks(gone=gone):
                self._half_open[planned.index] = [each for group in groups for each in group.half_open(gone)]
                return len(self._half_open[planned.index])
            case LinkFault() as fault:
                stack = self._counting[planned.index] = ExitStack()
                self._seen[planned.index] = [stack.enter_context(group.observing(_ACTS[type(fault)])) for group in groups]
                self._active[planned.index] = planned
                self._change(groups)
        return 0

    def revert(self, planned: PlannedFault) -> float:
        """See `Links`."""
        match planned.fault:
            case StopReading():
                for client in planned.clients:
                    self._clients[client].read(True)
                return 0
            case HalfOpenLinks():
                left = [connection for connection in self._half_open.pop(planned.index) if connection.is_held]
                for connection in left:
                    connection.reset()
                self._record("half_open_left", attempt=planned.index, value=len(left))
                return 0
        del self._active[planned.index]
        self._change(self._concerned(planned))
        self._counting.pop(planned.index).close()
        return sum(len(connections) for connections in self._seen.pop(planned.index))

    def revert_all(self) -> None:
        """See `Links`."""
        for client in self._clients.values():
            client.read(True)
        self._active.clear()
        for counting in self._counting.values():
            counting.close()
        if self._proxy is not None:
            self._proxy.revert()

    async def close(self) -> None:
        """Revert all faults and close the proxy; raise `IllegalMoveError` if a connection stays open."""
        if self._proxy is not None:
            await self._proxy.close()

    def _concerned(self, planned: PlannedFault) -> list[Group]:
        return [group for faults, group in self._groups.items() if planned.index in faults]

    def _change(self, groups: Sequence[Group]) -> None:
        for faults, group in self._groups.items():
            if group in groups:
                group.change(link_during(planned.fault for index, planned in self._active.items() if index in faults))
