"""A server that lies is never a go, and each lie is found by name; the same server is a go while it is honest."""

from pathlib import Path

import pytest

from tests.deceptions import DECEPTIONS, DRILLS, Deception
from tests.peers.deceiving_lies import LIES


def shown(case: Deception) -> object:
    return pytest.param(case, id=str(case), marks=() if case.ci else (pytest.mark.long,))


@pytest.mark.parametrize("case", [shown(case) for case in DECEPTIONS])
def test_each_lie_is_found_by_name(tmp_path: Path, case: Deception):
    verdict = case.judged(tmp_path)
    assert case.missed(verdict) == [], verdict
    assert not case.lie or verdict.status is case.state, verdict


def test_each_lie_has_a_row_and_each_drill_an_honest_one():
    assert {lie for case in DECEPTIONS for lie in case.lie.split(",")} - {""} == {*LIES}
    assert {case.drill for case in DECEPTIONS if not case.lie} == {*DRILLS}
    assert all(case.names for case in DECEPTIONS if case.lie)
