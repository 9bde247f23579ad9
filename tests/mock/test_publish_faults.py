"""What the mock answers to publishes while its switches make them fail, and what is in its log afterwards."""

from pathlib import Path

import pytest

from tests.served import Served, serving


def publish(mock: Served, run_id: str, key: str) -> tuple[int, str | int]:
    """Publish once; returns the status, and the sequence number or the code."""
    body = {"event_type": "run.progress", "payload": {"n": 1}, "idempotency_key": key}
    answer = mock.http.post(f"/internal/v1/runs/{run_id}/events", json=body)
    content = answer.json()
    return answer.status_code, content["event"]["seq"] if "event" in content else content["error"]["code"]


def acted(mock: Served, kind: str) -> int:
    """How often a fault has taken effect since the mock started."""
    return int(mock.state()["acted"].get(kind, 0))


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (413, "spacetime_frame_payload_too_large"),
        (429, "spacetime_publish_rate_limited"),
        (500, "internal_error"),
        (503, "publishing_unavailable"),
    ],
)
def test_a_publish_that_fails_leaves_nothing_behind(mock: Served, status: int, code: str):
    run_id, before = mock.run(), acted(mock, "fail_publishes")
    mock.switch(publish_fail_status=status, publish_fail_share=1.0)
    assert publish(mock, run_id, "a") == (status, code)
    assert acted(mock, "fail_publishes") == before + 1
    mock.switch()
    assert publish(mock, run_id, "a") == (201, 1)


def test_an_event_that_was_appended_is_not_appended_again_by_a_retry(mock: Served):
    run_id = mock.run()
    mock.switch(publish_fail_status=500, publish_fail_share=1.0, publish_fail_taken=True)
    assert publish(mock, run_id, "a") == publish(mock, run_id, "a") == (500, "internal_error")
    mock.switch()
    assert publish(mock, run_id, "a") == (200, 1)
    assert publish(mock, run_id, "b") == (201, 2)


def test_failed_publish_has_a_retry_time(mock: Served):
    run_id = mock.run()
    mock.switch(publish_fail_status=429, publish_fail_share=1.0, publish_fail_retry_after_ms=70)
    answer = mock.http.post(f"/internal/v1/runs/{run_id}/events", json={"event_type": "run.progress"})
    assert answer.json()["error"]["retry_after_ms"] == 70


def test_slow_publishes_have_an_observed_effect(mock: Served):
    run_id, before = mock.run(), acted(mock, "slow_publishes")
    mock.switch(publish_delay_ms=20.0)
    assert publish(mock, run_id, "a") == (201, 1)
    assert acted(mock, "slow_publishes") == before + 1


def test_forget_idempotency_keys_appends_a_second_time(tmp_path: Path):
    with serving(tmp_path, defects=["forget_idempotency_keys"]) as mock:
        run_id = mock.run()
        assert [publish(mock, run_id, "a") for _ in range(2)] == [(201, 1), (201, 2)]


def test_acknowledge_unwritten_acknowledges_and_forgets(tmp_path: Path):
    defects = ["acknowledge_unwritten"]
    with serving(tmp_path, defects=defects, publish_fail_status=503, publish_fail_share=1.0) as mock:
        run_id = mock.run()
        assert [publish(mock, run_id, key) for key in ("a", "b")] == [(201, 1), (201, 1)]
        mock.switch()
        assert publish(mock, run_id, "c") == (201, 1)
