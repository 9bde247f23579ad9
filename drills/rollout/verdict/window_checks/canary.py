"""Checks of a canary against its control: the same watches, in turns, of the same hours, on the new revisions and the old.

What is absolutely bad fails elsewhere; here it is asked whether the new revisions are worse than those that they replace.
Latencies are compared all together, and watch by watch with the control's nearest in time: samples of one watch have much in
common, such as a busy minute of the machine that they were taken on, so the one alone would be far too sure. What is told are
the bounds that hold both ways.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_checks import budget
from drills.rollout.verdict.window_data.base import Ask, Decide, by_clients
from drills.rollout.verdict.window_data.clients import SamplesOf, punctual, share_of
from drills.rollout.verdict.window_data.clients import samples as samples_of_all
from drills.rollout.verdict.window_data.stage_window import CanaryCheck, StageWindow
from sim.analysis import samples, statistics
from sim.analysis.samples import Share
from sim.record.history import Floats

_LEFT_OUT_SHARE = 0.1  # [ours] of a side's watches, that may have been cut short, have failed or have measured themselves
_SURELY = 0.001  # [ours] so unlikely by chance is no chance: a hold is asked again and again
_LIKELY = 0.05  # what is likelier than this by chance may be chance
_EACH = 0.975  # of the two bounds that a ratio of two percentiles is made of, so that both hold with 95 %
_MIN_PAIRS = 5  # of fewer the median has no bounds
Judged = Callable[[StageWindow, StageWindow, Threshold], Answer]  # of the canary's watches and the control's


def _compared(judged: Judged) -> Decide:
    """Ask both sides; whatever is wrong with one of them leaves nothing to compare."""

    def decide(window: StageWindow, threshold: Threshold | None) -> Answer | None:
        control = window.control
        if control is None:
            return None

        def both() -> Answer:
            found = by_clients(control, lambda: judged(window, control, needed(threshold)))
            return _unless_left_out(window, control, found) if found else _nothing("the control")

        return by_clients(window, both) or _nothing("the canary")

    return decide


def _nothing(side: str) -> Answer:
    return Answer(State.NO_DATA, NAN, 0, f"there was no watch of {side}")


def _unless_left_out(canary: StageWindow, control: StageWindow, found: Answer) -> Answer:
    """The answer, unless too many watches of a side tell nothing: then the others may be the lucky ones."""
    for side, window in (("canary", canary), ("control", control)):
        out = window.cut_short + len(window.canary_checks) - len(punctual(window).canary_checks)
        of = window.cut_short + len(window.canary_checks)
        if out > _LEFT_OUT_SHARE * of:
            why = f"{out} of {of} watches of the {side} failed, were cut short or measured themselves"
            return replace(found, state=State.INCONCLUSIVE, reason=f"{why} ({found.reason})")
    return found


def _errors_of_both(canary: StageWindow, control: StageWindow, limit: Threshold) -> Answer:
    now, before = _errors(canary), _errors(control)
    if not now.n or not before.n:
        return Answer(State.NO_DATA, NAN, min(now.n, before.n), "nothing was asked for on one of the two sides")
    found = statistics.difference(now.hits, now.n, before.hits, before.n)
    chance = statistics.by_chance(now.hits, now.n, before.hits, before.n)
    state = State.PASS if found.upper <= limit.threshold and chance >= _LIKELY else State.INCONCLUSIVE
    if found.lower > limit.threshold or chance < _SURELY:
        state = State.FAIL
    reason = (
        f"{now.hits} of {now.n} failed on the canary, {before.hits} of {before.n} on the control: {found.value:.4g} more, "
        f"at most {found.upper:.4g} with 95 % confidence; as much by chance with a probability of {chance:.3g}"
    )
    return Answer(state, found.value, found.n, reason, (found.lower, found.upper))


def _errors(window: StageWindow) -> Share:
    shares = [share_of(watch, name, of) for watch in window.canary_checks for name, of in budget.SHARES.items()]
    return Share(sum(share.hits for share in shares), sum(share.n for share in shares))


def _p95(name: str, of: SamplesOf, what: str) -> Judged:
    def judged(canary: StageWindow, control: StageWindow, limit: Threshold) -> Answer:
        sides = punctual(canary), punctual(control)
        now, before = (statistics.percentile(samples_of_all(side, name, of), 0.95, _EACH) for side in sides)
        times = statistics.percentile(np.array([*_times(*sides, name, of)], np.float64), 0.5)
        n, least = min(now.n, before.n), limit.minimum_n or 0
        if n < least or not before.lower > 0 or math.isnan(times.lower):
            said = f"{now.n} {what} against {before.n} of the control, in {times.n} pairs of watches, are too few"
            return Answer(State.INCONCLUSIVE, NAN, n, f"{said}; {least} are needed of each, and {_MIN_PAIRS} pairs")
        low, high = min(now.lower / before.upper, times.lower), max(now.upper / before.lower, times.upper)
        state = State.PASS if high <= limit.threshold else State.FAIL if low > limit.threshold else State.INCONCLUSIVE
        reason = (
            f"p95 of {now.n} {what}: {now.value:.4g} ms, of {before.n} on the control: {before.value:.4g} ms; {low:.3g} to "
            f"{high:.3g} times as long, by all together and by {times.n} pairs of watches"
        )
        return Answer(state, now.value / before.value, n, reason, (low, high))

    return judged


def _times(canary: StageWindow, control: StageWindow, name: str, of: SamplesOf) -> Iterator[float]:
    """How many times as long each watch of the canary took as the control's nearest to it in time, by their p95."""
    left = list(control.canary_checks)
    for watch in sorted(canary.canary_checks, key=lambda each: each.began_s):
        if not left:
            return
        near = min(range(len(left)), key=lambda n: abs(left[n].began_s - watch.began_s))
        mine, theirs = (_own_p95(each, name, of) for each in (watch, left.pop(near)))
        if theirs > 0 and not math.isnan(mine):
            yield mine / theirs


def _own_p95(watch: CanaryCheck, name: str, of: SamplesOf) -> float:
    return watch.once(f"p95.{name}", lambda case: statistics.percentile(of(case), 0.95).value)


def _bootstrap_ms(case: Case) -> Floats:
    return samples.bootstrap_ms(case.history)


def _publish_to_apply_ms(case: Case) -> Floats:
    return samples.publish_to_apply_ms(case.history, case.ledger)


ASKS: Mapping[str, tuple[Ask, ...]] = {
    "canary.error_ratio": (Ask("client", _compared(_errors_of_both)),),
    "canary.bootstrap_ms": (Ask("client", _compared(_p95("bootstrap", _bootstrap_ms, "bootstraps"))),),
    "canary.publish_to_apply_ms": (Ask("client", _compared(_p95("publish_to_apply", _publish_to_apply_ms, "deliveries"))),),
}
