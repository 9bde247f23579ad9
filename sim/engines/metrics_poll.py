"""Asking the runtime's metrics endpoint what it says of itself: before, during and after a drill, in bounded time.

Every answer is kept as it came but for secrets, one line a poll; its figures become observations. What cannot be had is
recorded as missing and never as zero.
"""

import asyncio
import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from sim.contract.endpoint import METRICS_PATH, is_counter
from sim.engines.client_driver import Clock
from sim.engines.lane_http import Lane
from sim.engines.redaction import Redactor
from sim.errors import StorageError
from sim.observations import Kind, Recorder

FILE_NAME = "server-metrics.jsonl"
MOST_BODY_BYTES = 256 * 1024
MOST_FIGURES = 200
_TRIES = 2  # of one poll
_TIMEOUT_S = 3.0  # of one try, from connecting to the last byte
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,120}")
OK = "ok"


class MetricsPoll:
    """All polls of one run."""

    def __init__(self, lane: Lane, folder: Path, clock: Clock, recorder: Recorder, redact: Redactor) -> None:
        self._url = lane.runtime_url + METRICS_PATH
        self._headers = {
            "Authorization": f"Bearer {lane.admin_token}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False)
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
            outcome, body = await self._ask()
            for _ in range(_TRIES - 1):
                if outcome == OK:
                    break
                outcome, body = await self._ask()
            body = self._redact(body)
            figures: dict[str, float] = {}
            if outcome == OK:
                try:
                    decoded = msgspec.json.decode(body)
                    figures = dict(list(_numbers(decoded, ""))[:MOST_FIGURES])
                except (msgspec.DecodeError, RecursionError):
                    outcome = "no_json"
            self._polls += 1
            self._keep(outcome, body, began)
            self._take(outcome, figures, began)

    async def _ask(self) -> tuple[str, bytes]:
        """What came of one request, and its body."""
        try:
            async with asyncio.timeout(_TIMEOUT_S), self._http.stream("GET", self._url, headers=self._headers) as answer:
                body = b""
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > MOST_BODY_BYTES:
                        return "too_large", b""
                return (OK if answer.status_code == 200 else f"http_{answer.status_code}"), body
        except (TimeoutError, httpx.TimeoutException):
            return "timeout", b""
        except (httpx.HTTPError, httpx.InvalidURL):
            return "unreachable", b""

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


def _numbers(data: Any, path: str) -> Iterator[tuple[str, float]]:
    """All numbers of an answer by their place in it, such as `delivery.served_messages`; text that looks like one is none."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _numbers(value, f"{path}.{name}" if path else str(name))
    elif isinstance(data, int | float) and not isinstance(data, bool) and _NAME.fullmatch(path):
        try:
            number = float(data)
        except OverflowError:
            return
        if math.isfinite(number):
            yield path, number
