"""Nothing is always green: for every drill, check, law, defect and wrong policy there is something that turns it red.

What the drills themselves show is in `tests/mutation_table.py`, the rest in `tests/known_bad.py`, and windows of stages in
`tests/known_bad_windows.py`.
"""

import pytest

from drills import CATALOG
from drills.judging import gates
from drills.judging.checks.verdicts import State
from drills.rollout.verdict import window
from sim.analysis.invariants import registry
from sim.client.negative.registry import NEGATIVE_CLIENTS
from sim.client.policies import WRONG
from sim.protocols.registry import DEFAULT
from sim.server.settings import DEFECTS
from tests.drills.asking import is_broken
from tests.known_bad import KNOWN_BAD, KnownBad, law_of
from tests.known_bad_windows import KNOWN_BAD as SPOILT_WINDOWS
from tests.mutation_table import HARMLESS, MUTATIONS, turned_red
from tests.protocol_findings import FOUND

RED = frozenset[str]().union(*(case.names for case in (*MUTATIONS, *KNOWN_BAD)))
CHECKS = {*gates.DECISIONS, "replay.parity"}  # the last compares all variants of a drill
# Every negative client has an invariant of its own.
INVARIANTS = (set(registry.INVARIANTS) - {"negative_clients"}) | {*map(law_of, NEGATIVE_CLIENTS)}


def test_every_drill_can_fail():
    red = {case.drill for case in MUTATIONS} | FOUND[DEFAULT].keys()
    assert sorted({path.stem for path in CATALOG.rglob("*.toml")} - red) == []


def test_every_check_can_fail():
    assert sorted(CHECKS - RED) == []


def test_every_check_of_a_window_can_fail():
    """What each row of that table says is asked for by `tests/rollout/test_windows.py`."""
    red = {case.name for case in SPOILT_WINDOWS if case.state in (State.FAIL, State.ERROR)}
    assert sorted(window.REGISTRY.keys() - red) == []


def test_every_law_can_be_broken():
    assert sorted(INVARIANTS - RED) == []


def test_every_defect_and_wrong_policy_is_caught_and_there_is_no_other():
    wrong = {kind: {case.wrong for case in MUTATIONS if case.kind == kind} for kind in ("defect", "policy")}
    assert wrong["defect"] == {*DEFECTS} - {HARMLESS}
    assert sorted({*WRONG, "desktop"} - wrong["policy"]) == []


def test_nothing_is_named_that_does_not_exist():
    assert sorted(RED - CHECKS - INVARIANTS) == []


def test_every_row_is_one_and_is_tested():
    assert len({str(case) for case in MUTATIONS}) == len(MUTATIONS)
    assert [str(case) for case in MUTATIONS if not case.tested or not {*case.tested} <= {*case.engines}] == []


@pytest.mark.parametrize("case", KNOWN_BAD, ids=str)
def test_a_good_history_with_one_thing_wrong_turns_just_this_red(case: KnownBad):
    good, bad = case.judged(case.good()), case.judged(case.spoil(case.good()))
    assert good.status is State.PASS, good
    assert turned_red(bad) == case.names, bad
    assert [check.reason for check in bad.checks if is_broken(check)] == []
