"""Publishes refused by faults and defects, and the check of client builds."""

import pytest

from sim.protocols.intents import Compatibility
from sim.protocols.spacetime.profile import PROFILE
from sim.server.admission import (
    Appends,
    PublishLimits,
    failure,
    incompatibility,
    is_acknowledged_unwritten,
    is_final,
    may_be_taken,
)
from sim.server.counters import Counters
from sim.server.settings import RuntimeSettings, Switches
from tests.server.runtime_driver import A, B

SETTINGS = RuntimeSettings()


def test_share_of_publishes_fails_by_seed():
    def failures(seed: int) -> list[bool]:
        counters, switches = Counters(), Switches(seed=seed, publish_fail_status=503, publish_fail_share=0.3)
        found = [failure(switches, counters) is not None for _ in range(1000)]
        assert counters.acted["fail_publishes"] == sum(found)
        return found

    assert 230 < sum(failures(1)) < 370
    assert failures(1) == failures(1) != failures(2)


@pytest.mark.parametrize(
    ("status", "final", "taken"),
    [(400, True, False), (413, True, False), (429, False, False), (500, False, True), (502, False, True), (503, False, False)],
)
def test_status_decides_whether_refusal_is_final_or_may_hide_event(status: int, final: bool, taken: bool):
    assert (is_final(status), may_be_taken(status)) == (final, taken)


# Switches; whether a publish is refused, and whether it is acknowledged without being written.
PUBLISHES: list[tuple[dict[str, object], bool, bool]] = [
    ({"defects": {"publish_needs_delivery"}, "delivery_down": True}, True, False),
    ({"defects": {"publish_needs_delivery"}}, False, False),
    ({"delivery_down": True}, False, False),
    ({"defects": {"lose_undelivered"}, "delivery_down": True}, True, True),
    ({"defects": {"lose_undelivered"}}, False, False),
    ({"defects": {"acknowledge_unwritten"}}, False, True),
    ({}, False, False),
]


@pytest.mark.parametrize(("switches", "refuses", "acknowledges"), PUBLISHES)
def test_defect_refuses_or_acknowledges_unwritten_publish(switches: dict[str, object], refuses: bool, acknowledges: bool):
    chosen, counters = Switches(**switches), Counters()
    assert (failure(chosen, counters) is not None, is_acknowledged_unwritten(chosen)) == (refuses, acknowledges)
    assert refuses or counters.acted == {}


def refusal_of(build: str, *defects: str) -> str:
    return incompatibility(SETTINGS, Compatibility("c", build, SETTINGS.protocol_version, 1), Compatibility(), defects)


def test_accept_old_builds_accepts_old_builds_only():
    assert refusal_of("20000101T000000Z") == "upgrade_required"
    assert refusal_of("20000101T000000Z", "accept_old_builds") == ""
    assert refusal_of("nonsense", "accept_old_builds") == "invalid_client_build"


def test_refuse_oldest_build_refuses_minimum_build():
    assert refusal_of(SETTINGS.min_client_build) == ""
    assert refusal_of(SETTINGS.min_client_build, "refuse_oldest_build") == "upgrade_required"
    assert refusal_of("20260101T000001Z", "refuse_oldest_build") == ""


def test_two_appends_at_once_stall_their_stream_for_good_with_the_defect_alone():
    for defects, stalls in ((frozenset[str](), False), (frozenset({"stall_on_concurrent_appends"}), True)):
        appends, switches = Appends(), Switches(defects=defects)
        for _ in range(3):  # one after the other
            assert appends.begin("a", switches) is None
            appends.end("a")
        assert appends.begin("a", switches) is None
        refusal = appends.begin("a", switches)
        assert (refusal is not None) == stalls
        assert refusal is None or (refusal.status, refusal.code) == (500, "sequence_conflict")
        appends.end("a")
        appends.end("a")
        assert (appends.begin("a", switches) is not None) == stalls
        assert appends.begin("b", switches) is None, "another stream"


@pytest.mark.parametrize(("wait_ms", "hint"), [(0.0, None), (250.0, 250.0)])
def test_failed_publish_has_the_faults_status_and_hint(wait_ms: float, hint: float | None):
    switches = Switches(publish_fail_status=503, publish_fail_share=1.0, publish_fail_retry_after_ms=wait_ms)
    refusal = failure(switches, Counters())
    assert refusal is not None
    assert (refusal.status, refusal.retry_after_ms) == (503, hint)


def test_publishes_to_a_topic_are_limited_in_size_and_rate():
    limits = PublishLimits(RuntimeSettings(publishes_per_s=2), PROFILE)
    largest = PROFILE.topics.topic_class(A).max_payload_bytes
    assert limits.refusal(A, largest, 10.0) is None
    too_large = limits.refusal(A, largest + 1, 10.0)
    assert too_large is not None
    assert (too_large.status, too_large.retry_after_ms) == (413, None)
    assert limits.refusal(A, 1, 10.0) is None
    too_many = limits.refusal(A, 1, 10.0)
    assert too_many is not None
    assert (too_many.status, too_many.retry_after_ms) == (429, 501)
    assert limits.refusal(B, 1, 10.0) is None, "each topic has its own limit"
    assert limits.refusal(A, 1, 10.5) is None
    assert limits.refusal(A, 1, 10.5) is not None
