"""One verdict on a drill from many replications.

For invariants, counts and the gate `drill`, the worst replication counts. An estimate is judged by its interval: a mean by
Student's t over replications. A ratio also uses the Wilson bound of the pooled sample, because replications without a hit do
not vary. If a replication fails, the drill does not pass, even if the mean is good.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.thresholds import Thresholds
from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, DrillVerdict, Spread, State, merged_violations
from sim.analysis import statistics
from sim.analysis.endings import merged
from sim.analysis.metrics import Metric, percentile
from sim.analysis.statistics import Mean

_ANSWERS = (State.PASS, State.FAIL, State.INCONCLUSIVE)  # with a measured value
_MAX_SEEDS = 5
_COUNTED_WHEN_SEEN = "disconnects."  # a run lacks these metrics if their count is zero

Results = dict[int, CheckResult]
"""One check's result in each replication, by seed."""


def combine(verdicts: dict[int, DrillVerdict], thresholds: Thresholds) -> DrillVerdict:
    """Combine the verdicts of all replications, by seed."""
    one = next(iter(verdicts.values()))
    named = max(verdicts.values(), key=lambda verdict: verdict.clients)  # an unreadable replication has 0 clients
    names = dict.fromkeys(check.name for verdict in verdicts.values() for check in verdict.checks)
    found = spreads(list(verdicts.values()))
    return DrillVerdict(
        name=one.name,
        clients=named.clients,
        duration_s=max(verdict.duration_s for verdict in verdicts.values()),
        checks=tuple(_check(name, verdicts, thresholds) for name in names),
        violations=merged_violations({f"with seed {seed}": verdict for seed, verdict in verdicts.items()}),
        metrics=_means(named.metrics, found),
        summary=named.summary,
        policy=named.policy,
        defects=named.defects,
        replications=len(verdicts),
        spreads=found,
        endings=merged([verdict.endings for verdict in verdicts.values()]),
    )


# --- metrics ----------------------------------------------------------------------------------------


def spreads(verdicts: Sequence[DrillVerdict]) -> tuple[Spread, ...]:
    """Each metric over the replications that have it, in order of appearance."""
    measured = [verdict.metrics for verdict in verdicts if verdict.metrics]
    units = {metric.name: metric.unit for metric in chain.from_iterable(measured)}
    tables = [{metric.name: metric.value for metric in metrics} for metrics in measured]
    return tuple(_spread(name, unit, [table.get(name, _absent(name)) for table in tables]) for name, unit in units.items())


def _absent(name: str) -> float:
    return 0.0 if name.startswith(_COUNTED_WHEN_SEEN) else math.nan


def _spread(name: str, unit: str, values: Sequence[float]) -> Spread:
    there = np.sort(np.array([value for value in values if not math.isnan(value)]))
    found = statistics.mean(there)
    interval = None if math.isnan(found.upper) else (found.lower, found.upper)
    least, most = (float(there[0]), float(there[-1])) if len(there) else (math.nan, math.nan)
    return Spread(name, unit, len(there), found.value, interval, least, percentile(there, 0.5), percentile(there, 0.95), most)


def _means(like: Sequence[Metric], found: Sequence[Spread]) -> tuple[Metric, ...]:
    better = {metric.name: metric.better for metric in like}
    return tuple(Metric(s.name, s.mean, s.unit, s.n, better.get(s.name, "lower")) for s in found)


# --- checks -----------------------------------------------------------------------------------------


def _check(name: str, verdicts: dict[int, DrillVerdict], thresholds: Thresholds) -> CheckResult:
    results = {seed: check for seed, verdict in verdicts.items() for check in verdict.checks if check.name == name}
    check, threshold = OF_RUNS.get(name), thresholds.get(name)
    if check is None or threshold is None or check.across == "worst":
        return _worst(results)
    if any(result.state not in _ANSWERS or math.isinf(result.value) for result in results.values()):
        return _worst(results)
    if any(result.n < (threshold.minimum_n or 0) for result in results.values()):
        return _worst(results)  # several samples that are too small do not make a sufficient one
    return (_ratio if check.across == "ratio" else _mean)(results, threshold.threshold)


def _worst(results: Results) -> CheckResult:
    """The worst result; of equally bad ones, the one with the highest value."""
    for state in GRAVEST_FIRST:
        those = {seed: result for seed, result in results.items() if result.state is state}
        if those:
            break
    seed, result = max(those.items(), key=lambda item: -math.inf if math.isnan(item[1].value) else item[1].value)
    where = f"in each of {len(results)} replications, here with seed {seed}"
    if len(those) < len(results):
        where = f"in {len(those)} of {len(results)} replications ({_seeds(those)}), here with seed {seed}"
    method = f"{result.method}; the worst of {len(results)} replications"
    n = sum(each.n for each in results.values())
    return replace(result, n=n, method=method, reason=f"{where}: {result.reason}").sound()


def _seeds(those: Results) -> str:
    more = ", ..." if len(those) > _MAX_SEEDS else ""
    return "seed " + ", ".join(map(str, list(those)[:_MAX_SEEDS])) + more


def _mean(results: Results, limit: float) -> CheckResult:
    """The mean over replications, judged by its interval."""
    found = _mean_of(results)

    def is_enough(n: int) -> bool:
        return statistics.half_width(found.deviation, n) <= abs(limit - found.value)

    method = "mean over replications, two-sided 95 % interval by Student's t"
    return _decide(results, limit, found.value, (found.lower, found.upper), method, is_enough)


def _ratio(results: Results, limit: float) -> CheckResult:
    """Judge all replications as one sample, by the wider of its Wilson bounds and the interval of the mean."""
    found, replications = _mean_of(results), len(results)
    n = sum(result.n for result in results.values())
    hits = sum(round(result.value * result.n) for result in results.values())
    pooled = statistics.ratio(hits, n)

    def is_enough(more: int) -> bool:
        times = more / replications
        bounds = statistics.ratio(round(hits * times), round(n * times))
        wide = statistics.half_width(found.deviation, more)
        return wide <= abs(limit - found.value) and (bounds.upper <= limit or bounds.lower > limit)

    method = "all replications together, one-sided 95 % Wilson bound, and the 95 % interval of their mean by Student's t"
    interval = (min(found.lower, pooled.lower), max(found.upper, pooled.upper))
    return _decide(results, limit, pooled.value, interval, method, is_enough)


def _mean_of(results: Results) -> Mean:
    return statistics.mean(np.array([result.value for result in results.values()]))


def _decide(
    results: Results,
    limit: float,
    value: float,
    interval: tuple[float, float],
    method: str,
    is_enough: Callable[[int], bool],
) -> CheckResult:
    """Pass if the upper end is at most the limit, fail if the lower end is over it, else inconclusive."""
    lower, upper = interval
    n = len(results)
    said = f"{value:.4g} over {n} replications, with 95 % confidence {lower:.4g}..{upper:.4g}"
    failing = {seed: result for seed, result in results.items() if result.state is State.FAIL}
    state, reason = State.INCONCLUSIVE, said
    if lower > limit or len(failing) == n:
        state = State.FAIL
    elif failing:
        reason = f"{said}; but {len(failing)} of {n} replications fail ({_seeds(failing)})"
    elif upper <= limit:
        state = State.PASS
    else:
        enough = statistics.smallest(n + 1, is_enough)
        advice = f"--replications {enough} are enough" if enough else "no number of replications is enough"
        reason = f"{said}, which does not separate it from {limit:g}; {advice}"
    like = next(iter(results.values()))
    return replace(like, state=state, value=value, n=n, interval=interval, method=method, reason=reason).sound()
