"""Cohort probes: a routing service that says who is in a canary, and what is wrong with one that does not mean it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.judging.checks.verdicts import State
from drills.rollout.servers import routing_checks
from drills.rollout.setup.records import ROUTING_CHECKS, RoutingCheck
from drills.rollout.setup.stages import RoutingChecks
from sim.base.clocks import SystemClock
from sim.engines.shared.endpoints import Endpoints
from sim.server.deployment import cohort_bucket
from sim.service import paths
from tests.commands import http_server


def answers(percent: float, n: int = 300, inside: Callable[[int, int], bool] | None = None) -> list[RoutingCheck]:
    found = []
    for number in range(n):
        key = f"stormgate-probe-{number}"
        bucket = cohort_bucket("thread", key)
        is_in = inside(number, bucket) if inside else bucket < percent
        found.append(RoutingCheck(at="2026-11-23T15:00:00Z", key=key, bucket=bucket, in_cohort=is_in, outcome="ok"))
    return found


@pytest.mark.parametrize("percent", [5.0, 25.0, 50.0, 100.0])
def test_cohort_of_the_claimed_size_passes(percent: float):
    part = routing_checks.judge(answers(percent), percent)
    assert part.state == State.PASS, part.reason


@pytest.mark.parametrize(
    ("percent", "really", "words"),
    [(5.0, 50.0, "wrong side"), (5.0, 0.0, "wrong side"), (50.0, 25.0, "wrong side"), (100.0, 99.0, "wrong side")],
)
def test_cohort_of_another_size_fails(percent: float, really: float, words: str):
    part = routing_checks.judge(answers(really), percent)
    assert (part.state, words in part.reason) == (State.FAIL, True), part.reason


def test_right_share_of_the_wrong_keys_fails():
    part = routing_checks.judge(answers(5.0, inside=lambda number, bucket: number % 20 == 0), 5.0)
    assert part.state == State.FAIL
    assert "stormgate-probe-" in part.reason


def test_buckets_are_computed_here():
    answered = [RoutingCheck(at="", key=each.key, bucket=0, in_cohort=True, outcome="ok") for each in answers(5.0)]
    assert routing_checks.judge(answered, 5.0).state == State.FAIL


def test_too_few_answers_do_not_pass():
    assert routing_checks.judge([], 5.0).state == State.NOT_RUN
    assert routing_checks.judge(answers(5.0, n=60), 5.0).state in (State.INCONCLUSIVE, State.FAIL)
    silent = [RoutingCheck(at="", key="k", bucket=0, in_cohort=None, outcome="http_500")] * 5
    assert routing_checks.judge(silent, 5.0).state == State.NO_DATA
    assert routing_checks.judge([*answers(5.0), *silent], 5.0).state == State.INCONCLUSIVE


@pytest.mark.parametrize("percent", [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0])
def test_asking_the_same_keys_every_hour_does_not_enlarge_the_sample(percent: float):
    part = routing_checks.judge(answers(percent) * 25, percent)
    assert part.state == State.PASS, part.reason


def without_buckets(found: list[RoutingCheck]) -> list[RoutingCheck]:
    return [msgspec.structs.replace(each, bucket=None) for each in found]


def test_only_the_share_is_known_where_a_service_assigns_keys_in_its_own_way():
    found = without_buckets(answers(5.0, inside=lambda number, bucket: number % 20 == 0))
    assert routing_checks.judge(found * 3, 5.0).state == State.PASS
    assert routing_checks.judge(found, 25.0).state == State.FAIL


def test_key_that_changes_sides_fails():
    found = without_buckets(answers(5.0))
    moved = [*found, msgspec.structs.replace(found[7], in_cohort=not found[7].in_cohort)]
    part = routing_checks.judge(moved, 5.0)
    assert (part.state, "1 of 300 keys changed sides" in part.reason) == (State.FAIL, True), part.reason


def asked(folder: Path, answer: Callable[[dict[str, Any]], tuple[int, object]], keys: int = 100) -> list[RoutingCheck]:
    bodies: list[dict[str, Any]] = []

    def serve(method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        assert (method, path) == ("POST", paths.ROUTING_PATH)
        bodies.append(json.loads(body))
        status, said = answer(bodies[-1])
        return status, "application/json", json.dumps(said).encode()

    with http_server(serve, takes_body=True) as url:
        found = routing_checks.ask(
            Endpoints("there", "mock", url, url), RoutingChecks(keys=keys, per_s=1000.0), folder, SystemClock()
        )
    lines = (folder / ROUTING_CHECKS).read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [each.key for each in found]
    return found


def test_service_is_asked_key_by_key(tmp_path: Path):
    def answer(body: dict[str, Any]) -> tuple[int, object]:
        bucket = cohort_bucket("thread", body["cohort_key"])
        said = {**body, "bucket": bucket, "cohort": "canary" if bucket < 25 else "control", "percent": 25, "revision": "r2"}
        return 200, {"data": said}

    found = asked(tmp_path, answer)
    assert routing_checks.judge(found, 25.0).state == State.PASS
    assert {each.revision for each in found} == {"r2"}


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (500, {}, "http_500"),
        (200, {"data": {"cohort_key": "another", "cohort": "canary"}}, "another_key"),
        (200, {"data": {"cohort_key": "stormgate-probe-0", "cohort": None}}, "no_cohort"),
        (200, {}, "no_cohort"),
    ],
)
def test_unusable_answers_end_the_routing_check(tmp_path: Path, status: int, body: object, outcome: str):
    found = asked(tmp_path, lambda _: (status, body))
    assert found[0].outcome == outcome
    assert len(found) < 20
    assert all(each.in_cohort is None for each in found)
