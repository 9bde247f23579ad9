"""The mock's HTTP over a real socket, as the protocol defines it."""

import asyncio
import hashlib
import json
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus

from sim.mock.app import Mock, MockOptions
from sim.mock.prometheus_page import name_of
from sim.mock.store import Store
from sim.server.settings import RuntimeSettings, Switches
from sim.service.metric_names import MONITORED, PROFILES, STATUS_COUNTERS, is_counter
from tests.served import ADMIN, Raw, Served, joined, serving, updates_in


def error_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/status"])
def test_it_reports_that_it_is_ready(mock: Served, path: str):
    assert mock.http.get(path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/internal/v1/spacetime/topics/run:r1:events/messages"),
        ("POST", "/internal/v1/spacetime/fanout/hooks"),
        ("GET", "/internal/v1/spacetime/fanout/metrics"),
        ("GET", "/nowhere"),
    ],
)
def test_retired_routes_are_not_found(mock: Served, method: str, path: str):
    assert mock.http.request(method, path).status_code == 404


def test_a_defect_answers_a_retired_route(tmp_path: Path):
    with serving(tmp_path, defects=["serve_retired_route"]) as mock:
        assert mock.http.get("/internal/v1/spacetime/fanout/metrics").status_code == 200


# --- tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/spacetime/token", "/api/sync/token"])
def test_both_token_routes_follow_the_protocol(mock: Served, path: str):
    answer = mock.http.post(
        path,
        headers={"Authorization": "Bearer session-ann"},
        json={"topics": ["run:r1:events"], "streams": ["runtime.codex.worker.events"], "device_id": "phone"},
    )
    data = answer.json()["data"]
    assert answer.status_code == 200
    assert (data["token_type"], data["transport"], data["expires_in"]) == ("Bearer", "spacetime_ws", 300)
    assert {grant["topic"] for grant in data["granted_topics"]} == {"run:r1:events", "runtime.codex_worker_events"}
    assert {grant["stream"] for grant in data["granted_streams"]} == {"runtime.run.r1.events", "runtime.codex.worker.events"}
    assert all(grant["required_scope"] in data["scopes"] for grant in data["granted_topics"])
    assert (data["device_id"], data["session_id"]) == ("phone", "session-ann")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, {}, 401),
        ({"Authorization": "Bearer unknown"}, {}, 401),
        (None, {"scopes": ["root.everything"]}, 403),
        (None, {"ttl_seconds": 901}, 422),
        (None, {"ttl_seconds": "long"}, 422),
        (None, {"topics": ["weather"]}, 422),
        (None, {"topics": "run:r1:events"}, 422),
        (None, [1], 422),
    ],
)
def test_a_token_is_refused_with_a_code(mock: Served, headers: dict[str, str] | None, body: object, status: int):
    sent = {"Authorization": "Bearer session-ann"} if headers is None else headers
    answer = mock.http.post("/api/spacetime/token", headers=sent, json=body)
    assert answer.status_code == status
    assert error_of(answer)
    assert "Traceback" not in mock.log.read_text()


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(mock: Served, body: bytes):
    for path in ("/api/spacetime/token", "/internal/v1/runs", "/internal/v1/sync/sessions/revoke"):
        answer = mock.http.post(path, headers={"Authorization": "Bearer session-ann"}, content=body)
        assert answer.status_code == 422
        assert error_of(answer) == "malformed_request"


def test_minting_can_fail_and_be_slow_at_run_time(tmp_path):
    with serving(tmp_path) as mock:
        mock.switch(mint_outage=True)
        answer = mock.token_response()
        assert (answer.status_code, error_of(answer)) == (503, "minting_disabled")
        mock.switch(mint_delay_ms=300, mint_concurrency=1)
        assert mock.token_response().elapsed.total_seconds() >= 0.3
        mock.switch()
        assert mock.token_response().status_code == 200


def test_tokens_and_their_refusals_are_counted(tmp_path):
    with serving(tmp_path) as mock:
        mock.token()
        mock.token()
        mock.token_response(session="unknown")
        mock.token_response(scopes=["root.everything"])
        mock.token_response(ttl_seconds=1)
        counters = mock.http.get("/api/status").json()["data"]["counters"]
    assert counters == {
        "sync.token.issued": 2,
        "sync.token.issue.failed": 1,
        "sync.token.issue.policy_denied": 1,
        "sync.token.issue.auth_failed": 1,
        "sync.token.issue.policy_eval_failed": 0,
    }


# --- publishing -------------------------------------------------------------------------------------


def test_events_get_the_next_seq_and_the_hash_of_canonical_json(mock: Served):
    run = mock.run()
    events = [mock.publish(run, {"b": [2, 1], "a": "é"}).json()["event"] for _ in range(3)]
    assert [event["seq"] for event in events] == [1, 2, 3]
    content = {"run_id": run, "event_type": "run.progress", "payload": {"a": "é", "b": [2, 1]}}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert {event["payload_hash"] for event in events} == {"sha256:" + hashlib.sha256(canonical).hexdigest()}
    assert events[0]["topic"] == f"run:{run}:events"
    assert events[0]["stream_id"] == f"runtime.run.{run}.events"


def test_worker_events_go_to_their_one_topic(mock: Served):
    event = mock.publish(mock.run(), 1, event_type="codex.worker.done").json()["event"]
    assert (event["topic"], event["stream_id"]) == ("runtime.codex_worker_events", "runtime.codex.worker.events")


def test_a_key_appends_once(mock: Served):
    run = mock.run()
    first = mock.publish(run, "one", idempotency_key="k")
    again = mock.publish(run, "other", idempotency_key="k")
    assert (first.status_code, again.status_code) == (201, 200)
    assert {**again.json()["event"], "duplicate": False} == first.json()["event"]
    assert mock.publish(run, "two").json()["event"]["seq"] == 2


def test_a_wrong_expectation_is_a_conflict(mock: Served):
    run = mock.run()
    assert mock.publish(run, expected_next_seq=1).status_code == 201
    for wrong in (1, 3, 0, -1):
        answer = mock.publish(run, expected_next_seq=wrong)
        assert (answer.status_code, error_of(answer)) == (409, "expected_next_seq_mismatch")
    assert mock.publish(run, expected_next_seq=2).json()["event"]["seq"] == 2


def test_a_payload_too_large_is_refused(mock: Served):
    run = mock.run()
    answer = mock.publish(run, "x" * 256 * 1024)
    assert (answer.status_code, error_of(answer)) == (413, "spacetime_frame_payload_too_large")
    assert mock.publish(run, "x" * 200 * 1024).status_code == 201


def test_publishing_too_fast_is_refused_with_a_retry_time(tmp_path):
    with serving(tmp_path, {"publishes_per_s": 2}) as mock:
        run = mock.run()
        answers = [mock.publish(run, number) for number in range(10)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert {error_of(answer) for answer in refused} == {"spacetime_publish_rate_limited"}
        assert all(0 < answer.json()["error"]["retry_after_ms"] <= 501 for answer in refused)
        assert [answer.json()["event"]["seq"] for answer in answers if answer.status_code == 201] == [1, 2][: 10 - len(refused)]


@pytest.mark.parametrize("run", ["r999999", "r0", "r-1", "x", "r" + "9" * 40, "r1²", "%F0%9F%92%A5"])
def test_an_unknown_run_is_not_found(mock: Served, run: str):
    answer = mock.publish(run)
    assert (answer.status_code, error_of(answer)) == (404, "unknown_run")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"event_type": 3},
        {"event_type": "a", "expected_next_seq": "one"},
        {"event_type": "a", "idempotency_key": 5},
        [1],
        "x",
    ],
)
def test_a_malformed_event_is_refused(mock: Served, body: object):
    answer = mock.http.post(f"/internal/v1/runs/{mock.run()}/events", json=body)
    assert (answer.status_code, error_of(answer)) == (422, "malformed_request")


# --- metrics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "mock-admin"}])
def test_metrics_need_the_admin_token(mock: Served, headers: dict[str, str]):
    answer = mock.http.get("/internal/v1/spacetime/sync/metrics", headers=headers)
    assert (answer.status_code, error_of(answer)) == (401, "unauthorized")


def test_the_full_profile_counts(tmp_path):
    with serving(tmp_path, {"window_events": 4}) as mock:
        run = mock.run()
        for key in ("a", "b", "c", "d", "e", "e"):
            mock.publish(run, idempotency_key=key)
        mock.publish(run, expected_next_seq=1)
        with joined(mock, f"run:{run}:events") as raw:
            raw.subscribe(f"run:{run}:events")
            metrics = mock.http.get("/internal/v1/spacetime/sync/metrics", headers=ADMIN).json()
    assert metrics["transport"] == "spacetime_ws"
    assert metrics["mirror"]["published_total"] == 5
    assert metrics["mirror"]["duplicate_suppressed_total"] == 1
    assert metrics["mirror"]["duplicate_suppression_rate_pct"] == pytest.approx(100 / 6)
    assert metrics["delivery"].pop("total_polls") > 0
    assert metrics["delivery"] == {
        "active_consumers": 1,
        "served_messages": 4,
        "max_replay_lag": 4,
        "dropped_messages_total": 1,
        "stale_cursor_events_total": 0,
    }
    assert set(metrics["auth_failures"].values()) == {0}
    assert len(metrics["auth_failures"]) == 6


# --- switches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{"defects": ["no_such"]}, {"mint_delay_ms": -1}, {"colour": 1}, [], "x"])
def test_a_wrong_switch_changes_nothing(mock: Served, body: object):
    before = mock.state()["switches"]
    assert mock.http.put("/_mock/switches", json=body).status_code == 422
    assert mock.state()["switches"] == before


def test_the_window_shrinks_on_demand(mock: Served):
    topic = mock.append(mock.run(), 5)
    assert mock.put("window", topic=topic, keep_events=2) == {"events_forgotten": 3}
    assert mock.state()["streams"][topic] == {"oldest": 4, "head": 5}
    with joined(mock, topic) as raw:
        _, _, before = raw.subscribe(topic)
    assert [update["watermark"] for update in updates_in(before)] == [4, 5]


def test_sockets_are_closed_on_demand(mock: Served):
    with Raw(mock, mock.token(device_id="one")) as one, Raw(mock, mock.token(device_id="two")) as two:
        one.join()
        two.join()
        assert mock.put("sockets", devices=["one", "missing"]) == {"sockets_closed": 1}
        assert one.to_the_end() == []
        assert mock.state()["consumers"] == 1


@pytest.mark.parametrize("address", ["192.0.2.7", "10.0.0.1", "2001:db8::1", "nonsense"])
def test_switches_are_for_this_machine_only(tmp_path, address: str):
    app = Mock(MockOptions(RuntimeSettings(), Switches()), Store(tmp_path / "log.sqlite")).app()

    async def ask() -> None:
        transport = httpx.ASGITransport(app, client=(address, 4000))
        async with httpx.AsyncClient(transport=transport, base_url="http://mock") as http:
            puts = [
                ("PUT", f"/_mock/{name}") for name in ("switches", "window", "sockets", "keys", "traffic", "throttle", "cohort")
            ]
            for method, path in (*puts, ("GET", "/_mock/state")):
                answer = await http.request(method, path, json={})
                assert (answer.status_code, error_of(answer)) == (403, "loopback_only")
            assert (await http.get("/healthz")).status_code == 200

    asyncio.run(ask())


def test_the_prometheus_page_has_every_metric_and_more(mock: Served):
    assert mock.http.get("/metrics").status_code == 401
    answer = mock.http.get("/metrics", headers=ADMIN)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    elsewhere = {"replay.errors_total", "replay.divergences_total"}
    metrics = {*PROFILES["full"], *PROFILES["pinned"], *STATUS_COUNTERS, *MONITORED} - elsewhere
    for metric in metrics:
        family = families.pop(name_of(metric).removesuffix("_total"))
        assert (family.type, len(family.samples)) == ("counter" if is_counter(metric) else "gauge", 1)
        assert family.documentation
    assert families == {}


def test_the_prometheus_page_counts_sockets(tmp_path: Path):
    with serving(tmp_path) as mock:
        token = mock.token("run:r1:events")
        for _ in range(3):
            with Raw(mock, token):
                pass
        with pytest.raises(InvalidStatus), Raw(mock, "no-token"):
            pass
        page = mock.http.get("/metrics", headers=ADMIN).text
    assert "\nstormgate_sockets_connects_total 4.0\n" in page
    assert "\nstormgate_sockets_reconnects_total 2.0\n" in page
    assert "\nstormgate_auth_failures_invalid_token_total 1.0\n" in page
