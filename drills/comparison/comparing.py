"""Compare sides: conditions first, then each metric with an interval, then the limits that were asked for.

A machine of ours that was too busy makes latencies longer, never shorter. So a metric is worse only if it is worse without the
busy times of the other side, and not worse only if it is not worse without those of the baseline.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Generic, TypeVar

import numpy as np

from drills.comparison import conditions, intervals, limits
from drills.comparison.intervals import Samples, Shift
from drills.comparison.limits import Asked
from drills.comparison.records import (
    Answer,
    ChangedCheck,
    ComparedDrill,
    ComparedMetric,
    Comparison,
    Difference,
    Finding,
    Limit,
    Result,
    Versus,
)
from drills.comparison.sides import DrillRuns, Measured, Side
from drills.judging.checks.verdicts import State
from sim.analysis.metrics import Better
from sim.record.history import Floats

MINIMUM_EFFECT = 0.05  # [ours] share of the baseline; a smaller difference does not count
MINIMUM_RUNS = 4  # a side; fewer have no 95 % interval over runs
_NAN = float("nan")
T = TypeVar("T")
_BROKEN = (State.ERROR, State.NOT_RUN)  # verdicts on runs whose measurements may not be the target's


@dataclass(frozen=True)
class Options:
    """What was asked for. `accepted`: conditions whose difference is intended."""

    minimum_effect: float = MINIMUM_EFFECT
    accepted: tuple[str, ...] = ()
    asked: tuple[Asked, ...] = ()


def compare(baseline: Side, others: Sequence[Side], options: Options) -> Comparison:
    """Compare each other side with the baseline. Raises `UsageError` for an unknown metric or condition."""
    _require_known((baseline, *others), options)
    found = tuple(_versus(baseline, other, options) for other in others)
    return Comparison(
        baseline=str(baseline.path),
        baseline_decision=baseline.decision,
        baseline_decision_reason=baseline.reason,
        minimum_effect=options.minimum_effect,
        result=_result(baseline, found, options),
        tool_version=version("stormgate"),
        others=found,
    )


def _require_known(sides: Sequence[Side], options: Options) -> None:
    runs = [run for side in sides for drill in side.drills.values() for run in drill.runs]
    better = {name: metric.better for run in runs for name, metric in run.metrics.items()}
    conditions.require_known(options.accepted, (run.drill for run in runs))
    if runs:
        limits.require_known(options.asked, sorted(better), [name for name, which in better.items() if which == "neither"])


def _result(baseline: Side, found: Sequence[Versus], options: Options) -> Result:
    if not options.asked:
        return "compared" if any(drill.is_comparable for each in found for drill in each.drills) else "unclear"
    answers = {_answered(baseline, each) for each in found}
    return next(answer for answer in ("worse", "unclear", "not_worse") if answer in answers)


def _answered(baseline: Side, found: Versus) -> Answer:
    """The answer to all limits of one side. A verdict that turned from a pass to a failure is worse, whatever the metrics."""
    answers = {limit.answer for limit in found.limits}
    is_lost = baseline.kind == "stage" and baseline.decision == "go" and found.decision != "go"
    is_breached = is_lost and found.decision_reason == "breach"
    if "worse" in answers or is_breached or any(_is_now_red(drill) for drill in found.drills):
        return "worse"
    return "unclear" if "unclear" in answers or not answers or found.missing or is_lost else "not_worse"


def _is_now_red(drill: ComparedDrill) -> bool:
    has_own_thresholds = any(each.name == "thresholds" for each in drill.conditions)
    verdicts = drill.verdict_baseline, drill.verdict_other
    return drill.is_comparable and not has_own_thresholds and verdicts == (State.PASS, State.FAIL)


def _versus(baseline: Side, other: Side, options: Options) -> Versus:
    both = [name for name in baseline.drills if name in other.drills]
    drills = tuple(_drill(name, baseline.drills[name], other.drills[name], options) for name in both)
    found = tuple(_limit(asked, each, baseline, other) for asked in options.asked for each in drills)
    names = dict.fromkeys((*baseline.checks, *other.checks))
    was, now = baseline.checks, other.checks
    return Versus(
        path=str(other.path),
        decision=other.decision,
        decision_reason=other.reason,
        drills=drills,
        missing=tuple(name for name in baseline.drills if name not in other.drills),
        extra=tuple(name for name in other.drills if name not in baseline.drills),
        checks=tuple(ChangedCheck(n, was.get(n, ""), now.get(n, "")) for n in names if was.get(n, "") != now.get(n, "")),
        limits=tuple(limit for limit in found if limit is not None),
    )


# --- one drill ----------------------------------------------------------------------------------------


def _drill(name: str, one: DrillRuns, other: DrillRuns, options: Options) -> ComparedDrill:
    found = conditions.differences(one.runs, other.runs, options.accepted)
    why = _not_comparable(one, other, found)
    names = dict.fromkeys(metric for run in (*one.runs, *other.runs) for metric in run.metrics)
    metrics = (_metric(metric, one.runs, other.runs, options.minimum_effect, why) for metric in names)
    return ComparedDrill(
        name=name,
        runs_baseline=len(one.runs),
        runs_other=len(other.runs),
        verdict_baseline=one.state,
        verdict_other=other.state,
        is_comparable=not why,
        reason=why,
        notes=tuple(_notes(one, other)),
        conditions=found,
        metrics=tuple(metrics) if one.runs and other.runs else (),
    )


def _not_comparable(one: DrillRuns, other: DrillRuns, found: Sequence[Difference]) -> str:
    """Why a comparison would mean nothing; empty if it means something."""
    for side, runs in (("the baseline", one), ("the other side", other)):
        if runs.problems:
            more = f", and {len(runs.problems) - 1} more" if len(runs.problems) > 1 else ""
            return f"a run of {side} cannot be used: {runs.problems[0]}{more}"
        if not runs.runs:
            return f"{side} has no recorded run of it"
        if runs.state in _BROKEN:
            return f"the verdict on {side} is {runs.state}, so what it measured may not be the target's"
    if blocking := [each.name for each in found if each.blocks]:
        return f"the conditions differ: {', '.join(blocking)}"
    return ""


def _notes(one: DrillRuns, other: DrillRuns) -> Iterator[str]:
    if len(one.runs) == 1 == len(other.runs):
        yield (
            "One run a side: only distributions within the runs are compared. Another run of the same system may differ by "
            f"more. Give {MINIMUM_RUNS} runs a side."
        )
    elif min(len(one.runs), len(other.runs)) < MINIMUM_RUNS:
        yield f"{len(one.runs)} and {len(other.runs)} runs: {MINIMUM_RUNS} a side are enough for intervals over runs."
    if {run.observations_sha256 for run in one.runs} & {run.observations_sha256 for run in other.runs} - {""}:
        yield "Both sides have the same record of a run."
    for side, runs in (("the baseline", one), ("the other side", other)):
        for busy in [run.busy for run in runs.runs if run.busy][:2]:
            yield f"The machine of {side} was too busy {busy}: latencies may be too long then, and none too short."


# --- one metric ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair(Generic[T]):
    """One metric of both sides, as measured and without what our own machine may have added."""

    one: T
    other: T
    one_shortest: T
    other_shortest: T
    of: Callable[[T, T, float], Shift]  # the shift from `factor` times the one to the other
    sizes: tuple[int, int]
    share: float | None = None  # of the percentile within one run a side; None: one value per run

    def shift(self, factor: float = 1.0) -> Shift:
        """The shift from `factor` times the baseline, with the widest interval that our own machine may explain."""
        return Shift(
            self.of(self.one, self.other, factor).value,
            self.of(self.one, self.other_shortest, factor).lower,
            self.of(self.one_shortest, self.other, factor).upper,
        )


def _pair(name: str, one: Sequence[Measured], other: Sequence[Measured]) -> "_Pair[Any] | str":
    """Both sides of a metric; or why they cannot be compared."""
    was, now = (np.array([run.value(name) for run in runs], np.float64) for runs in (one, other))
    for side, values in (("the baseline", was), ("the other side", now)):
        if missing := int(np.isnan(values).sum()):
            where = "" if len(values) == 1 else f" in {missing} of {len(values)} runs"
            return f"{side} has no value{where}"
    if np.isinf(was).all() and np.isinf(now).all():
        return "it never happened on either side"
    if len(one) > 1 or len(other) > 1:
        shortest = _shortest(name, one, was), _shortest(name, other, now)
        return _Pair(was, now, *shortest, intervals.over_runs, (len(was), len(now)))
    found = [_samples(name, samples) for samples in (one[0].samples, other[0].samples, one[0].shortest, other[0].shortest)]
    first, second, first_shortest, second_shortest = found
    if first is None or second is None or first_shortest is None or second_shortest is None:
        return f"it is one number a run: {MINIMUM_RUNS} runs a side show whether it differs by chance"
    share = first.shares[name]

    def of(one: Samples, other: Samples, factor: float) -> Shift:
        return intervals.of_percentiles(one, other, share, factor)

    sizes = first.independent(share), second.independent(share)
    return _Pair(first, second, first_shortest, second_shortest, of, sizes, share)


def _samples(name: str, samples: Iterable[Samples]) -> Samples | None:
    return next((each for each in samples if name in each.shares), None)


def _shortest(name: str, runs: Sequence[Measured], measured: Floats) -> Floats:
    values = [run.shortest_values.get(name, _NAN) for run in runs]
    return np.where(np.isnan(values), measured, values)


def _metric(name: str, one: Sequence[Measured], other: Sequence[Measured], effect: float, why: str) -> ComparedMetric:
    like = next(run.metrics[name] for run in (*one, *other) if name in run.metrics)
    pair = _pair(name, one, other)
    shift = intervals.UNKNOWN if isinstance(pair, str) else pair.shift()
    if isinstance(pair, str):
        finding: tuple[Finding, str] = "unclear", pair
    elif why:
        finding = "unclear", why
    else:
        finding = _finding(pair, effect, like.better)
    is_within = not isinstance(pair, str) and pair.share is not None
    was, now = (float(np.median([run.value(name) for run in runs])) for runs in (one, other))
    return ComparedMetric(
        name=name,
        unit=like.unit,
        baseline=was,
        other=now,
        n_baseline=len(one) if isinstance(pair, str) else pair.sizes[0],
        n_other=len(other) if isinstance(pair, str) else pair.sizes[1],
        difference=0.0 if was == now else now - was if isinstance(pair, str) else shift.value,
        interval=(shift.lower, shift.upper),
        finding=finding[0],
        reason=finding[1],
        method="none" if isinstance(pair, str) else intervals.WITHIN if is_within else intervals.RUNS,
    )


def _finding(pair: "_Pair[Any]", effect: float, better: Better) -> tuple[Finding, str]:
    """What is certain by more than the minimum effect."""
    over, under = pair.shift(1 + effect), pair.shift(1 - effect)
    more: Finding = "changed" if better == "neither" else "worse" if better == "lower" else "better"
    less: Finding = "changed" if better == "neither" else "better" if better == "lower" else "worse"
    if over.lower > 0:
        return more, ""
    if under.upper < 0:
        return less, ""
    if over.upper <= 0 <= under.lower:
        return "same", ""
    return "unclear", _why_unclear(pair, over)


def _why_unclear(pair: "_Pair[Any]", shift: Shift) -> str:
    if not (math.isnan(shift.lower) or math.isnan(shift.upper)):
        return "the interval holds both a difference and none"
    n, m = pair.sizes
    if pair.share is None:
        return f"{n} and {m} runs are too few for an interval: {MINIMUM_RUNS} a side are enough"
    needed = intervals.samples_for(pair.share)
    return f"worth {n} and {m} independent samples, which are too few for an interval of this percentile: it needs {needed}"


# --- limits -------------------------------------------------------------------------------------------


def _limit(asked: Asked, drill: ComparedDrill, baseline: Side, other: Side) -> Limit | None:
    """The answer for one drill; None if the metric does not apply to it: neither side has a value."""
    metric = next((each for each in drill.metrics if each.name == asked.metric), None)
    one, two = baseline.drills[drill.name].runs, other.drills[drill.name].runs
    if metric is None and one and two:
        return None
    if metric is not None and all(math.isnan(run.value(asked.metric)) for run in (*one, *two)):
        return None
    answer, reason = _answer(asked, drill, one, two)
    unit = metric.unit if metric else ""
    return Limit(
        asked=asked.text, drill=drill.name, metric=asked.metric, allowed=asked.in_words(unit), answer=answer, reason=reason
    )


def _answer(asked: Asked, drill: ComparedDrill, one: Sequence[Measured], other: Sequence[Measured]) -> tuple[Answer, str]:
    if drill.reason:
        return "unclear", drill.reason
    pair = _pair(asked.metric, one, other)
    if isinstance(pair, str):
        return "unclear", pair
    shift = pair.shift(asked.factor)
    if shift.lower - asked.more > 0:
        return "worse", ""
    if shift.upper - asked.more <= 0:
        return "not_worse", ""
    return "unclear", _why_unclear(pair, shift)
