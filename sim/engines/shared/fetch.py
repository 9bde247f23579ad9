"""Fetches pages of metrics with asyncio, within limits of time and size, once or periodically during a run.

Failures of the server are outcomes, not exceptions.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from sim.base import bounded_reads, certificates, operator_command
from sim.base.clocks import RunClock
from sim.base.operator_command import Output
from sim.base.redaction import Redactor
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.metrics_book import MAX_BODY_BYTES, TIMEOUT_S, Fetched, MetricsBook
from sim.record.parquet import Recorder
from sim.service.metrics import OK


def client() -> httpx.AsyncClient:
    """Return a client for `fetch`, to be closed. It trusts the system's issuers or SSL_CERT_FILE, and uses no proxies."""
    return httpx.AsyncClient(verify=certificates.trusted(), timeout=None, trust_env=False)


async def fetch(
    http: httpx.AsyncClient,
    url: str,
    headers: Mapping[str, str],
    limit_s: float,
    query: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
) -> Fetched:
    """Fetch one page. `limit_s` limits the whole request, from connecting to the last byte."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(limit_s), http.stream(method, url, headers=headers, params=query, content=body) as answer:
            outcome = OK if answer.status_code == 200 else f"http_{answer.status_code}"
            try:
                content = await bounded_reads.joined_async(answer.aiter_bytes(), MAX_BODY_BYTES)
            except bounded_reads.TooLargeError:
                content, outcome = b"", "too_large"
            date, age_s = _date(answer.headers.get("date")), _age_s(answer.headers.get("age"))
            return Fetched(outcome, content, answer.status_code, date, age_s, (time.perf_counter() - began) * 1000)
    except (TimeoutError, httpx.TimeoutException):
        outcome = "timeout"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        outcome = "unreachable"
    return Fetched(outcome, latency_ms=(time.perf_counter() - began) * 1000)


def fetch_now(url: str, headers: Mapping[str, str], limit_s: float) -> Fetched:
    """Fetch synchronously, on a new connection, so that the currently deployed revision answers."""

    async def ask() -> Fetched:
        async with client() as http:
            return await fetch(http, url, headers, limit_s)

    return asyncio.run(ask())


def printed_now(command: Sequence[str], limit_s: float) -> Fetched:
    """Return what an operator's command prints, as an answer. Its failures are outcomes, too."""
    began, output = time.perf_counter(), Output(Redactor(()), MAX_BODY_BYTES)
    environment = operator_command.with_ours({})
    run = operator_command.run(list(command), environment, limit_s, output, with_stderr=False, ends_all=True)
    code, _ = asyncio.run(run)
    latency_ms = (time.perf_counter() - began) * 1000
    return Fetched(OK, output.content, 200, latency_ms=latency_ms) if code == 0 else Fetched("command_failed")


class MetricsPoll(MetricsBook):
    """All metrics polls of one run, on asyncio. Call `close` at the end."""

    def __init__(self, endpoints: Endpoints, folder: Path, clock: RunClock, recorder: Recorder) -> None:
        super().__init__(endpoints, folder, clock, recorder)
        self._http = client()
        self._polling = asyncio.Lock()

    async def close(self) -> dict[str, str]:
        """Close the connection and return `evidence`."""
        await self._http.aclose()
        return self.evidence()

    async def poll(self) -> None:
        """Poll once, with the retries of `tries`."""
        async with self._polling:
            for take in self.tries():
                take(await fetch(self._http, self.url, self.headers, TIMEOUT_S))


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _age_s(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0.0
