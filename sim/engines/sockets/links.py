"""Network faults over real sockets: who goes through the proxy by which port, and what the proxy does to them when.

Who is concerned by which faults is known from the plan, so each set of clients alike in that has a port of its own; who
is concerned by none connects directly. Without any such fault there is no proxy.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from websockets.uri import parse_uri

from sim.base.clocks import WallClock
from sim.drill.fault_kinds import (
    CutAfterBytes,
    HalfOpenLinks,
    LinkFault,
    RefuseConnects,
    ResetLinks,
    SlowClose,
    SlowLinks,
    StallLinks,
)
from sim.drill.schedule import PlannedFault, link_during, links_concerned
from sim.engines.sockets.proxy import FaultProxy, Group

# What is counted as acting.
_ACTS: dict[type[LinkFault], str] = {
    SlowLinks: "slowed",
    StallLinks: "stalled",
    RefuseConnects: "refused",
    CutAfterBytes: "cut",
    SlowClose: "closed_late",
}


class LinkActions:
    """All network faults of one run."""

    def __init__(self, proxy: FaultProxy | None, groups: Mapping[frozenset[int], Group], ports: Mapping[int, int]) -> None:
        self._proxy = proxy
        self._groups = groups
        self._ports = ports
        self._active: dict[int, PlannedFault] = {}

    @classmethod
    async def open(cls, plan: Sequence[PlannedFault], socket_url: str, seed: int) -> "LinkActions":
        """Listen for the clients whose links this plan concerns."""
        concerned = links_concerned(plan)
        if not concerned:
            return cls(None, {}, {})
        uri = parse_uri(socket_url)
        proxy = FaultProxy(uri.host, uri.port, seed)
        groups = {faults: await proxy.open_group() for faults in sorted(set(concerned.values()), key=sorted)}
        return cls(proxy, groups, {client: groups[faults].port for client, faults in concerned.items()})

    def port_of(self, client: int) -> int | None:
        """The port on this machine that a client is to connect to instead of the runtime's; None: it connects directly."""
        return self._ports.get(client)

    async def act(self, planned: PlannedFault, began: float, clock: WallClock) -> tuple[int, int | None]:
        """Carry out one fault of a fault phase that `began` then; returns on how many connections it was seen to act.

        For a half-open fault also in how many of them the side that was left still was at the end.
        """
        ends = began + planned.ends_s
        match planned.fault:
            case ResetLinks() as fault:
                return await self._flap(planned, fault, began, clock), None
            case HalfOpenLinks() as fault:
                return await self._make_half_open(planned, fault, ends, clock)
            case _:
                return await self._last(planned, ends, clock), None

    async def _last(self, planned: PlannedFault, ends: float, clock: WallClock) -> int:
        """A fault that makes links different for a while; returns the connections on which it was seen to act."""
        assert isinstance(planned.fault, LinkFault)
        groups = self._concerned(planned)
        with ExitStack() as stack:
            seen = [stack.enter_context(group.observing(_ACTS[type(planned.fault)])) for group in groups]
            self._active[planned.index] = planned
            self._change(groups)
            await asyncio.sleep(max(ends - clock.now(), 0))
            del self._active[planned.index]
            self._change(groups)
            return sum(len(connections) for connections in seen)

    async def _flap(self, planned: PlannedFault, fault: ResetLinks, began: float, clock: WallClock) -> int:
        """Reset the connections, some times; returns how many."""
        count = 0
        for time in range(fault.times):
            await asyncio.sleep(max(began + planned.begins_s + time * fault.every_s - clock.now(), 0))
            count += sum(group.reset() for group in self._concerned(planned))
        return count

    async def _make_half_open(
        self, planned: PlannedFault, fault: HalfOpenLinks, ends: float, clock: WallClock
    ) -> tuple[int, int | None]:
        """Take one side away; returns of how many connections, and in how many of them the other one was still at the end."""
        made = [connection for group in self._concerned(planned) for connection in group.half_open(fault.gone)]
        await asyncio.sleep(max(ends - clock.now(), 0))
        left = [connection for connection in made if connection.is_held]
        for connection in left:
            connection.reset()
        return len(made), len(left)

    def revert(self) -> None:
        """Nothing is wrong with any link any more."""
        self._active.clear()
        if self._proxy is not None:
            self._proxy.revert()

    async def close(self) -> None:
        """Heal, and leave nothing open; raises `IllegalMoveError` if something is."""
        if self._proxy is not None:
            await self._proxy.close()

    def _concerned(self, planned: PlannedFault) -> list[Group]:
        return [group for faults, group in self._groups.items() if planned.index in faults]

    def _change(self, groups: Sequence[Group]) -> None:
        for faults, group in self._groups.items():
            if group in groups:
                group.change(link_during(planned.fault for index, planned in self._active.items() if index in faults))
