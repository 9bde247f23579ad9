"""The state of a running drill or hold, as its process serves it: figures per drill, the state of the verdict, and the hold.

Rows come from the recorder's thread, the state from the main thread, and requests from others; a lock keeps them apart.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import pyarrow as pa
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from drills.exports.figures import Figures, Histogram, Tracker
from drills.exports.verdict import STATES, CheckNow, State, Verdict
from sim.base.clocks import iso
from sim.base.exit_codes import ExitCode
from sim.record.history import PHASES
from sim.record.run_header import RunHeader

_STATE_OF: Mapping[int, State] = {
    ExitCode.GO: "go",
    ExitCode.NO_GO: "no_go",
    ExitCode.INCONCLUSIVE: "inconclusive",
}
Labels = dict[str, str]
Sample = tuple[Labels, float]


@dataclass(eq=False)
class Live(Collector):
    """What is served while a drill or a stage runs. `warn` gets one sentence if an observer of rows fails."""

    verdict: Verdict
    warn: Callable[[str], None] = lambda text: None
    _figures: dict[str, Figures] = field(default_factory=dict)  # of finished runs, by drill
    _running: dict[str, Tracker] = field(default_factory=dict)
    _has_failed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def observe(self, header: RunHeader, piece: pa.Table) -> None:
        """Add recorded rows. Never raises: a defect here must not end a run."""
        try:
            with self._lock:
                self._tracker_of(header).take(piece)
        except Exception as error:
            if not self._has_failed:
                self.warn(f"the live metrics of {header.drill} are incomplete ({error}); the verdict is not affected")
            self._has_failed = True

    def _tracker_of(self, header: RunHeader) -> Tracker:
        """The tracker of the running drill. A new run of a drill ends the one before."""
        running = self._running.get(header.drill)
        if running is None or running.header is not header:
            self._end(header.drill)
            running = self._running[header.drill] = Tracker(header)
        return running

    def _end(self, drill: str) -> None:
        if (ended := self._running.pop(drill, None)) is not None:
            self._figures.setdefault(drill, Figures()).merge(ended.figures)

    def changed(self, **changes: object) -> None:
        """Replace fields of the verdict."""
        with self._lock:
            self.verdict = msgspec.structs.replace(self.verdict, at=iso(datetime.now(UTC)), **changes)

    def concluded(self, exit_code: ExitCode, decision: str, reason: str, worst: CheckNow | None = None) -> None:
        """State the verdict, by the exit code of the process."""
        state = _STATE_OF.get(exit_code, "error")
        self.changed(state=state, exit_code=int(exit_code), decision=decision, reason=reason, worst_check=worst)

    def json(self) -> bytes:
        """The verdict as JSON."""
        return msgspec.json.format(msgspec.json.encode(self.verdict), indent=2) + b"\n"

    # --- metrics -------------------------------------------------------------------------------------

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics; see `prometheus_client`."""
        with self._lock:
            figures = self._all_figures()
            return [*_of_verdict(self.verdict), *_counters(figures), *_gauges(figures), *_histograms(figures)]

    def _all_figures(self) -> dict[str, Figures]:
        found: dict[str, Figures] = {}
        for drill in dict.fromkeys([*self._figures, *self._running]):
            found[drill] = Figures()
            for part in (self._figures.get(drill), tracker.figures if (tracker := self._running.get(drill)) else None):
                if part is not None:
                    found[drill].merge(part)
        return found


def _family(kind: type[CounterMetricFamily | GaugeMetricFamily], name: str, about: str, samples: Sequence[Sample]) -> Metric:
    family = kind(f"stormgate_{name}", about, labels=[*samples[0][0]] if samples else [])
    for labels, value in samples:
        family.add_metric([*labels.values()], value)
    return family


def _of_verdict(verdict: Verdict) -> Iterable[Metric]:
    states: list[Sample] = [({"state": state}, float(verdict.state == state)) for state in STATES]
    yield _family(GaugeMetricFamily, "verdict_state", "1 for the state of the verdict, as in /verdict.json", states)
    if (hold := verdict.hold) is None:
        return
    about = {"rollout": verdict.rollout, "stage": verdict.stage}
    for name, value, text in (
        ("hold_is_holding", float(hold.is_holding), "1 while the hold counts, 0 while it waits"),
        ("hold_held_seconds", hold.held_s, "time held since the last start"),
        ("hold_required_seconds", hold.required_s, "time to hold"),
    ):
        yield _family(GaugeMetricFamily, name, text, [(about, value)])
    yield _family(CounterMetricFamily, "hold_restarts", "restarts of the hold", [(about, hold.restarts)])
    checks = [({**about, "check": check.name, "state": check.state}, 1.0) for check in hold.checks]
    yield _family(GaugeMetricFamily, "check_state", "1 for the state of each check of the hold's latest evaluation", checks)


_COUNTERS = (
    ("connects_attempted", "connects that clients started"),
    ("connects_failed", "connects that failed"),
    ("events_published", "events that the service acknowledged"),
    ("events_applied", "events that clients applied"),
)


def _counters(figures: Mapping[str, Figures]) -> Iterable[Metric]:
    for name, about in _COUNTERS:
        counts = [({"drill": drill}, float(each.counts[name])) for drill, each in figures.items()]
        yield _family(CounterMetricFamily, name, about, counts)
    ends = [
        ({"drill": drill, "by": by, "code": code}, float(count))
        for drill, each in figures.items()
        for (by, code), count in each.endings.items()
    ]
    yield _family(CounterMetricFamily, "connections_ended", "connections that ended or failed, by whom and the code", ends)
    reasons = [
        ({"drill": drill, "reason": reason}, float(count))
        for drill, each in figures.items()
        for reason, count in each.disconnects.items()
    ]
    yield _family(CounterMetricFamily, "disconnects", "disconnects of clients, by reason", reasons)


_GAUGES = (
    ("clients", "clients of the drill"),
    ("live", "clients that are live now"),
    ("recovering", "recoveries under way: clients that a fault disconnected and that are not live again"),
    ("generator_lag_s", "largest delay of the load generator itself in the last second"),
)
_GAUGE_NAMES = {"live": "clients_live", "recovering": "clients_recovering", "generator_lag_s": "generator_lag_seconds"}


def _gauges(figures: Mapping[str, Figures]) -> Iterable[Metric]:
    for name, about in _GAUGES:
        values = [({"drill": drill}, float(getattr(each, name))) for drill, each in figures.items()]
        yield _family(GaugeMetricFamily, _GAUGE_NAMES.get(name, name), about, values)
    phases = [
        ({"drill": drill, "phase": phase}, float(each.phase == phase)) for drill, each in figures.items() for phase in PHASES
    ]
    yield _family(GaugeMetricFamily, "phase", "1 for the phase that the drill is in", phases)
    faults = [
        ({"drill": drill, "kind": kind}, float(count)) for drill, each in figures.items() for kind, count in each.faults.items()
    ]
    yield _family(GaugeMetricFamily, "faults_active", "faults that are injected and not reverted, by kind", faults)


def _histograms(figures: Mapping[str, Figures]) -> Iterable[Metric]:
    recovery = {drill: each.recovery_s for drill, each in figures.items()}
    latency = {drill: each.latency_s for drill, each in figures.items()}
    yield _histogram("recovery_seconds", "time from the end of a fault until a client that it disconnected was live", recovery)
    yield _histogram("delivery_latency_seconds", "time from a publish was due until a client applied the event", latency)


def _histogram(name: str, about: str, of_drills: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"stormgate_{name}", about, labels=["drill"])
    for drill, found in of_drills.items():
        bounds = [*map(str, found.bounds), "+Inf"]
        counts = found.counts.cumsum().tolist()
        family.add_metric([drill], [*zip(bounds, map(float, counts), strict=True)], found.sum)
    return family
