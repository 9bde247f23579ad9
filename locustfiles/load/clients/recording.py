"""What this process observes: the record that is judged, and live metrics while the run goes on.

The record is a drill's (`sim.record.observations`). Live metrics are mergeable sketches (DDSketch, within 1 % of
the value): they are shown, and never used for a verdict.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import gevent
from ddsketch import DDSketch
from gevent import monkey

from locustfiles.load.clients.locust_tables import REQUEST, SOCKET
from sim.client.notices import Notice
from sim.client.session import Session
from sim.engines.shared.publishing import DueEvent
from sim.protocols.events import DisconnectReason
from sim.record.parquet import Recorder

_LOST = frozenset(DisconnectReason) - {DisconnectReason.TOKEN_REFRESH_DUE}  # the client itself reconnects to renew its token
_WITHIN = 0.01  # relative accuracy of sketches
_CURVE_SAMPLES = 7200  # of the recovery curve: an hour at two a second
_WAITING_EVENTS = 50_000  # applied events whose acknowledgement is still missing
Values = dict[str, list[tuple[float, float]]]  # milliseconds with their counts, by name in Locust's tables
Report = Callable[[str, str, float, str], None]  # type, name, ms, error code: feeds Locust's own tables


class GreenRecorder(Recorder):
    """A recorder that writes in a native thread; in a greenlet, compressing would block all clients."""

    def _begin_writing(self) -> None:
        native: type[SimpleQueue] = monkey.get_original("queue", "SimpleQueue")  # type: ignore[type-arg]
        self._pending = native()
        self._written = gevent.get_hub().threadpool.spawn(self._write_chunks)

    def _end_writing(self) -> None:
        self._written.get()


class Deliveries:
    """Measures from an event's due time to its application, even if clients apply it before it is acknowledged."""

    def __init__(self, took: Callable[[float], None]) -> None:
        self._took = took
        self._due: dict[tuple[str, int], float] = {}
        self._waiting: dict[tuple[str, int], list[float]] = {}

    def published(self, stream: str, number: int, due: float) -> None:
        """Record when the event of this stream and number was due."""
        self._due[stream, number] = due
        for applied_at in self._waiting.pop((stream, number), ()):
            self._took((applied_at - due) * 1000)

    def applied(self, stream: str, number: int, now: float) -> None:
        """Record that a client applied the event; -1: somebody else's."""
        if number < 0:
            return
        due = self._due.get((stream, number))
        if due is not None:
            self._took((now - due) * 1000)
        elif len(self._waiting) < _WAITING_EVENTS:
            self._waiting.setdefault((stream, number), []).append(now)


class Sketch(DDSketch):
    """Milliseconds within 1 % of the value."""

    def __init__(self) -> None:
        super().__init__(_WITHIN)

    def values(self) -> list[tuple[float, float]]:
        """Return values with their counts; added to an empty sketch they give the same sketch."""
        bins = [(key + self._store.offset, count) for key, count in enumerate(self._store.bins) if count]
        zeros = [(0.0, float(self._zero_count))] if self._zero_count else []
        return [*zeros, *((float(self._mapping.value(key)), float(count)) for key, count in bins)]


class LiveMetrics:
    """Counts, sketches and the recovery curve of the current run; a master's include its workers'."""

    def __init__(self, report: Report) -> None:
        self._counts: Counter[str] = Counter()  # of this process
        self._sketches: dict[str, Sketch] = {}
        self._worker_counts: dict[str, Counter[str]] = {}  # the latest of each worker
        self._worker_values: dict[str, Values] = {}
        self.curve: deque[dict[str, float]] = deque(maxlen=_CURVE_SAMPLES)
        self.phases: dict[str, float] = {}  # when each began, in s of the run
        self.deliveries = Deliveries(lambda ms: self._took("delivery", ms))
        self._worst: dict[str, float] = {}  # ms, since the last sample
        self._live: set[int] = set()
        self._fewest = 0  # fewest live clients since the last sample
        self._report = report
        self._connected_at: dict[int, float] = {}

    @property
    def counts(self) -> Counter[str]:
        """Number of observations by kind."""
        return sum(self._worker_counts.values(), self._counts)

    @property
    def sketches(self) -> dict[str, Sketch]:
        """Durations in ms, by their names in Locust's tables."""
        if not self._worker_values:
            return self._sketches
        merged: dict[str, Sketch] = {}
        for of in (self.own_values(), *self._worker_values.values()):
            for name, values in of.items():
                sketch = merged.setdefault(name, Sketch())
                for ms, count in values:
                    sketch.add(ms, count)
        return merged

    def own_counts(self) -> dict[str, int]:
        """Return the counts of this process alone."""
        return dict(self._counts)

    def own_values(self) -> Values:
        """Return this process's sketches in the form that `worker_measured` takes."""
        return {name: sketch.values() for name, sketch in self._sketches.items()}

    def take_worst(self) -> dict[str, float]:
        """Return the longest durations in ms since the last call."""
        worst, self._worst = self._worst, {}
        return worst

    def worker_counted(self, worker: str, counts: dict[str, int], worst_ms: dict[str, float]) -> None:
        """Take a worker's total counts, and its longest durations since its last message."""
        self._worker_counts[worker] = Counter(counts)
        for name, ms in worst_ms.items():
            self._worst[name] = max(ms, self._worst.get(name, 0.0))

    def worker_measured(self, worker: str, values: Values) -> None:
        """Take a worker's total sketches; a repeated or lost message does no harm."""
        self._worker_values[worker] = values

    def noticed(self, now: float, session: Session, notices: Sequence[Notice]) -> None:
        """Take a client's notices, and report to Locust what its tables show."""
        for kind, stream, _, _, value, detail, marker in notices:
            self._counts[kind] += 1
            if kind == "applied":
                self.deliveries.applied(stream, marker, now)
            else:
                self._report_notice(kind, now, session.client, value, detail, is_cut=session.is_cut_by_fault)

    def _report_notice(self, kind: str, now: float, client: int, value: float, detail: str, *, is_cut: bool) -> None:
        match kind:
            case "token_minted" | "token_refused":
                self._took("mint", value, detail if kind == "token_refused" else "")
            case "connect_done":
                self._connected_at[client] = now
                self._took("WS connect", value)
            case "connect_failed":
                self._took("WS connect", value, detail)
            case "joined":
                self._took("join", (now - self._connected_at.pop(client, now)) * 1000)
            case "disconnected":
                if detail in _LOST and not is_cut:
                    self._report(SOCKET, "connection lost", 0.0, detail)
                self._live.discard(client)
                self._fewest = min(self._fewest, len(self._live))
            case "subscribed":  # its replay, which includes this, is in Locust's tables
                self._live.add(client)
                self._took("subscribe", value, is_shown=False)
            case "subscribe_refused":
                asked = "join" if client in self._connected_at else "subscribe"
                self._took(asked, (now - self._connected_at.pop(client, now)) * 1000, detail)
            case "replay_completed":
                if value == value:  # a repeated replay has no due time
                    self._took("replay bootstrap", value)

    def published(self, event: DueEvent, ms: float) -> None:
        """Record an acknowledged event."""
        self._counts["published"] += 1
        self.deliveries.published(event.stream.stream, event.number, event.due)
        self._took("publish", ms)

    def publish_failed(self, ms: float, code: str) -> None:
        """Record an event that the publisher gave up."""
        self._counts["publish_failed"] += 1
        self._took("publish", ms, code)

    def sample(self, t: float, live: int, clients: int, lag_ms: float, behind_events: float = math.nan) -> None:
        """Add a point to the recovery curve; its longest durations cover the time since the previous point."""
        worst, counts = self.take_worst(), self.counts
        fewest, self._fewest = live if self._worker_counts else min(self._fewest, live), len(self._live)
        self.curve.append(
            {
                "t": t,
                "live": live,
                "fewest_live": fewest,
                "clients": clients,
                "connects": counts["connect_done"],
                "applied": counts["applied"],
                "behind_events": behind_events,
                "delivery_ms": worst.get("delivery", math.nan),
                "replay_ms": worst.get("replay bootstrap", math.nan),
                "generator_lag_ms": lag_ms,
            }
        )

    def percentile(self, name: str, share: float) -> float | None:
        """Return a percentile in ms of the durations named so in Locust's tables; None without data."""
        sketch = self.sketches.get(name)
        return None if sketch is None else sketch.get_quantile_value(share)

    def n(self, name: str) -> int:
        """Return their number."""
        sketch = self.sketches.get(name)
        return 0 if sketch is None else int(sketch.count)

    def _took(self, name: str, ms: float, error: str = "", *, is_shown: bool = True) -> None:
        if not error:
            if name not in self._sketches:
                self._sketches[name] = Sketch()
            self._sketches[name].add(max(ms, 0.0))
            self._worst[name] = max(ms, self._worst.get(name, 0.0))
        if is_shown:
            self._report(SOCKET if name not in ("mint", "publish") else REQUEST, name, max(ms, 0.0), error)
