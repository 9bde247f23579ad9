"""Confidence bounds, against published numbers and simulation."""

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import stats

from sim.analysis import statistics


@pytest.mark.parametrize(("n", "threshold"), [(268, 0.01), (133, 0.02), (88, 0.03), (52, 0.05)])
def test_samples_without_hits_needed_for_a_ratio(n: int, threshold: float) -> None:
    assert statistics.ratio(0, n).upper <= threshold
    assert statistics.ratio(0, n - 1).upper > threshold


def test_of_a_thousand_at_two_percent() -> None:
    assert statistics.ratio(12, 1000).upper <= 0.02 < statistics.ratio(13, 1000).upper
    assert statistics.ratio(27, 1000).lower <= 0.02 < statistics.ratio(28, 1000).lower


def test_ratio_without_samples_has_no_bounds() -> None:
    bounds = statistics.ratio(0, 0)
    assert math.isnan(bounds.value)
    assert math.isnan(bounds.upper)


@pytest.mark.parametrize(("hits", "n"), [(2, 1), (-1, 1)])
def test_impossible_ratio_is_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="cannot be a share"):
        statistics.ratio(hits, n)


@pytest.mark.parametrize(
    ("n", "share", "rank"),
    [(58, 0.95, None), (59, 0.95, 59), (200, 0.95, 196), (1000, 0.95, 962), (298, 0.99, None), (299, 0.99, 299)],
)
def test_rank_of_the_upper_bound(n: int, share: float, rank: int | None) -> None:
    assert statistics.upper_rank(n, share) == rank


def test_bounds_of_a_percentile() -> None:
    bounds = statistics.percentile(np.arange(1000, 0, -1).astype(float), 0.95)
    assert (bounds.value, bounds.lower, bounds.upper, bounds.n) == (950.0, 938.0, 962.0, 1000)


def test_single_sample_has_no_bounds() -> None:
    bounds = statistics.percentile(np.array([5.0]), 0.95)
    assert bounds.value == 5.0
    assert math.isnan(bounds.upper)


def test_infinite_sample_stays_infinite() -> None:
    assert statistics.percentile(np.array([1.0] * 58 + [math.inf]), 0.95).upper == math.inf


def test_nan_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        statistics.percentile(np.array([1.0, math.nan]), 0.95)


def test_upper_bound_is_above_the_percentile_95_times_in_100() -> None:
    draws = np.random.default_rng(1).exponential(size=(4000, 80))
    truth = -math.log(0.05)
    above = sum(statistics.percentile(row, 0.95).upper >= truth for row in draws)
    assert above / 4000 >= 0.95
    below = sum(statistics.percentile(row, 0.95).lower <= truth for row in draws)
    assert below / 4000 >= 0.95


# --- trends and rates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "s"),
    [
        ([1, 2, 3, 4, 5, 6], 15),  # all 15 pairs rise
        ([1, 3, 2, 4, 5, 6], 13),  # one pair falls
        ([2, 1, 4, 3, 5, 6], 11),  # two do
        ([6, 5, 4, 3, 2, 1], -15),
        ([1, 1, 2, 2, 3, 3], 12),  # three pairs are ties
        ([4, 4, 4, 4, 4, 4], 0),
        ([7], 0),
        ([], 0),
    ],
)
def test_s_of_mann_and_kendall(values: list[float], s: int) -> None:
    assert statistics.mann_kendall(np.array(values, float)) == s


def test_thirteen_of_fifteen_is_rare_without_a_trend() -> None:
    """Kendall's table for n = 6: P(S >= 13) = 0.0083, P(S >= 11) = 0.0278, by counting all orders."""
    found = [statistics.mann_kendall(np.array(order, float)) for order in itertools.permutations(range(6))]
    assert sum(s >= 13 for s in found) == 6
    assert sum(s >= 11 for s in found) == 20


def test_trend_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        statistics.mann_kendall(np.array([1.0, math.nan]))


@pytest.mark.parametrize(
    ("values", "chance"),
    [
        ([1, 2, 3, 4, 5, 6], 1 / 720),
        ([1, 3, 2, 4, 5, 6], 6 / 720),
        ([6, 5, 4, 3, 2, 1], 1.0),
        ([5, 5, 5, 5], 1.0),
        ([5], 1.0),
        ([], 1.0),
    ],
)
def test_p_value_of_a_rise(values: list[float], chance: float) -> None:
    assert statistics.rising(np.array(values, float)) == pytest.approx(chance, abs=1e-9)


@pytest.mark.parametrize(
    ("events", "lower", "upper"), [(0, 0.0, 2.9957), (1, 0.0513, 4.7439), (5, 1.9701, 10.5130), (10, 5.4254, 16.9622)]
)
def test_bounds_of_a_count(events: int, lower: float, upper: float) -> None:
    """Garwood's table, one-sided 95 %."""
    bounds = statistics.rate(events, 1.0)
    assert (bounds.lower, bounds.upper) == pytest.approx((lower, upper), abs=1e-4)
    assert statistics.rate(events, 10.0).upper == pytest.approx(upper / 10, abs=1e-5)


def test_rate_without_exposure_has_no_bounds() -> None:
    assert math.isnan(statistics.rate(0, 0.0).upper)
    with pytest.raises(ValueError, match="cannot be a rate"):
        statistics.rate(-1, 1.0)


# --- means ------------------------------------------------------------------------------------------


def test_interval_of_a_mean() -> None:
    """Student's t for two degrees of freedom is 4.303: source: any table of it."""
    found = statistics.mean(np.array([1.0, 2.0, 3.0]))
    assert (found.value, found.deviation, found.n) == (2.0, 1.0, 3)
    assert found.upper - found.value == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)
    assert found.value - found.lower == pytest.approx(found.upper - found.value)


def test_mean_without_an_interval() -> None:
    """Of no value, of one, and of an infinite one."""
    none, one, infinite = (statistics.mean(np.array(values)) for values in ([], [7.0], [1.0, math.inf]))
    assert math.isnan(none.value)
    assert (none.n, one.value, one.n, infinite.value, infinite.n) == (0, 7.0, 1, math.inf, 2)
    for found in (none, one, infinite):
        assert math.isnan(found.lower)
        assert math.isnan(found.upper)
        assert math.isnan(found.deviation)
    with pytest.raises(ValueError, match="not a number"):
        statistics.mean(np.array([1.0, math.nan]))


def test_two_values_have_an_interval_and_one_is_not_asked_for_its_deviation() -> None:
    two = statistics.mean(np.array([1.0, 3.0]))
    assert (two.value, two.deviation) == (2.0, pytest.approx(math.sqrt(2.0)))
    assert two.upper - two.value == pytest.approx(12.706, abs=1e-2), "Student's t for one degree of freedom"
    with warnings.catch_warnings(action="error"):
        assert statistics.mean(np.array([7.0])).n == 1


@pytest.mark.parametrize("enough", [2, 3, 4, 7, 8, 100, statistics.MAX_REPLICATIONS])
def test_smallest_number_of_replications(enough: int) -> None:
    assert statistics.smallest(2, lambda n: n >= enough) == enough


def test_no_number_of_replications_is_enough() -> None:
    assert statistics.smallest(2, lambda n: False) is None
    assert statistics.smallest(2, lambda n: n > statistics.MAX_REPLICATIONS) is None


def test_chance_of_an_unlike_share() -> None:
    """Fisher's exact test of three in three beside none in three: one of the twenty ways to choose three of six."""
    assert statistics.by_chance(3, 3, 0, 3) == pytest.approx(0.05)
    assert statistics.by_chance(2, 3, 1, 3) == pytest.approx(0.5)
    assert statistics.by_chance(0, 3, 3, 3) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [1, 2, 3, 59, 1000, 10**7])
def test_bounds_are_those_of_scipys_slower_module(n: int) -> None:
    for hits in {0, 1, n // 3, n - 1, n}:
        theirs = stats.binomtest(hits, n).proportion_ci(0.9, "wilson")
        assert statistics.wilson(hits, n, 0.95) == pytest.approx((theirs.low, theirs.high), abs=1e-15)
        assert statistics.binomial_tail(hits, n, 0.3) == pytest.approx(stats.binom.sf(hits - 1, n, 0.3), rel=1e-9)
        assert statistics.rate(hits, 1.0).upper == pytest.approx(stats.chi2.ppf(0.95, 2 * (hits + 1)) / 2)
    for share, confidence in itertools.product((0.05, 0.5, 0.95, 0.99), (0.95, 0.975)):
        upper, lower = int(stats.binom.ppf(confidence, n, share)) + 1, int(stats.binom.ppf(1 - confidence, n, share))
        assert statistics.upper_rank(n, share, confidence) == (upper if upper <= n else None)
        assert statistics.lower_rank(n, share, confidence) == (lower or None)
