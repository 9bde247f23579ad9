"""What the runtime's metrics endpoint said in the course of a drill, whoever asked it.

Every answer is kept as it came but for secrets, one line a poll; its figures become observations. What cannot be had is
recorded as missing and never as zero.
"""

import hashlib
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
TRIES = 2  # of one poll
TIMEOUT_S = 3.0  # of one try, from connecting to the last byte
MAX_BODY_BYTES = 256 * 1024
FIGURES = {"Accept": "application/json", "Accept-Encoding": "identity"}  # headers that whoever asks for figures sends


def is_asked(endpoints: Endpoints) -> bool:
    """Whether the target's endpoint is to be polled at all."""
    return bool(endpoints.admin_token) and endpoints.rules.metrics_profile != "none"


class MetricsBook:
    """All polls of one run."""

    def __init__(self, endpoints: Endpoints, folder: Path, clock: RunClock, recorder: Recorder) -> None:
        self._endpoints = endpoints
        self._url = endpoints.runtime_url + METRICS_PATH
        self._headers = {"Authorization": f"Bearer {endpoints.admin_token}", **FIGURES}
        self._path = folder / FILE_NAME
        self._clock, self._recorder, self._redact = clock, recorder, Redactor(endpoints.secrets)
        self._polls = 0
        self.failures_in_a_row = 0
        self.latest: dict[str, float] = {}  # what the latest good answer had
        self.increase: dict[str, float] = {}  # of counters, since the first poll
        self._counters: dict[str, float] = {}  # as they were last seen
        self.trouble = ""  # why the latest poll failed, empty if it did not

    def evidence(self) -> dict[str, str]:
        """The file that all answers are in, with its SHA-256; raises `StorageError`."""
        try:
            return {FILE_NAME: hashlib.sha256(self._path.read_bytes()).hexdigest()} if self._polls else {}
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be read ({error.strerror}).") from None

    def require_usable(self) -> None:
        """Raise `TargetError` where a stop condition could never be met, by the first poll."""
        stop, name = self._endpoints.rules.stop, self._endpoints.name
        if stop.needs_metrics and self.trouble:
            raise TargetError(
                f"the metrics endpoint of target '{name}' cannot be read ({self.trouble}), and its stop "
                "conditions need it; check its address and admin token."
            )
        missing = [figure for figure in stop.metrics_above if figure not in self.latest]
        if missing:
            raise TargetError(
                f"the stop condition metrics_above of target '{name}' names {missing[0]}, which its metrics "
                f"endpoint does not have; it has: {', '.join(self.latest) or 'nothing'}."
            )

    def _take(self, outcome: str, body: bytes, began: float) -> None:
        """An answer to what was asked at `began`; `body` counts for the outcome `ok` only. Raises `StorageError`."""
        body = self._redact(body)
        figures: dict[str, float] = {}
        if outcome == OK:
            reading = read_metrics(body)
            outcome, figures = reading.outcome, reading.figures if reading.outcome == OK else {}
        self._polls += 1
        self._keep(outcome, body, began)
        self._record(outcome, figures, began)

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

    def _record(self, outcome: str, figures: dict[str, float], began: float) -> None:
        now = self._clock.now()
        t = now - self._clock.began
        self._recorder.add(t, Kind.METRICS_POLLED, attempt=self._polls, value=(now - began) * 1000, detail=outcome)
        for name, value in figures.items():
            self._recorder.add(t, Kind.SERVER_METRIC, attempt=self._polls, value=value, detail=name)
        if outcome != OK:
            self.failures_in_a_row += 1
            self.trouble = outcome
            return
        self.failures_in_a_row, self.trouble = 0, ""
        for name, value in figures.items():
            if is_counter(name):  # one that went back was begun anew: all it shows has been added since
                before = self._counters.get(name, value)
                self.increase[name] = self.increase.get(name, 0.0) + (value - before if value >= before else value)
                self._counters[name] = value
        self.latest = figures
