"""Reading metrics bodies: a missing metric is not zero, text is not a number, and an impossible number is noted."""

import json
import math

import pytest

from sim.server.control import COUNTERS
from sim.server.counters import Counters, metrics
from sim.service.metric_names import KNOWN, MONITORED, PROFILES, STATUS_COUNTERS, is_counter
from sim.service.metrics import MAX_METRICS, read_metrics, read_status, revision_of

FULL = metrics(Counters(published=7), [], 3, "full", 1_800_000_000.0, "spacetime_ws")
PINNED = metrics(Counters(published=7), [], 3, "pinned", 1_800_000_000.0, "spacetime_ws")


def body(data: object) -> bytes:
    return json.dumps(data).encode()


def changed(**tables: object) -> bytes:
    return body({**FULL, **tables})


@pytest.mark.parametrize(("data", "profile"), [(FULL, "full"), (PINNED, "pinned")])
def test_profile_is_detected_from_body(data: dict[str, object], profile: str) -> None:
    reading = read_metrics(body(data))
    assert (reading.outcome, reading.profile) == ("ok", profile)
    assert sorted(reading.figures) == sorted(PROFILES[profile])
    assert reading.figures["mirror.published_total"] == 7
    assert reading.generated_at == "2027-01-15T08:00:00Z"
    assert reading.notes == ()


def test_nested_tables_are_read_to_limited_depth() -> None:
    found = read_metrics(changed(a={"b": {"c": {"d": 1}}}, deep={"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}}))
    assert found.figures["a.b.c.d"] == 1
    assert [name for name in found.figures if name.startswith("deep")] == []


def test_one_metric_identifies_full_profile() -> None:
    assert read_metrics(changed(delivery={}, auth_failures={"forbidden_total": 1})).profile == "full"
    assert read_metrics(body({"mirror": {"failed_total": 0}})).profile == ""


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (b"", "no_json"),
        (b"<html>sign in</html>", "no_json"),
        (b"\xff\xfe\x00", "no_json"),
        (b"[" * 200_000, "no_json"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "not_metrics"),
        (b"{}", "no_metrics"),
        (b"null", "not_metrics"),
        (b"[1, 2]", "not_metrics"),
        (b'"yes"', "not_metrics"),
        (b'{"status": "ok", "uptime": 17}', "not_metrics"),
        (b'{"error": {"code": "unauthorized"}}', "not_metrics"),
        (b'{"mirror": null, "delivery": null}', "no_metrics"),
        (b'{"mirror": {"published_total": null, "failed_total": null}}', "no_metrics"),
        (b'{"mirror": {"published_total": "7", "failed_total": true}}', "no_metrics"),
        (b'{"mirror": {"published_total": [7]}}', "no_metrics"),
        (b'{"mirror": {"published_total": NaN}}', "bad_numbers"),
        (b'{"mirror": {"published_total": 1e999}}', "bad_numbers"),
        (b'{"mirror": {"published_total": 1' + b"0" * 400 + b"}}", "bad_numbers"),
        (b'{"mirror": {"published_total": -1, "failed_total": 0}}', "bad_numbers"),
        (b'{"mirror": {"published_total": 1}, "ours_total": -1}', "bad_numbers"),
        (b'{"mirror": {"published_total": 1}, "ours_celsius": -1}', "ok"),
    ],
)
def test_unusable_body_has_outcome_with_reason(text: bytes, outcome: str) -> None:
    reading = read_metrics(text)
    assert reading.outcome == outcome
    assert all(math.isfinite(value) for value in reading.figures.values())
    assert bool(reading.notes) == (outcome == "bad_numbers")


def test_bad_number_is_noted_and_other_metrics_are_kept() -> None:
    reading = read_metrics(changed(mirror={"published_total": -3, "failed_total": 2}))
    assert reading.notes == ("mirror.published_total is -3, which it cannot be",)
    assert "mirror.published_total" not in reading.figures
    assert reading.figures["mirror.failed_total"] == 2


def test_profile_metrics_are_kept_when_body_is_too_large() -> None:
    reading = read_metrics(body({"others": {f"n{n}": n for n in range(1000)}, **FULL}))
    assert len(reading.figures) == MAX_METRICS
    assert set(PROFILES["full"]) <= set(reading.figures)


@pytest.mark.parametrize("generated_at", [None, 17, "x" * 65, "2026\n", {"at": 1}])
def test_invalid_timestamp_is_dropped(generated_at: object) -> None:
    assert read_metrics(changed(generated_at=generated_at)).generated_at == ""


def test_control_service_counters_have_contract_names() -> None:
    assert set(STATUS_COUNTERS) == set(COUNTERS)
    counters = {name: n for n, name in enumerate(STATUS_COUNTERS)}
    reading = read_status(body({"data": {"status": "ok", "counters": counters, "revision": "r7"}}))
    assert (reading.outcome, reading.figures, reading.revision) == ("ok", counters, "r7")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (b"<html>", "no_json"),
        (b"[]", "not_status"),
        (b"{}", "not_status"),
        (b'{"data": 3}', "not_status"),
        (b'{"data": {"status": "ok"}}', "no_metrics"),
        (b'{"data": {"counters": [1]}}', "no_metrics"),
        (b'{"data": {"counters": {"sync.token.issued": "3"}}}', "no_metrics"),
        (b'{"data": {"counters": {"sync.token.issued": -3}}}', "bad_numbers"),
    ],
)
def test_unusable_status_has_outcome_with_reason(text: bytes, outcome: str) -> None:
    assert read_status(text).outcome == outcome


@pytest.mark.parametrize(
    ("text", "revision"),
    [
        (b'{"revision": "runtime-00042-abc"}', "runtime-00042-abc"),
        (b'{"revision": "two words"}', ""),
        (b'{"revision": ""}', ""),
        (b'{"revision": 42}', ""),
        (b'{"revision": "' + b"x" * 129 + b'"}', ""),
        (b'["revision"]', ""),
        (b"<html>", ""),
    ],
)
def test_revision_is_one_printable_word_or_empty(text: bytes, revision: str) -> None:
    assert revision_of(text) == revision


def test_every_metric_name_is_unique_and_counters_are_known() -> None:
    assert len(set(KNOWN)) == len(KNOWN)
    assert all(is_counter(name) for name in (*STATUS_COUNTERS, *MONITORED))
    assert not is_counter("delivery.max_replay_lag")
