"""No sustained growth: of what was counted in six equal blocks of a window, and minute by minute.

Always beside a check of the level: a trend says nothing of what is bad, and steady.
"""

from collections.abc import Callable, Sequence

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data.base import Decide, by_clients, by_server
from drills.rollout.verdict.window_data.counters import Counted
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis import statistics
from sim.record.history import Floats, Ints

BLOCKS = 6
MIN_S = 13  # of Mann and Kendall's S: of six blocks at most one pair is out of order
MINUTE_P = 0.01
_PER_S = 600.0  # counts are told per ten minutes


def of_servers(names: Sequence[str], what: str) -> Decide:
    """Decide by the increments of counters."""

    def decide(window: StageWindow, threshold: Threshold | None) -> Answer | None:
        return by_server(window, names, lambda source: _of_counter(source, needed(threshold), what, window.interval_s))

    return decide


def _of_counter(source: Counted, threshold: Threshold, what: str, interval_s: float) -> Answer:
    if len(source.steps) == 0:
        return Answer(State.NO_DATA, NAN, 0, "one answer alone counts nothing")
    minutes = max(int((source.t[-1] - source.t[0]) / max(60.0, interval_s)), 1)
    return _grows(_per_block(source, BLOCKS), _per_block(source, minutes), source.total, threshold, what)


def _per_block(source: Counted, blocks: int) -> Floats:
    """What was counted in each of so many equal parts, per ten minutes without a fault; NaN where there were none."""
    edges = np.linspace(source.t[0], source.t[-1], blocks + 1)
    clean_s = np.concatenate(([0.0], np.cumsum(np.where(source.clean, np.diff(source.t), 0.0))))
    seconds = np.diff(np.interp(edges, source.t, clean_s))
    events = np.diff(np.interp(edges, source.t, source.reached))
    return _rates(events, seconds)


def of_clients(name: str, count: Callable[[Case], int], what: str) -> Decide:
    """Decide by what the clients of the watches counted."""

    def judged(window: StageWindow, threshold: Threshold) -> Answer:
        watches = sorted(window.canary_checks, key=lambda watch: watch.began_s)
        events = np.array([watch.once(f"growth.{name}", count) for watch in watches], np.float64)
        seconds = np.array([watch.duration_s for watch in watches])
        if seconds.sum() == 0:
            return Answer(State.NO_DATA, NAN, 0, "no watch lasted")
        place = np.array([(watch.began_s - window.began_s) / max(window.seconds, 1e-9) * BLOCKS for watch in watches])
        block = np.clip(place.astype(np.int64), 0, BLOCKS - 1)
        per_block = _rates(_sums(block, events), _sums(block, seconds))
        return _grows(per_block, _rates(events, seconds), int(events.sum()), threshold, what)

    return lambda window, threshold: by_clients(window, lambda: judged(window, needed(threshold)))


def _sums(block: Ints, values: Floats) -> Floats:
    return np.array([float(values[block == number].sum()) for number in range(BLOCKS)])


def _rates(events: Floats, seconds: Floats) -> Floats:
    """Per ten minutes; NaN where there was no time."""
    there = seconds > 1e-6
    return np.where(there, events * _PER_S / np.where(there, seconds, 1.0), np.nan)


def _grows(blocks: Floats, minutes: Floats, total: int, threshold: Threshold, what: str) -> Answer:
    if total == 0:
        return Answer(State.PASS, 0.0, 0, f"there were no {what}, so none grew")
    if bool(np.isnan(blocks).any()):
        return Answer(State.INCONCLUSIVE, NAN, total, f"{total} {what}, and not each sixth of the window was looked at")
    grown, s = float(blocks[-1] - blocks[0]), statistics.mann_kendall(blocks)
    chance = statistics.rising(minutes[~np.isnan(minutes)])
    said = f"{total} {what}; the last sixth has {grown:.4g} per 10 min more than the first, S = {s}, p = {chance:.2g} by minute"
    if s >= MIN_S and grown > threshold.threshold:
        return Answer(State.FAIL, grown, total, said)
    if chance < MINUTE_P:
        return Answer(State.INCONCLUSIVE, grown, total, f"a rise that the sixths do not bear out: extend the window; {said}")
    return Answer(State.PASS, grown, total, said)
