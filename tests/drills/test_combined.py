"""Many replications, one verdict: intervals that are right, and no way for a bad storm to hide among good ones."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from drills.judging import gates, replications
from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.verdicts import CheckResult, DrillVerdict, State
from sim.analysis import statistics
from sim.analysis.invariants.evidence import Violation
from sim.analysis.metrics import Metric

THRESHOLDS = gates.load_thresholds()
MEAN, RATIO, COUNT = "reconnect.live_again_99_s", "error.token_issue_failure_ratio", "replay.divergence"
NAN, INF = math.nan, math.inf


def result(name: str, value: float, n: int = 300, state: State | None = None) -> CheckResult:
    spec, limit = OF_RUNS[name], THRESHOLDS[name].threshold
    state = state or (State.PASS if value <= limit else State.FAIL)
    described = {"window": "w", "method": "m", "origin": "client", "reason": "so it was", "evidence": "e", "source": "s"}
    return CheckResult(spec.gate, spec.check, state, value, spec.unit, n, None, "<=", limit, **described)


def verdict(*checks: CheckResult, **more: object) -> DrillVerdict:
    return replace(DrillVerdict("storm", 300, 17.0, checks), **more)


def combine(*verdicts: DrillVerdict, first_seed: int = 1) -> DrillVerdict:
    return replications.combine(dict(enumerate(verdicts, first_seed)), THRESHOLDS)


def check_of(name: str, *results: CheckResult) -> CheckResult:
    (check,) = combine(*(verdict(each) for each in results)).checks
    assert check.name == name
    return check


# --- the interval of a mean -------------------------------------------------------------------------


def test_the_interval_is_students():
    values = np.array([3.0, 5.0, 4.0, 8.0])
    found = statistics.mean(values)
    expected = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert (found.value, found.n) == (5.0, 4)
    assert (found.lower, found.upper) == pytest.approx(expected)


def test_the_interval_holds_the_mean_nineteen_times_in_twenty():
    samples = np.random.default_rng(7).exponential(size=(2000, 20))
    inside = sum(found.lower <= 1.0 <= found.upper for found in map(statistics.mean, samples))
    assert 0.90 < inside / 2000 < 0.965  # exponential values are skewed: a little less than 0.95


@pytest.mark.parametrize(("values", "mean"), [([], NAN), ([2.0], 2.0), ([1.0, INF], INF)])
def test_without_an_interval_there_is_none(values: list[float], mean: float):
    found = statistics.mean(np.array(values))
    assert found.value == pytest.approx(mean, nan_ok=True)
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)


def test_nan_has_no_mean():
    with pytest.raises(ValueError, match="not a number"):
        statistics.mean(np.array([1.0, NAN]))


@pytest.mark.parametrize("wanted", [3, 4, 5, 17, 1000, 99_999, 100_000])
def test_the_smallest_that_does(wanted: int):
    assert statistics.smallest(3, lambda n: n >= wanted) == wanted
    assert statistics.smallest(3, lambda n: False) is None


# --- a mean -----------------------------------------------------------------------------------------


def test_confidence_interval_is_students_and_its_upper_end_is_judged():
    good = check_of(MEAN, *(result(MEAN, value) for value in (50.0, 51.0, 52.0)))
    assert (good.state, good.value, good.n) == (State.PASS, 51.0, 3)
    assert good.interval == pytest.approx(stats.t.interval(0.95, 2, loc=51, scale=1 / math.sqrt(3)))


@pytest.mark.parametrize(
    ("values", "state", "reason"),
    [
        ([30.0, 45.0, 59.0], State.INCONCLUSIVE, "--replications"),
        ([80.0, 81.0, 82.0], State.FAIL, ""),
        ([61.0, 900.0], State.FAIL, ""),  # a wide interval, but each fails by itself
        ([1.0] * 99 + [61.0], State.INCONCLUSIVE, "seed 100"),  # one bad storm does not disappear in a good mean
        ([1.0, INF, 1.0], State.FAIL, "seed 2"),  # one that never recovered
    ],
)
def test_mean_is_judged_by_its_interval_and_by_each_replication(values: list[float], state: State, reason: str):
    found = check_of(MEAN, *(result(MEAN, value) for value in values))
    assert (found.state, reason in found.reason) == (state, True)
    if state is State.INCONCLUSIVE and len(values) == 100:
        assert found.interval is not None
        assert found.interval[1] < 60


def test_wide_interval_names_the_number_of_replications_that_is_enough():
    values = np.array([30.0, 45.0, 59.0])
    wide = check_of(MEAN, *(result(MEAN, value) for value in values))
    enough = int(wide.reason.partition("--replications ")[2].split()[0])
    gap, deviation = 60 - values.mean(), values.std(ddof=1)
    assert statistics.half_width(deviation, enough) <= gap < statistics.half_width(deviation, enough - 1)


def test_no_number_of_replications_is_enough_on_the_threshold():
    wide = check_of(MEAN, *(result(MEAN, value, state=State.INCONCLUSIVE) for value in (50.0, 60.0, 70.0)))
    assert (wide.state, "no number of replications is enough" in wide.reason) == (State.INCONCLUSIVE, True)


@pytest.mark.parametrize("state", [State.NO_DATA, State.NOT_RUN, State.ERROR])
def test_one_that_measured_nothing_is_no_pass(state: State):
    assert check_of(MEAN, result(MEAN, 1.0), result(MEAN, NAN, 0, state), result(MEAN, 1.0)).state is state


def test_many_small_samples_are_no_large_one():
    name = "replay.bootstrap_ms"
    small = [result(name, 10.0, 20, State.INCONCLUSIVE)] * 50
    assert check_of(name, *small).state is State.INCONCLUSIVE


# --- a ratio ----------------------------------------------------------------------------------------


def test_no_hit_at_all_proves_no_more_than_its_sample():
    """Ten tokens without a failure twice: their means do not vary at all, and say nothing about one in a hundred."""
    found = check_of(RATIO, *[result(RATIO, 0.0, 10, State.INCONCLUSIVE)] * 2)
    assert found.state is State.INCONCLUSIVE
    assert "--replications 27 are enough" in found.reason, "with no failure at all 268 tokens are needed"
    assert check_of(RATIO, *[result(RATIO, 0.0, 10, State.INCONCLUSIVE)] * 27).state is State.PASS


def test_replications_that_differ_widen_a_ratio():
    values = [0.0] * 9 + [0.05]
    found = check_of(RATIO, *(result(RATIO, value, 10_000, State.INCONCLUSIVE) for value in values))
    assert found.state is State.INCONCLUSIVE, "one of ten had all the failures: the pooled bound alone would pass it"
    assert found.value == pytest.approx(0.005)


# --- counts and laws --------------------------------------------------------------------------------


def test_one_failed_count_is_a_failure():
    found = check_of(COUNT, result(COUNT, 0), result(COUNT, 2), result(COUNT, 0), result(COUNT, 7))
    assert (found.state, found.value, found.n) == (State.FAIL, 7, 1200)
    assert "2 of 4 replications (seed 2, 4), here with seed 4" in found.reason


def test_one_broken_law_is_a_failure():
    broken = verdict(result(COUNT, 0), violations=(Violation("hole", 2, "client 3"),))
    found = combine(verdict(result(COUNT, 0)), broken, broken, first_seed=7)
    assert found.status is State.FAIL
    assert found.violations == (Violation("hole", 4, "with seed 8: client 3"),)


def test_one_unreadable_replication_is_an_error():
    good = gates.read_evidence("e", 10)
    lost = gates.unreadable("storm", "observations.parquet: is missing.", "e")
    found = combine(verdict(good, result(MEAN, 1.0)), lost, verdict(good, result(MEAN, 1.0)))
    assert (found.status, found.clients) == (State.ERROR, 300)
    assert "seed 2: observations.parquet: is missing." in found.checks[0].reason


# --- measures ---------------------------------------------------------------------------------------


def spread_of(*values: float) -> replications.Spread:
    (spread,) = replications.spreads([verdict(metrics=(Metric("m", value, "s", 5),)) for value in values])
    return spread


def test_a_measure_has_mean_interval_and_quantiles():
    spread = spread_of(*map(float, range(1, 21)))
    assert (spread.mean, spread.least, spread.median, spread.p95, spread.most, spread.n) == (10.5, 1, 10, 19, 20, 20)
    assert spread.interval == pytest.approx(stats.t.interval(0.95, 19, loc=10.5, scale=stats.sem(range(1, 21))))


def test_metrics_without_a_finite_value_have_no_interval():
    spread = spread_of(1.0, NAN, 3.0)
    assert (spread.mean, spread.n) == (2.0, 2)
    assert (spread_of(NAN, NAN).n, spread_of(NAN, NAN).interval) == (0, None)
    endless = spread_of(1.0, INF)
    assert (endless.mean, endless.interval, endless.most) == (INF, None, INF)


def test_missing_count_of_disconnects_is_zero():
    seen = verdict(metrics=(Metric("live", 1.0, "s", 5), Metric("disconnects.network", 4, "disconnects", 4)))
    unseen = verdict(metrics=(Metric("live", 3.0, "s", 5),))
    assert {spread.name: (spread.mean, spread.n) for spread in replications.spreads([seen, unseen])} == {
        "live": (2.0, 2),
        "disconnects.network": (2.0, 2),
    }
