"""Every check of a window can pass, fail, be inconclusive and have no data."""

import pytest

from drills.judging.checks import registry
from drills.judging.checks.verdicts import State
from drills.rollout.verdict import window
from drills.rollout.verdict.window_data.base import answer
from sim.protocols.spacetime.metric_names import KNOWN, MEANINGS
from tests.known_bad_windows import KNOWN_BAD, KnownBad
from tests.windows import THRESHOLDS, good, judged

PASS, FAIL, INCONCLUSIVE, NO_DATA, ERROR, NOT_RUN = State


def test_healthy_hour_passes_every_check() -> None:
    results = judged(good())
    assert {name: result.reason for name, result in results.items() if result.state is not PASS} == {}
    assert tuple(results) == tuple(window.REGISTRY)


@pytest.mark.parametrize("case", KNOWN_BAD, ids=str)
def test_one_problem_changes_its_check(case: KnownBad) -> None:
    result = answer(window.REGISTRY[case.name], case.window(), THRESHOLDS.get(case.name))
    assert result.state is case.state, result
    assert case.origin in ("", result.origin), result


def test_shared_name_has_one_threshold() -> None:
    expected = registry.expected()
    assert {name for name, check in window.REGISTRY.items() if check.spec.takes_threshold} <= expected.keys()
    assert expected["error.stale_cursors"].optional_keys == ("warn",)


@pytest.mark.parametrize("name", window.REGISTRY)
def test_no_check_passes_without_data(name: str) -> None:
    empty = window.StageWindow(0.0, 3600.0, 60.0, (), ())
    assert judged(empty)[name].state is NO_DATA


def test_every_metric_is_known_to_a_source() -> None:
    read = {metric for check in window.REGISTRY.values() for source in check.sources for metric in source.metrics}
    assert sorted(read - set(KNOWN)) == []
    assert read.isdisjoint(MEANINGS)  # metrics with a misleading name decide nothing
