"""Network faults in virtual time: the conditions of each client's link, and how often each fault took effect."""

from collections.abc import Sequence

from sim.drill.fault_kinds import (
    CutAfterBytes,
    HalfOpenLinks,
    RefuseConnects,
    ResetLinks,
    SlowClose,
    SlowLinks,
    StallLinks,
    StopReading,
)
from sim.drill.fault_lifecycle import Record
from sim.drill.fault_schedule import PlannedFault, link_during
from sim.engines.virtual.client import VirtualClient
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.inbox import Link
from sim.engines.virtual.links import MessageSizes, RoughLink
from sim.engines.virtual.service import SimulatedService

# The counter of each fault's effect, and whether to report the number of clients (True) or of effects (False).
_ACTS: dict[type, tuple[str, bool]] = {
    SlowLinks: ("slowed", True),
    StallLinks: ("stalled", True),
    StopReading: ("unread", True),
    RefuseConnects: ("refused", False),
    CutAfterBytes: ("cut", False),
    SlowClose: ("closed_late", False),
}


class VirtualLinkFaults:
    """All network faults of one run."""

    def __init__(
        self,
        clock: VirtualClock,
        service: SimulatedService,
        clients: Sequence[VirtualClient],
        buffer_kib: float,
        record: Record,
    ) -> None:
        self._clock = clock
        self._service = service
        self._clients = clients
        self._buffer_bytes = buffer_kib * 1024
        self._record = record
        self._active: dict[int, PlannedFault] = {}
        self._before: dict[int, dict[int, int]] = {}  # by fault and client: the counter when the fault was injected
        self._links: dict[int, RoughLink] = {}
        self._sizes = MessageSizes(service.forms)
        self._half_open: dict[int, list[tuple[VirtualClient, Link]]] = {}

    def inject(self, planned: PlannedFault) -> float:
        """See `Links`."""
        clients = [self._clients[client] for client in planned.clients]
        match planned.fault:
            case ResetLinks():
                return sum(client.reset() for client in clients)
            case HalfOpenLinks(gone=gone):
                made = [(client, link) for client in clients for link in client.half_open(gone)]
                self._half_open[planned.index] = made
                self._service.kick()
                return len({id(client) for client, _ in made})
        counter, _ = _ACTS[type(planned.fault)]
        self._before[planned.index] = {client: self._link(client).acted[counter] for client in planned.clients}
        self._active[planned.index] = planned
        self._change(planned.clients)
        return 0

    def revert(self, planned: PlannedFault) -> float:
        """See `Links`."""
        if isinstance(planned.fault, HalfOpenLinks):
            self._end_half_open(planned.index)
            return 0
        del self._active[planned.index]
        self._change(planned.clients)
        counter, by_clients = _ACTS[type(planned.fault)]
        acted = [self._links[client].acted[counter] - before for client, before in self._before[planned.index].items()]
        return sum(count > 0 for count in acted) if by_clients else sum(acted)

    def _end_half_open(self, index: int) -> None:
        left = [(client, link) for client, link in self._half_open.pop(index, []) if client.is_left_in(link)]
        self._record("half_open_left", attempt=index, value=float(len(left)))
        for client, link in left:
            client.end_half_open(link)

    def revert_all(self) -> None:
        """See `Links`."""
        self._active.clear()
        self._change(list(self._links))
        for index in list(self._half_open):
            self._end_half_open(index)

    def _change(self, clients: Sequence[int]) -> None:
        active = [(planned.fault, frozenset(planned.clients)) for planned in self._active.values()]
        for number in clients:
            faults = [fault for fault, concerned in active if number in concerned]
            link, client = self._link(number), self._clients[number]
            link.change(link_during(faults), reads=not any(isinstance(fault, StopReading) for fault in faults))
            client.rough = None if link.is_calm else link

    def _link(self, number: int) -> RoughLink:
        if number not in self._links:
            client = self._clients[number]
            seed, delay_s = client.session.settings.seed, client.delay_s
            self._links[number] = RoughLink(
                self._clock, self._service, number, seed, delay_s, self._buffer_bytes, client.reset_one, self._sizes
            )
        return self._links[number]
