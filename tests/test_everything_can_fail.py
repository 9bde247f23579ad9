"""Nothing is always green: for every drill, check, law, defect and wrong policy there is something that turns it red.

What the drills themselves show is in `tests/catchers.py`, the rest in `tests/spoilt.py`, and windows of stages in
`tests/spoilt_windows.py`.
"""

import pytest

from drills.cli.main import CATALOG
from drills.judging import gates
from drills.judging.checks.verdicts import State
from drills.rollout.verdict import window
from sim.analysis import invariants
from sim.client.negative.registry import PROBES
from sim.client.policies import WRONG
from sim.server.settings import DEFECTS
from tests.catchers import CATCHERS, HARMLESS, turned_red
from tests.spoilt import SPOILT, Spoilt, law_of
from tests.spoilt_windows import SPOILT as SPOILT_WINDOWS

RED = frozenset[str]().union(*(case.names for case in (*CATCHERS, *SPOILT)))
CHECKS = {*gates.REGISTRY, "replay.parity"}  # the last is made of all surfaces of a drill at once
# A law has the name of its function; that on probes has one for each.
LAWS = {law.__name__.lstrip("_") for law in invariants._LAWS if law is not invariants._probes} | {*map(law_of, PROBES)}


def test_every_drill_can_fail():
    assert sorted({path.stem for path in CATALOG.glob("*.toml")} - {case.drill for case in CATCHERS}) == []


def test_every_check_can_fail():
    assert sorted(CHECKS - RED) == []


def test_every_check_of_a_window_can_fail():
    """What each row of that table says is asked for by `tests/rollout/test_window_checks.py`."""
    red = {case.name for case in SPOILT_WINDOWS if case.state in (State.FAIL, State.ERROR)}
    assert sorted(window.REGISTRY.keys() - red) == []


def test_every_law_can_be_broken():
    assert sorted(LAWS - RED) == []


def test_every_defect_and_wrong_policy_is_caught_and_there_is_no_other():
    wrong = {kind: {case.wrong for case in CATCHERS if case.kind == kind} for kind in ("defect", "policy")}
    assert wrong["defect"] == {*DEFECTS} - {HARMLESS}
    assert sorted({*WRONG, "desktop"} - wrong["policy"]) == []


def test_nothing_is_named_that_does_not_exist():
    assert sorted(RED - CHECKS - LAWS) == []


def test_every_row_is_one_and_is_tested():
    assert len({str(case) for case in CATCHERS}) == len(CATCHERS)
    assert [str(case) for case in CATCHERS if not case.tested or not {*case.tested} <= {*case.engines}] == []


@pytest.mark.parametrize("case", SPOILT, ids=str)
def test_a_good_history_with_one_thing_wrong_turns_just_this_red(case: Spoilt):
    good, bad = case.judged(case.good()), case.judged(case.spoil(case.good()))
    assert good.status is State.PASS, good
    assert turned_red(bad) == case.names, bad
