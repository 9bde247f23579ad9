"""Decide by the observations of the canary checks' clients: sums for ratios and counts, pooled samples for percentiles.

A canary check with a late load generator measured its own delay, so decisions about time leave it out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from drills.judging.checks import phases, service
from drills.judging.checks.base import NAN, Answer, Case, by_count, by_percentile, by_ratio
from drills.judging.checks.specs import Origin
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data.base import Source, from_clients, most_severe
from drills.rollout.verdict.window_data.stage_window import CanaryCheck, StageWindow
from sim.analysis import statistics
from sim.analysis.samples import Share, auth_refusals, failed_publishes, failed_tries, token_refusals
from sim.analysis.statistics import Bounds
from sim.record.history import Floats

SPAN_S = 600.0  # length of the spans; the worst span decides
MAX_LEFT_OUT_SHARE = 0.1  # [ours] share of canary checks: cut short, failed, or with a late load generator
_DRILL_CHECKS = {**service.DECISIONS, **phases.DECISIONS}
_GENERATOR = Threshold(threshold=250.0, comparator="<=", unit="ms", source="[ours]", minimum_n=20)
ShareOf = Callable[[Case], Share]
SamplesOf = Callable[[Case], Floats]


def share_of(check: CanaryCheck, name: str, of: ShareOf) -> Share:
    """The hits and the sample size of one canary check."""
    return check.once(f"share.{name}", of)


def tokens(case: Case) -> Share:
    """Token requests refused, of all."""
    return token_refusals(case.history)


def connects(case: Case) -> Share:
    """Connects refused for their token, of all."""
    return auth_refusals(case.history)


def publishes(case: Case) -> Share:
    """Failed publishes, of all."""
    return failed_publishes(case.history, case.busy)


def publish_tries(case: Case) -> Share:
    """Tries of publishes without an acknowledgement, of all."""
    return failed_tries(case.history, busy=case.busy)


def total(shares: Iterable[Share]) -> Share:
    """The sum of shares."""
    found = [*shares]
    return Share(sum(each.hits for each in found), sum(each.n for each in found))


def pooled(window: StageWindow, name: str, of: ShareOf) -> Share:
    """The summed hits and sample sizes of all canary checks."""
    return total(share_of(check, name, of) for check in window.canary_checks)


def ratio(name: str, of: ShareOf, what: str, origin: Origin = "client") -> Source:
    """Decide by a ratio over the whole stage."""
    return from_clients(lambda window, threshold: by_ratio(pooled(window, name, of), threshold, what), origin)


def ratio_per_span(name: str, of: ShareOf, what: str) -> Source:
    """Decide by the worst ten minutes. Ten minutes without a hit pass, even with few tries."""

    def judge(window: StageWindow, threshold: Threshold) -> Answer:
        found = []
        for span in spans(window):
            share = pooled(span, name, of)
            answer = by_ratio(share, threshold, what)
            is_clean = share.n > 0 and share.hits == 0
            found.append(replace(answer, state=State.PASS, reason=f"0 of {share.n} {what}") if is_clean else answer)
        return worst(found, what)

    return from_clients(judge)


def worst(answers: Sequence[Answer], what: str) -> Answer:
    """The most severe result; of equal ones the one with the largest value."""
    if not answers:
        return Answer(State.NO_DATA, NAN, 0, f"there were no {what}")
    return most_severe(sorted(answers, key=lambda each: -each.value if each.value == each.value else 0.0))


def spans(window: StageWindow) -> Iterator[StageWindow]:
    """Windows of ten minutes, each from the start of a canary check. A window that adds no canary check is left out."""
    checks = sorted(window.canary_checks, key=lambda check: check.began_s)
    began = np.array([check.began_s for check in checks])
    last = 0
    for first, check in enumerate(checks):
        end = int(np.searchsorted(began, check.began_s + SPAN_S, side="left"))
        if end > last:
            last = end
            yield window.of_checks(checks[first:end])


def counted(name: str, what: str, among: str) -> Source:
    """Decide by the count that the drill check of this name finds in each canary check."""

    def judge(window: StageWindow, threshold: Threshold) -> Answer:
        found = [
            check.once(f"count.{name}", lambda case: _DRILL_CHECKS[name](case, threshold)) for check in window.canary_checks
        ]
        hits, n = sum(each.value for each in found if each.value == each.value), sum(each.n for each in found)
        answer = by_count(hits, n, threshold, what, among)
        if answer.state is State.PASS and n < (threshold.minimum_n or 0):
            reason = f"{n} {among} are too few; {threshold.minimum_n} are needed"
            return replace(answer, state=State.INCONCLUSIVE, reason=reason)
        return answer

    return from_clients(judge)


def is_late(check: CanaryCheck) -> bool:
    """Whether the load generator of a canary check was late."""
    found = check.once("generator", lambda case: _DRILL_CHECKS["drill.generator_lag_ms"](case, _GENERATOR))
    return found.state is not State.PASS


def on_time(window: StageWindow) -> StageWindow:
    """The window with only those canary checks whose load generator was not late."""
    return window.of_checks(check for check in window.canary_checks if not is_late(check))


def samples(window: StageWindow, name: str, samples_of: SamplesOf) -> Floats:
    """All samples of all canary checks."""
    return np.concatenate([np.zeros(0), *(check.once(f"samples.{name}", samples_of) for check in window.canary_checks)])


def _of_times(judge: Callable[[StageWindow, Threshold], Answer]) -> Source:
    """Decide without the canary checks whose load generator was late."""

    def decide(window: StageWindow, threshold: Threshold) -> Answer:
        fit = on_time(window)
        return _unless_late(window, fit, judge(fit, threshold))

    return from_clients(decide)


def p95(name: str, samples_of: SamplesOf, what: str) -> Source:
    """Decide by the 95th percentile of the whole stage."""
    return _of_times(lambda fit, threshold: by_percentile(samples(fit, name, samples_of), 0.95, threshold, what))


def p95_per_span(name: str, samples_of: SamplesOf, what: str) -> Source:
    """Decide by the 95th percentile of the worst ten minutes."""

    def judge(fit: StageWindow, threshold: Threshold) -> Answer:
        return worst([by_percentile(samples(span, name, samples_of), 0.95, threshold, what) for span in spans(fit)], what)

    return _of_times(judge)


def p95_against_baseline(name: str, samples_of: SamplesOf, what: str) -> Source:
    """Decide by the 95th percentile, divided by that of stage 0."""

    def judge(window: StageWindow, threshold: Threshold) -> Answer:
        fit, baseline = on_time(window), window.baseline
        now = statistics.percentile(samples(fit, name, samples_of), 0.95)
        if now.n == 0:
            return Answer(State.NO_DATA, NAN, 0, f"there were no {what}")
        if baseline is None or baseline.canary_check_problem:
            return Answer(State.INCONCLUSIVE, NAN, now.n, "there is no baseline of stage 0 to compare with")
        before = statistics.percentile(samples(on_time(baseline), name, samples_of), 0.95)
        return _unless_late(window, fit, _against(now, before, threshold, what))

    return from_clients(judge)


def _against(now: Bounds, before: Bounds, threshold: Threshold, what: str) -> Answer:
    """Pass by the upper bound now and the value before; fail by the lower bound now and the upper bound before."""
    minimum_n = threshold.minimum_n or 0
    if min(now.n, before.n) < minimum_n or not before.value > 0:
        reason = f"{now.n} {what} against {before.n} of stage 0 are too few; {minimum_n} are needed of each"
        return Answer(State.INCONCLUSIVE, NAN, now.n, reason)
    times, allowed = now.value / before.value, threshold.threshold * before.value
    state = State.PASS if now.upper <= allowed else State.INCONCLUSIVE
    if now.lower > threshold.threshold * before.upper:
        state = State.FAIL
    reason = (
        f"p95 of {now.n} {what}: {now.value:.4g}, at most {now.upper:.4g} with 95 % confidence; "
        f"{before.value:.4g} in stage 0, of {before.n}"
    )
    return Answer(state, times, now.n, reason, (now.lower / before.value, now.upper / before.value))


def _unless_late(window: StageWindow, fit: StageWindow, found: Answer) -> Answer:
    """Return the result; inconclusive if the load generator was late in too many canary checks."""
    n, late = len(window.canary_checks), len(window.canary_checks) - len(fit.canary_checks)
    if late > MAX_LEFT_OUT_SHARE * n:
        reason = f"the load generator was late in {late} of {n} canary checks ({found.reason})"
        return replace(found, state=State.INCONCLUSIVE, reason=reason)
    return found
