"""Asks for the routes that are gone, one after the other, as long as a drill lasts, and notes how each is answered."""

import asyncio

from sim.base.clocks import WallClock
from sim.engines.shared import service_api
from sim.engines.sockets.http import ServiceHttp
from sim.protocols.spacetime.retired_routes import RETIRED
from sim.record.parquet import Recorder

_PAUSE_S = 0.1  # between two questions


async def monitor_retired_routes(http: ServiceHttp, clock: WallClock, recorder: Recorder) -> None:
    """Ask until cancelled; a question that nobody answers is none."""
    while True:
        for method, path in RETIRED:
            status = await http.ask(service_api.status, method, path)
            if status:
                recorder.add(clock.now() - clock.began, "route_answered", value=status, detail=f"{method} {path}")
            await asyncio.sleep(_PAUSE_S)
