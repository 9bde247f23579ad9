"""Decide by the servers' counters."""

from collections.abc import Sequence

import numpy as np

from drills.judging.checks.base import NAN, Answer, by_count, by_ratio, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data.base import Source, by_limit, by_server, doubted, from_servers
from drills.rollout.verdict.window_data.counters import Counted, counted
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis.samples import Share
from sim.record.history import Floats

RATE_S, HELD_S = 300.0, 600.0  # a rate over five minutes counts if it lasts for ten


def ratio(hits: Sequence[str], tries: Sequence[str], what: str) -> Source:
    """Decide by hits among tries, which include the hits. Another source may decide if no server counts tries."""

    def decide(window: StageWindow, threshold: Threshold | None) -> Answer | None:
        def judge(source: Counted) -> Answer:
            sources = counted(window, hits)
            if not sources:
                return Answer(State.NO_DATA, NAN, 0, f"{source.source} counts tries, but no source counts {', '.join(hits)}")
            mine = next((each for each in sources if each.source == source.source), sources[0])
            return doubted(by_ratio(Share(mine.total, source.total), needed(threshold), what), mine.doubt)

        return by_server(window, tries, judge)

    return Source("server", decide, (*hits, *tries))


def count(names: Sequence[str], what: str) -> Source:
    """Decide by the count of the whole stage."""
    among = "steps between two answers"
    return from_servers(names, lambda _, source, limit: by_count(source.total, len(source.steps), limit, what, among))


def count_per_span(names: Sequence[str], what: str) -> Source:
    """Decide by the count of the worst `window_s`."""

    def judge(window: StageWindow, source: Counted, limit: Threshold) -> Answer:
        width_s = limit.window_s or 0.0
        low, high = source.worst(width_s)
        if len(source.steps) == 0:
            return Answer(State.NO_DATA, NAN, 0, "one answer alone shows no increment")
        state = by_limit(low, high, limit.threshold)
        reason = f"{low:g} to {high:g} {what} in the worst {width_s:g} s{warning(high, limit)}"
        return Answer(state, high if state is State.PASS else low, len(source.steps), reason, (low, high))

    return from_servers(names, judge)


def warning(value: float, limit: Threshold) -> str:
    """A warning if a passing value is over `warn`; else empty."""
    return f"; a warning: over {limit.warn:g}" if limit.warn is not None and value > limit.warn else ""


def held_rate(names: Sequence[str], what: str, per_clients: bool = False) -> Source:
    """Decide by the rate over five minutes that lasted for ten."""

    def decide(window: StageWindow, threshold: Threshold | None) -> Answer | None:
        if per_clients and not window.clients:
            return None
        scale = 100.0 / window.clients if per_clients else 1.0
        return by_server(window, names, lambda source: _held(source, needed(threshold), what, scale))

    return Source("server", decide, tuple(names))


def _held(source: Counted, limit: Threshold, what: str, scale: float) -> Answer:
    ends = np.flatnonzero(source.t >= source.t[0] + RATE_S)
    if len(ends) == 0 or source.t[-1] - source.t[ends[0]] < HELD_S:
        return Answer(State.INCONCLUSIVE, NAN, len(source.steps), f"a rate held for {HELD_S:g} s needs a longer window")
    rates = np.array([source.within(t - RATE_S, t) for t in source.t[ends]]) / RATE_S * scale
    low, high = _highest_held(source.t[ends], rates[:, 0]), _highest_held(source.t[ends], rates[:, 1])
    state = by_limit(low, high, limit.threshold)
    reason = f"{low:.4g} to {high:.4g} {what} over {RATE_S:g} s were held for {HELD_S:g} s"
    return Answer(state, high if state is State.PASS else low, source.total, reason, (low, high))


def _highest_held(t: Floats, rates: Floats) -> float:
    """The highest rate that lasted for `HELD_S`."""
    spans = ((first, int(np.searchsorted(t, begin + HELD_S, side="left"))) for first, begin in enumerate(t))
    return max((float(rates[first : last + 1].min()) for first, last in spans if last < len(t)), default=0.0)
