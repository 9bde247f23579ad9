"""Every check of a window: seen to pass, to fail, to be unable to tell, and to have no data."""

import pytest
from windows import good, judged

from drills import gates
from drills.rollout import window
from drills.verdicts import State

PASS, FAIL, INCONCLUSIVE, NO_DATA, ERROR, NOT_RUN = State


def test_a_good_hour_passes_everything() -> None:
    results = judged(good())
    assert {name: result.reason for name, result in results.items() if result.state is not PASS} == {}
    assert tuple(results) == tuple(window.REGISTRY)


def test_one_name_has_one_threshold() -> None:
    expected = gates.expected_thresholds()
    assert {name for name, check in window.REGISTRY.items() if check.takes_threshold} <= expected.keys()
    assert expected["error.stale_cursors"].options == {"warn"}


@pytest.mark.parametrize("name", window.REGISTRY)
def test_no_check_passes_on_nothing(name: str) -> None:
    empty = window.StageWindow(0.0, 3600.0, 60.0, (), ())
    assert judged(empty)[name].state in (NO_DATA, INCONCLUSIVE)
