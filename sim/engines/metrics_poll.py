"""Asking the runtime's metrics endpoint what it says of itself: before, during and after a drill, in bounded time.

Every answer is kept as it came but for secrets, one line a poll; its figures become observations. What cannot be had is
recorded as missing and never as zero.
"""

import asyncio
import hashlib
from pathlib import Path

import msgspec

from sim.contract.endpoint import METRICS_PATH, is_counter
from sim.contract.figures import OK, read_metrics
from sim.engines.client_driver import Clock
from sim.engines.fetch import FIGURES, Fetched, client, fetch
from sim.engines.lane_http import Lane
from sim.engines.redaction import Redactor
from sim.errors import StorageError
from sim.observations import Kind, Recorder

FILE_NAME = "server-metrics.jsonl"
_TRIES = 2  # of one poll
_TIMEOUT_S = 3.0  # of one try, from connecting to the last byte


class MetricsPoll:
    """All polls of one run."""

    def __init__(self, lane: Lane, folder: Path, clock: Clock, recorder: Recorder, redact: Redactor) -> None:
        self._url = lane.runtime_url + METRICS_PATH
        self._headers = {"Authorization": f"Bearer {lane.admin_token}", **FIGURES}
        self._http = client()
        self._path = folder / FILE_NAME
        self._clock, self._recorder, self._redact = clock, recorder, redact
        self._polling = asyncio.Lock()
        self._polls = 0
        self.failures_in_a_row = 0
        self.latest: dict[str, float] = {}  # what the latest good answer had
        self.increase: dict[str, float] = {}  # of counters, since the first poll
        self._counters: dict[str, float] = {}  # as they were last seen
        self.trouble = ""  # why the latest poll failed, empty if it did not

    async def close(self) -> dict[str, str]:
        """End; returns the file that all answers are in, with its SHA-256."""
        await self._http.aclose()
        try:
            return {FILE_NAME: hashlib.sha256(self._path.read_bytes()).hexdigest()} if self._polls else {}
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be read ({error.strerror}).") from None

    async def watch(self, every_s: float) -> None:
        """Poll for ever."""
        while True:
            await asyncio.sleep(every_s)
            await self.poll()

    async def poll(self) -> None:
        """Ask once, twice if need be. Never raises for what the other side does; `StorageError` for a full disk."""
        async with self._polling:
            began = self._clock.now()
            fetched = await self._ask()
            for _ in range(_TRIES - 1):
                if fetched.outcome == OK:
                    break
                fetched = await self._ask()
            outcome, body = fetched.outcome, self._redact(fetched.body)
            figures: dict[str, float] = {}
            if outcome == OK:
                reading = read_metrics(body)
                outcome, figures = reading.outcome, reading.figures if reading.outcome == OK else {}
            self._polls += 1
            self._keep(outcome, body, began)
            self._take(outcome, figures, began)

    async def _ask(self) -> Fetched:
        return await fetch(self._http, self._url, self._headers, _TIMEOUT_S)

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

    def _take(self, outcome: str, figures: dict[str, float], began: float) -> None:
        now = self._clock.now()
        t = now - self._clock.began
        self._recorder.add(t, Kind.METRICS_POLLED, attempt=self._polls, value=(now - began) * 1000, detail=outcome)
        for name, value in figures.items():
            self._recorder.add(t, Kind.SERVER_FIGURE, attempt=self._polls, value=value, detail=name)
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
