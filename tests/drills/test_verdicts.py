"""How states combine: only a pass is a pass, the gravest state counts, and each leads to one exit code."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations

import pytest

from drills.judging.checks.verdicts import CheckResult, DrillVerdict, RunVerdict, State, exit_code, merged_violations, worst
from sim.analysis.invariants.evidence import Violation
from tests.drills.asking import ERROR, FAIL, INCONCLUSIVE, INF, NAN, NO_DATA, NOT_RUN, PASS, ask
from tests.histories import good_storm


def check(state: State, is_required: bool = True) -> CheckResult:
    return replace(ask("drill.phases", good_storm(1)), state=state, is_required=is_required)


def drill(*states: State, not_run: str = "", violations: Iterable[Violation] = ()) -> DrillVerdict:
    return DrillVerdict("storm", 1, 60.0, tuple(map(check, states)), not_run=not_run, violations=tuple(violations))


def run(*drills: DrillVerdict) -> RunVerdict:
    return RunVerdict("run", "virtual", "mock", "mock", 1, drills, "", "")


def lost(count: int, first: str) -> Violation:
    return Violation("silent_loss", count, first)


@pytest.mark.parametrize("other", [INCONCLUSIVE, NO_DATA, NOT_RUN, ERROR, FAIL])
def test_one_check_that_is_no_pass_is_enough(other: State):
    for states in permutations((PASS, PASS, other)):
        assert worst(states) is (other if other in (ERROR, FAIL) else INCONCLUSIVE)


def test_a_failure_is_graver_than_an_error_and_nothing_is_no_pass():
    assert worst((ERROR, INCONCLUSIVE, FAIL)) is FAIL
    assert worst((INCONCLUSIVE, ERROR, NO_DATA)) is ERROR
    assert worst(()) is INCONCLUSIVE
    assert worst((PASS, PASS)) is PASS


@pytest.mark.parametrize(("state", "code"), [(PASS, 0), (FAIL, 1), (INCONCLUSIVE, 2), (NO_DATA, 2), (NOT_RUN, 2), (ERROR, 4)])
def test_exit_codes(state: State, code: int):
    assert exit_code(state) == code
    if state is not NOT_RUN:  # of a drill, that is no check's state
        verdict = run(drill(PASS, state))
        assert verdict.exit_code == code
        assert verdict.decision == ("go" if code == 0 else "no_go")
        assert verdict.failures == (code != 0)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_value_that_is_not_finite_cannot_pass(value: float):
    found = replace(check(PASS), value=value).sound()
    assert (found.state, "not finite" in found.reason) == (ERROR, True)
    assert replace(check(FAIL), value=value).sound().state is FAIL
    assert check(PASS).sound().state is PASS


def test_a_drill_decides_without_what_its_protocol_cannot_tell_but_a_stage_does_not():
    verdict = DrillVerdict("storm", 1, 60.0, (check(PASS), check(NO_DATA, is_required=False)))
    assert (verdict.status, verdict.full_status) == (PASS, INCONCLUSIVE)


def test_a_violated_invariant_fails_whatever_the_checks_say():
    verdict = drill(PASS, violations=[lost(1, "client 1")])
    assert (verdict.status, verdict.full_status) == (FAIL, FAIL)


def test_a_run_decides_by_the_drills_that_ran():
    cannot = drill(PASS, not_run="it has no hook")
    assert (cannot.status, cannot.full_status) == (NOT_RUN, NOT_RUN)
    good, bad = drill(PASS), drill(ERROR)
    assert (run(good, cannot).status, run(good, cannot).failures, run(good, cannot).not_run) == (PASS, 0, 1)
    assert (run(bad, good, cannot).status, run(bad, good, cannot).failures) == (ERROR, 1)
    assert (run(cannot).status, run(cannot).decision, run(cannot).exit_code) == (NOT_RUN, "no_go", 2)
    assert (run().status, run().decision) == (INCONCLUSIVE, "no_go")


def test_violations_of_several_runs_are_added_up_and_the_first_stays():
    verdicts = {"seed 1": drill(), "seed 2": drill(violations=[lost(2, "a")]), "seed 3": drill(violations=[lost(3, "b")])}
    assert merged_violations(verdicts) == (lost(5, "seed 2: a"),)
