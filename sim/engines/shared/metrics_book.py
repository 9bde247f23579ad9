"""The answers of the service's metrics endpoint during a drill, independent of how they are fetched.

The book stores every answer without secrets, one line per poll, and records its metrics as observations. A metric that the
endpoint does not serve is missing, not zero.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from sim.base import bounded_reads
from sim.base.clocks import RunClock
from sim.base.errors import StorageError, TargetError
from sim.base.redaction import Redactor
from sim.engines.shared.endpoints import Endpoints
from sim.record.observations import Kind
from sim.record.parquet import Recorder
from sim.service.forms import PageForm
from sim.service.metric_names import is_counter
from sim.service.metrics import OK, read_metrics
from sim.service.requests import request_of
from sim.service.templates import names_in

FILE_NAME = "server-metrics.jsonl"
_MAX_TRIES = 2  # for one poll
TIMEOUT_S = 3.0  # for one try, from connecting to the last byte
MAX_BODY_BYTES = 256 * 1024
METRICS_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of one GET. `outcome` is `ok` for status 200, else http_<status>, timeout, unreachable or too_large."""

    outcome: str
    body: bytes = b""
    status: int | None = None
    date: datetime | None = None  # the `Date` header: when the server sent the answer
    age_s: float = 0.0  # the `Age` header: time that the answer was in caches
    latency_ms: float = 0.0  # until the last byte


def is_asked(endpoints: Endpoints) -> bool:
    """Return whether the target's metrics endpoint is polled."""
    has_token = endpoints.admin_token or "admin_token" not in names_in(endpoints.forms.metrics.headers)
    return bool(has_token) and endpoints.rules.metrics_profile != "none"


def page(endpoints: Endpoints, form: PageForm) -> tuple[str, dict[str, str]]:
    """Return the address of a page that is fetched in full, and the headers of the request."""
    asked = request_of(form, endpoints.base_url(form.service), endpoints.values(), lambda answer: answer)
    return asked.url, {**METRICS_HEADERS, **asked.headers}


class MetricsBook:
    """The results of all metrics polls of one run."""

    def __init__(self, endpoints: Endpoints, folder: Path, clock: RunClock, recorder: Recorder) -> None:
        self._endpoints = endpoints
        self.url, self.headers = page(endpoints, endpoints.forms.metrics)
        self._path = folder / FILE_NAME
        self._clock, self._recorder, self._redact = clock, recorder, Redactor(endpoints.secrets)
        self._polls = 0
        self.failures_in_a_row = 0
        self.latest: dict[str, float] = {}  # values in the latest valid answer
        self.increase: dict[str, float] = {}  # increase of each counter since the first poll
        self._counters: dict[str, float] = {}  # latest value of each counter
        self.failure = ""  # why the latest poll failed; empty if it succeeded

    def evidence(self) -> dict[str, str]:
        """Return the name of the file with all answers and its SHA-256; raise `StorageError` if it cannot be read."""
        try:
            return {FILE_NAME: bounded_reads.file_sha256(self._path)} if self._polls else {}
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be read ({error.strerror}).") from None

    def require_usable(self) -> None:
        """Raise `TargetError` for a stop condition that can never be met. Call this after the first poll."""
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
        """Yield the tries of one poll. Fetch `url` for each try, then call the try with the result. A failure is retried once.

        Record the poll at its end, even if it failed. Raise `StorageError` if it cannot be written.
        """
        began, results = self._clock.now(), list[Fetched]()
        while len(results) < _MAX_TRIES and not (results and results[-1].outcome == OK):
            yield results.append
        self.take(results[-1].outcome, results[-1].body, began)

    def take(self, outcome: str, body: bytes, began: float) -> None:
        """Store the answer to a poll that started at `began`; parse `body` only for `ok`. Raise `StorageError` on failure."""
        body = self._redact(body)
        metrics: dict[str, float] = {}
        if outcome == OK:
            reading = read_metrics(body, self._endpoints.forms.metrics)
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
            if is_counter(name):  # a counter that decreased was reset, so its whole value is an increase
                before = self._counters.get(name, value)
                self.increase[name] = self.increase.get(name, 0.0) + (value - before if value >= before else value)
                self._counters[name] = value
        self.latest = metrics
