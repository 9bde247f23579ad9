"""Network faults in virtual time: which clients' links are like what now, and how often each fault was seen to act."""

from collections.abc import Generator, Sequence

import simpy

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
from sim.drill.schedule import PlannedFault, link_during
from sim.drill.system_model import SystemModel
from sim.engines.virtual.client import VirtualClient
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.inbox import Link
from sim.engines.virtual.links import FrameSizes, RoughLink
from sim.engines.virtual.service import SimulatedService
from sim.record.parquet import Recorder

# What each counts as acting, and whether by clients or by how often.
_ACTS: dict[type, tuple[str, bool]] = {
    SlowLinks: ("slowed", True),
    StallLinks: ("stalled", True),
    StopReading: ("unread", True),
    RefuseConnects: ("refused", False),
    CutAfterBytes: ("cut", False),
    SlowClose: ("closed_late", False),
}
Acting = Generator[simpy.Event, object, float]


class VirtualLinkFaults:
    """All network faults of one run. `began` is when the run did."""

    def __init__(
        self,
        clock: VirtualClock,
        service: SimulatedService,
        clients: Sequence[VirtualClient],
        model: SystemModel,
        recorder: Recorder,
        began: float,
    ) -> None:
        self._clock = clock
        self._service = service
        self._clients = clients
        self._buffer_bytes = model.network.buffer_kib * 1024
        self._recorder = recorder
        self._began = began
        self._active: dict[int, PlannedFault] = {}
        self._links: dict[int, RoughLink] = {}
        self._sizes = FrameSizes()
        self._half_open: dict[int, list[tuple[VirtualClient, Link]]] = {}

    def act(self, planned: PlannedFault) -> Acting:
        """Carry out one fault; returns how often it was seen to act."""
        match planned.fault:
            case ResetLinks() as fault:
                return (yield from self._flap(planned, fault))
            case HalfOpenLinks() as fault:
                return (yield from self._make_half_open(planned, fault))
            case _:
                return (yield from self._last(planned))

    def _last(self, planned: PlannedFault) -> Acting:
        """A fault that makes links different for a while; returns on how many, or how often, it acted."""
        counter, by_clients = _ACTS[type(planned.fault)]
        before = {client: self._link(client).acted[counter] for client in planned.clients}
        self._active[planned.index] = planned
        self._change(planned.clients)
        yield self._clock.timeout(planned.fault.lasts_s)
        self._active.pop(planned.index, None)
        self._change(planned.clients)
        acted = [self._links[client].acted[counter] - count for client, count in before.items()]
        return float(sum(count > 0 for count in acted) if by_clients else sum(acted))

    def _flap(self, planned: PlannedFault, fault: ResetLinks) -> Acting:
        """Reset the connections, some times; returns how many."""
        count = 0
        for time in range(fault.times):
            if time:
                yield self._clock.timeout(fault.every_s)
            count += sum(self._clients[client].reset() for client in planned.clients)
        return count

    def _make_half_open(self, planned: PlannedFault, fault: HalfOpenLinks) -> Acting:
        """Take one side away; returns of how many connections."""
        clients = [self._clients[client] for client in planned.clients]
        made = [(client, link) for client in clients if (link := client.half_open(fault.gone)) is not None]
        self._half_open[planned.index] = made
        self._service.kick()
        yield self._clock.timeout(fault.for_s)
        self._end_half_open(planned.index)
        return len(made)

    def _end_half_open(self, index: int) -> None:
        left = [(client, link) for client, link in self._half_open.pop(index, []) if client.is_left_in(link)]
        self._recorder.add(self._clock.now - self._began, "half_open_left", attempt=index, value=float(len(left)))
        for client, link in left:
            client.end_half_open(link)

    def revert(self) -> None:
        """Take back whatever still acts."""
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
