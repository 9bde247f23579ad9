"""Searches: the answer is always green, never inconclusive."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from drills.judging.checks.verdicts import CheckResult, DrillVerdict, State
from drills.planning.search import judged
from sim.analysis import statistics
from sim.analysis.invariants.evidence import Violation
from sim.base.errors import UsageError
from sim.planning import search
from sim.planning.search import Outcome, Trial
from sim.planning.sweep_file import Find
from tests.commands import stormgate_here
from tests.planning.plan_files import SWEEP, write

LARGEST = Find(key="fleet.clients", want="largest", low=1, high=1000, tolerance=0.001)


def service(limit: float, unsure: tuple[float, float] = (0, 0), told_by: int = 10**6):
    """Green up to the limit; values near it need more replications."""

    def ask(value, replications: int) -> Trial:
        if unsure[0] <= value <= unsure[1] and replications < told_by:
            return Trial(value, Outcome.INCONCLUSIVE, replications, "too wide")
        return Trial(value, Outcome.GREEN if value <= limit else Outcome.RED, replications, "" if value <= limit else "slow")

    return ask


@pytest.mark.parametrize("limit", [1, 2, 137, 500, 998, 999])
def test_largest_is_found_to_the_unit(limit: int):
    found = search.number(LARGEST, 5, service(limit))
    assert (found.answer, found.beyond, found.outcome) == (limit, limit + 1, Outcome.GREEN)
    assert len(found.trials) <= 16


def test_smallest_is_found():
    find = Find(key="model.server.handshake_workers", want="smallest", low=1, high=64)
    found = search.number(find, 5, lambda value, n: Trial(value, Outcome.GREEN if value >= 11 else Outcome.RED, n))
    assert (found.answer, found.beyond) == (11, 10)


def test_decimal_number_is_found_within_the_tolerance():
    find = Find(key="model.server.handshake_ms", want="largest", low=0.1, high=100.0, tolerance=0.01)
    found = search.number(find, 5, service(7.3))
    assert found.answer <= 7.3 < found.beyond
    assert found.beyond - found.answer <= 0.01 * found.beyond


def test_green_bound_is_reported_as_bound():
    found = search.number(LARGEST, 5, service(10**9))
    assert (found.answer, found.at_bound, len(found.trials)) == (1000, True, 2)


def test_red_easiest_value_has_no_answer():
    found = search.number(LARGEST, 5, service(0))
    assert (found.answer, found.outcome) == (None, Outcome.RED)
    assert "at the easiest value, 1, it is red: slow" in found.why


@pytest.mark.parametrize("outcome", [Outcome.INCONCLUSIVE, Outcome.ERROR])
def test_inconclusive_easiest_value_has_no_answer(outcome: Outcome):
    found = search.number(LARGEST, 5, lambda value, n: Trial(value, outcome, n))
    assert (found.answer, found.outcome) == (None, Outcome.INCONCLUSIVE)


def test_inconclusive_value_gets_more_replications():
    found = search.number(LARGEST, 5, service(500, unsure=(400, 600), told_by=20))
    assert found.answer == 500
    assert max(trial.replications for trial in found.trials) == 20


def test_inconclusive_value_is_never_the_answer():
    found = search.number(LARGEST, 5, service(500, unsure=(400, 600)))
    assert (found.answer, found.beyond) == (399, min(t.value for t in found.trials if t.outcome is Outcome.RED))
    assert found.beyond > 600


def compare(means: dict[str, float], wide: dict[int, float]):
    def difference(one, other, n: int, confidence: float) -> statistics.Mean:
        middle = means[one] - means[other]
        return statistics.Mean(middle, middle - wide[n], middle + wide[n], 1.0, n)

    return difference


BEST = Find(key="fleet.policy", want="best", values=("a", "b", "c"), max_replications=20)


def green_but(*reds: str):
    return lambda value, n: Trial(value, Outcome.RED if value in reds else Outcome.GREEN, n, "slow")


def test_best_is_the_lowest_green_value():
    found = search.best(BEST, 5, green_but("a"), compare({"a": 1, "b": 3, "c": 2}, {5: 0.5}))
    assert (found.answer, found.ties, found.outcome) == ("c", (), Outcome.GREEN)


def test_close_values_get_more_replications():
    found = search.best(BEST, 5, green_but("a"), compare({"b": 3, "c": 2}, {5: 2.0, 10: 1.5, 20: 0.5}))
    assert (found.answer, found.ties) == ("c", ())
    assert {trial.replications for trial in found.trials if trial.outcome is Outcome.GREEN} == {20}


def test_tie_is_inconclusive():
    found = search.best(BEST, 5, green_but("a"), compare({"b": 3, "c": 2}, {5: 2.0, 10: 2.0, 20: 2.0}))
    assert (found.answer, found.ties, found.outcome) == ("c", ("b",), Outcome.INCONCLUSIVE)


def test_best_without_green_values_has_no_answer():
    found = search.best(BEST, 5, green_but("a", "b", "c"), compare({}, {}))
    assert (found.answer, found.outcome) == (None, Outcome.RED)


def test_metric_without_finite_value_is_not_compared():
    nothing = statistics.Mean(math.nan, math.nan, math.nan, math.nan, 0)
    with pytest.raises(UsageError, match="a run has no finite value"):
        search.best(BEST, 5, green_but(), lambda *asked: nothing)


def test_many_comparisons_make_each_interval_wider():
    seen = []

    def noting(one, other, n: int, confidence: float) -> statistics.Mean:
        seen.append(confidence)
        return statistics.mean(np.array([1.0, 1.1, 0.9]), confidence)

    search.best(BEST, 20, green_but(), noting)
    assert {round(confidence, 6) for confidence in seen} == {0.975}
    one, three = (statistics.mean(np.array([1.0, 1.1, 0.9]), confidence) for confidence in (0.95, 0.975))
    assert three.upper > one.upper


# --- what the gates make of one value ---------------------------------------------------------------


def verdict(violations: tuple[Violation, ...] = (), **checks: State) -> DrillVerdict:
    made = [
        CheckResult(*name.split("__"), state, 0.0, "s", 1, None, "<=", 1.0, "", "", "", "client", "as it is", "")
        for name, state in checks.items()
    ]
    return DrillVerdict("x", 10, 1.0, tuple(made), violations)


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        (State.PASS, Outcome.GREEN),
        (State.FAIL, Outcome.RED),
        (State.ERROR, Outcome.ERROR),
        (State.INCONCLUSIVE, Outcome.INCONCLUSIVE),
        (State.NO_DATA, Outcome.INCONCLUSIVE),
        (State.NOT_RUN, Outcome.INCONCLUSIVE),
    ],
)
def test_only_a_pass_is_green(state: State, outcome: Outcome):
    assert judged(verdict(ux__integrity=State.PASS, replay__bootstrap_ms=state), ())[0] is outcome


def test_only_required_checks_and_run_phases_decide():
    keep = ("ux.integrity",)
    assert judged(verdict(ux__integrity=State.PASS, replay__bootstrap_ms=State.FAIL), keep)[0] is Outcome.GREEN
    assert judged(verdict(ux__integrity=State.PASS, drill__steady=State.ERROR), keep)[0] is Outcome.ERROR
    assert judged(verdict(ux__integrity=State.PASS, drill__converged=State.FAIL), keep)[0] is Outcome.RED
    assert judged(verdict(drill__steady=State.PASS), keep)[0] is Outcome.INCONCLUSIVE  # it was never asked


def test_violated_invariant_is_always_red():
    broken = (Violation("hole", 1, "somewhere"),)
    assert judged(verdict(broken, ux__integrity=State.PASS), ("ux.integrity",))[0] is Outcome.RED


def test_verdict_without_checks_is_not_green():
    assert judged(verdict(), ())[0] is Outcome.INCONCLUSIVE


# --- the command ------------------------------------------------------------------------------------

FIND = (
    SWEEP.replace("= 3", "= 2")
    + """
[find]
key = "model.server.handshake_ms"
want = "largest"
low = 1
high = 100000
tolerance = 0.9
"""
)


def test_command_reports_the_answer_and_its_confidence(tmp_path: Path):
    said = stormgate_here("plan", "find", write(tmp_path, FIND), "--out", tmp_path, "--workers", 1, "--json")
    body = msgspec.json.decode(said.out)
    assert said.code == 0
    assert body["outcome"] == "green"
    green = [trial["value"] for trial in body["trials"] if trial["outcome"] == "green"]
    assert body["answer"] == max(green) < 100000
    assert "each check with 95% confidence" in body["confidence"]
    assert (tmp_path / "plans" / "little" / "found.json").is_file()


WRONG = {
    "no find": (SWEEP + '[[parameters]]\nkey = "fleet.clients"\nvalues = [8]\n', "has no [find]"),
    "turned": (FIND.replace("low = 1\n", "low = 200000\n"), "must be below 'high'"),
    "no such key": (FIND.replace("handshake_ms", "handshake_weeks"), "unknown key 'server.handshake_weeks'"),
    "impossible": (FIND.replace("low = 1\n", "low = -5\n"), "is -5"),
    "best of none": (FIND.replace("largest", "best"), "the best needs 'values'"),
    "a check that is not asked": (
        FIND + 'keep = ["ux.integrity"]',
        "'find.keep' has ux.integrity, but the drill's checks",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_search_is_refused(tmp_path: Path, name: str):
    text, words = WRONG[name]
    said = stormgate_here("plan", "find", write(tmp_path, text), "--out", tmp_path / "out")
    assert (said.code, words in said.sentence) == (3, True), said
    assert not (tmp_path / "out").exists()
