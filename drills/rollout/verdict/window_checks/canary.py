"""Compare a canary with its control: the same canary checks run in turns on the new revisions and on the previous ones.

Other checks judge absolute values; these find whether the new revisions are worse than the previous ones. Latencies are
compared twice: all samples together, and each canary check with the control's nearest in time. Samples of one canary check
share influences, such as a busy minute of the machine, so bounds from all samples are too narrow. The wider bounds count.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from drills.judging.checks.base import NAN, Answer, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_checks.budget import client_errors
from drills.rollout.verdict.window_checks.service import bootstrap_ms, publish_to_apply_ms
from drills.rollout.verdict.window_data.base import Source, by_clients, by_limit
from drills.rollout.verdict.window_data.clients import MAX_LEFT_OUT_SHARE, SamplesOf, on_time
from drills.rollout.verdict.window_data.clients import samples as samples_of_all
from drills.rollout.verdict.window_data.stage_window import CanaryCheck, StageWindow
from sim.analysis import statistics

_MAX_CHANCE_TO_FAIL = 0.001  # [ours] small, because a hold is evaluated many times
_MIN_CHANCE_TO_PASS = 0.05
_CONFIDENCE = 0.975  # of each of the two bounds of a ratio, so that both together hold with 95 %
_MIN_PAIRS = 5  # the median of fewer pairs has no bounds
Judge = Callable[[StageWindow, StageWindow, Threshold], Answer]  # arguments: canary, control, threshold


def _compare(judge: Judge) -> tuple[Source]:
    """Make the source that compares both sides. If a side's evidence is invalid, only a failure counts."""

    def decide(window: StageWindow, threshold: Threshold | None) -> Answer | None:
        control = window.control
        if control is None:
            return None

        def both() -> Answer:
            found = by_clients(control, lambda: judge(window, control, needed(threshold)))
            return _unless_left_out(window, control, found) if found else _nothing("the control")

        return by_clients(window, both) or _nothing("the canary")

    return (Source("client", decide),)


def _nothing(side: str) -> Answer:
    return Answer(State.NO_DATA, NAN, 0, f"there was no canary check of {side}")


def _unless_left_out(canary: StageWindow, control: StageWindow, found: Answer) -> Answer:
    """Make the result inconclusive if too many canary checks of a side are left out: the rest may not be representative."""
    for side, window in (("canary", canary), ("control", control)):
        out = window.cut_short + len(window.canary_checks) - len(on_time(window).canary_checks)
        of = window.cut_short + len(window.canary_checks)
        if out > MAX_LEFT_OUT_SHARE * of:
            why = f"{out} of {of} canary checks of the {side} failed, were cut short or had a late load generator"
            return replace(found, state=State.INCONCLUSIVE, reason=f"{why} ({found.reason})")
    return found


def _errors(canary: StageWindow, control: StageWindow, limit: Threshold) -> Answer:
    now, before = client_errors(canary), client_errors(control)
    if not now.n or not before.n:
        return Answer(State.NO_DATA, NAN, min(now.n, before.n), "one of the two sides had no request")
    found = statistics.difference(now.hits, now.n, before.hits, before.n)
    chance = statistics.by_chance(now.hits, now.n, before.hits, before.n)
    state = State.PASS if found.upper <= limit.threshold and chance >= _MIN_CHANCE_TO_PASS else State.INCONCLUSIVE
    if found.lower > limit.threshold or chance < _MAX_CHANCE_TO_FAIL:
        state = State.FAIL
    reason = (
        f"{now.hits} of {now.n} failed on the canary, {before.hits} of {before.n} on the control: {found.value:.4g} more, "
        f"at most {found.upper:.4g} with 95 % confidence; by chance with a probability of {chance:.3g}"
    )
    return Answer(state, found.value, found.n, reason, (found.lower, found.upper))


def _p95(name: str, of: SamplesOf, what: str) -> Judge:
    def judge(canary: StageWindow, control: StageWindow, limit: Threshold) -> Answer:
        sides = on_time(canary), on_time(control)
        now, before = (statistics.percentile(samples_of_all(side, name, of), 0.95, _CONFIDENCE) for side in sides)
        times = statistics.percentile(np.array([*_times(*sides, name, of)], np.float64), 0.5)
        n, minimum_n = min(now.n, before.n), limit.minimum_n or 0
        if n < minimum_n or not before.lower > 0 or math.isnan(times.lower):
            facts = f"{now.n} {what} against {before.n} of the control, in {times.n} pairs of canary checks, are too few"
            return Answer(State.INCONCLUSIVE, NAN, n, f"{facts}; {minimum_n} are needed of each, and {_MIN_PAIRS} pairs")
        low, high = min(now.lower / before.upper, times.lower), max(now.upper / before.lower, times.upper)
        state = by_limit(low, high, limit.threshold)
        reason = (
            f"p95 of {now.n} {what}: {now.value:.4g} ms, of {before.n} on the control: {before.value:.4g} ms; {low:.3g} to "
            f"{high:.3g} times as long, by all samples and by {times.n} pairs of canary checks"
        )
        return Answer(state, now.value / before.value, n, reason, (low, high))

    return judge


def _times(canary: StageWindow, control: StageWindow, name: str, of: SamplesOf) -> Iterator[float]:
    """The p95 of each canary check of the canary, divided by that of the control's nearest in time."""
    left = list(control.canary_checks)
    for check in sorted(canary.canary_checks, key=lambda each: each.began_s):
        if not left:
            return
        near = min(range(len(left)), key=lambda n: abs(left[n].began_s - check.began_s))
        mine, theirs = (_own_p95(each, name, of) for each in (check, left.pop(near)))
        if theirs > 0 and not math.isnan(mine):
            yield mine / theirs


def _own_p95(check: CanaryCheck, name: str, of: SamplesOf) -> float:
    return check.once(f"p95.{name}", lambda case: statistics.percentile(of(case), 0.95).value)


SOURCES: Mapping[str, tuple[Source, ...]] = {
    "canary.error_ratio": _compare(_errors),
    "canary.bootstrap_ms": _compare(_p95("bootstrap", bootstrap_ms, "bootstraps")),
    "canary.publish_to_apply_ms": _compare(_p95("publish_to_apply", publish_to_apply_ms, "deliveries")),
}
