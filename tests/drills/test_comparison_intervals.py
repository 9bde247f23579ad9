"""Intervals of differences: they hold the truth as often as stated, find a known shift, and take equal sides for equal."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drills.comparison import intervals
from drills.comparison.intervals import Samples
from sim.record.history import Floats

VALUES = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=40)
SHARES = st.sampled_from([0.5, 0.95, 0.99])
ROUNDS = 300
# 95 % of 300 rounds, less four standard deviations: chance goes below that once in 30 000 tests.
AT_LEAST = 0.90


def of(values: Floats, seconds: Floats | None = None) -> Samples:
    if seconds is None:
        return Samples("x", "ms", values, {})
    return Samples("x", "ms", values, {}, seconds.astype(np.int64))


def covers(shift: intervals.Shift, truth: float) -> bool:
    """Whether the interval holds the truth; an unknown bound rules nothing out."""
    return not shift.lower > truth and not shift.upper < truth


@settings(max_examples=100, deadline=None)
@given(VALUES, st.floats(0.0, 0.5))
def test_runs_are_never_worse_than_themselves(values: list[float], effect: float):
    runs = np.array(values)
    shift = intervals.over_runs(runs, runs)
    assert covers(shift, 0.0)
    assert not intervals.over_runs(runs, runs, 1 + effect).lower > 0


@settings(max_examples=100, deadline=None)
@given(VALUES, SHARES, st.floats(0.0, 0.5), st.integers(1, 20))
def test_samples_are_never_worse_than_themselves(values: list[float], share: float, effect: float, seconds: int):
    for samples in (of(np.array(values)), of(np.array(values), np.arange(len(values)) % seconds)):
        shift = intervals.of_percentiles(samples, samples, share)
        assert shift.value == 0.0
        assert covers(shift, 0.0)
        assert not intervals.of_percentiles(samples, samples, share, 1 + effect).lower > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1.0, 2.0), min_size=4, max_size=12), st.floats(3.0, 100.0))
def test_a_shift_beyond_all_noise_is_found(values: list[float], added: float):
    runs = np.array(values)
    shift = intervals.over_runs(runs, runs + added)
    assert shift.lower >= added - 1.001
    assert shift.upper <= added + 1.001
    assert intervals.over_runs(runs + added, runs).upper < 0  # and its direction


@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 6), (5, 7)])
def test_the_rank_is_that_of_all_orders(n: int, m: int):
    counts = np.zeros(n * m + 1)
    for places in itertools.combinations(range(n + m), n):
        counts[sum(places) - n * (n - 1) // 2] += 1
    shares = np.cumsum(counts) / counts.sum()
    assert intervals._lower_rank(n, m) == int((shares <= 0.025).sum())


def test_three_runs_a_side_have_no_interval_and_four_have():
    three, four = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])
    assert np.isnan(intervals.over_runs(three, three + 9).lower)
    assert intervals.over_runs(four, four + 9).lower == 6.0


@pytest.mark.parametrize("n", [4, 12, 60])
def test_the_interval_over_runs_covers_as_stated(n: int):
    rng = np.random.default_rng(n)
    hits = sum(covers(intervals.over_runs(rng.exponential(1, n), rng.exponential(1, n) + 0.7), 0.7) for _ in range(ROUNDS))
    assert hits / ROUNDS >= AT_LEAST
    assert hits < ROUNDS  # an interval that always covers says nothing


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_the_interval_within_runs_covers_as_stated(share: float):
    rng = np.random.default_rng(7)
    truth = 0.3 * -np.log(1 - share)
    found = [
        intervals.of_percentiles(of(rng.exponential(1, 400)), of(1.3 * rng.exponential(1, 400)), share) for _ in range(ROUNDS)
    ]
    assert AT_LEAST <= sum(covers(shift, truth) for shift in found) / ROUNDS < 1


def _by_the_second(rng: np.random.Generator, factor: float) -> Samples:
    """30 seconds of 60 samples each; a slow second is slow for all of its samples."""
    slow = np.repeat(np.exp(rng.normal(0, 0.5, 30)), 60)
    return of(factor * slow * rng.exponential(1, 1800), np.repeat(np.arange(30), 60))


def test_samples_that_hang_together_count_as_fewer():
    rng = np.random.default_rng(11)
    many = np.sort(np.exp(rng.normal(0, 0.5, 200_000)) * rng.exponential(1, 200_000))
    truth = 0.2 * float(many[100_000])
    together, alone = 0, 0
    for _ in range(ROUNDS):
        one, other = _by_the_second(rng, 1.0), _by_the_second(rng, 1.2)
        together += covers(intervals.of_percentiles(one, other, 0.5), truth)
        alone += covers(intervals.of_percentiles(of(one.values), of(other.values), 0.5), truth)
    assert AT_LEAST <= together / ROUNDS < 1
    assert alone / ROUNDS < 0.7  # what is wrong with taking them for independent


def test_few_seconds_are_worth_no_more_than_their_number():
    samples = of(np.arange(1000.0), np.arange(1000) % 3)
    assert samples.independent(0.5) == 3
    assert np.isnan(intervals.of_percentiles(samples, samples, 0.5).upper)


def test_a_percentile_of_too_few_samples_has_no_upper_bound():
    enough = intervals.samples_for(0.99)
    few, many = of(np.arange(enough - 1.0)), of(np.arange(float(enough)))
    assert np.isnan(intervals.of_percentiles(many, few, 0.99).upper)
    assert np.isfinite(intervals.of_percentiles(of(np.arange(2000.0)), many, 0.99).upper)


def test_never_is_worse_than_any_time():
    runs, never = np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, np.inf)
    assert intervals.over_runs(runs, never).lower == np.inf
    assert intervals.over_runs(never, runs).upper == -np.inf
    assert intervals.over_runs(never, never).value == 0.0
    times, lost = of(np.arange(100.0)), of(np.full(100, np.inf))
    assert intervals.of_percentiles(times, lost, 0.5).lower == np.inf


def test_a_value_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        intervals.over_runs(np.array([1.0, np.nan]), np.array([1.0]))
    with pytest.raises(ValueError, match="not a number"):
        intervals.of_percentiles(of(np.array([np.nan])), of(np.array([1.0])), 0.5)
