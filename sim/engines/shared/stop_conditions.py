"""The stop conditions of a live target: count requests, and evaluate the conditions."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from sim.drill.target_rules import Stop
from sim.engines.shared.metrics_book import MetricsBook
from sim.record.observations import NAN, Row
from sim.record.parquet import Recorder
from sim.service.metric_names import is_counter

_BUCKET_S = 0.5
_SUCCEEDED = frozenset({"token_minted", "connect_done", "published"})
_FAILED = frozenset({"token_refused", "connect_failed", "subscribe_refused", "publish_failed"})


class CountingRecorder(Recorder):
    """A recorder that also counts mints, connects and publishes by success, in buckets of half a second."""

    def __init__(self, folder: Path, *, observe: Callable[[pa.Table], None] = lambda chunk: None) -> None:
        super().__init__(folder, observe=observe)
        self._buckets: deque[list[float]] = deque()  # [start in s, succeeded, failed], oldest first

    def add(
        self,
        t: float,
        kind: str,
        client: int = -1,
        stream: str = "",
        seq: int = -1,
        attempt: int = 0,
        value: float = NAN,
        detail: str = "",
        marker: int = -1,
    ) -> None:
        """See `Recorder`."""
        self._count(t, kind)
        super().add(t, kind, client, stream, seq, attempt, value, detail, marker)

    def extend(self, t: float, client: int, rows: Iterable[Row]) -> None:
        """See `Recorder`."""
        rows = list(rows)
        for row in rows:
            self._count(t, row[0])
        super().extend(t, client, rows)

    def _count(self, t: float, kind: str, many: int = 1) -> None:
        which = 1 if kind in _SUCCEEDED else 2 if kind in _FAILED else 0
        if which:
            if not self._buckets or t >= self._buckets[-1][0] + _BUCKET_S:
                self._buckets.append([t, 0, 0])
            self._buckets[-1][which] += many

    def count_others(self, t: float, counts: Mapping[str, int]) -> None:
        """Add the counts of another process since its last report, by kind of observation."""
        for kind, many in counts.items():
            self._count(t, kind, many)

    def failed_within(self, width_s: float, t: float) -> tuple[int, int]:
        """Return (failed, all) requests in the last `width_s` before `t`, and drop older buckets."""
        while self._buckets and self._buckets[0][0] < t - width_s:
            self._buckets.popleft()
        failed = sum(int(bucket[2]) for bucket in self._buckets)
        return failed, failed + sum(int(bucket[1]) for bucket in self._buckets)


class StopMonitor:
    """Evaluates a target's stop conditions."""

    def __init__(self, stop: Stop, recorder: Recorder, metrics: MetricsBook | None) -> None:
        self._stop = stop
        self._recorder = recorder
        self._metrics = metrics
        self._low_since: float | None = None

    def met(self, t: float, live_share: float | None) -> str:
        """Return the first condition that is met, in words, or empty. `live_share` is None before the steady state."""
        return self._errors(t) or self._live(t, live_share) or self._metrics_above()

    def _errors(self, t: float) -> str:
        limit = self._stop.error_ratio
        if limit is None or not isinstance(self._recorder, CountingRecorder):
            return ""
        failed, n = self._recorder.failed_within(self._stop.error_window_s, t)
        if n < self._stop.error_minimum_n or failed <= limit * n:
            return ""
        return f"error_ratio: {failed} of {n} mints, connects and publishes failed within {self._stop.error_window_s:g} s"

    def _live(self, t: float, share: float | None) -> str:
        limit, for_s = self._stop.live_share, self._stop.live_share_for_s
        if limit is None or share is None or share >= limit:
            self._low_since = None
            return ""
        self._low_since = t if self._low_since is None else self._low_since
        if t - self._low_since < for_s:
            return ""
        return f"live_share: only {share:.0%} of the clients are live; for {for_s:g} s it was less than {limit:.0%}"

    def _metrics_above(self) -> str:
        if self._metrics is None:
            return ""
        limit, polls = self._stop.metrics_unreachable_polls, self._metrics.failures_in_a_row
        if limit is not None and polls >= limit:
            return f"metrics_unreachable_polls: the metrics endpoint failed {polls} times in a row ({self._metrics.failure})"
        for name, highest in self._stop.metrics_above.items():
            if not self._metrics.failure and name not in self._metrics.latest:
                return f"metrics_above.{name}: the metrics endpoint no longer has it"
            value = (self._metrics.increase if is_counter(name) else self._metrics.latest).get(name)
            if value is not None and value > highest:
                what = "has grown by" if is_counter(name) else "is"
                return f"metrics_above.{name}: it {what} {value:g}, over {highest:g}"
        return ""
