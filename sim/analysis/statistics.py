"""Confidence bounds and tests.

Within a run: one-sided 95 % bounds that assume no distribution. Over independent replications: the two-sided 95 % interval of
their mean, by Student's t.

Quantiles come from `scipy.special`, imported late: that takes long enough; `scipy.stats` takes longer than judging a small run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sim.record.history import Floats

CONFIDENCE = 0.95
MAX_REPLICATIONS = 100_000  # the largest number of replications that `smallest` tries


@dataclass(frozen=True)
class Bounds:
    """A value and its one-sided 95 % bounds; a bound is NaN if the sample is too small."""

    value: float
    lower: float
    upper: float
    n: int


@lru_cache(maxsize=4096)
def ratio(hits: int, n: int) -> Bounds:
    """Wilson score bounds of `hits` in `n`. Raises `ValueError` for more hits than n.

    Two one-sided bounds of 95 % are the ends of a two-sided interval of 90 %. Source: E. B. Wilson,
    "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} cannot be a share")
    if n == 0:
        return Bounds(float("nan"), float("nan"), float("nan"), 0)
    lower, upper = wilson(hits, n, CONFIDENCE)
    return Bounds(hits / n, lower, upper, n)


def wilson(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's bounds of a share of at least one sample, each with this confidence. Source: as of `ratio`."""
    from scipy.special import ndtri

    z, share = float(ndtri(confidence)), hits / n
    middle = (2 * hits + z * z) / (2 * (n + z * z))
    half = z * math.sqrt(4 * hits * (1 - share) + z * z) / (2 * (n + z * z))
    return middle - half if hits else 0.0, middle + half if hits < n else 1.0


def difference(hits: int, n: int, other_hits: int, other_n: int) -> Bounds:
    """The first share minus the second, with one-sided 95 % bounds from both Wilson intervals; `n` is the smaller sample.

    Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions: comparison of eleven
    methods", Statistics in Medicine 17, 1998, method 10. Raises `ValueError` for more hits than n.
    """
    one, other = ratio(hits, n), ratio(other_hits, other_n)
    apart = one.value - other.value
    lower = apart - math.hypot(one.value - one.lower, other.upper - other.value)
    upper = apart + math.hypot(one.upper - one.value, other.value - other.lower)
    return Bounds(apart, lower, upper, min(n, other_n))


def by_chance(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """One-sided p-value of Fisher's exact test: the first sample has this many hits or more although both shares are equal."""
    from scipy.stats import hypergeom

    return float(hypergeom.sf(hits - 1, n + other_n, hits + other_hits, n))


def percentile(samples: Floats, share: float, confidence: float = CONFIDENCE) -> Bounds:
    """The percentile of `samples` at `share`, with bounds by order statistics, each with this confidence.

    The k-th smallest of n samples is at or above the true percentile with the probability that a binomial
    (n, share) is below k. Source: G. J. Hahn, W. Q. Meeker, "Statistical Intervals", section 5.2. Raises
    `ValueError` for NaN, which cannot be ordered.
    """
    if bool(np.isnan(samples).any()):
        raise ValueError("a sample is not a number")
    n = len(samples)
    if n == 0:
        return Bounds(float("nan"), float("nan"), float("nan"), 0)
    upper, lower = upper_rank(n, share, confidence), lower_rank(n, share, confidence)
    middle = max(int(np.ceil(share * n - 1e-9)), 1)
    ranks = sorted({rank for rank in (upper, lower, middle) if rank})
    ordered = np.partition(samples, [rank - 1 for rank in ranks])

    def at(rank: int | None) -> float:
        return float(ordered[rank - 1]) if rank else float("nan")

    return Bounds(at(middle), at(lower), at(upper), n)


@lru_cache(maxsize=256)
def upper_rank(n: int, share: float, confidence: float = CONFIDENCE) -> int | None:
    """The lowest rank (from 1) whose sample bounds the percentile from above; None if n is too small."""
    rank = _binomial_quantile(confidence, n, share) + 1
    return rank if rank <= n else None


@lru_cache(maxsize=256)
def lower_rank(n: int, share: float, confidence: float = CONFIDENCE) -> int | None:
    """The highest rank (from 1) whose sample bounds the percentile from below; None if n is too small."""
    # P(at least r of n below the percentile) >= 95 %; the quantile is the first count with more than 5 % at or below it.
    rank = _binomial_quantile(1 - confidence, n, share)
    return rank if rank >= 1 else None


def _binomial_quantile(probability: float, n: int, share: float) -> int:
    """The lowest count of successes in `n` trials that has at least this probability at or below it."""
    from scipy.special import bdtr, bdtrik

    count = math.ceil(bdtrik(probability, n, share))
    return count - 1 if count and float(bdtr(count - 1, n, share)) >= probability else count


def binomial_tail(hits: int, n: int, share: float) -> float:
    """The probability of `hits` or more in `n` trials with probability `share`."""
    from scipy.special import bdtrc

    return float(bdtrc(hits - 1, n, share))


@lru_cache(maxsize=4096)
def rate(events: int, exposure: float) -> Bounds:
    """Events per unit of `exposure`, with the exact bounds of a Poisson count. `n` is the count of events.

    Source: F. Garwood, "Fiducial limits for the Poisson distribution", Biometrika 28, 1936. Raises `ValueError` if negative.
    """
    if events < 0 or exposure < 0:
        raise ValueError(f"{events} events in {exposure:g} cannot be a rate")
    if exposure == 0:
        return Bounds(float("nan"), float("nan"), float("nan"), 0)
    from scipy.special import gammaincinv

    lower = float(gammaincinv(events, 1 - CONFIDENCE)) if events else 0.0
    upper = float(gammaincinv(events + 1, CONFIDENCE))
    return Bounds(events / exposure, lower / exposure, upper / exposure, events)


def mann_kendall(values: Floats) -> int:
    """Mann and Kendall's S: pairs that rise minus pairs that fall. Source: H. B. Mann, Econometrica 13, 1945.

    For six values it is at most 15; without a trend it is 13 or more with probability 6 in 720. Raises `ValueError` for NaN.
    """
    if bool(np.isnan(values).any()):
        raise ValueError("a value is not a number")
    rises = np.sign(values[None, :] - values[:, None])
    return int(np.triu(rises).sum())


def rising(values: Floats) -> float:
    """One-sided p-value of a rise: Kendall's tau of values against time. 1 for equal values, or fewer than two."""
    if len(values) < 2 or float(np.ptp(values)) == 0.0:
        return 1.0
    from scipy.stats import kendalltau

    return float(kendalltau(np.arange(len(values)), values, alternative="greater").pvalue)


@dataclass(frozen=True)
class Mean:
    """Mean of `n` replications, its two-sided interval, and their standard deviation; NaN if n is too small."""

    value: float
    lower: float
    upper: float
    deviation: float
    n: int


def mean(values: Floats, confidence: float = CONFIDENCE) -> Mean:
    """The mean of one value per replication, with its interval. Source: Law, "Simulation Modeling and Analysis", section 4.5.

    An infinite value makes the mean infinite, without an interval. Raises `ValueError` for NaN.
    """
    n, nan = len(values), float("nan")
    if bool(np.isnan(values).any()):
        raise ValueError("a replication's value is not a number")
    if n == 0 or not bool(np.isfinite(values).all()):
        return Mean(float(np.mean(values)) if n else nan, nan, nan, nan, n)
    middle = float(np.mean(values))
    if n == 1:
        return Mean(middle, nan, nan, nan, n)
    deviation = float(np.std(values, ddof=1))
    half = half_width(deviation, n, confidence)
    return Mean(middle, middle - half, middle + half, deviation, n)


def half_width(deviation: float, n: int, confidence: float = CONFIDENCE) -> float:
    """Half the width of the mean's interval for `n` replications with this standard deviation."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, (1 + confidence) / 2)) * deviation / float(np.sqrt(n))


def smallest(n: int, passes: Callable[[int], bool]) -> int | None:
    """The smallest number from `n` up that passes, if all larger ones pass too; None if none up to `MAX_REPLICATIONS` does."""
    high = n
    while not passes(high):
        if high >= MAX_REPLICATIONS:
            return None
        n, high = high + 1, min(2 * high, MAX_REPLICATIONS)
    while n < high:
        middle = (n + high) // 2
        n, high = (n, middle) if passes(middle) else (middle + 1, high)
    return high
