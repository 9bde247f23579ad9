"""What this process observes: the record that is judged, and the figures that can be watched while it grows.

The record is a drill's (`sim.record.observations`). The live figures are sketches that can be merged (DDSketch, within 1 % of
the value): good to look at, and never what a verdict rests on.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import gevent
from ddsketch import DDSketch
from gevent import monkey

from sim.client.notices import Notice
from sim.client.session import ClientSession
from sim.engines.shared.publishing import DueEvent
from sim.record.parquet import Recorder

_WITHIN = 0.01  # relative accuracy of sketches
_CURVE_SAMPLES = 7200  # of the recovery curve: an hour at two a second
_WAITING_EVENTS = 50_000  # whose publisher's word is still to come
Report = Callable[[str, str, float, str], None]  # type, name, ms, error code; how Locust's own tables learn of it


class GreenRecorder(Recorder):
    """A recorder whose writer is a real thread: as a greenlet it would hold up all clients while it compresses."""

    def _begin_writing(self) -> None:
        native: type[SimpleQueue] = monkey.get_original("queue", "SimpleQueue")  # type: ignore[type-arg]
        self._pending = native()
        self._written = gevent.get_hub().threadpool.spawn(self._write_chunks)

    def _end_writing(self) -> None:
        self._written.get()


class Deliveries:
    """From when an event was due to when a client applied it. Who publishes often learns its seq after clients have it."""

    def __init__(self, took: Callable[[float], None]) -> None:
        self._took = took
        self._due: dict[tuple[str, int], float] = {}
        self._waiting: dict[tuple[str, int], list[float]] = {}

    def published(self, stream: str, seq: int, due: float) -> None:
        """The event of this stream and seq was due then."""
        self._due[stream, seq] = due
        for applied_at in self._waiting.pop((stream, seq), ()):
            self._took((applied_at - due) * 1000)

    def applied(self, stream: str, seq: int, now: float) -> None:
        """A client applied it."""
        due = self._due.get((stream, seq))
        if due is not None:
            self._took((now - due) * 1000)
        elif len(self._waiting) < _WAITING_EVENTS:
            self._waiting.setdefault((stream, seq), []).append(now)


class Sketch(DDSketch):
    """Milliseconds within 1 % of the value."""

    def __init__(self) -> None:
        super().__init__(_WITHIN)

    def values(self) -> list[tuple[float, float]]:
        """Values and how many there are of each, which make the same sketch when they are added to an empty one."""
        bins = [(key + self._store.offset, count) for key, count in enumerate(self._store.bins) if count]
        zeros = [(0.0, float(self._zero_count))] if self._zero_count else []
        return [*zeros, *((float(self._mapping.value(key)), float(count)) for key, count in bins)]


class _Figures:
    """What one worker said last."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.values: dict[str, list[tuple[float, float]]] = {}


class LiveMetrics:
    """Counts, sketches and the recovery curve of a run that goes on; a master's have its workers' in them."""

    def __init__(self, report: Report) -> None:
        self._counts: Counter[str] = Counter()  # of this process
        self._sketches: dict[str, Sketch] = {}
        self._workers: dict[str, _Figures] = {}
        self.curve: deque[dict[str, float]] = deque(maxlen=_CURVE_SAMPLES)
        self.phases: dict[str, float] = {}  # when each began, in s of the run
        self.deliveries = Deliveries(lambda ms: self._took("delivery", ms))
        self._worst: dict[str, float] = {}  # ms, since the last sample
        self._live: set[int] = set()
        self._fewest = 0  # that were live at once, since the last sample
        self._report = report
        self._connected_at: dict[int, float] = {}

    @property
    def counts(self) -> Counter[str]:
        """How many observations of each kind there are."""
        return sum((worker.counts for worker in self._workers.values()), self._counts)

    @property
    def sketches(self) -> dict[str, Sketch]:
        """What took how long, in ms, by what Locust's tables call it."""
        if not self._workers:
            return self._sketches
        merged: dict[str, Sketch] = {}
        for of in (self.own_values(), *(worker.values for worker in self._workers.values())):
            for name, values in of.items():
                sketch = merged.setdefault(name, Sketch())
                for ms, count in values:
                    sketch.add(ms, count)
        return merged

    def own_counts(self) -> dict[str, int]:
        """The counts of this process alone."""
        return dict(self._counts)

    def own_values(self) -> dict[str, list[tuple[float, float]]]:
        """This process's sketches, as what `worker_measured` takes."""
        return {name: sketch.values() for name, sketch in self._sketches.items()}

    def take_worst(self) -> dict[str, float]:
        """What took longest, in ms, since this was asked last."""
        worst, self._worst = self._worst, {}
        return worst

    def worker_counted(self, worker: str, counts: dict[str, int], worst_ms: dict[str, float]) -> None:
        """All that a worker has counted by now, and its worst since it last said so."""
        self._workers.setdefault(worker, _Figures()).counts = Counter(counts)
        for name, ms in worst_ms.items():
            self._worst[name] = max(ms, self._worst.get(name, 0.0))

    def worker_measured(self, worker: str, values: dict[str, list[tuple[float, float]]]) -> None:
        """All that a worker has measured by now; what is said twice or not at all does no harm."""
        self._workers.setdefault(worker, _Figures()).values = values

    def noticed(self, now: float, session: ClientSession, notices: Sequence[Notice]) -> None:
        """A client noticed something; what Locust shows is told to it."""
        for kind, stream, seq, _, value, detail in notices:
            self._counts[kind] += 1
            if kind == "applied":
                self.deliveries.applied(stream, seq, now)
            else:
                self._tell(kind, now, session.client, value, detail)

    def _tell(self, kind: str, now: float, client: int, value: float, detail: str) -> None:
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
                self._live.discard(client)
                self._fewest = min(self._fewest, len(self._live))
            case "subscribed":
                self._live.add(client)
                self._took("subscribe", value)
            case "subscribe_refused":
                asked = "join" if client in self._connected_at else "subscribe"
                self._took(asked, (now - self._connected_at.pop(client, now)) * 1000, detail)
            case "replay_completed":
                if value == value:  # one that was asked for again has no due moment
                    self._took("replay bootstrap", value)

    def published(self, event: DueEvent, seq: int, ms: float) -> None:
        """An event was acknowledged."""
        self._counts["published"] += 1
        self.deliveries.published(event.stream.stream, seq, event.due)
        self._took("publish", ms)

    def publish_failed(self, ms: float, code: str) -> None:
        """An event was given up."""
        self._counts["publish_failed"] += 1
        self._took("publish", ms, code)

    def sample(self, t: float, live: int, clients: int, lag_ms: float, behind_events: float = math.nan) -> None:
        """One point of the recovery curve; what took worst is of the time since the one before."""
        worst, counts = self.take_worst(), self.counts
        fewest, self._fewest = live if self._workers else min(self._fewest, live), len(self._live)
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
        """Milliseconds of what Locust's tables call so; None before there is any."""
        sketch = self.sketches.get(name)
        return None if sketch is None else sketch.get_quantile_value(share)

    def n(self, name: str) -> int:
        """How many of those there were."""
        sketch = self.sketches.get(name)
        return 0 if sketch is None else int(sketch.count)

    def _took(self, name: str, ms: float, error: str = "") -> None:
        if not error:
            if name not in self._sketches:
                self._sketches[name] = Sketch()
            self._sketches[name].add(max(ms, 0.0))
            self._worst[name] = max(ms, self._worst.get(name, 0.0))
        self._report("WS" if name not in ("mint", "publish") else "HTTP", name, max(ms, 0.0), error)
