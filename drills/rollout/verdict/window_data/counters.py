"""What the servers' counters counted in a window, source by source, with all that makes it doubtful.

Between two answers it is known how much was counted, but not when. So what a shorter span holds is told by two bounds: the
steps that lie in it, and those that touch it. Taking an answer away only ever moves the bounds apart.

A counter that went back was begun anew by another process: its series is split there, and what it shows then was counted since.
Unless somebody was breaking something on purpose just then, nobody knows what was lost with the old process.

What the watches published, and got acknowledged, is held against what a source counted around each of them: a source that
counted less is of another runtime, or of a part of this one, and nothing that it counted can pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from drills.judging.checks.base import Case
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data.stage_window import StageWindow, covered, moments
from sim.protocols.spacetime.metric_names import STATUS_COUNTERS
from sim.record.history import Floats, Ints, Mask
from sim.record.observations import Kind

SOURCES = ("metrics", "control", "prometheus")
_ANSWERS = ("ok", "no_metrics")
_BEGIN_INTERVALS = 2  # [ours] so long before its first answer a window may begin, as when a hold was begun anew
_PUBLISHED = ("mirror.published_total", "mirror.duplicate_suppressed_total")  # what was taken, the second time, too
_SCRAPE_INTERVALS = 2  # [ours] so many intervals two sources may lie apart, as one of them scrapes the other


@dataclass(frozen=True)
class Counted:
    """The sum of some counters of one source. `steps[i]` was counted between `t[i]` and `t[i + 1]`."""

    source: str
    t: Floats
    steps: Floats
    clean: Mask  # by step: nothing was being broken on purpose
    doubt: str  # why it cannot pass anything; empty where it can

    @cached_property
    def total(self) -> int:
        """All that was counted while nothing was being broken."""
        return round(float(self.steps[self.clean].sum()))

    def within(self, since_s: float, until_s: float) -> tuple[float, float]:
        """At least and at most how much was counted between two moments."""
        inside = self.clean & (self.t[:-1] >= since_s) & (self.t[1:] <= until_s)
        touching = self.clean & (self.t[:-1] < until_s) & (self.t[1:] > since_s)
        return float(self.steps[inside].sum()), float(self.steps[touching].sum())

    def worst(self, width_s: float) -> tuple[float, float]:
        """At least and at most how much any span of this width holds."""
        begin = np.arange(len(self.steps))
        inside = np.searchsorted(self.t, self.t[:-1] + width_s, side="right") - 1
        touching = np.searchsorted(self.t[:-1], self.t[1:] + width_s, side="left")
        return self._most(begin, inside), self._most(begin, touching)

    def _most(self, begin: Ints, end: Ints) -> float:
        total = self.reached
        return float((total[np.maximum(end, begin)] - total[begin]).max(initial=0.0))

    @cached_property
    def reached(self) -> Floats:
        """By moment, what had been counted since the first, breaks on purpose left out."""
        return np.concatenate(([0.0], np.cumsum(np.where(self.clean, self.steps, 0.0))))


def counted(window: StageWindow, names: Sequence[str]) -> list[Counted]:
    """The sum of these counters by each source that has all of them in some answer, the first the most direct."""
    return [found for source in SOURCES if (found := _of_source(window, source, names)) is not None]


def promised(window: StageWindow, names: Sequence[str]) -> bool:
    """Whether some source of the window has, or should have, any of these figures."""
    return not window.promises.isdisjoint(names)


def unanswered(window: StageWindow, names: Sequence[str]) -> str:
    """Why it is not known whether the servers have such counters; empty where they answered throughout."""
    if not window.primary or window.coverage.state != State.PASS:
        return window.coverage.reason
    control = [each for each in window.ordered if each.source == "control"]
    if control and not set(STATUS_COUNTERS).isdisjoint(names):
        found = covered(window, moments([each for each in control if each.outcome in _ANSWERS]))
        return "" if found.state == State.PASS else f"control service: {found.reason}"
    return ""


def _of_source(window: StageWindow, source: str, names: Sequence[str]) -> Counted | None:
    answers = window.of(source)
    every = np.column_stack([answers.figure(name) for name in names])
    having = np.flatnonzero(~np.isnan(every).any(axis=1))
    if len(having) == 0:
        return None
    t, values = answers.t[having], every[having]
    change = np.diff(values, axis=0)
    back: Mask = np.any(change < 0, axis=1)
    # Of a process that began anew all that it counted is new, also by those of its counters that are higher already.
    steps = np.where(back[:, None], values[1:], change).sum(axis=1)
    dirty, lacking = answers.dirty(having), len(every) - len(having)
    doubt = _doubt(window, t, back & ~dirty, names, lacking) or _stranger(window, source)
    return Counted(source, t, steps, ~dirty, doubt)


def _doubt(window: StageWindow, t: Floats, resets: Mask, names: Sequence[str], lacking: int) -> str:
    coverage = covered(window, t)
    if lacking:
        return f"{', '.join(names)}: {lacking} answers lack what {len(t)} have"
    if window.snapshot_trouble:
        return window.snapshot_trouble
    if resets.any():
        return f"counters went back {int(resets.sum())} times, and nothing of ours explains it"
    if coverage.state != State.PASS:
        return f"{', '.join(names)}: {coverage.reason}"
    if t[0] - window.began_s > _BEGIN_INTERVALS * window.interval_s:
        return f"{', '.join(names)}: nothing is known of the window's first {t[0] - window.began_s:.0f} s"
    if window.ended_s - t[-1] >= window.interval_s:  # what ends a window is an answer, so one that comes after it is missing
        return f"{', '.join(names)}: nothing is known of the window's last {window.ended_s - t[-1]:.0f} s"
    return ""


def _stranger(window: StageWindow, source: str) -> str:
    """Why a source is not of the runtime that the watches published to, in words; empty where it may be, or nobody can tell."""
    if source not in window.strangers:
        window.strangers[source] = next(_uncounted(window, source), "")
    return window.strangers[source]


def _uncounted(window: StageWindow, source: str) -> Iterator[str]:
    """Watches of which a source counted less than they published, though it had some time to."""
    answers, delay_s = window.of(source), _SCRAPE_INTERVALS * window.interval_s
    values = np.column_stack([answers.figure(name) for name in _PUBLISHED])
    having = ~np.isnan(values).any(axis=1)
    t, change = answers.t[having], np.diff(values[having], axis=0)
    steps = np.where(np.any(change < 0, axis=1)[:, None], values[having][1:], change).sum(axis=1)
    reached = np.concatenate(([0.0], np.cumsum(steps)))
    for watch in window.canary_checks if len(t) else ():
        before = int(np.searchsorted(t, watch.began_s, side="right")) - 1
        after = int(np.searchsorted(t, watch.ended_s + delay_s, side="left"))
        if before < 0 or after == len(t):
            continue
        grown, ours = float(reached[after] - reached[before]), watch.once("published", _published)
        if grown < ours:
            yield (
                f"{source} counted {grown:g} publishes while {watch.path} alone had {ours} acknowledged, so it is of another "
                "runtime, or of a part of this one"
            )


def _published(case: Case) -> int:
    return len(case.history.of(Kind.PUBLISHED))


def disagreement(window: StageWindow, sources: Sequence[Counted]) -> str:
    """Where a second source counted something else than the first, in words; empty where they agree, or nobody can tell."""
    found = (_disagreement(sources[0], other, _SCRAPE_INTERVALS * window.interval_s) for other in sources[1:])
    return next((text for text in found if text), "")


def _disagreement(first: Counted, other: Counted, delay_s: float) -> str:
    """The second source may be late by `delay_s`; what either counted while something was being broken is not compared."""
    if not (first.clean.all() and other.clean.all()):
        return ""
    places = np.flatnonzero((other.t >= first.t[0] + delay_s) & (other.t <= first.t[-1]))
    if len(places) == 0:
        return ""
    t, grown = other.t[places], other.reached[places] - other.reached[places[0]]
    before = first.reached[np.searchsorted(first.t, t - delay_s, side="right") - 1]
    after = first.reached[np.searchsorted(first.t, t, side="left")]
    low, high = np.maximum(before - after[0], 0.0), after - before[0]
    wrong = np.flatnonzero((grown < low - 0.5) | (grown > high + 0.5))
    if len(wrong) == 0:
        return ""
    at = wrong[-1]
    return (
        f"{other.source} counted {grown[at]:g} where {first.source} counted {low[at]:g} to {high[at]:g}, "
        "which no delay of scraping explains"
    )
