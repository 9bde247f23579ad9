"""What goes with a run against a target beside the drill itself, by greenlets: caps kept, metrics polled, stop conditions."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import gevent
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError

from locustfiles.load.clients.recording import GreenRecorder
from sim.base.clocks import WallClock
from sim.base.errors import UsageError
from sim.drill.model import Drill
from sim.drill.target_rules import Stop
from sim.engines.shared import permission
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.metrics_book import MAX_BODY_BYTES, TIMEOUT_S, TRIES, MetricsBook, is_asked
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.stop_conditions import CountingRecorder, StopMonitor
from sim.protocols.spacetime.service_metrics import OK
from sim.record.parquet import Recorder
from sim.record.run_header import RunHeader

_LOOK_S = 0.25  # between looks at the stop conditions
_MASTERS_SHARE = 0.1  # [ours] of a cap on connects, where workers have the fleet: there are only the probes and the auditor


class _CountingGreenRecorder(GreenRecorder, CountingRecorder):
    """Counts what stop conditions ask for."""


def recorder(folder: Path, endpoints: Endpoints | None) -> Recorder:
    """A recorder that counts what the target's stop conditions ask for, if they ask for anything."""
    counts = endpoints is not None and endpoints.rules.stop.error_ratio is not None
    return _CountingGreenRecorder(folder) if counts else GreenRecorder(folder)


def connects_per_s(endpoints: Endpoints, workers: int) -> tuple[float, float]:
    """Which part of the target's cap the master keeps to, and which part each of so many workers; 0: there is no cap.

    Whole numbers, since no part of a connect can be made in a second. Raises `UsageError` where there are not enough of them.
    """
    cap = endpoints.rules.caps.connects_per_s if endpoints.rules.caps else 0.0
    if not cap or not workers:
        return cap, cap
    masters = max(int(cap * _MASTERS_SHARE), 1)
    if (each := int(cap - masters) // workers) < 1:
        raise UsageError(
            f"caps.connects_per_s is {cap:g} of target '{endpoints.name}', which a master and {workers} workers cannot share; "
            "use fewer workers."
        )
    return float(masters), float(each)


class GreenMetrics(MetricsBook):
    """Polls on a connection of their own each, so that none waits behind what clients ask."""

    def poll(self) -> None:
        """Ask once, twice if need be. Never raises for what the other side does; `StorageError` for a full disk."""
        began = self._clock.now()
        outcome, body = self._ask()
        for _ in range(TRIES - 1):
            if outcome == OK:
                break
            outcome, body = self._ask()
        self._take(outcome, body, began)

    def _ask(self) -> tuple[str, bytes]:
        parts = urlsplit(self._url)
        http = HTTPClient(str(parts.hostname), parts.port, ssl=parts.scheme == "https", concurrency=1)
        try:
            with gevent.Timeout(TIMEOUT_S):
                answer = http.get(parts.path, headers=self._headers)
                body = bytes(answer.read(MAX_BODY_BYTES + 1))
        except gevent.Timeout:
            return "timeout", b""
        except (OSError, HTTPParseError):
            return "unreachable", b""
        finally:
            http.close()
        if len(body) > MAX_BODY_BYTES:
            return "too_large", b""
        return (OK if answer.status_code == 200 else f"http_{answer.status_code}"), body


class TargetGuard:
    """Of one run; `close` it. `connects` and `events` keep to the caps in this process; None: there are none.

    Raises `UsageError` for caps that cannot be shared by so many workers.
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
        self._metrics = GreenMetrics(endpoints, folder, clock, recorder) if is_asked(endpoints) else None
        own_per_s, self.worker_connects_per_s = connects_per_s(endpoints, workers)
        self.connects = Pacer(own_per_s) if own_per_s else None
        self.events = Pacer(caps.events_per_s) if caps else None
        header.target, header.target_kind = endpoints.name, endpoints.kind
        header.remarks = permission.remarks(drill, endpoints)
        header.metrics_profile = endpoints.rules.metrics_profile if endpoints.admin_token else "none"

    def before(self) -> None:
        """Poll once before anything else is done; raises `TargetError` where a stop condition could never be met."""
        if self._metrics is not None:
            self._metrics.poll()
            self._metrics.require_usable()

    def poll(self) -> None:
        """Poll as long as the run lasts."""
        while self._metrics is not None:
            gevent.sleep(self._endpoints.rules.metrics_every_s)
            self._metrics.poll()

    def look(self, live_share: Callable[[], float | None], stop: Callable[[str], None]) -> None:
        """Look at the stop conditions as long as the run lasts; `stop` is told which one was met."""
        if self._endpoints.rules.stop == Stop():
            return
        watch, met = StopMonitor(self._endpoints.rules.stop, self._recorder, self._metrics), ""
        while not met:
            gevent.sleep(_LOOK_S)
            met = watch.met(self._clock.now() - self._clock.began, live_share())
        self._header.stop_condition = met
        stop(f"a stop condition of the target was met, {met}")

    def close(self) -> None:
        """Poll once more, when all is done, and enter what was kept into the run's header; raises `StorageError`."""
        if self._metrics is not None:
            self._metrics.poll()
            self._header.evidence |= self._metrics.evidence()
