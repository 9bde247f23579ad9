"""What the clients of all watches saw, pooled: sums for ratios and counts, all samples together for percentiles.

A watch whose load generator was late measured itself, so nothing of time is taken from it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from drills.judging.checks import phases, service
from drills.judging.checks.base import NAN, Answer, Case, by_count, by_percentile, by_ratio, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data.base import Decide, by_clients, gravest
from drills.rollout.verdict.window_data.stage_window import CanaryCheck, StageWindow
from sim.analysis import statistics
from sim.analysis.samples import Share
from sim.analysis.statistics import Bounds
from sim.record.history import Floats, History

SPAN_S = 600.0  # the ten minutes of everything that is judged by its worst ten
_LATE_SHARE = 0.1  # [ours] of the watches, that may have measured themselves or been cut short
_GENERATOR = Threshold(threshold=250.0, comparator="<=", unit="ms", source="[ours]", minimum_n=20)
ShareOf = Callable[[History], Share]
SamplesOf = Callable[[Case], Floats]


def share_of(watch: CanaryCheck, name: str, of: ShareOf) -> Share:
    """One watch's share."""
    return watch.once(f"share.{name}", lambda case: of(case.history))


def pooled(window: StageWindow, name: str, of: ShareOf) -> Share:
    """The sum of a share over all watches."""
    shares = [share_of(watch, name, of) for watch in window.canary_checks]
    return Share(sum(share.hits for share in shares), sum(share.n for share in shares))


def ratio(name: str, of: ShareOf, what: str) -> Decide:
    """Decide by a ratio over the whole stage."""

    def decide(window: StageWindow, threshold: Threshold | None) -> Answer | None:
        return by_clients(window, lambda: by_ratio(pooled(window, name, of), needed(threshold), what))

    return decide


def ratio_per_span(name: str, of: ShareOf, what: str) -> Decide:
    """Decide by the worst ten minutes. Ten minutes without a single hit are no evidence against anybody, however few tries."""

    def judged(window: StageWindow, threshold: Threshold) -> Answer:
        found = []
        for span in spans(window):
            share = pooled(span, name, of)
            answer = by_ratio(share, threshold, what)
            spotless = share.n > 0 and share.hits == 0
            found.append(replace(answer, state=State.PASS, reason=f"none of {share.n} {what}") if spotless else answer)
        return _worst(found, what)

    return lambda window, threshold: by_clients(window, lambda: judged(window, needed(threshold)))


def _worst(answers: list[Answer], what: str) -> Answer:
    """The gravest of several; of equally grave ones that with the largest value."""
    if not answers:
        return Answer(State.NO_DATA, NAN, 0, f"there were no {what}")
    return gravest(sorted(answers, key=lambda each: -each.value if each.value == each.value else 0.0))


def spans(window: StageWindow) -> Iterator[StageWindow]:
    """The watches of every ten minutes that begin with a watch, those that hold nothing new left out."""
    watches = sorted(window.canary_checks, key=lambda watch: watch.began_s)
    begun = np.array([watch.began_s for watch in watches])
    last = 0
    for first, watch in enumerate(watches):
        end = int(np.searchsorted(begun, watch.began_s + SPAN_S, side="left"))
        if end > last:
            last = end
            yield replace(window, canary_checks=tuple(watches[first:end]), told=None)


def counted(name: str, what: str, among: str) -> Decide:
    """Decide by a count that a drill's check of that name makes of each watch."""

    def judged(window: StageWindow, threshold: Threshold) -> Answer:
        found = [
            watch.once(f"count.{name}", lambda case: service.DECISIONS[name](case, threshold)) for watch in window.canary_checks
        ]
        hits = sum(answer.value for answer in found if answer.value == answer.value)
        n = sum(answer.n for answer in found)
        answer = by_count(hits, n, threshold, what, among)
        if answer.state is State.PASS and n < (threshold.minimum_n or 0):
            return replace(
                answer, state=State.INCONCLUSIVE, reason=f"{n} {among} are too few; {threshold.minimum_n} are needed"
            )
        return answer

    return lambda window, threshold: by_clients(window, lambda: judged(window, needed(threshold)))


def is_late(watch: CanaryCheck) -> bool:
    """Whether its load generator was late itself."""
    found = watch.once("generator", lambda case: phases.generator_lag(case, _GENERATOR))
    return found.state is not State.PASS


def punctual(window: StageWindow) -> StageWindow:
    """The window with those watches alone whose figures of time are the target's."""
    return replace(window, canary_checks=tuple(watch for watch in window.canary_checks if not is_late(watch)), told=None)


def samples(window: StageWindow, name: str, samples_of: SamplesOf) -> Floats:
    """All samples of all watches."""
    return np.concatenate([np.zeros(0), *(watch.once(f"samples.{name}", samples_of) for watch in window.canary_checks)])


def p95(name: str, samples_of: SamplesOf, what: str) -> Decide:
    """Decide by the 95th percentile of the whole stage."""

    def judged(window: StageWindow, threshold: Threshold) -> Answer:
        fit = punctual(window)
        return _unless_late(window, fit, by_percentile(samples(fit, name, samples_of), 0.95, threshold, what))

    return lambda window, threshold: by_clients(window, lambda: judged(window, needed(threshold)))


def p95_per_span(name: str, samples_of: SamplesOf, what: str) -> Decide:
    """Decide by the 95th percentile of the worst ten minutes."""

    def judged(window: StageWindow, threshold: Threshold) -> Answer:
        fit = punctual(window)
        found = [by_percentile(samples(span, name, samples_of), 0.95, threshold, what) for span in spans(fit)]
        return _unless_late(window, fit, _worst(found, what))

    return lambda window, threshold: by_clients(window, lambda: judged(window, needed(threshold)))


def p95_against_baseline(name: str, samples_of: SamplesOf, what: str) -> Decide:
    """Decide by how many times as large as in stage 0 the 95th percentile is."""

    def judged(window: StageWindow, threshold: Threshold) -> Answer:
        fit = punctual(window)
        now = statistics.percentile(samples(fit, name, samples_of), 0.95)
        if now.n == 0:
            return Answer(State.NO_DATA, NAN, 0, f"there were no {what}")
        if window.baseline is None or window.baseline.canary_check_trouble:
            return Answer(State.INCONCLUSIVE, NAN, now.n, "there is no baseline of stage 0 to compare with")
        before = statistics.percentile(samples(punctual(window.baseline), name, samples_of), 0.95)
        return _unless_late(window, fit, _against(now, before, threshold, what))

    return lambda window, threshold: by_clients(window, lambda: judged(window, needed(threshold)))


def _against(now: Bounds, before: Bounds, threshold: Threshold, what: str) -> Answer:
    """The upper bound now against the value then; it fails where even the lower bound is beyond the upper bound then."""
    least = threshold.minimum_n or 0
    if min(now.n, before.n) < least or not before.value > 0:
        said = f"{now.n} {what} against {before.n} of stage 0 are too few; {least} are needed of each"
        return Answer(State.INCONCLUSIVE, NAN, now.n, said)
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
    """The answer, unless too many watches measured themselves: then nothing is known, neither good nor bad."""
    late = len(window.canary_checks) - len(fit.canary_checks)
    if late > _LATE_SHARE * len(window.canary_checks):
        why = f"the load generator was late itself in {late} of {len(window.canary_checks)} watches"
        return replace(found, state=State.INCONCLUSIVE, reason=f"{why} ({found.reason})")
    return found
