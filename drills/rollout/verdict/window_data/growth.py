"""Decide whether a count keeps growing: by its increments in six equal blocks of a window, and minute by minute.

A check of the level always accompanies it, because a trend does not show a value that is bad but constant.
"""

from collections.abc import Callable, Sequence

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case
from drills.judging.checks.specs import Origin
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data.base import Source, from_clients, from_servers
from drills.rollout.verdict.window_data.counters import Counted
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis import statistics
from sim.record.history import Floats, Ints

BLOCKS = 6
MIN_S = 13  # of the Mann-Kendall statistic S: at most one pair of six blocks is out of order
MINUTE_P = 0.01
_PER_S = 600.0  # counts are per ten minutes


def of_servers(names: Sequence[str], what: str) -> Source:
    """Decide by the increments of counters."""

    def judge(window: StageWindow, source: Counted, threshold: Threshold) -> Answer:
        if len(source.steps) == 0:
            return Answer(State.NO_DATA, NAN, 0, "one answer alone shows no increment")
        minutes = max(int((source.t[-1] - source.t[0]) / max(60.0, window.interval_s)), 1)
        return _grows(_per_block(source, BLOCKS), _per_block(source, minutes), source.total, threshold, what)

    return from_servers(names, judge)


def _per_block(source: Counted, blocks: int) -> Floats:
    """The rate in each of `blocks` equal blocks, per ten minutes without a fault; NaN if a block has no such time."""
    edges = np.linspace(source.t[0], source.t[-1], blocks + 1)
    clean_s = np.concatenate(([0.0], np.cumsum(np.where(source.clean, np.diff(source.t), 0.0))))
    seconds = np.diff(np.interp(edges, source.t, clean_s))
    events = np.diff(np.interp(edges, source.t, source.reached))
    return _rates(events, seconds)


def of_clients(name: str, count: Callable[[Case], int], what: str, origin: Origin = "client") -> Source:
    """Decide by the counts of the canary checks' clients."""

    def judge(window: StageWindow, threshold: Threshold) -> Answer:
        checks = sorted(window.canary_checks, key=lambda check: check.began_s)
        events = np.array([check.once(f"growth.{name}", count) for check in checks], np.float64)
        seconds = np.array([check.duration_s for check in checks])
        if seconds.sum() == 0:
            return Answer(State.NO_DATA, NAN, 0, "every canary check ended at once")
        place = np.array([(check.began_s - window.began_s) / max(window.seconds, 1e-9) * BLOCKS for check in checks])
        block = np.clip(place.astype(np.int64), 0, BLOCKS - 1)
        per_block = _rates(_sums(block, events), _sums(block, seconds))
        return _grows(per_block, _rates(events, seconds), int(events.sum()), threshold, what)

    return from_clients(judge, origin)


def _sums(block: Ints, values: Floats) -> Floats:
    return np.array([float(values[block == number].sum()) for number in range(BLOCKS)])


def _rates(events: Floats, seconds: Floats) -> Floats:
    """Rates per ten minutes; NaN where the time is zero."""
    there = seconds > 1e-6
    return np.where(there, events * _PER_S / np.where(there, seconds, 1.0), np.nan)


def _grows(blocks: Floats, minutes: Floats, total: int, threshold: Threshold, what: str) -> Answer:
    if total == 0:
        return Answer(State.PASS, 0.0, 0, f"there were no {what}")
    if bool(np.isnan(blocks).any()):
        return Answer(State.INCONCLUSIVE, NAN, total, f"{total} {what}, but a sixth of the window has no data")
    grown, s = float(blocks[-1] - blocks[0]), statistics.mann_kendall(blocks)
    chance = statistics.rising(minutes[~np.isnan(minutes)])
    facts = (
        f"{total} {what}; the last sixth has {grown:.4g} per 10 min more than the first, S = {s}, p = {chance:.2g} by minute"
    )
    if s >= MIN_S and grown > threshold.threshold:
        return Answer(State.FAIL, grown, total, facts)
    if chance < MINUTE_P:
        why = "a rise by minute that the sixths do not confirm: extend the window"
        return Answer(State.INCONCLUSIVE, grown, total, f"{why}; {facts}")
    return Answer(State.PASS, grown, total, facts)
