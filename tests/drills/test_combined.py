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
from sim.analysis.endings import Ending
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


# --- the verdict and its numbers ----------------------------------------------------------------------


def test_combined_verdict_has_the_parts_of_all():
    ended = Ending("server", "1012", "retry", 2, 1)
    first = verdict(result(COUNT, 0), metrics=(Metric("m", 1.0, "s", 5, "higher"),), endings=(ended,), duration_s=9.0)
    second = verdict(result(MEAN, 1.0), metrics=(Metric("m", 2.0, "s", 5, "higher"), Metric("other", 4.0, "ms", 1)))
    more = {"summary": "why", "policy": "p", "defects": ("d",), "clients": 400, "endings": (ended,)}
    found = combine(first, replace(second, **more), verdict(result(COUNT, 0)))
    assert (found.name, found.clients, found.duration_s, found.replications) == ("storm", 400, 17.0, 3)
    assert (found.summary, found.policy, found.defects) == ("why", "p", ("d",))
    assert [check.name for check in found.checks] == [COUNT, MEAN]
    assert found.endings == (Ending("server", "1012", "retry", 4, 2),)
    assert found.metrics == (Metric("m", 1.5, "s", 2, "higher"), Metric("other", 4.0, "ms", 1))
    assert [(spread.name, spread.n) for spread in found.spreads] == [("m", 2), ("other", 1)]


@pytest.mark.parametrize(("count", "seeds"), [(5, "1, 2, 3, 4, 5"), (6, "1, 2, 3, 4, 5, ...")])
def test_at_most_five_seeds_are_named(count: int, seeds: str):
    found = check_of(COUNT, *[result(COUNT, 1)] * count, result(COUNT, 0))
    assert found.reason == f"in {count} of {count + 1} replications (seed {seeds}), here with seed 1: so it was"
    everywhere = check_of(COUNT, *[result(COUNT, 1)] * count)
    assert everywhere.reason == f"in each of {count} replications, here with seed 1: so it was"
    assert (everywhere.method, everywhere.n) == (f"m; the worst of {count} replications", count * 300)


def test_worst_of_equals_is_the_highest_and_a_value_that_is_no_number_the_lowest():
    errors = [result(COUNT, value, state=State.ERROR) for value in (NAN, -5.0, 3.0, 3.0, NAN)]
    assert "here with seed 3" in check_of(COUNT, *errors).reason
    assert "here with seed 1" in check_of(COUNT, errors[0], errors[4]).reason


WIDE = "with 95 % confidence -46.15..100.1"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([60.0, 60.0], (State.PASS, "60 over 2 replications, with 95 % confidence 60..60")),
        ([61.0, 62.0], (State.FAIL, "61.5 over 2 replications, with 95 % confidence 55.15..67.85")),
        (
            [10.0, 10.0, 61.0],
            (
                State.INCONCLUSIVE,
                "27 over 3 replications, with 95 % confidence -46.15..100.1; but 1 of 3 replications fail (seed 3)",
            ),
        ),
    ],
)
def test_mean_in_words(values: list[float], expected: tuple[State, str]):
    found = check_of(MEAN, *(result(MEAN, value) for value in values))
    assert (found.state, found.reason, found.n) == (*expected, len(values))
    assert found.method == "mean over replications, two-sided 95 % interval by Student's t"


@pytest.mark.parametrize(("n", "is_mean"), [(59, True), (58, False)])
def test_sample_that_is_just_large_enough_counts_towards_a_mean(n: int, is_mean: bool):
    name = "replay.bootstrap_ms"
    assert ("over 2 replications" in check_of(name, *[result(name, 10.0, n)] * 2).reason) == is_mean


def test_ratio_counts_the_hits_of_all_replications():
    found = check_of(RATIO, result(RATIO, 0.01, 1000), result(RATIO, 0.02, 500, State.INCONCLUSIVE), result(RATIO, 0.0, 10))
    assert (found.value, found.n) == (pytest.approx(20 / 1510), 3)
    assert found.interval is not None
    pooled, mean = statistics.ratio(20, 1510), statistics.mean(np.array([0.01, 0.02, 0.0]))
    assert found.interval == (min(pooled.lower, mean.lower), max(pooled.upper, mean.upper))
    assert found.method.startswith("all replications together, one-sided 95 % Wilson bound")
    failing = check_of(RATIO, *[result(RATIO, 0.5, 100)] * 3)
    assert (failing.state, failing.value) == (State.FAIL, 0.5)


def test_replication_without_metrics_is_no_count_of_zero():
    seen = verdict(metrics=(Metric("disconnects.network", 4, "disconnects", 4),))
    assert [(spread.mean, spread.n) for spread in replications.spreads([seen, verdict()])] == [(4.0, 1)]


def test_ratio_names_the_number_of_replications_that_is_enough():
    values = (0.0075, 0.008, 0.0085)
    found = check_of(RATIO, *(result(RATIO, value, 1000, State.INCONCLUSIVE) for value in values))
    named = int(found.reason.partition("--replications ")[2].split()[0])
    deviation = statistics.mean(np.array(values)).deviation

    def is_enough(more: int) -> bool:
        pooled = statistics.ratio(round(24 * more / 3), round(3000 * more / 3))
        return statistics.half_width(deviation, more) <= 0.01 - 0.008 and pooled.upper <= 0.01

    assert named > 4
    assert [is_enough(named - 1), is_enough(named)] == [False, True]


def test_one_replication_more_may_be_enough():
    values, n = (57.0, 58.0, 59.0), 4
    found = check_of(MEAN, *(result(MEAN, value) for value in values))
    assert statistics.half_width(float(np.std(values, ddof=1)), n) <= 60 - np.mean(values)
    assert f"--replications {n} are enough" in found.reason
