"""One GET of a page of metrics, in bounded time and size. Failures of the other side are outcomes, not exceptions."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from sim.base import certificates
from sim.engines.shared.metrics_book import FIGURES as FIGURES
from sim.engines.shared.metrics_book import MAX_BODY_BYTES
from sim.protocols.spacetime.service_metrics import OK


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer. `outcome` is `ok` for a 200, else http_<status>, timeout, unreachable or too_large."""

    outcome: str
    body: bytes = b""
    status: int | None = None
    date: datetime | None = None  # the answer's `Date` header: when the server sent it
    age_s: float = 0.0  # time in caches since, by the `Age` header
    latency_ms: float = 0.0  # until the last byte


def client() -> httpx.AsyncClient:
    """A client for `fetch`; close it. Certificates are the system's, or those of SSL_CERT_FILE; no proxies."""
    return httpx.AsyncClient(verify=certificates.trusted(), timeout=None, trust_env=False)


async def fetch(
    http: httpx.AsyncClient, url: str, headers: Mapping[str, str], limit_s: float, query: Mapping[str, str] | None = None
) -> Fetched:
    """Fetch once; `limit_s` is from connecting to the last byte, however slowly they come."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(limit_s), http.stream("GET", url, headers=headers, params=query) as answer:
            body, outcome = b"", OK if answer.status_code == 200 else f"http_{answer.status_code}"
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    body, outcome = b"", "too_large"
                    break
            date, age_s = _date(answer.headers.get("date")), _age_s(answer.headers.get("age"))
            return Fetched(outcome, body, answer.status_code, date, age_s, (time.perf_counter() - began) * 1000)
    except (TimeoutError, httpx.TimeoutException):
        outcome = "timeout"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        outcome = "unreachable"
    return Fetched(outcome, latency_ms=(time.perf_counter() - began) * 1000)


def fetch_now(url: str, headers: Mapping[str, str], limit_s: float) -> Fetched:
    """Fetch and wait, on a new connection, which reaches the revision that is deployed now."""

    async def ask() -> Fetched:
        async with client() as http:
            return await fetch(http, url, headers, limit_s)

    return asyncio.run(ask())


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _age_s(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0.0
