"""Compare metrics of two sets of runs: how much larger a value is on the other side, with a two-sided 95 % interval.

Where each side has several runs, one value per run counts: the shift of Hodges and Lehmann, with the interval that belongs to
the test of Mann and Whitney. It assumes no distribution, and needs about four runs a side. Where each side has one run, the
samples inside it count: the difference of two percentiles. That interval says nothing of how runs differ from each other.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from sim.analysis import reconnects, samples, statistics
from sim.analysis.machine import NO_SPANS, Spans
from sim.analysis.statistics import CONFIDENCE, Bounds
from sim.record.history import Floats, History, Ints
from sim.record.ledger import Ledger
from sim.record.observations import Kind

_EXACT_RUNS = 40  # on a side; above, the distribution of Mann and Whitney's U is normal for this purpose
_EACH_SIDE = (1 + CONFIDENCE) / 2
_MIN_SECONDS = 10  # [ours] with samples of fewer seconds, how much they hang together cannot be measured
_PERCENTS = (50, 95, 99)
_NAN = float("nan")
RUNS = "Hodges-Lehmann shift over runs, two-sided 95 % interval of Mann-Whitney"
WITHIN = (
    "difference of percentiles within one run a side, two-sided 95 % interval by order statistics, samples of a second together"
)


@dataclass(frozen=True)
class Shift:
    """How much larger a value is on the other side, with its 95 % interval; a bound is NaN where the sample is too small."""

    value: float
    lower: float
    upper: float


UNKNOWN = Shift(_NAN, _NAN, _NAN)


def over_runs(one: Floats, other: Floats, factor: float = 1.0) -> Shift:
    """The shift from `factor * one` to `other`, which have one value per run. An infinite value means never.

    Source: M. Hollander, D. A. Wolfe, "Nonparametric Statistical Methods", sections 4.2 and 4.3. Raises `ValueError` for NaN.
    """
    _require_numbers(one, other)
    if not len(one) or not len(other):
        return UNKNOWN
    with np.errstate(invalid="ignore"):
        pairs = np.sort(np.nan_to_num((other[:, None] - factor * one[None, :]).ravel(), nan=0.0, posinf=np.inf, neginf=-np.inf))
    rank = _lower_rank(len(one), len(other))
    value = _middle(pairs)
    return Shift(value, float(pairs[rank - 1]), float(pairs[-rank])) if rank else Shift(value, _NAN, _NAN)


def of_percentiles(one: "Samples", other: "Samples", share: float, factor: float = 1.0) -> Shift:
    """The shift from `factor` times the percentile of `one` to that of `other`, from samples within one run a side.

    Each percentile has bounds by order statistics, and both combine to those of the difference (MOVER). Source: G. Y. Zou,
    A. Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27, 2008. Raises `ValueError`
    for NaN.
    """
    was, now = _percentile(one, share), _percentile(other, share)
    value = _minus(now.value, factor * was.value)
    if not math.isfinite(value):
        return Shift(value, _minus(now.lower, factor * was.upper), _minus(now.upper, factor * was.lower))
    low, high = _apart(now.value, now.lower), _apart(now.upper, now.value)
    was_low, was_high = (factor * gap for gap in (_apart(was.value, was.lower), _apart(was.upper, was.value)))
    return Shift(value, value - math.hypot(low, was_high), value + math.hypot(high, was_low))


def _percentile(of: "Samples", share: float) -> Bounds:
    """A percentile with bounds of 97.5 % each, for as many independent samples as these are worth.

    Source: E. L. Korn, B. I. Graubard, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", Survey Methodology 24, 1998: the bounds of the share, and the samples at these shares.
    """
    values, n, worth = of.ordered, len(of.values), of.independent(share)
    if worth == n:
        return statistics.percentile(values, share, _EACH_SIDE)
    from scipy.special import betaincinv

    under, value = share * worth, reconnects.time_until(share, values)
    low = float(betaincinv(under, worth - under + 1, 1 - _EACH_SIDE))
    high = float(betaincinv(under + 1, worth - under, _EACH_SIDE))
    is_enough = worth >= samples_for(share)
    upper = float(values[min(math.ceil(high * n), n) - 1]) if is_enough else _NAN
    return Bounds(value, float(values[max(math.floor(low * n), 1) - 1]), upper, worth)


def _apart(high: float, low: float) -> float:
    return 0.0 if high == low else high - low  # both may be infinite


def _minus(one: float, other: float) -> float:
    return 0.0 if one == other else one - other


def _middle(ordered: Floats) -> float:
    below, above = float(ordered[(len(ordered) - 1) // 2]), float(ordered[len(ordered) // 2])
    return below if below == above else (below + above) / 2


def _require_numbers(*all_values: Floats) -> None:
    if any(bool(np.isnan(values).any()) for values in all_values):
        raise ValueError("a value is not a number")


@lru_cache(maxsize=256)
def _lower_rank(n: int, m: int) -> int:
    """The rank of the pair that bounds the shift from below with 97.5 %; 0 if so few runs cannot bound it."""
    share = (1 - CONFIDENCE) / 2
    if max(n, m) > _EXACT_RUNS:
        from scipy.special import ndtri

        return max(int(n * m / 2 - float(ndtri(1 - share)) * math.sqrt(n * m * (n + m + 1) / 12)), 0)
    allowed, rank = math.comb(n + m, n) * share, 0
    for u, ways in enumerate(_ways(n, m)):
        allowed -= ways
        if allowed < 0:
            return rank
        rank = u + 1
    return rank


def _ways(n: int, m: int) -> Sequence[int]:
    """In how many orders of `n` and `m` runs Mann and Whitney's U is 0, 1, 2, ...: the coefficients of Gauss' binomial."""
    counts = [1] + [0] * (n * m)
    for step in range(1, m + 1):
        for at in range(n * m, n + step - 1, -1):
            counts[at] -= counts[at - n - step]
        for at in range(step, n * m + 1):
            counts[at] += counts[at - step]
    return counts


def samples_for(share: float) -> int:
    """How many independent samples the interval of a percentile needs: with fewer, the highest may be below it."""
    return math.ceil(math.log(1 - _EACH_SIDE) / math.log(max(share, 1 - share)))


# --- samples within a run -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """The samples within one run whose percentiles are metrics.

    Samples of one second hang together: all clients get the same events from the same queue. `seconds` are the seconds of the
    run that they are from; without them they count as independent.
    """

    name: str
    unit: str
    values: Floats
    shares: Mapping[str, float]  # name of the metric -> share
    seconds: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    @cached_property
    def ordered(self) -> Floats:
        """The values, ascending. Raises `ValueError` for NaN."""
        _require_numbers(self.values)
        return np.sort(self.values)

    def independent(self, share: float) -> int:
        """How many independent samples these are worth for a percentile: their number over the design effect.

        Source: R. S. Woodruff, "Confidence intervals for medians and other position measures", JASA 47, 1952.
        """
        n = len(self.values)
        if not len(self.seconds) or n == 0:
            return n
        _, second = np.unique(self.seconds, return_inverse=True)
        count = int(second.max()) + 1
        if count < _MIN_SECONDS:
            return count
        below = self.values <= reconnects.time_until(share, self.ordered)
        sums = np.bincount(second, below - below.mean())
        alone = n * float(below.mean()) * (1 - float(below.mean()))
        effect = float((sums**2).sum()) * count / (count - 1) / alone if alone else 1.0
        return max(int(n / max(effect, 1.0)), 1)


def within(history: History, ledger: Ledger, busy: Spans = NO_SPANS) -> Iterator[Samples]:
    """The samples of a run, by the metrics made from them. `busy` are times that are taken out of each.

    A recovery is that of the slowest fault at that share, as its metric is.
    """
    if history.header.tally is not None:
        return  # a fleet run records no samples
    found = reconnects.episodes(history, busy)
    for percent in _PERCENTS:
        share, name = percent / 100, f"live_again_{percent}_s"
        yield Samples(name, "s", _slowest([each.live_s for each in found], share), {name: share})
    caught_up = _slowest([each.caught_up_s for each in found], 0.99)
    yield Samples("caught_up", "s", caught_up, {"caught_up_99_s": 0.99})
    yield _named("publish_to_apply", "ms", *samples.publishes_to_apply(history, ledger, busy))
    for name, rows in (("bootstrap", samples.bootstraps(history)), ("token_mint", history.fleet(Kind.TOKEN_MINTED))):
        yield _named(name, "ms", rows.t, busy.without_ms(rows))
    lags = samples.client_lags(history, busy)
    yield _named("client_lag", "events", lags.t, lags.value)


def _slowest(recoveries: Sequence[Floats], share: float) -> Floats:
    return max(recoveries, key=lambda seconds: reconnects.time_until(share, seconds), default=np.zeros(0))


def _named(name: str, unit: str, t: Floats, values: Floats) -> Samples:
    shares = {f"{name}_p{percent}_{unit}": percent / 100 for percent in _PERCENTS}
    return Samples(name, unit, values, shares, np.floor(t).astype(np.int64))
