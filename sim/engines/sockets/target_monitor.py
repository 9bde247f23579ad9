"""The rules of a target during a run: caps, hooks, polled metrics and stop conditions."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import pyarrow as pa

from sim.base.clocks import WallClock
from sim.base.redaction import Redactor
from sim.drill.model import Drill
from sim.engines.shared import permission
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.fetch import MetricsPoll
from sim.engines.shared.metrics_book import is_asked
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.stop_conditions import CountingRecorder, StopMonitor
from sim.engines.sockets.hooks import Hooks
from sim.protocols import registry
from sim.record.parquet import Recorder
from sim.record.run_header import RunHeader

_CHECK_PERIOD_S = 0.25  # between two checks of the stop conditions


def recorder(folder: Path, endpoints: Endpoints | None, observe: Callable[[pa.Table], None]) -> Recorder:
    """Return a recorder; it counts errors if the target has a stop condition for them."""
    counts = endpoints is not None and endpoints.rules.stop.error_ratio is not None
    return CountingRecorder(folder, observe=observe) if counts else Recorder(folder, observe=observe)


def prepare(header: RunHeader, drill: Drill, endpoints: Endpoints) -> None:
    """Record in a run's header the target, the effect of its caps, and which faults its hooks inject."""
    header.target, header.target_kind = endpoints.name, endpoints.kind
    header.retired_routes = endpoints.retired_routes
    header.window_events = endpoints.service.window_events
    header.capabilities = msgspec.to_builtins(registry.get(endpoints.protocol).able(endpoints.protocol_options))
    header.remarks = permission.remarks(drill, endpoints)
    header.metrics_profile = endpoints.rules.metrics_profile if is_asked(endpoints) else "none"
    for fault in header.plan:
        if fault["kind"] in endpoints.rules.hooks:
            fault["by"], fault["ends_each"] = "hook", endpoints.rules.hooks[str(fault["kind"])].ends_each


class TargetMonitor:
    """Enforces and monitors the rules of the target of one run. Call `close` at the end."""

    def __init__(self, endpoints: Endpoints, folder: Path, clock: WallClock, recorder: Recorder, header: RunHeader) -> None:
        self._endpoints = endpoints
        self._clock = clock
        self._header = header
        self._redact = Redactor(endpoints.secrets)
        self._metrics = MetricsPoll(endpoints, folder, clock, recorder) if is_asked(endpoints) else None
        self._folder = folder
        self._recorder = recorder
        self._hooks: Hooks | None = None
        self.is_quiet = False  # while true, metrics are not polled
        caps = endpoints.rules.caps
        self.connects = Pacer(caps.connects_per_s) if caps else None
        self.events = Pacer(caps.events_per_s) if caps else None

    @property
    def _now_s(self) -> float:
        return self._clock.now() - self._clock.began

    def hooks(self, drill: Drill, topics: Sequence[str]) -> Hooks:
        """Create the target's hooks. `topics` are the topics that the drill publishes to, run topics first."""
        about = {
            "TARGET": self._endpoints.name,
            "RUNTIME_URL": self._endpoints.runtime_url,
            "CONTROL_URL": self._endpoints.control_url,
            "RUN_ID": self._header.run_id,
            "DRILL": drill.name,
            "TOPICS": ",".join(topics),
        }
        self._hooks = Hooks(self._endpoints.rules.hooks, about, self._redact, self._folder, lambda: self._now_s)
        return self._hooks

    async def before(self) -> None:
        """Poll once before the run; raise `TargetError` for a stop condition that can never be met."""
        if self._metrics is not None:
            await self._metrics.poll()
            self._metrics.require_usable()

    @contextlib.asynccontextmanager
    async def during(
        self, live_share: Callable[[], float | None], stop: Callable[[str], None], failed: Callable[[asyncio.Task[None]], None]
    ) -> AsyncIterator[None]:
        """Poll metrics and check stop conditions while the body runs. Call `stop` with the condition that is met."""
        tasks = [asyncio.create_task(self._poll_for_ever(self._metrics))] if self._metrics else []
        if self._endpoints.rules.stop != type(self._endpoints.rules.stop)():
            tasks.append(asyncio.create_task(self._check(live_share, stop)))
        for task in tasks:
            task.add_done_callback(failed)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def _poll_for_ever(self, metrics: MetricsPoll) -> None:
        while True:
            await asyncio.sleep(self._endpoints.rules.metrics_every_s)
            if not self.is_quiet:
                await metrics.poll()

    async def _check(self, live_share: Callable[[], float | None], stop: Callable[[str], None]) -> None:
        watch = StopMonitor(self._endpoints.rules.stop, self._recorder, self._metrics)
        while not (met := watch.met(self._now_s, live_share())):
            await asyncio.sleep(_CHECK_PERIOD_S)
        stop(met)

    async def after(self) -> None:
        """Poll once more after the run."""
        if self._metrics is not None:
            await self._metrics.poll()

    async def close(self) -> None:
        """Close the connections, and list the evidence in the run's header."""
        if self._hooks is not None:
            self._header.hooks = [msgspec.to_builtins(asdict(done)) for done in self._hooks.done]
            self._header.evidence |= {done.output: done.sha256 for done in self._hooks.done}
        if self._metrics is not None:
            self._header.evidence |= await self._metrics.close()
