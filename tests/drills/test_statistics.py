"""The bounds, against numbers worked out elsewhere and against simulation."""

import math

import numpy as np
import pytest

from drills import statistics


@pytest.mark.parametrize(("n", "threshold"), [(268, 0.01), (133, 0.02), (88, 0.03), (52, 0.05)])
def test_how_many_faultless_tries_a_ratio_needs(n: int, threshold: float) -> None:
    assert statistics.ratio(0, n).upper <= threshold
    assert statistics.ratio(0, n - 1).upper > threshold


def test_of_a_thousand_at_two_percent() -> None:
    assert statistics.ratio(12, 1000).upper <= 0.02 < statistics.ratio(13, 1000).upper
    assert statistics.ratio(27, 1000).lower <= 0.02 < statistics.ratio(28, 1000).lower


def test_a_ratio_of_nothing_has_no_bounds() -> None:
    bounds = statistics.ratio(0, 0)
    assert math.isnan(bounds.value)
    assert math.isnan(bounds.upper)


@pytest.mark.parametrize(("hits", "n"), [(2, 1), (-1, 1)])
def test_an_impossible_ratio_is_refused(hits: int, n: int) -> None:
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


def test_one_sample_bounds_nothing() -> None:
    bounds = statistics.percentile(np.array([5.0]), 0.95)
    assert bounds.value == 5.0
    assert math.isnan(bounds.upper)


def test_an_infinite_sample_stays_infinite() -> None:
    assert statistics.percentile(np.array([1.0] * 58 + [math.inf]), 0.95).upper == math.inf


def test_a_sample_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        statistics.percentile(np.array([1.0, math.nan]), 0.95)


def test_the_upper_bound_is_above_the_percentile_95_times_in_100() -> None:
    draws = np.random.default_rng(1).exponential(size=(4000, 80))
    truth = -math.log(0.05)
    above = sum(statistics.percentile(row, 0.95).upper >= truth for row in draws)
    assert above / 4000 >= 0.95
    below = sum(statistics.percentile(row, 0.95).lower <= truth for row in draws)
    assert below / 4000 >= 0.95
