"""Traces of what was recorded, sent to an OpenTelemetry collector over OTLP (HTTP, protobuf).

A run is a trace: a span for the run, for each drill, phase and fault in it, and an event for connections that ended alike in
the same second. A stage's trace has such drills in it: see `drills.rollout.report.trace`. Traces are made from the record
after the run, so they cost the load generator nothing. Needs the extra `otel`.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from sim.analysis import endings
from sim.base.clocks import from_iso
from sim.base.errors import UsageError
from sim.record.history import PHASES, History
from sim.record.observations import Kind

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Value = str | int | float | bool
_PATH = "/v1/traces"
_TIMEOUT_S = 5.0  # [ours] for the collector to answer
_MAX_EVENTS = 10_000  # [ours] of one span; the SDK's own limit is 128
_BATCH = 512  # spans of one request, as the SDK's own batches
_EXTRA = "opentelemetry is not installed; install stormgate with the extra 'otel'"


@dataclass(frozen=True)
class Event:
    """Something that happened within a span; `t` in unix seconds."""

    name: str
    t: float
    attributes: dict[str, Value]


@dataclass(frozen=True)
class Span:
    """A part of a run, from `start_t` to `end_t` in unix seconds. `error`: why it did not pass; empty if it did."""

    name: str
    start_t: float
    end_t: float
    attributes: dict[str, Value]
    events: tuple[Event, ...] = ()
    children: tuple["Span", ...] = ()
    error: str = ""


def check(endpoint: str) -> None:
    """Raise `UsageError` if nothing can be sent to this address. The collector is not asked."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--otlp-endpoint {endpoint}: expected an address such as http://127.0.0.1:4318.")
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: F401
    except ImportError:
        raise UsageError(f"--otlp-endpoint: {_EXTRA}.") from None


def of_drill(name: str, history: History, status: str, error: str) -> Span:
    """The span of one drill, with its phases and faults."""
    header, zero_t = history.header, from_iso(history.header.started_at).timestamp()
    end_t = zero_t + max(header.duration_s, history.duration_s)
    about: dict[str, Value] = {
        "stormgate.drill": header.drill,
        "stormgate.status": status,
        "stormgate.clients": header.clients,
        "stormgate.policy": header.policy,
        "stormgate.protocol": header.protocol,
        "stormgate.target": header.target,
        "stormgate.seed": header.seed,
    }
    children = (*_phases(history, zero_t, end_t), *_faults(history, zero_t, end_t))
    return Span(f"drill {name}", zero_t, end_t, about, _endings(history, zero_t), children, error)


def _phases(history: History, zero_t: float, end_t: float) -> Iterable[Span]:
    reached = [(phase, zero_t + history.phases[phase]) for phase in PHASES if phase in history.phases]
    ends = [t for _, t in reached[1:]] + [end_t]
    for (phase, start_t), until_t in zip(reached, ends, strict=True):
        if phase != PHASES[-1]:
            yield Span(f"phase {phase}", start_t, until_t, {"stormgate.phase": phase})


def _faults(history: History, zero_t: float, end_t: float) -> Iterable[Span]:
    for fault in history.faults:
        is_reverted = bool(np.isfinite(fault.end_t))
        until_t = zero_t + fault.end_t if is_reverted else end_t
        about: dict[str, Value] = {"stormgate.fault": fault.kind, "stormgate.fault.is_reverted": is_reverted}
        yield Span(f"fault {fault.kind}", zero_t + fault.start_t, until_t, about)


def _endings(history: History, zero_t: float) -> tuple[Event, ...]:
    """Connections that ended or failed: one event per second, cause and code, with their number."""
    rows = history.fleet(Kind.ENDED)
    seconds = zip(rows.t.astype(np.int64).tolist(), rows.detail.tolist(), rows.attempt.tolist(), strict=True)
    found: list[Event] = []
    for (second, detail, number), count in sorted(Counter(seconds).items()):
        by, code, step = endings.parts_of(history.details[detail], number)
        about: dict[str, Value] = {"by": by, "code": code, "next": step, "count": count}
        found.append(Event("connections_ended", zero_t + second, about))
    return tuple(found)


def send(endpoint: str, trace: Span, warn: Callable[[str], None]) -> None:
    """Send a trace. If the collector cannot be reached or refuses it, `warn` gets one sentence; nothing is raised."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it would print a traceback
    kept = InMemorySpanExporter()
    limits = SpanLimits(max_events=_MAX_EVENTS)
    provider = TracerProvider(resource=Resource.create({"service.name": "stormgate"}), span_limits=limits)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    _add(provider.get_tracer("stormgate"), trace, None)
    path = urlsplit(endpoint).path.rstrip("/")
    url = endpoint.rstrip("/") + ("" if path.endswith(_PATH) else _PATH)
    spans = kept.get_finished_spans()
    batches = [spans[begin : begin + _BATCH] for begin in range(0, len(spans), _BATCH)]
    try:
        exporter = OTLPSpanExporter(url, timeout=_TIMEOUT_S)
        is_taken = all(exporter.export(batch) is SpanExportResult.SUCCESS for batch in batches)
    except Exception as error:  # whatever goes wrong here says nothing about the run
        warn(f"traces were not sent to {url} ({error}); the verdict is not affected")
        return
    if not is_taken:
        warn(f"traces were not sent: the collector at {url} did not take them; the verdict is not affected")


def _add(tracer: "Tracer", span: Span, parent: object) -> None:
    """Add a span and, below it, its children."""
    from opentelemetry.context import Context
    from opentelemetry.trace import Status, StatusCode, set_span_in_context

    context = parent if isinstance(parent, Context) else None
    added = tracer.start_span(span.name, context, attributes=span.attributes, start_time=_ns(span.start_t))
    for event in span.events:
        added.add_event(event.name, event.attributes, timestamp=_ns(event.t))
    if span.error:
        added.set_status(Status(StatusCode.ERROR, span.error))
    for child in span.children:
        _add(tracer, child, set_span_in_context(added))
    added.end(_ns(span.end_t))


def _ns(t: float) -> int:
    return int(t * 1e9)
