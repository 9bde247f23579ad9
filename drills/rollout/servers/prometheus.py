"""A Prometheus as a second source of metrics: one instant query per metric; all answers together are one snapshot.

Each expression must give one number. If it gives several series, or if the server refuses it, the whole snapshot is unusable:
the expression must be corrected. A result that is empty, not finite or too old is missing, never zero.

An answer has the time of its evaluation, not of its samples, which may be as old as the server's look-back (five minutes by
default). So for a series, or its sum, minimum, maximum or mean, a second query asks for the time of its samples. For every
expression, servers from 2.44 on are asked to look back at most `max_age_s`.
"""

import asyncio
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from drills.rollout.servers.revisions import LIMIT_S
from drills.rollout.servers.snapshots import earliest, freshness, skew_s
from drills.rollout.setup.records import Phase, Snapshot
from drills.runs.targets import Prometheus
from sim.base.clocks import Clock, iso
from sim.base.redaction import Redactor
from sim.engines.shared.fetch import client, fetch
from sim.engines.shared.metrics_book import METRICS_HEADERS, Fetched
from sim.service.metrics import OK, decoded, what_is_wrong

QUERY_PATH = "/api/v1/query"
_AT_ONCE = 4  # [ours] parallel queries
_REFUSED = ("http_400", "http_422")  # Prometheus reports an invalid expression
_SAMPLED = " sampled at"  # after a metric's name: the query for the time of its samples
_ONE_SERIES = re.compile(
    r"\s*(?P<fold>(sum|min|max|avg)\s*\(\s*)?(?P<series>[a-zA-Z_:][a-zA-Z0-9_:]*\s*(\{[^{}]*\})?)\s*(?(fold)\)\s*)"
)
_MAX_WORDS = 200  # maximum length of the server's message about an expression


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one expression. `outcome` is `ok`, `missing`, `stale_body`, or why the whole snapshot is unusable."""

    outcome: str
    value: float = math.nan
    at_s: float = math.nan  # time of the sample, POSIX seconds
    why: str = ""


class PrometheusSource:
    """All expressions of one target."""

    name = "prometheus"

    def __init__(self, about: Prometheus, redact: Redactor) -> None:
        self._about, self._redact = about, redact
        self.url = about.url + QUERY_PATH
        self._headers = {**METRICS_HEADERS, **({"Authorization": f"Bearer {about.token}"} if about.token else {})}

    def ask(self, n: int, phase: Phase, fault: bool, clock: Clock) -> tuple[Snapshot, bytes]:
        """See `drills.rollout.servers.snapshots.Source`. The body holds each expression and the server's answer to it."""
        asked_at = clock.now()
        queries = dict(self._queries())
        answers = asyncio.run(self._ask_all(queries))
        now = clock.now()
        results = {name: self._result(name, answers, now) for name in self._about.expressions}
        metrics = {name: found.value for name, found in results.items() if found.outcome == OK}
        slowest = max(answers.values(), key=lambda answer: answer.latency_ms)
        made = earliest([results[name].at_s for name in metrics])
        snapshot = Snapshot(
            n=n,
            at=iso(asked_at),
            source="prometheus",
            profile="",
            phase=phase,
            fault=fault,
            url=self._redact.text(self.url),
            outcome=_outcome(results),
            status=slowest.status,
            latency_ms=round(slowest.latency_ms, 3),
            generated_at=iso(made) if made else None,
            clock_skew_s=skew_s(slowest, now),
            missing=tuple(name for name in self._about.expressions if name not in metrics),
            metrics=metrics,
            notes=tuple(self._redact.text(f"{name}: {found.why}") for name, found in results.items() if found.why),
        )
        return snapshot, self._body(queries, answers)

    def _queries(self) -> Iterator[tuple[str, str]]:
        """All queries, by the metric's name, or by the name of its samples' time."""
        for name, expression in self._about.expressions.items():
            yield name, expression
            if found := _ONE_SERIES.fullmatch(expression):
                yield name + _SAMPLED, f"min(timestamp({found['series']}))"

    async def _ask_all(self, queries: Mapping[str, str]) -> dict[str, Fetched]:
        limit = asyncio.Semaphore(_AT_ONCE)
        async with client() as http:

            async def ask(expression: str) -> Fetched:
                query = {"query": expression, "lookback_delta": f"{math.ceil(self._about.max_age_s)}s"}
                async with limit:
                    return await fetch(http, self.url, self._headers, LIMIT_S, query)

            answers = await asyncio.gather(*map(ask, queries.values()))
        return dict(zip(queries, answers, strict=True))

    def _result(self, name: str, answers: Mapping[str, Fetched], now: datetime) -> Result:
        """The result of an expression, after a check that its sample is recent enough."""
        answer = answers[name]
        found = read(name, answer.outcome, self._redact(answer.body))
        if found.outcome == OK and (moment := answers.get(name + _SAMPLED)) is not None:
            sampled = read(name, moment.outcome, self._redact(moment.body))
            found = replace(found, at_s=sampled.value) if sampled.outcome == OK else sampled
        if found.outcome != OK:
            return found
        made = earliest([found.at_s])
        if made is None:
            return Result("not_prometheus", why="its sample has no time")
        outcome, notes = freshness(made, answer, now, self._about.max_age_s)
        return found if outcome == OK else Result(outcome, why=f"its sample {notes[0]}")

    def _body(self, queries: Mapping[str, str], answers: Mapping[str, Fetched]) -> bytes:
        kept = {
            name: {"query": query, "answer": self._redact(answers[name].body).decode("utf-8", "replace")}
            for name, query in queries.items()
        }
        return self._redact(json.dumps(kept, indent=1).encode())


def read(name: str, outcome: str, text: bytes) -> Result:
    """Read a server's answer to the expression of one metric; `outcome` is the request's."""
    if outcome not in (OK, *_REFUSED):
        return Result(outcome)
    try:
        answer = decoded(text)
    except ValueError:
        return Result("no_json" if outcome == OK else outcome)
    if not isinstance(answer, dict) or answer.get("status") not in ("success", "error"):
        return Result("not_prometheus" if outcome == OK else outcome)
    if answer["status"] == "error":
        said = f"{answer.get('errorType')}: {answer.get('error')}"
        return Result("bad_expression", why=" ".join(said.split())[:_MAX_WORDS])
    if warnings := answer.get("warnings"):  # for example, if some of its stores did not answer, the number may be too small
        return Result("partial_result", why=" ".join(str(warnings).split())[:_MAX_WORDS])
    data = answer.get("data")
    return _value(name, data) if isinstance(data, dict) else Result("not_prometheus")


def _value(name: str, data: Mapping[str, Any]) -> Result:
    kind, series = data.get("resultType"), data.get("result")
    if kind not in ("vector", "scalar"):
        return Result("bad_expression", why=f"gives a {str(kind)[:20]}, but expected one number at one moment")
    if kind == "vector":
        if not isinstance(series, list):
            return Result("not_prometheus")
        if not series:
            return Result("missing", why="no series has it now")
        if len(series) > 1:
            return Result("bad_expression", why=f"gives {len(series)} series, but expected one; sum() makes one of them")
        series = series[0].get("value") if isinstance(series[0], dict) else None
    try:
        at_s, value = (float(part) for part in series or ())
    except (TypeError, ValueError):
        return Result("not_prometheus")
    if not math.isfinite(value):
        return Result("missing", why=f"is {value}")
    if wrong := what_is_wrong(name, value):
        return Result("bad_numbers", why=f"is {wrong}")
    return Result(OK, value, at_s)


def _outcome(results: Mapping[str, Result]) -> str:
    """The snapshot's outcome: why it is unusable, else whether it has any metric."""
    outcomes = [found.outcome for found in results.values()]
    if grave := [outcome for outcome in outcomes if outcome not in (OK, "missing", "stale_body")]:
        return grave[0]
    return OK if OK in outcomes else "stale_body" if "stale_body" in outcomes else "no_metrics"
