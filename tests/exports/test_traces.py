"""Traces: a small collector parses what the real SDK sends, and a missing one changes nothing."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from drills.exports import asked, otlp
from drills.exports.otlp import Event, Span
from sim.base.errors import UsageError
from tests.commands import Answer, Said, free_port, http_server, sets, stormgate_here
from tests.storms import SHORT, SMALL

DRILL = "reconnect_storm"


class Collector:
    """Keeps the spans that it gets, by name, and answers with this status."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.paths, self.spans = status, [], []
        self.resources: list[dict[str, str]] = []

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        plain = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        for resource in ExportTraceServiceRequest.FromString(plain).resource_spans:
            self.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.paths.append(f"{method} {path}")
        return self.status, "application/x-protobuf", b""

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


def run(endpoint: str, out: Path) -> Said:
    overrides = sets(*SMALL, *SHORT[DRILL])
    return stormgate_here("drill", "run", DRILL, "--json", "--out", out, "--otlp-endpoint", endpoint, *overrides)


def test_collector_gets_phases_faults_and_ended_connections(tmp_path: Path) -> None:
    collector = Collector()
    with http_server(collector.answer, takes_body=True) as url:
        said = run(url, tmp_path)
    summary = json.loads(said.out)
    assert collector.paths == ["POST /v1/traces"]
    assert collector.resources[0]["service.name"] == "stormgate"
    (top,), (drill,) = collector.named("drill run"), collector.named(f"drill {DRILL}")
    assert drill.parent_span_id == top.span_id
    assert {span.trace_id for span in collector.spans} == {top.trace_id}
    below = [span for span in collector.spans if span.parent_span_id == drill.span_id]
    names = sorted(span.name for span in below)
    assert names == ["fault drop_sockets"] * 2 + ["phase fault", "phase recovery", "phase settle", "phase steady"]
    phases = {span.name: span for span in below}
    assert phases["phase steady"].end_time_unix_nano == phases["phase fault"].start_time_unix_nano
    for fault in collector.named("fault drop_sockets"):
        assert fault.start_time_unix_nano >= phases["phase fault"].start_time_unix_nano
        assert fault.end_time_unix_nano <= drill.end_time_unix_nano
    counted: dict[tuple[str, str], int] = {}
    for event in drill.events:
        about = {each.key: each.value for each in event.attributes}
        key = about["by"].string_value, about["code"].string_value
        counted[key] = counted.get(key, 0) + about["count"].int_value
    assert counted == {(end["by"], end["code"]): end["count"] for end in summary["drills"][0]["endings"]}
    about = {each.key: each.value.string_value for each in top.attributes}
    assert about["stormgate.run_id"] == summary["run_id"]
    assert about["stormgate.decision"] == summary["decision"]
    assert (drill.status.code == 2) == (summary["drills"][0]["status"] != "pass"), "an error status unless it passed"


@pytest.mark.parametrize("status", [400, None])
def test_collector_that_takes_nothing_is_one_warning(status: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    trace, warned = Span("drill run", 1.0, 2.0, {}, (Event("connections_ended", 1.5, {"count": 3}),)), []
    if status is None:
        address = f"http://127.0.0.1:{free_port()}"
        otlp.send(address, trace, warned.append)
    else:
        with http_server(Collector(status).answer, takes_body=True) as address:
            otlp.send(address, trace, warned.append)
    (sentence,) = warned
    assert sentence.startswith(f"traces were not sent: the collector at {address}/v1/traces did not take them")
    assert sentence.endswith("the verdict is not affected")
    assert capsys.readouterr() == ("", "")


def test_unreachable_collector_changes_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_TIMEOUT_S", 0.2)
    said = run(f"http://127.0.0.1:{free_port()}", tmp_path)
    summary = json.loads(said.out)
    assert said.err.count("traces were not sent") == 1
    assert "Traceback" not in said.err
    (folder,) = [path for path in tmp_path.iterdir() if (path / "summary.json").exists()]
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert stormgate_here("judge", folder).code == said.code


def test_defect_while_a_trace_is_made_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(asked, "say", warned.append)
    asked.Exports(otlp="http://127.0.0.1:9").trace(lambda: {}["gone"])
    assert warned == ["traces were not sent ('gone'); the verdict is not affected"]


def test_large_trace_is_sent_in_parts() -> None:
    collector = Collector()
    children = tuple(Span(f"evaluation {n}", 1.0, 2.0, {}) for n in range(1200))
    with http_server(collector.answer, takes_body=True) as url:
        otlp.send(url, Span("stage 1", 1.0, 2.0, {}, children=children), pytest.fail)
    assert len(collector.paths) == 3
    (top,) = collector.named("stage 1")
    assert sum(span.parent_span_id == top.span_id for span in collector.spans) == 1200


def test_address_with_the_path_is_used_as_it_is() -> None:
    collector = Collector()
    with http_server(collector.answer, takes_body=True) as url:
        otlp.send(f"{url}/v1/traces", Span("drill run", 1.0, 2.0, {}), pytest.fail)
        otlp.send(f"{url}/tenant/", Span("drill run", 1.0, 2.0, {}), pytest.fail)
    assert collector.paths == ["POST /v1/traces", "POST /tenant/v1/traces"]


def test_span_has_more_events_than_the_sdk_keeps_by_default() -> None:
    collector = Collector()
    events = tuple(Event("connections_ended", float(second), {"count": 1}) for second in range(300))
    with http_server(collector.answer, takes_body=True) as url:
        otlp.send(url, Span("drill run", 0.0, 300.0, {}, events, error="breach"), pytest.fail)
    (span,) = collector.spans
    assert (len(span.events), span.status.message) == (300, "breach")


def test_missing_extra_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(UsageError, match=r"--otlp-endpoint: opentelemetry is not installed; .* extra 'otel'"):
        otlp.check("http://127.0.0.1:4318")
