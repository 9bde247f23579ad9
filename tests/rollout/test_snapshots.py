"""Snapshots: every way in which an answer can tell nothing has a name of its own, and nothing of it is ever an exception."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest

from drills.rollout.servers import sampler, snapshots
from drills.rollout.setup.records import Snapshot
from sim.base.clocks import SteppedClock, iso
from sim.drill.target_rules import Rules
from sim.engines.shared.endpoints import Endpoints
from sim.server.counters import Counters, metrics
from sim.service.forms import MetricsForm, ServiceForms
from sim.service.metric_names import PROFILES, STATUS_COUNTERS
from sim.service.paths import HEALTH_PATH, METRICS_PATH, STATUS_PATH
from tests.commands import free_port, tcp_server
from tests.pages import Asked, Page, pages

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
DATE = format_datetime(NOW, usegmt=True)
YESTERDAY = NOW.timestamp() - 86_400
SECRET = "adm1n-s3cret"


def metrics_body(profile: str = "full", at_s: float = NOW.timestamp(), **more: object) -> bytes:
    return json.dumps({**metrics(Counters(published=7), [], 3, profile, at_s, ""), **more}).encode()  # type: ignore[arg-type]


def endpoints(url: str, **more: object) -> Endpoints:
    return Endpoints("theirs", "staging", url, url, **{"admin_token": SECRET, **more})  # type: ignore[arg-type]


def asked(answer: Page | Callable[[Asked], Page], source: str = "metrics", **more: object) -> tuple[Snapshot, bytes]:
    """The snapshots of a service that answers every request with `answer`."""
    with pages(answer if callable(answer) else lambda _: answer) as url:
        return ask(endpoints(url, **more), source)


def ask(where: Endpoints, source: str = "metrics") -> tuple[Snapshot, bytes]:
    sources = dict(zip(("metrics", "control"), sampler.sources_of(where, None), strict=True))
    return sources[source].ask(4, "hold", True, SteppedClock(NOW))


def test_good_answer_becomes_a_complete_snapshot() -> None:
    def answer(request: Asked) -> Page:
        if request.path == HEALTH_PATH:
            return Page(b'{"status": "ok", "revision": "r7"}', date=DATE)
        assert request.path == METRICS_PATH
        assert request.headers["authorization"] == f"bearer {SECRET}"
        return Page(metrics_body(), date=DATE)

    snapshot, body = asked(answer)
    assert body == metrics_body()
    assert (snapshot.n, snapshot.at, snapshot.source, snapshot.profile) == (4, "2026-03-02T09:00:00.000Z", "metrics", "full")
    assert (snapshot.phase, snapshot.fault, snapshot.outcome, snapshot.status) == ("hold", True, "ok", 200)
    assert snapshot.url.endswith(METRICS_PATH)
    assert snapshot.latency_ms > 0
    assert (snapshot.generated_at, snapshot.clock_skew_s) == ("2026-03-02T09:00:00Z", 0.0)
    assert (snapshot.revisions.runtime, snapshot.revisions.control) == ("r7", "")
    assert sorted(snapshot.metrics) == sorted(PROFILES["full"])
    assert (snapshot.missing, snapshot.notes) == ((), ())


PAGES: dict[str, tuple[str, Page]] = {
    "no_metrics": ("no_metrics", Page(b"{}")),
    "nulls": (
        "no_metrics",
        Page(json.dumps({"mirror": dict.fromkeys(["published_total", "failed_total"]), "delivery": None}).encode()),
    ),
    "strings": ("no_metrics", Page(b'{"mirror": {"published_total": "7"}}')),
    "html": ("no_json", Page(b"<html>sign in</html>", kind="text/html")),
    "no_body": ("no_json", Page(b"")),
    "another_json": ("not_metrics", Page(b'{"status": "ok", "uptime": 3}')),
    "yesterdays": ("stale_body", Page(metrics_body(at_s=YESTERDAY), date=DATE)),
    "yesterdays_with_its_headers": (
        "stale_body",
        Page(metrics_body(at_s=YESTERDAY), date=format_datetime(datetime.fromtimestamp(YESTERDAY, UTC))),
    ),
    "yesterdays_without_a_date": ("stale_body", Page(metrics_body(at_s=YESTERDAY), date="")),
    "of_a_cache": ("stale_body", Page(metrics_body(), date=DATE, more={"age": "3600"})),
    "tomorrows": ("future_body", Page(metrics_body(at_s=NOW.timestamp() + 86_400), date=DATE)),
    "undated": ("undated_body", Page(metrics_body(generated_at=None), date=DATE)),
    "of_no_time_zone": ("undated_body", Page(metrics_body(generated_at="2026-03-02T09:00:00"), date=DATE)),
    "negative": ("bad_numbers", Page(metrics_body(mirror={"published_total": -1}), date=DATE)),
    "nan": ("bad_numbers", Page(metrics_body(mirror={"published_total": float("nan")}), date=DATE)),
    "500": ("http_500", Page(b'{"error": 1}', status=500)),
    "401": ("http_401", Page(b'{"error": 1}', status=401)),
    "302": ("http_302", Page(status=302, more={"location": "http://127.0.0.1:9/"})),
    "204": ("http_204", Page(b"", status=204)),
    "huge": ("too_large", Page(b'{"x": "' + b"x" * 300_000 + b'"}')),
}


@pytest.mark.parametrize("name", PAGES)
def test_unusable_answer_has_its_reason(name: str) -> None:
    outcome, page = PAGES[name]
    snapshot, body = asked(page)
    assert snapshot.outcome == outcome, snapshot
    assert not snapshot.ok
    assert body == (b"" if name == "huge" else page.body), "it is kept as it came, but never without end"
    assert (snapshot.status, snapshot.revisions.known) == (page.status, False)


def test_answer_without_a_date_is_dated_by_our_clock() -> None:
    snapshot, _ = asked(Page(metrics_body(), date=""))
    assert (snapshot.outcome, snapshot.clock_skew_s) == ("ok", None)


def test_clock_skew_is_noted() -> None:
    late = NOW.timestamp() - 90
    snapshot, _ = asked(Page(metrics_body(at_s=late), date=format_datetime(datetime.fromtimestamp(late, UTC))))
    assert (snapshot.outcome, snapshot.clock_skew_s) == ("ok", -90.0)
    assert snapshot.notes == ("its clock is 0:01:30 behind ours",)


@pytest.mark.parametrize(("promised", "served"), [("full", "pinned"), ("pinned", "full")])
def test_unexpected_profile_is_noted_and_judged_by_its_own_metrics(promised: str, served: str) -> None:
    page = Page(metrics_body(served), date=DATE)
    snapshot, _ = asked(page, rules=Rules(metrics_profile=promised))  # type: ignore[arg-type]
    assert (snapshot.outcome, snapshot.profile, snapshot.missing) == ("ok", served, ())
    assert snapshot.notes == (f"it serves the {served} profile, but the target's entry says {promised}",)


def test_promised_metric_that_is_absent_is_missing_not_zero() -> None:
    snapshot, _ = asked(Page(metrics_body(mirror={"published_total": 3, "failed_total": None}), date=DATE))
    assert snapshot.outcome == "ok"
    assert snapshot.missing == (
        "mirror.duplicate_suppressed_total",
        "mirror.failed_total",
        "mirror.duplicate_suppression_rate_pct",
    )
    assert "mirror.failed_total" not in snapshot.metrics


def test_body_without_metrics_lacks_all_that_the_entry_promises() -> None:
    snapshot, _ = asked(Page(b"{}"), rules=Rules(metrics_profile="pinned"))
    assert snapshot.missing == PROFILES["pinned"]


def test_nobody_there() -> None:
    snapshot, body = ask(endpoints(f"http://127.0.0.1:{free_port()}"))
    assert (snapshot.outcome, snapshot.status, snapshot.clock_skew_s, body) == ("unreachable", None, None, b"")


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.6\r\n", b""])
def test_server_that_speaks_no_http_is_unusable(greeting: bytes) -> None:
    with tcp_server(greeting) as url:
        assert ask(endpoints(url))[0].outcome == "unreachable"


def test_slow_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "LIMIT_S", 0.3)

    def answer(request: Asked) -> Page:
        return Page(metrics_body(), drip_s=0.1 if request.path == METRICS_PATH else 0.0)

    snapshot, body = asked(answer)
    assert (snapshot.outcome, body) == ("timeout", b"")


def test_control_service_gives_counters_and_revision() -> None:
    counters = dict.fromkeys(STATUS_COUNTERS, 2)
    page = Page(json.dumps({"data": {"status": "ok", "revision": "c3", "counters": counters}}).encode(), date=DATE)
    snapshot, _ = asked(page, "control")
    assert (snapshot.outcome, snapshot.source, snapshot.metrics, snapshot.missing) == ("ok", "control", counters, ())
    assert (snapshot.revisions.control, snapshot.revisions.runtime) == ("c3", "")
    assert snapshot.url.endswith(STATUS_PATH)


def test_control_service_gets_no_secret() -> None:
    seen: list[Asked] = []
    asked(lambda request: seen.append(request) or Page(), "control")  # type: ignore[func-returns-value]
    assert seen
    assert all("authorization" not in request.headers for request in seen)


def test_status_without_counters_is_unusable() -> None:
    assert asked(Page(b'{"data": {"status": "ok"}}', date=DATE), "control")[0].outcome == "no_metrics"


def test_secret_in_an_answer_is_redacted() -> None:
    snapshot, body = asked(Page(metrics_body(echo=f"Bearer {SECRET}"), date=DATE))
    assert snapshot.ok
    assert SECRET.encode() not in body
    assert b"[secret]" in body


@pytest.mark.parametrize(
    ("more", "sources"), [({}, 2), ({"admin_token": ""}, 1), ({"rules": Rules(metrics_profile="none")}, 1)]
)
def test_metrics_endpoint_is_asked_only_if_the_entry_allows_it(more: dict[str, object], sources: int) -> None:
    assert len(sampler.sources_of(endpoints("http://127.0.0.1:9", **more), None)) == sources


def test_unknown_host_name_raises_nothing(tmp_path: Path) -> None:
    assert ask(endpoints("http://" + "a" * 70 + ".invalid"))[0].outcome == "unreachable"


def test_target_that_names_its_metrics_promises_no_others() -> None:
    form = MetricsForm(metrics={"delivery.active_consumers": "/clients", "mirror.failed_total": "/failed"})
    body = json.dumps({"clients": 3, "generated_at": iso(NOW)}).encode()
    snapshot, _ = asked(Page(body, date=DATE), forms=ServiceForms(metrics=form))
    assert (snapshot.outcome, snapshot.missing) == ("ok", ("mirror.failed_total",))
