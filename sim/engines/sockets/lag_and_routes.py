"""Background measurements of a run: the lag of this process's timers, the clients' lag, and retired routes."""

import asyncio
from collections.abc import Mapping, Sequence

from sim.base.clocks import WallClock
from sim.client.marks import Acknowledged
from sim.drill.fault_lifecycle import Record
from sim.engines.shared import client_setup, service_api
from sim.engines.sockets.client import ClientDriver
from sim.engines.sockets.http import ServiceHttp
from sim.machine.monitor import MachineMonitor
from sim.record.parquet import Recorder

_LAG_PERIOD_S = 0.05
_SAMPLE_PERIOD_S = 0.5
_MAX_SAMPLED = 500  # clients whose lag is sampled each time; more would load this process
_ROUTE_PERIOD_S = 0.1


async def monitor_own_lag(clock: WallClock, record: Record, machine: MachineMonitor) -> None:
    """Record the state of the machine, and how late this process's timers are, in ms. A long stall is many late ticks."""
    due = clock.now() + _LAG_PERIOD_S
    while True:
        await asyncio.sleep(max(due - clock.now(), 0))
        while (late_s := clock.now() - due) >= 0:
            record("generator_lag", value=late_s * 1000)
            due += _LAG_PERIOD_S
        machine.sample(clock.now() - clock.began)


async def sample_client_lag(
    fleet: Sequence[ClientDriver], heads: Mapping[str, Acknowledged], recorder: Recorder, record: Record
) -> None:
    """Record how many events clients lag behind the heads, for at most `_MAX_SAMPLED` clients at a time, in turn."""
    first, step = 0, min(len(fleet), _MAX_SAMPLED)
    while True:
        await asyncio.sleep(_SAMPLE_PERIOD_S)
        recorder.flush()
        recorder.check()
        for number in range(first, first + step):
            session = fleet[number % len(fleet)].session
            if (lag := client_setup.lag_events(session, heads)) is not None:
                record("client_lag", session.client, value=lag)
        first = (first + step) % len(fleet)


async def monitor_retired_routes(http: ServiceHttp, record: Record) -> None:
    """Request each retired route in turn and record its status. A request without an answer is not recorded."""
    while True:
        for route in http.endpoints.retired_routes:
            status = await http.ask(service_api.status, *route.split(" ", 1))
            if status:
                record("route_answered", value=status, detail=route)
            await asyncio.sleep(_ROUTE_PERIOD_S)
