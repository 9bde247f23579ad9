"""The figures of running drills, added up from their observation rows as they are recorded.

`Tracker` takes the rows of one run piece by piece; what it adds up agrees with the judged metrics at the end of the run.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sim.analysis import endings, reconnects
from sim.record.history import Floats, History, Ints, Mask, Rows
from sim.record.observations import SCHEMA, Kind
from sim.record.published import SPAN
from sim.record.run_header import RunHeader

RECOVERY_S = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0)
"""Upper bounds of the buckets of recovery times, in seconds [ours]."""
LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of delivery latencies, in seconds [ours]."""
MAX_CODES = 100  # [ours] distinct codes with a count of their own; a server may invent any number of them
OTHER = "other"
_WAITED_S = 60.0  # [ours] an applied event waits so long for the acknowledgement of its publish
_Key = TypeVar("_Key")
_OF_RECOVERY = (
    *(Kind.FAULT_INJECTED, Kind.FAULT_REVERTED, Kind.DISCONNECTED, Kind.SUBSCRIBED, Kind.REPLAY_COMPLETED),
    Kind.CONNECT_ATTEMPTED,
)
_COUNTED = {
    Kind.CONNECT_ATTEMPTED: "connects_attempted",
    Kind.CONNECT_FAILED: "connects_failed",
    Kind.APPLIED: "events_applied",
}


class Histogram:
    """Counts of samples by bucket, their sum and their number."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts: Ints = np.zeros(len(bounds) + 1, np.int64)  # the last bucket has no upper bound
        self.sum = 0.0

    def add(self, samples: Floats) -> None:
        """Count samples. A bucket includes its upper bound."""
        places = np.searchsorted(self.bounds, samples, side="left")
        self.counts += np.bincount(places, minlength=len(self.counts))
        self.sum += float(samples.sum())

    def merge(self, other: "Histogram") -> None:
        """Add the samples of another histogram with the same buckets."""
        self.counts = self.counts + other.counts
        self.sum += other.sum

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.counts.sum())


@dataclass
class Figures:
    """Figures of one drill, over all its runs so far. Gauges are those of the running one."""

    recovery_s: Histogram = field(default_factory=lambda: Histogram(RECOVERY_S))
    latency_s: Histogram = field(default_factory=lambda: Histogram(LATENCY_S))
    endings: Counter[tuple[str, str]] = field(default_factory=Counter)  # who ended it, and the code
    disconnects: Counter[str] = field(default_factory=Counter)  # by reason
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)  # active now, by kind
    recovering: int = 0  # clients that a fault disconnected and that are not live again
    live: int = 0
    clients: int = 0
    phase: str = ""
    generator_lag_s: float = 0.0  # the largest of the latest piece

    def merge(self, other: "Figures") -> None:
        """Add another run's counts and samples; its gauges replace those of this one."""
        self.recovery_s.merge(other.recovery_s)
        self.latency_s.merge(other.latency_s)
        for name in ("endings", "disconnects", "counts"):
            getattr(self, name).update(getattr(other, name))
        for name in ("faults", "recovering", "live", "clients", "phase", "generator_lag_s"):
            setattr(self, name, getattr(other, name))


class Tracker:
    """Adds up the rows of one run. Call `take` with each piece of the record, then read `figures`."""

    def __init__(self, header: RunHeader) -> None:
        self.header = header
        self.figures = Figures(clients=header.clients if header.has_socket else 0)
        self._live = np.zeros(header.clients, np.bool_)
        self._first_live_t = np.full(header.clients, np.inf)
        self._phases: dict[str, float] = {}
        self._codes: dict[str, int] = {}  # of streams, over all pieces
        self._due_t: dict[int, float] = {}  # of each acknowledged event
        self._waiting = _Applied.none()
        self._applied: set[int] | None = set() if _may_restart(header) else None
        self._recovery_rows = pa.Table.from_pylist([], schema=SCHEMA)
        self._t = 0.0

    def take(self, piece: pa.Table) -> None:
        """Add the rows of a piece."""
        part = History(self.header, piece)
        self._t = max(self._t, part.duration_s)
        self._count(part)
        self._take_phases(part)
        self._take_live(part)
        self._take_latencies(part)
        self._take_recoveries(piece)

    def _count(self, part: History) -> None:
        figures = self.figures
        for kind, name in _COUNTED.items():
            figures.counts[name] += len(part.fleet(kind))
        figures.counts["events_published"] += len(part.of(Kind.PUBLISHED))
        for each in endings.endings(part):
            _add(figures.endings, (each.by, each.code), each.count, (each.by, OTHER))
        for reason, count in part.detail_counts(part.fleet(Kind.DISCONNECTED)).items():
            _add(figures.disconnects, reason or "unknown", count, OTHER)
        lag_ms = part.of(Kind.GENERATOR_LAG).value
        figures.generator_lag_s = float(lag_ms.max(initial=0.0)) / 1000.0

    def _take_phases(self, part: History) -> None:
        rows = part.of(Kind.PHASE)
        for t, code in zip(rows.t.tolist(), rows.detail.tolist(), strict=True):
            self.figures.phase = part.details[code]
            self._phases.setdefault(self.figures.phase, t)
        for kind, change in ((Kind.FAULT_INJECTED, 1), (Kind.FAULT_REVERTED, -1)):
            for fault, count in part.detail_counts(part.of(kind)).items():
                self.figures.faults[fault] += change * count

    def _take_live(self, part: History) -> None:
        """Which clients are live: those whose last row of these kinds says so."""
        rows = part.fleet(Kind.SUBSCRIBED, Kind.DISCONNECTED)
        is_live = rows.is_kind(Kind.SUBSCRIBED)
        whole = is_live | part.is_stream(rows, "")  # the end of one stream does not end the others
        rows, is_live = rows.take(whole), is_live[whole]
        self._live[rows.client] = is_live  # of equal indices the last counts
        np.minimum.at(self._first_live_t, rows.client[is_live], rows.t[is_live])
        self.figures.live = int(self._live.sum())

    # --- delivery latency: as `sim.analysis.samples.publish_to_apply_ms` ------------------------------

    def _take_latencies(self, part: History) -> None:
        published, applied = part.of(Kind.PUBLISHED), part.fleet(Kind.APPLIED)
        due_t = published.t - np.nan_to_num(published.value) / 1000.0
        for column in (published.marker, published.seq):
            for key, due in zip(self._keys(part, published, column).tolist(), due_t.tolist(), strict=True):
                if key >= 0:
                    self._due_t.setdefault(key, due)
        keys = self._keys(part, applied, np.where(applied.marker >= 0, applied.marker, applied.seq))
        self._waiting = self._waiting.and_then(_Applied(keys, applied.client, applied.t))
        self._observe_latencies()

    def _keys(self, part: History, rows: Rows, number: Ints) -> Ints:
        """One integer for each row's event, the same in all pieces; -1 without a number."""
        codes = [self._codes.setdefault(part.base_name(code), len(self._codes)) for code in range(len(part.streams))]
        streams = np.array([*codes, 0], np.int64)[rows.stream]
        return np.where(number >= 0, streams * SPAN + number, -1)

    def _observe_latencies(self) -> None:
        """Observe the latency of applied events whose publish is known; the others wait."""
        waiting = self._waiting
        events, event = np.unique(waiting.key, return_inverse=True)
        due_t = np.array([self._due_t.get(key, np.nan) for key in events.tolist()], np.float64)[event]
        known = np.isfinite(due_t)
        self._waiting = waiting.take(~known & (waiting.t >= self._t - _WAITED_S) & (waiting.key >= 0))
        found, due_t = waiting.take(known), due_t[known]
        counts = ~self._in_fault_phase(due_t) & (due_t >= self._first_live_t[found.client]) & self._is_first(found)
        self.figures.latency_s.add((found.t - due_t)[counts])

    def _in_fault_phase(self, due_t: Floats) -> Mask:
        if not self.header.plan:
            return np.zeros(len(due_t), np.bool_)
        start_t, end_t = self._phases.get("fault", np.inf), self._phases.get("recovery", np.inf)
        return (due_t >= start_t) & (due_t < end_t)

    def _is_first(self, found: "_Applied") -> Mask:
        """Where a client applied an event for the first time; it may do so again after its process died."""
        first = np.ones(len(found.key), np.bool_)
        if self._applied is not None:
            for place, pair in enumerate(zip(found.client.tolist(), found.key.tolist(), strict=True)):
                first[place] = hash(pair) not in self._applied
                self._applied.add(hash(pair))
        return first

    # --- recovery ------------------------------------------------------------------------------------

    def _take_recoveries(self, piece: pa.Table) -> None:
        """Judge the recoveries so far as the report does. A fault counts when all that it disconnects has been disconnected."""
        kinds = pa.array([*_OF_RECOVERY], pa.string())
        chosen = piece.filter(pc.is_in(piece.column("kind").cast(pa.string()), value_set=kinds))
        if chosen.num_rows:
            self._recovery_rows = pa.concat_tables([self._recovery_rows, chosen])
        whole = History(self.header, self._recovery_rows)
        self.figures.recovery_s, self.figures.recovering = Histogram(RECOVERY_S), 0
        for episode in reconnects.episodes(whole):
            is_live = np.isfinite(episode.live_s)
            self.figures.recovering += int((~is_live).sum())
            if min(episode.end_t + reconnects.NOTICE_S, self._phases.get("end", np.inf)) <= self._t:
                self.figures.recovery_s.add(episode.live_s[is_live])


@dataclass(frozen=True)
class _Applied:
    """Applied events: their keys, who applied them, and when."""

    key: Ints
    client: Ints
    t: Floats

    @classmethod
    def none(cls) -> "_Applied":
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

    def take(self, which: Mask) -> "_Applied":
        return _Applied(self.key[which], self.client[which], self.t[which])

    def and_then(self, others: "_Applied") -> "_Applied":
        names = ("key", "client", "t")
        return _Applied(*(np.concatenate((getattr(self, name), getattr(others, name))) for name in names))


def _add(counts: Counter[_Key], key: _Key, count: int, otherwise: _Key) -> None:
    counts[key if key in counts or len(counts) < MAX_CODES else otherwise] += count


def _may_restart(header: RunHeader) -> bool:
    return any(fault.get("kind") == "restart_clients" for fault in header.plan)
