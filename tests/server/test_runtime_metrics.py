"""The metrics body of both profiles."""

import pytest

from sim.server.counters import Counters, metrics, monitored
from sim.server.tokens import TokenRefusedError
from tests.client.server_double import COMPATIBILITY, START
from tests.server.runtime_driver import A, B, RuntimeDriver


def metrics_body(profile: str) -> dict:
    driver = RuntimeDriver(window_events=5)
    number = driver.live(A)
    driver.publish(A, 8)
    driver.publish(B, 2)
    driver.pull(number)
    with pytest.raises(TokenRefusedError):
        driver.runtime.open(None, COMPATIBILITY, driver.now)
    driver.runtime.counters.published = 9
    driver.runtime.counters.duplicates_suppressed = 1
    runtime = driver.runtime
    return metrics(runtime.counters, runtime.streams.logs.values(), runtime.consumers, profile, START, "spacetime_ws")


def test_full_profile_has_exactly_the_contract_fields():
    body = metrics_body("full")
    assert set(body) == {"transport", "mirror", "delivery", "auth_failures", "generated_at"}
    assert body["transport"] == "spacetime_ws"
    assert body["mirror"] == {
        "published_total": 9,
        "duplicate_suppressed_total": 1,
        "failed_total": 0,
        "duplicate_suppression_rate_pct": 10.0,
    }
    assert set(body["delivery"]) == {
        *("active_consumers", "total_polls", "served_messages", "max_replay_lag"),
        *("dropped_messages_total", "stale_cursor_events_total"),
    }
    assert body["delivery"]["active_consumers"] == 1
    assert body["delivery"]["max_replay_lag"] == 5
    assert body["delivery"]["dropped_messages_total"] == 3
    assert body["auth_failures"] == {
        "unauthorized_total": 1,
        "forbidden_total": 0,
        "invalid_token_total": 0,
        "token_expired_total": 0,
        "token_not_yet_valid_total": 0,
        "token_revoked_total": 0,
    }
    assert body["generated_at"] == "2023-11-14T22:13:20Z"


def test_pinned_profile_has_only_its_own_fields():
    body = metrics_body("pinned")
    assert set(body) == {"transport", "mirror", "delivery", "generated_at"}
    assert body["delivery"] == {"stream_count": 2, "event_count": 7}


def test_monitoring_counts_connects_returns_and_silent_clients():
    driver = RuntimeDriver()
    driver.runtime.counters.upgrades = 7  # the socket server counts them
    for device in ("d", "e", "d", "d"):
        driver.open(device)
    driver.wait(2 * driver.runtime.settings.client_timeout_s)
    assert monitored(driver.runtime.counters) == {
        "sockets.connects_total": 7,
        "sockets.reconnects_total": 2,
        "sockets.heartbeat_timeouts_total": 4,
        "delivery.slow_consumer_evictions_total": 0,
    }


def test_client_that_comes_again_is_counted_each_time():
    counters = Counters()
    for client in (1, 2, 1, 3, 1):
        counters.came(client)
    assert counters.returns == 2
    assert monitored(counters)["sockets.reconnects_total"] == 2
