"""Decide about surges: refusals of one kind within five minutes, compared with the hour before."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data.base import Source, Suspicion, from_clients, from_servers
from drills.rollout.verdict.window_data.clients import ShareOf, pooled
from drills.rollout.verdict.window_data.clients import worst as worst_of
from drills.rollout.verdict.window_data.counters import Counted, counted
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis.samples import Share
from sim.record.observations import Kind

_NO_BASELINE = "{} in {:g} s, without an hour before them to compare with"


def of_servers(names: Sequence[str], what: str) -> Source:
    """Decide by counters. In the first hour of a window, stage 0 replaces the hour before."""

    def judge(window: StageWindow, source: Counted, limit: Threshold) -> Answer:
        return _surge(source, _usual(window, names), window.interval_s, limit, what)

    return from_servers(names, judge)


def _usual(window: StageWindow, names: Sequence[str]) -> float | None:
    """The count per second in stage 0; None if unknown."""
    sources = counted(window.baseline, names) if window.baseline else []
    if not sources or sources[0].doubt:
        return None
    seconds = float(np.diff(sources[0].t)[sources[0].clean].sum())
    return sources[0].total / seconds if seconds else None


def _surge(source: Counted, usual: float | None, slack_s: float, limit: Threshold, what: str) -> Answer:
    width_s, hour_s, least = limit.window_s or 0.0, limit.long_s or 0.0, limit.minimum_events or 0.0
    if len(source.steps) == 0:
        return Answer(State.NO_DATA, NAN, 0, "one answer alone shows no increment")
    most, worst = source.worst(width_s)[1], 0.0
    if most < least:
        return Answer(
            State.PASS, 0.0, source.total, f"at most {most:g} {what} in {width_s:g} s; fewer than {least:g} do not count"
        )
    answers = [Answer(State.PASS, 0.0, source.total, f"at most {most:g} {what} in {width_s:g} s")]
    for t in source.t[1:]:
        low, high = source.within(t - width_s, t)
        if high < least:
            continue
        if t - width_s - hour_s >= source.t[0] - slack_s:
            before = source.within(t - width_s - hour_s, t - width_s)
            usual_low, usual_high = (each / hour_s * width_s for each in before)
        elif usual is not None:
            usual_low = usual_high = usual * width_s
        else:
            answers.append(Suspicion(State.INCONCLUSIVE, NAN, source.total, _NO_BASELINE.format(f"{high:g} {what}", width_s)))
            continue
        answers.append(_compared(low, high, usual_low, usual_high, limit, what, source.total))
        worst = max(worst, answers[-1].value)
    return worst_of(answers, what)


def _compared(low: float, high: float, usual_low: float, usual_high: float, limit: Threshold, what: str, n: int) -> Answer:
    least, allowed = limit.minimum_events or 0.0, limit.threshold
    if low >= least and low > allowed * usual_high:
        state = State.FAIL
    else:
        state = State.INCONCLUSIVE if high > allowed * usual_low else State.PASS
    times = low / usual_high if usual_high else float("inf") if low else 0.0
    reason = f"{low:g} to {high:g} {what} in {limit.window_s:g} s, usually {usual_low:.3g} to {usual_high:.3g}"
    return Answer(state, times, n, reason)


def of_clients(code: str, what: str) -> Source:
    """Decide by the refusals that canary check clients received, per connect, because they are not always connected."""

    def share_of(case: Case) -> Share:
        history = case.history
        refused = history.fleet(Kind.CONNECT_FAILED, Kind.SUBSCRIBE_REFUSED)
        return Share(int(history.detail_is(refused, [code]).sum()), len(history.fleet(Kind.CONNECT_ATTEMPTED)))

    def judge(window: StageWindow, limit: Threshold) -> Answer:
        tries = _pooled(window, code, share_of).n
        if tries < (limit.minimum_n or 0):
            return Answer(State.INCONCLUSIVE, NAN, tries, f"{tries} connects are too few; {limit.minimum_n} are needed")
        found = [_of_span(window, check.ended_s, code, share_of, limit, what) for check in window.canary_checks]
        return replace(worst_of(found, what), n=tries) if found else Answer(State.NO_DATA, NAN, 0, "there was no canary check")

    return from_clients(judge)


def _of_span(window: StageWindow, end_s: float, code: str, of: ShareOf, limit: Threshold, what: str) -> Answer:
    width_s, hour_s, least = limit.window_s or 0.0, limit.long_s or 0.0, limit.minimum_events or 0.0
    now = _pooled(_between(window, end_s - width_s, end_s), code, of)
    if now.hits < least:
        return Answer(State.PASS, 0.0, now.n, f"at most {now.hits} {what} in {width_s:g} s; fewer than {least:g} do not count")
    before = _pooled(_between(window, end_s - width_s - hour_s, end_s - width_s), code, of)
    if end_s - hour_s < window.began_s:
        before = _pooled(window.baseline, code, of) if window.baseline else Share(0, 0)
    if before.n == 0:
        return Suspicion(State.INCONCLUSIVE, NAN, now.n, _NO_BASELINE.format(f"{now.hits} {what}", width_s))
    usual = before.ratio * now.n
    return _compared(now.hits, now.hits, usual, usual, limit, what, now.n)


def _between(window: StageWindow, since_s: float, until_s: float) -> StageWindow:
    return window.of_checks(each for each in window.canary_checks if since_s < each.ended_s <= until_s)


def _pooled(window: StageWindow, code: str, of: ShareOf) -> Share:
    return pooled(window, f"surge.{code}", of)
