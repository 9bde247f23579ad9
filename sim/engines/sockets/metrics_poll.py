"""Polls the service's metrics endpoint before, during and after a drill, in bounded time."""

import asyncio
from pathlib import Path

from sim.base.clocks import RunClock
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.fetch import Fetched, client, fetch
from sim.engines.shared.metrics_book import FILE_NAME as FILE_NAME
from sim.engines.shared.metrics_book import TIMEOUT_S, TRIES, MetricsBook
from sim.protocols.spacetime.service_metrics import OK
from sim.record.parquet import Recorder


class MetricsPoll(MetricsBook):
    """All polls of one run, on asyncio; `close` it."""

    def __init__(self, endpoints: Endpoints, folder: Path, clock: RunClock, recorder: Recorder) -> None:
        super().__init__(endpoints, folder, clock, recorder)
        self._http = client()
        self._polling = asyncio.Lock()

    async def close(self) -> dict[str, str]:
        """Close the connection; returns `evidence`."""
        await self._http.aclose()
        return self.evidence()

    async def poll_for_ever(self, every_s: float) -> None:
        """Poll at this interval."""
        while True:
            await asyncio.sleep(every_s)
            await self.poll()

    async def poll(self) -> None:
        """Poll once, with one retry. Records the other side's failures; raises `StorageError` for a full disk."""
        async with self._polling:
            began = self._clock.now()
            fetched = await self._ask()
            for _ in range(TRIES - 1):
                if fetched.outcome == OK:
                    break
                fetched = await self._ask()
            self.take(fetched.outcome, fetched.body, began)

    async def _ask(self) -> Fetched:
        return await fetch(self._http, self._url, self._headers, TIMEOUT_S)
