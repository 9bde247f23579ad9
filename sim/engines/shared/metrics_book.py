"""The answers of the service's metrics endpoint during a drill, however they are fetched.

Every answer is kept without secrets, one line per poll; its metrics become observations. A metric that the endpoint does not
serve is missing, not zero.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from sim.base.clocks import RunClock
from sim.base.errors import StorageError, TargetError
from sim.base.redaction import Redactor
from sim.engines.shared.endpoints import Endpoints
from sim.protocols.spacetime.metric_names import is_counter
from sim.protocols.spacetime.service_metrics import OK, read_metrics
from sim.protocols.spacetime.service_paths import METRICS_PATH
from sim.record.observations import Kind
from sim.record.parquet import Recorder

FILE_NAME = "server-metrics.jsonl"
_MAX_TRIES = 2  # of one poll
TIMEOUT_S = 3.0  # of one try, from connecting to the last byte
MAX_BODY_BYTES = 256 * 1024
METRICS_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of one GET. `outcome` is `ok` for a 200, else http_<status>, timeout, unreachable or too_large."""

    outcome: str
    body: bytes = b""
    status: int | None = None
    date: datetime | None = None  # the answer's `Date` header: when the server sent it
    age_s: float = 0.0  # time in caches since, by the `Age` header
    latency_ms: float = 0.0  # until the last byte


def is_asked(endpoints: Endpoints) -> bool:
    """Whether the target's endpoint is polled at all."""
    return bool(endpoints.admin_token) and endpoints.rules.metrics_profile != "none"


class MetricsBook:
    """All polls of one run."""

    def __init__(self, endpoints: Endpoints, folder: Path, clock: RunClock, recorder: Recorder) -> None:
        self._endpoints = endpoints
        self.url = endpoints.runtime_url + METRICS_PATH
        self.headers = {"Authorization": f"Bearer {endpoints.admin_token}", **METRICS_HEADERS}
        self._path = folder / FILE_NAME
        self._clock, self._recorder, self._redact = clock, recorder, Redactor(endpoints.secrets)
        self._polls = 0
        self.failures_in_a_row = 0
        self.latest: dict[str, float] = {}  # of the latest good answer
        self.increase: dict[str, float] = {}  # of counters, since the first poll
        self._counters: dict[str, float] = {}  # their latest values
        self.failure = ""  # why the latest poll failed, empty if it did not

    def evidence(self) -> dict[str, str]:
        """The file of all answers with its SHA-256; raises `StorageError`."""
        try:
            return {FILE_NAME: hashlib.sha256(self._path.read_bytes()).hexdigest()} if self._polls else {}
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be read ({error.strerror}).") from None

    def require_usable(self) -> None:
        """After the first poll: raise `TargetError` for a stop condition that could never be met."""
        stop, name = self._endpoints.rules.stop, self._endpoints.name
        if stop.needs_metrics and self.failure:
            raise TargetError(
                f"the metrics endpoint of target '{name}' cannot be read ({self.failure}), but its stop "
                "conditions need it. Check its address and admin token."
            )
        missing = [metric for metric in stop.metrics_above if metric not in self.latest]
        if missing:
            raise TargetError(
                f"the stop condition metrics_above of target '{name}' names {missing[0]}, which its metrics "
                f"endpoint does not serve. It serves: {', '.join(self.latest) or 'nothing'}."
            )

    def tries(self) -> Iterator[Callable[[Fetched], None]]:
        """The tries of one poll. Fetch `url` for each try, then call the try with the result. A failure is retried once.

        Records the poll at its end, also a failed one; raises `StorageError`.
        """
        began, results = self._clock.now(), list[Fetched]()
        while len(results) < _MAX_TRIES and not (results and results[-1].outcome == OK):
            yield results.append
        self.take(results[-1].outcome, results[-1].body, began)

    def take(self, outcome: str, body: bytes, began: float) -> None:
        """Keep the answer to a poll that began at `began`; `body` is read only for the outcome `ok`. Raises `StorageError`."""
        body = self._redact(body)
        metrics: dict[str, float] = {}
        if outcome == OK:
            reading = read_metrics(body)
            outcome, metrics = reading.outcome, reading.figures if reading.outcome == OK else {}
        self._polls += 1
        self._keep(outcome, body, began)
        self._record(outcome, metrics, began)

    def _keep(self, outcome: str, body: bytes, began: float) -> None:
        text = body.decode("utf-8", "replace")
        line = {
            "poll": self._polls,
            "t": round(began - self._clock.began, 6),
            "outcome": outcome,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "body": text,
        }
        try:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written ({error.strerror}).") from None

    def _record(self, outcome: str, metrics: dict[str, float], began: float) -> None:
        now = self._clock.now()
        t = now - self._clock.began
        self._recorder.add(t, Kind.METRICS_POLLED, attempt=self._polls, value=(now - began) * 1000, detail=outcome)
        for name, value in metrics.items():
            self._recorder.add(t, Kind.SERVER_METRIC, attempt=self._polls, value=value, detail=name)
        if outcome != OK:
            self.failures_in_a_row += 1
            self.failure = outcome
            return
        self.failures_in_a_row, self.failure = 0, ""
        for name, value in metrics.items():
            if is_counter(name):  # one that decreased was restarted: its whole value is an increase
                before = self._counters.get(name, value)
                self.increase[name] = self.increase.get(name, 0.0) + (value - before if value >= before else value)
                self._counters[name] = value
        self.latest = metrics
