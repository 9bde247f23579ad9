"""Two revisions of a mock over a real socket: which serves, who is routed where, what is throttled, and restarts."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.commands import stormgate_here
from tests.served import Raw, Served, joined, serving, updates_in

DEPLOYMENT = {"revision": "r2", "previous_revision": "r1", "cohort_percent": 25, "canary_defects": ["cross_topic_leak"]}


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("revisions"), deployment=DEPLOYMENT) as served:
        yield served


@pytest.fixture(autouse=True)
def _restored(mock: Served) -> Iterator[None]:
    yield
    mock.put("traffic", revision="r2")
    mock.put("throttle")
    mock.put("cohort", percent=25)


def revisions(mock: Served) -> tuple[str, str]:
    """The revisions of the control service and the runtime, as both report."""
    control = mock.http.get("/api/status").json()["data"]["revision"]
    return control, mock.http.get("/healthz").json()["revision"]


def routed(mock: Served, key: str) -> dict[str, Any]:
    question = {"thread_id": "t", "cohort_key": key}
    return dict(mock.http.post("/api/v1/control/runtime-routing/evaluate", json=question).json()["data"])


def test_both_services_report_the_serving_revision(mock: Served):
    assert revisions(mock) == ("r2", "r2")
    assert mock.put("traffic", revision="r1")["serving"] == "r1"
    assert revisions(mock) == ("r1", "r1")
    answer = mock.http.put("/_mock/traffic", json={"revision": "r3"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_revision")
    assert revisions(mock) == ("r1", "r1")


def test_the_cohort_is_a_share_of_the_keys(mock: Served):
    for percent in (25, 0, 100):
        mock.put("cohort", percent=percent)
        for key in ("a", "b", "c", "d", "e", "f"):
            bucket = int.from_bytes(hashlib.sha256(f"runtime-canary-v1|thread|{key}".encode()).digest()[:4], "big") % 100
            cohort, revision = ("canary", "r2") if bucket < percent else ("control", "r1")
            expected = {"bucket": bucket, "cohort": cohort, "percent": percent, "revision": revision}
            assert routed(mock, key) == {"thread_id": "t", "cohort_key": key, **expected}
    assert mock.http.put("/_mock/cohort", json={"percent": 101}).status_code == 422
    assert mock.http.post("/api/v1/control/runtime-routing/evaluate", json={"thread_id": "t"}).status_code == 422


def test_a_throttle_refuses_publishes_and_connects_by_name(mock: Served):
    mock.put("throttle", publishes_per_s=2, connects_per_s=1)
    run = mock.run()
    refused = [answer for answer in (mock.publish(run, n) for n in range(8)) if answer.status_code != 201]
    assert len(refused) >= 4
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {
        (429, "spacetime_publish_rate_limited")
    }
    assert all(0 < answer.json()["error"]["retry_after_ms"] <= 501 for answer in refused)
    token = mock.token()
    with Raw(mock, token), pytest.raises(InvalidStatus) as no, Raw(mock, token):
        pass
    assert no.value.response.status_code == 429
    assert b'"rate_limited"' in (no.value.response.body or b"")
    assert b'"retry_after_ms"' in (no.value.response.body or b"")
    mock.put("throttle")
    assert {mock.publish(run, n).status_code for n in range(8)} == {201}
    with Raw(mock, token), Raw(mock, token):
        pass


def leaked(mock: Served) -> int:
    """How many events reach a client that did not subscribe to them."""
    run, other = mock.run(), mock.run()
    with joined(mock, f"run:{other}:events") as raw:
        for number in range(100):
            assert mock.publish(run, number).status_code == 201
        _, _, before = raw.subscribe(f"run:{other}:events")
    return len([update for update in updates_in(before) if update["topic"] == f"run:{run}:events"])


def test_the_old_revision_lacks_the_defects_of_the_new_one(mock: Served):
    assert leaked(mock) > 0
    mock.put("traffic", revision="r1")
    assert leaked(mock) == 0
    mock.switch(mint_outage=True)
    mock.put("traffic", revision="r2")
    state = mock.state()
    assert state["switches"]["defects"] == [], "what was chosen and what a revision brings are kept apart"
    assert state["switches"]["mint_outage"]
    assert mock.token_response().status_code == 503
    mock.switch()
    assert leaked(mock) > 0


def test_a_restart_keeps_the_traffic_and_another_deployment_resets_it(tmp_path: Path):
    with serving(tmp_path, deployment=DEPLOYMENT) as mock:
        mock.put("traffic", revision="r1")
        mock.put("cohort", percent=5)
        mock.put("throttle", publishes_per_s=1)
        mock.kill()
    with serving(tmp_path, deployment=DEPLOYMENT) as mock:
        assert revisions(mock) == ("r1", "r1")
        assert mock.state()["traffic"] == {
            "serving": "r1",
            "cohort_percent": 5,
            "throttle": {"publishes_per_s": 1.0, "connects_per_s": None},
        }
        run = mock.run()
        assert 429 in {mock.publish(run, n).status_code for n in range(4)}
    with serving(tmp_path, deployment={**DEPLOYMENT, "revision": "r3", "previous_revision": "r2"}) as mock:
        assert revisions(mock) == ("r3", "r3")
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
    result = stormgate_here("mock", "serve", "--set", assignment)
    assert (result.code, result.out) == (3, "")
    assert [word for word in words if word not in result.sentence] == []
