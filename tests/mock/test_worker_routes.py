"""The mock's HTTP of `phoenix_sync`, and one client on its socket, byte for byte where the operators' runtime was recorded."""

import json

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from sim.engines.shared.endpoints import Endpoints
from sim.mock.process import BlockingMockProcess
from sim.mock.server import ServeOptions
from sim.protocols.phoenix_sync.server import SOCKET_PATH
from sim.server.settings import RuntimeSettings, Switches

WORKERS = "/internal/v1/codex/workers"
TOPIC = "runtime.codex_worker_events"


@pytest.fixture
def url(tmp_path):
    process = BlockingMockProcess(ServeOptions(RuntimeSettings(), Switches(), protocol="phoenix_sync"), tmp_path / "mock.log")
    yield process.url
    process.stop()


@pytest.fixture
def http(url):
    with httpx.Client(base_url=url) as client:
        yield client


def publish(http: httpx.Client, number: int, worker: str = "w-1") -> httpx.Response:
    return http.post(f"{WORKERS}/{worker}/events", json={"event_type": "worker.progress", "payload": {"n": number}})


def socket_url(http: httpx.Client, url: str, session: str = "session-a") -> str:
    answer = http.post("/api/spacetime/token", headers={"Authorization": f"Bearer {session}"}, json={"topics": [TOPIC]})
    build = "client_build_id=20260601T000000Z&protocol_version=spacetime.sync.v1&schema_version=1"
    return f"{url.replace('http', 'ws')}{SOCKET_PATH}?vsn=2.0.0&{build}&token={answer.json()['data']['token']}"


def test_a_worker_is_created_once_and_counts_its_own_events(http):
    first = http.post(WORKERS, json={"worker_id": "w-1"})
    assert (first.status_code, first.json()["data"]) == (
        202,
        {"idempotentReplay": False, "latestSeq": 0, "status": "running", "workerId": "w-1"},
    )
    http.post(WORKERS, json={"worker_id": "w-2"})
    answers = [publish(http, number) for number in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert [answer.json()["data"]["seq"] for answer in answers] == [2, 3], "seq 1 is `worker.started`"
    assert http.post(WORKERS, json={"worker_id": "w-1"}).json()["data"]["idempotentReplay"] is True
    assert publish(http, 1, "nobody").status_code == 404


def test_there_are_no_routes_of_runs_and_none_of_readiness(http):
    assert [http.get(path).status_code for path in ("/readyz", "/healthz")] == [404, 404]
    assert http.post("/internal/v1/runs", json={"worker_id": "w"}).status_code == 404


def test_a_publish_that_is_tried_again_is_the_same_event(http):
    http.post(WORKERS, json={"worker_id": "w-1"})
    body = {"event_type": "worker.progress", "payload": {"n": 1}, "idempotency_key": "k"}
    first, again = (http.post(f"{WORKERS}/w-1/events", json=body).json() for _ in range(2))
    assert first == again


def test_a_client_replays_the_shared_topic_and_is_revoked(http, url):
    http.post(WORKERS, json={"worker_id": "w-1"})
    publish(http, 0)
    with connect(socket_url(http, url)) as socket:
        socket.send('["1","1","sync:v1","phx_join",{}]')
        assert json.loads(socket.recv())[4]["status"] == "ok"
        socket.send(f'["1","2","sync:v1","sync:subscribe",{{"topics":["{TOPIC}"]}}]')
        batch, again, reply = [json.loads(socket.recv()) for _ in range(3)]
        assert [frame[3] for frame in (batch, again, reply)] == ["sync:update_batch", "sync:frame", "phx_reply"]
        started, progress = batch[4]["updates"]
        assert started["payload"]["event_type"] == "worker.started"
        assert (progress["payload"]["seq"], progress["watermark"], progress["payload"]["payload"]) == (2, 2, {"n": 0})
        answer = http.post("/internal/v1/sync/sessions/revoke", json={"session_ids": ["session-a"]}).json()["data"]
        assert answer["revoked_session_ids"] == ["session-a"]
        with pytest.raises(ConnectionClosedError) as closed:
            socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011


def test_a_refused_upgrade_has_an_empty_body(url):
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{url.replace('http', 'ws')}{SOCKET_PATH}?vsn=2.0.0&token=garbage")
    assert (refused.value.response.status_code, refused.value.response.body) == (403, b"")


def test_its_requests_are_data_of_the_endpoints():
    forms = Endpoints.of_embedded_mock("http://here", "t", "phoenix_sync").forms
    assert forms.publish.path == WORKERS + "/{run_id}/events"
    assert forms.publish.position_of == "publisher"
