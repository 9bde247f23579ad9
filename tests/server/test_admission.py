"""Publishes that fail by a fault: which, how many, and what may still become of them."""

import pytest

from sim.protocols.intents import Compatibility
from sim.server.admission import failure, incompatibility, is_acknowledged_unwritten, is_final, may_be_taken
from sim.server.counters import Counters
from sim.server.settings import RuntimeSettings, Switches

ENDPOINTS = RuntimeSettings()


def test_a_share_of_the_tries_fails_by_seed():
    def failures(seed: int) -> list[bool]:
        counters, switches = Counters(), Switches(seed=seed, publish_fail_status=503, publish_fail_share=0.3)
        found = [failure(switches, counters) is not None for _ in range(1000)]
        assert counters.acted["fail_publishes"] == sum(found)
        return found

    assert 230 < sum(failures(1)) < 370
    assert failures(1) == failures(1) != failures(2)


def test_nothing_fails_without_the_fault():
    counters = Counters()
    assert failure(Switches(), counters) is None
    assert counters.acted == {}


@pytest.mark.parametrize(
    ("status", "final", "taken"),
    [(400, True, False), (413, True, False), (429, False, False), (500, False, True), (502, False, True), (503, False, False)],
)
def test_which_refusals_are_for_good_and_which_may_hide_an_event(status: int, final: bool, taken: bool):
    assert (is_final(status), may_be_taken(status)) == (final, taken)


def refused(**switches: object) -> bool:
    """Whether a publish is refused under these switches."""
    return failure(Switches(**switches), Counters()) is not None


def test_publish_needs_delivery_refuses_while_there_is_none():
    assert refused(defects={"publish_needs_delivery"}, delivery_down=True)
    assert not refused(defects={"publish_needs_delivery"})
    assert not refused(delivery_down=True)


def test_lose_undelivered_acknowledges_what_it_does_not_take():
    down = Switches(defects={"lose_undelivered"}, delivery_down=True)
    assert failure(down, Counters()) is not None
    assert is_acknowledged_unwritten(down)
    assert not is_acknowledged_unwritten(Switches(defects={"lose_undelivered"}))


def test_acknowledge_unwritten_acknowledges_whatever_fails():
    assert is_acknowledged_unwritten(Switches(defects={"acknowledge_unwritten"}))
    assert not is_acknowledged_unwritten(Switches())


def told(build: str, *defects: str) -> str:
    return incompatibility(ENDPOINTS, Compatibility("c", build, ENDPOINTS.protocol_version, 1), Compatibility(), defects)


def test_accept_old_builds_lets_them_in_and_no_others():
    assert told("20000101T000000Z") == "upgrade_required"
    assert told("20000101T000000Z", "accept_old_builds") == ""
    assert told("nonsense", "accept_old_builds") == "invalid_client_build"


def test_refuse_oldest_build_shuts_out_the_windows_edge():
    assert told(ENDPOINTS.min_client_build) == ""
    assert told(ENDPOINTS.min_client_build, "refuse_oldest_build") == "upgrade_required"
    assert told("20260101T000001Z", "refuse_oldest_build") == ""
