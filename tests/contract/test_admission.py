"""Publishes that fail by a fault: which, how many, and what may still become of them."""

import pytest

from sim.contract.admission import failure, is_final, may_be_taken
from sim.contract.counters import Counters
from sim.contract.settings import Switches


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
