"""Keeps to a target's caps, polls its metrics and evaluates its stop conditions, by greenlets."""

from collections.abc import Callable
from pathlib import Path

import gevent

from locustfiles.load.clients.recording import GreenRecorder
from sim.base.clocks import WallClock
from sim.base.errors import UsageError
from sim.drill.model import Drill
from sim.drill.target_rules import Stop
from sim.engines.greenlets.http import fetch
from sim.engines.shared import permission
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.metrics_book import TIMEOUT_S, MetricsBook, is_asked
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.stop_conditions import CountingRecorder, StopMonitor
from sim.record.parquet import Recorder
from sim.record.run_header import RunHeader

_EVALUATE_S = 0.25  # between evaluations of the stop conditions
_MASTER_SHARE = 0.1  # [ours] of a cap on connects: beside workers, the master has only negative clients and the auditor


class _CountingGreenRecorder(GreenRecorder, CountingRecorder):
    """Counts what stop conditions need."""


def recorder(folder: Path, endpoints: Endpoints | None) -> Recorder:
    """A recorder, which counts if the target's stop conditions need it."""
    counts = endpoints is not None and endpoints.rules.stop.error_ratio is not None
    return _CountingGreenRecorder(folder) if counts else GreenRecorder(folder)


def connects_per_s(endpoints: Endpoints, workers: int) -> tuple[float, float]:
    """Connects per second of the master and of each worker under the target's cap; 0: no cap.

    Whole numbers, because a connect cannot be divided. Raises `UsageError` where the cap is too low.
    """
    cap = endpoints.rules.caps.connects_per_s if endpoints.rules.caps else 0.0
    if not cap or not workers:
        return cap, cap
    master = max(int(cap * _MASTER_SHARE), 1)
    if (each := int(cap - master) // workers) < 1:
        raise UsageError(
            f"caps.connects_per_s is {cap:g} of target '{endpoints.name}', which a master and {workers} workers cannot share. "
            "Use fewer workers."
        )
    return float(master), float(each)


class TargetGuard:
    """The guard of one run; `close` it. `connects` and `events` keep to the caps in this process; None: no cap.

    Raises `UsageError` for caps that the workers cannot share.
    """

    def __init__(
        self,
        drill: Drill,
        endpoints: Endpoints,
        folder: Path,
        clock: WallClock,
        recorder: Recorder,
        header: RunHeader,
        workers: int,
    ) -> None:
        caps, self._endpoints = endpoints.rules.caps, endpoints
        self._clock, self._recorder, self._header = clock, recorder, header
        self._metrics = MetricsBook(endpoints, folder, clock, recorder) if is_asked(endpoints) else None
        own_per_s, self.worker_connects_per_s = connects_per_s(endpoints, workers)
        self.connects = Pacer(own_per_s) if own_per_s else None
        self.events = Pacer(caps.events_per_s) if caps else None
        self.is_quiet = False  # while true, metrics are not polled
        header.target, header.target_kind = endpoints.name, endpoints.kind
        header.window_events = endpoints.service.window_events
        header.remarks = permission.remarks(drill, endpoints)
        header.metrics_profile = endpoints.rules.metrics_profile if endpoints.admin_token else "none"

    def before(self) -> None:
        """Poll once before anything else; raises `TargetError` for a stop condition that could never be met."""
        if self._metrics is not None:
            _poll(self._metrics)
            self._metrics.require_usable()

    def poll(self) -> None:
        """Poll as long as the run lasts."""
        while self._metrics is not None:
            gevent.sleep(self._endpoints.rules.metrics_every_s)
            if not self.is_quiet:
                _poll(self._metrics)

    def evaluate(self, live_share: Callable[[], float | None], stop: Callable[[str], None]) -> None:
        """Evaluate the stop conditions as long as the run lasts; call `stop` with the one that is met."""
        if self._endpoints.rules.stop == Stop():
            return
        monitor, met = StopMonitor(self._endpoints.rules.stop, self._recorder, self._metrics), ""
        while not met:
            gevent.sleep(_EVALUATE_S)
            met = monitor.met(self._clock.now() - self._clock.began, live_share())
        self._header.stop_condition = met
        stop(f"a stop condition of the target was met: {met}")

    def close(self) -> None:
        """Poll a last time, and add the evidence to the run's header; raises `StorageError`."""
        if self._metrics is not None:
            _poll(self._metrics)
            self._header.evidence |= self._metrics.evidence()


def _poll(metrics: MetricsBook) -> None:
    for take in metrics.tries():
        take(fetch(metrics.url, metrics.headers, TIMEOUT_S))
