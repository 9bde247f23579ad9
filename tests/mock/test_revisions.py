"""Two revisions of a mock over a real socket: which serves, who is routed where, what is throttled, and restarts."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.commands import stormgate_here
from tests.served import Raw, Served, serving, updates_in

DEPLOYMENT = {"revision": "r2", "previous_revision": "r1", "cohort_percent": 25, "canary_defects": ["cross_topic_leak"]}


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("revisions"), deployment=DEPLOYMENT) as served:
        yield served


@pytest.fixture(autouse=True)
def _as_it_began(endpoints: Served) -> Iterator[None]:
    yield
    put(endpoints, "traffic", revision="r2")
    put(endpoints, "throttle")
    put(endpoints, "cohort", percent=25)


def put(mock: Served, name: str, **body: Any) -> dict[str, Any]:
    answer = mock.http.put(f"/_mock/{name}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def seen(mock: Served) -> tuple[str, str]:
    """The revisions of the control service and the runtime, as both say."""
    control = mock.http.get("/api/status").json()["data"]["revision"]
    return control, mock.http.get("/healthz").json()["revision"]


def routed(mock: Served, key: str) -> dict[str, Any]:
    probe = {"thread_id": "t", "cohort_key": key}
    return dict(mock.http.post("/api/v1/control/runtime-routing/evaluate", json=probe).json()["data"])


def test_both_services_report_the_serving_revision(endpoints: Served):
    assert seen(endpoints) == ("r2", "r2")
    assert put(endpoints, "traffic", revision="r1")["serving"] == "r1"
    assert seen(endpoints) == ("r1", "r1")
    answer = endpoints.http.put("/_mock/traffic", json={"revision": "r3"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_revision")
    assert seen(endpoints) == ("r1", "r1")


def test_the_cohort_is_a_share_of_the_keys(endpoints: Served):
    for percent in (25, 0, 100):
        put(endpoints, "cohort", percent=percent)
        for key in ("a", "b", "c", "d", "e", "f"):
            bucket = int.from_bytes(hashlib.sha256(f"runtime-canary-v1|thread|{key}".encode()).digest()[:4], "big") % 100
            cohort, revision = ("canary", "r2") if bucket < percent else ("control", "r1")
            expected = {"bucket": bucket, "cohort": cohort, "percent": percent, "revision": revision}
            assert routed(endpoints, key) == {"thread_id": "t", "cohort_key": key, **expected}
    assert endpoints.http.put("/_mock/cohort", json={"percent": 101}).status_code == 422


def test_a_throttle_refuses_publishes_and_connects_by_name(endpoints: Served):
    put(endpoints, "throttle", publishes_per_s=2, connects_per_s=1)
    run = endpoints.run()
    refused = [answer for answer in (endpoints.publish(run, n) for n in range(8)) if answer.status_code != 201]
    assert len(refused) >= 4
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {
        (429, "spacetime_publish_rate_limited")
    }
    assert all(0 < answer.json()["error"]["retry_after_ms"] <= 501 for answer in refused)
    token = endpoints.token()
    with Raw(endpoints, token), pytest.raises(InvalidStatus) as no, Raw(endpoints, token):
        pass
    assert no.value.response.status_code == 429
    assert b'"rate_limited"' in (no.value.response.body or b"")
    assert b'"retry_after_ms"' in (no.value.response.body or b"")
    put(endpoints, "throttle")
    assert {endpoints.publish(run, n).status_code for n in range(8)} == {201}
    with Raw(endpoints, token), Raw(endpoints, token):
        pass


def leaked(mock: Served) -> int:
    """How many events come to one who never asked for them."""
    run, other = mock.run(), mock.run()
    with Raw(mock, mock.token(f"run:{other}:events")) as raw:
        raw.join()
        for number in range(100):
            assert mock.publish(run, number).status_code == 201
        _, _, before = raw.subscribe(f"run:{other}:events")
    return len([update for update in updates_in(before) if update["topic"] == f"run:{run}:events"])


def test_the_old_revision_lacks_the_defects_of_the_new_one(endpoints: Served):
    assert leaked(endpoints) > 0
    put(endpoints, "traffic", revision="r1")
    assert leaked(endpoints) == 0
    endpoints.switch(mint_outage=True)
    put(endpoints, "traffic", revision="r2")
    state = endpoints.state()
    assert state["switches"]["defects"] == [], "what was chosen and what a revision brings are kept apart"
    assert state["switches"]["mint_outage"]
    assert endpoints.token_response().status_code == 503
    endpoints.switch()
    assert leaked(endpoints) > 0


def test_a_restart_keeps_the_traffic_and_another_deployment_resets_it(tmp_path: Path):
    with serving(tmp_path, deployment=DEPLOYMENT) as mock:
        put(mock, "traffic", revision="r1")
        put(mock, "cohort", percent=5)
        put(mock, "throttle", publishes_per_s=1)
        mock.kill()
    with serving(tmp_path, deployment=DEPLOYMENT) as mock:
        assert seen(mock) == ("r1", "r1")
        assert mock.state()["traffic"] == {
            "serving": "r1",
            "cohort_percent": 5,
            "throttle": {"publishes_per_s": 1.0, "connects_per_s": None},
        }
        run = mock.run()
        assert 429 in {mock.publish(run, n).status_code for n in range(4)}
    with serving(tmp_path, deployment={**DEPLOYMENT, "revision": "r3", "previous_revision": "r2"}) as mock:
        assert seen(mock) == ("r3", "r3")
        assert mock.state()["traffic"]["cohort_percent"] == 25


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("cohort_percent=101", ["cohort_percent", "<= 100"]),
        ('canary_defects=["rust"]', ["canary_defects", "rust"]),
        ("previous_revision=mock-r2", ["previous_revision", "mock-r2"]),
        ("revision=a b", ["revision", "a b"]),
    ],
)
def test_a_wrong_deployment_is_one_sentence(assignment: str, words: list[str]):
    said = stormgate_here("mock", "serve", "--set", assignment)
    assert (said.code, said.out) == (3, "")
    assert [word for word in words if word not in said.sentence] == []
