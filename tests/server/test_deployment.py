"""Deployments with two revisions: cohorts, routing, defects of a revision, and throttles."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.server.admission import ServiceLimits
from sim.server.deployment import (
    Deployment,
    Throttle,
    Traffic,
    cohort_bucket,
    first_traffic,
    in_cohort,
    routing_answer,
    switches_in_force,
    unknown_revision,
)
from sim.server.settings import Switches

TWO = Deployment(revision="r2", previous_revision="r1", cohort_percent=25, canary_defects=("skip_delivery",))
KEYS = [f"user:{number}" for number in range(5000)]


def revisions(deployment: Deployment, traffic: Traffic) -> set[tuple[str, str]]:
    answers = [routing_answer(deployment, traffic, "t", key) for key in KEYS]
    return {(answer["cohort"], answer["revision"]) for answer in answers}


def test_cohort_is_routed_to_new_revision_and_rest_to_old():
    traffic = first_traffic(TWO)
    assert revisions(TWO, traffic) == {("canary", "r2"), ("control", "r1")}
    for key in KEYS:
        answer = routing_answer(TWO, traffic, "t", key)
        assert (answer["cohort"] == "canary") == in_cohort("thread", key, 25)
        assert (answer["percent"], answer["thread_id"], answer["cohort_key"]) == (25, "t", key)


def test_default_deployment_routes_all_to_its_revision():
    assert revisions(Deployment(), first_traffic(Deployment())) == {("canary", "mock-r2")}


def test_revision_without_traffic_serves_no_client():
    assert revisions(TWO, Traffic("r1", 25)) == {("canary", "r1"), ("control", "r1")}


@pytest.mark.parametrize(("percent", "cohorts"), [(0, {"control"}), (100, {"canary"})])
def test_zero_and_full_percentage_route_all_to_one_cohort(percent: int, cohorts: set[str]):
    assert {cohort for cohort, _ in revisions(TWO, Traffic("r2", percent))} == cohorts


def test_defects_of_a_revision_apply_only_while_it_serves():
    chosen = Switches(defects={"duplicate_delivery"}, mint_delay_ms=5.0)
    new = switches_in_force(TWO, Traffic("r2", 0), chosen)
    assert (new.defects, new.mint_delay_ms) == ({"duplicate_delivery", "skip_delivery"}, 5.0)
    assert switches_in_force(TWO, Traffic("r1", 100), chosen) == chosen


def test_unknown_revision_is_refused():
    assert unknown_revision(TWO, "r1") == unknown_revision(TWO, "r2") == ""
    assert unknown_revision(TWO, "r3") == "there is no revision 'r3'; there are: r2, r1"
    with pytest.raises(ValueError, match="previous_revision"):
        Deployment(revision="r1", previous_revision="r1")
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"revision": "r 1"}, Deployment)


def test_throttle_allows_burst_of_one_second_and_returns_retry_time():
    limits = ServiceLimits(Throttle(publishes_per_s=10.0, connects_per_s=0.5), now=100.0)
    refused = [limits.publish_refusal(100.0) for _ in range(25)]
    assert [no is None for no in refused] == [True] * 10 + [False] * 15
    assert refused[-1] is not None
    assert (refused[-1].status, refused[-1].code, refused[-1].retry_after_ms) == (429, "spacetime_publish_rate_limited", 101)
    assert limits.publish_refusal(100.25) is None
    assert limits.connect_refusal(100.0) is None, "a rate below one per second still allows one"
    late = limits.connect_refusal(101.0)
    assert late is not None
    assert (late.status, late.code, late.retry_after_ms) == (429, "rate_limited", 1001)
    assert limits.connect_refusal(102.0) is None


def test_no_throttle_refuses_nothing():
    limits = ServiceLimits(Throttle(), now=0.0)
    assert [limits.publish_refusal(0.0) or limits.connect_refusal(0.0) for _ in range(1000)] == [None] * 1000


def test_buckets_never_change():
    # sha256sum of "runtime-canary-v1|runtime|user:1" begins with these four bytes
    assert cohort_bucket("runtime", "user:1") == 0x1CD8BD2B % 100


@given(st.text(), st.text(), st.integers(0, 99))
def test_higher_percentage_only_adds_keys(scope, key, percent):
    assert not in_cohort(scope, key, percent) or in_cohort(scope, key, percent + 1)
    assert not in_cohort(scope, key, 0)
    assert in_cohort(scope, key, 100)


def test_cohort_size_is_close_to_percentage():
    share = sum(in_cohort("runtime", key, 5) for key in KEYS) / len(KEYS)
    assert 0.04 < share < 0.06


def test_scope_and_seed_select_different_keys():
    def chosen(scope: str, seed: str) -> set[str]:
        return {key for key in KEYS if in_cohort(scope, key, 10, seed)}

    assert len({frozenset(chosen(scope, seed)) for scope in ("a", "b") for seed in ("s", "t")}) == 4
