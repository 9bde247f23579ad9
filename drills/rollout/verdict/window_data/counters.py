"""The servers' counts in a window, by source, with the reasons to doubt them.

Two answers give the count between them, but not its times. So the count of a shorter span has two bounds: the steps within it,
and the steps that overlap it. A missing answer only widens the bounds.

A counter that decreased belongs to a new process. Its new value is the count since the restart. The count that was lost with
the old process is unknown, so the series is doubtful, unless a fault was active at that time.

Each source is compared with what the clients of the canary checks saw. A source that counted fewer publishes belongs to
another runtime, or to a part of this one, and no check can pass by its counts. A counter that counted less than the clients saw
is wrong or frozen, and no check can pass by it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from drills.judging.checks.base import Case
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data import names as metric_names
from drills.rollout.verdict.window_data.stage_window import StageWindow, covered, moments
from sim.analysis import samples
from sim.protocols.events import NETWORK_CODES
from sim.record.history import Floats, Ints, Mask
from sim.record.observations import Kind
from sim.service.metric_names import STATUS_COUNTERS

SOURCES = ("metrics", "control", "prometheus")
_ANSWERED = ("ok", "no_metrics")
_MAX_START_INTERVALS = 2  # [ours] intervals from the start of a window to its first answer, for example after a restarted hold
_PUBLISHED = ("mirror.published_total", "mirror.duplicate_suppressed_total")  # accepted publishes, including repeated ones
_SCRAPE_INTERVALS = 2  # [ours] intervals by which a source may be behind another one that it scrapes


@dataclass(frozen=True)
class Counted:
    """The sum of some counters of one source. `steps[i]` was counted between `t[i]` and `t[i + 1]`."""

    source: str
    t: Floats
    steps: Floats
    clean: Mask  # per step: no fault was active
    doubt: str  # why no check can pass by it; empty if one can

    @cached_property
    def total(self) -> int:
        """The count while no fault was active."""
        return round(float(self.steps[self.clean].sum()))

    def within(self, since_s: float, until_s: float) -> tuple[float, float]:
        """The smallest and the largest possible count between two moments."""
        inside = self.clean & (self.t[:-1] >= since_s) & (self.t[1:] <= until_s)
        touching = self.clean & (self.t[:-1] < until_s) & (self.t[1:] > since_s)
        return float(self.steps[inside].sum()), float(self.steps[touching].sum())

    def worst(self, width_s: float) -> tuple[float, float]:
        """The smallest and the largest possible count of the worst span of this width."""
        begin = np.arange(len(self.steps))
        inside = np.searchsorted(self.t, self.t[:-1] + width_s, side="right") - 1
        touching = np.searchsorted(self.t[:-1], self.t[1:] + width_s, side="left")
        return self._largest(begin, inside), self._largest(begin, touching)

    def _largest(self, begin: Ints, end: Ints) -> float:
        total = self.reached
        return float((total[np.maximum(end, begin)] - total[begin]).max(initial=0.0))

    @cached_property
    def reached(self) -> Floats:
        """The count from the first moment to each moment, without times of faults."""
        return np.concatenate(([0.0], np.cumsum(np.where(self.clean, self.steps, 0.0))))


def counted(window: StageWindow, names: Sequence[str]) -> list[Counted]:
    """The sum of these counters by each source that has all of them in an answer; the most direct source first."""
    return [found for source in SOURCES if (found := _of_source(window, source, names)) is not None]


def promised(window: StageWindow, names: Sequence[str]) -> bool:
    """Whether a source of the window has, or should have, any of these metrics."""
    return not window.promises.isdisjoint(names)


def unanswered(window: StageWindow, names: Sequence[str]) -> str:
    """Why it is unknown whether the servers have such counters; empty if they answered all the time."""
    if not window.primary or window.coverage.state != State.PASS:
        return window.coverage.reason
    control = [each for each in window.ordered if each.source == "control"]
    if control and not set(STATUS_COUNTERS).isdisjoint(names):
        found = covered(window, moments([each for each in control if each.outcome in _ANSWERED]))
        return "" if found.state == State.PASS else f"control service: {found.reason}"
    return ""


def _of_source(window: StageWindow, source: str, names: Sequence[str]) -> Counted | None:
    answers = window.of(source)
    every = np.column_stack([answers.metric(name) for name in names])
    having = np.flatnonzero(~np.isnan(every).any(axis=1))
    if len(having) == 0:
        return None
    t, values = answers.t[having], every[having]
    change = np.diff(values, axis=0)
    back: Mask = np.any(change < 0, axis=1)
    # After a restart the whole value is new, also of those counters that are already higher than before.
    steps = np.where(back[:, None], values[1:], change).sum(axis=1)
    dirty, lacking = answers.dirty(having), len(every) - len(having)
    doubt = _doubt(window, t, back & ~dirty, names, lacking) or _foreign(window, source) or _contradicted(window, source, names)
    return Counted(source, t, steps, ~dirty, doubt)


def _doubt(window: StageWindow, t: Floats, resets: Mask, names: Sequence[str], lacking: int) -> str:
    coverage = covered(window, t)
    if lacking:
        return f"{', '.join(names)}: {lacking} answers lack them, {len(t)} have them"
    if window.snapshot_problem:
        return window.snapshot_problem
    if resets.any():
        return f"counters decreased {int(resets.sum())} times without a fault of ours"
    if coverage.state != State.PASS:
        return f"{', '.join(names)}: {coverage.reason}"
    if t[0] - window.began_s > _MAX_START_INTERVALS * window.interval_s:
        return f"{', '.join(names)}: the first {t[0] - window.began_s:.0f} s of the window have no data"
    if window.ended_s - t[-1] >= window.interval_s:  # a window ends with an answer, so one is missing
        return f"{', '.join(names)}: the last {window.ended_s - t[-1]:.0f} s of the window have no data"
    return ""


def _foreign(window: StageWindow, source: str) -> str:
    """Why a source cannot belong to the runtime that the canary checks published to; empty if it can."""
    if source not in window.foreign_sources:
        short = next(_uncounted(window, source, _PUBLISHED, "publishes", _published), "")
        why = "it belongs to another runtime, or to a part of this one"
        window.foreign_sources[source] = f"{short}; {why}" if short else ""
    return window.foreign_sources[source]


def _contradicted(window: StageWindow, source: str, names: Sequence[str]) -> str:
    """How the canary checks' clients contradict some counters of a source: it counted fewer than they alone saw."""
    what, ours = _SEEN_BY_CLIENTS.get(tuple(names), ("", None))
    short = next(_uncounted(window, source, names, what, ours), "") if ours else ""
    return f"{short}, so its counter is wrong" if short else ""


def _uncounted(
    window: StageWindow, source: str, names: Sequence[str], what: str, ours_of: Callable[[Case], int]
) -> Iterator[str]:
    """Texts about canary checks that saw more than a source counted, allowing for the scraping delay."""
    answers, delay_s = window.of(source), _SCRAPE_INTERVALS * window.interval_s
    values = np.column_stack([answers.metric(name) for name in names])
    having = ~np.isnan(values).any(axis=1)
    t, change = answers.t[having], np.diff(values[having], axis=0)
    steps = np.where(np.any(change < 0, axis=1)[:, None], values[having][1:], change).sum(axis=1)
    reached = np.concatenate(([0.0], np.cumsum(steps)))
    for check in window.canary_checks if len(t) else ():
        before = int(np.searchsorted(t, check.began_s, side="right")) - 1
        after = int(np.searchsorted(t, check.ended_s + delay_s, side="left"))
        if before < 0 or after == len(t):
            continue
        grown, ours = float(reached[after] - reached[before]), check.once(f"seen.{what}", ours_of)
        if grown < ours:
            yield f"{source} counted {grown:g} {what}, but {check.path} alone saw {ours}"


def _published(case: Case) -> int:
    return len(case.history.of(Kind.PUBLISHED))


def _refused_tokens(case: Case) -> int:
    """Token requests that the service refused; those without an answer may never have reached it."""
    rows = case.history.fleet(Kind.TOKEN_REFUSED)
    return int((~case.history.detail_is(rows, NETWORK_CODES)).sum())


def _refused_with(code: str) -> Callable[[Case], int]:
    def count(case: Case) -> int:
        rows = case.history.fleet(Kind.CONNECT_FAILED)
        return int(case.history.detail_is(rows, [code]).sum())

    return count


# What clients see of some counters: the server counts at least as much, because it also serves others.
_SEEN_BY_CLIENTS: Mapping[tuple[str, ...], tuple[str, Callable[[Case], int]]] = {
    metric_names.AUTH_FAILURES: ("refused connects", lambda case: samples.auth_refusals(case.history).hits),
    metric_names.UNAUTHORIZED: ("unauthorized connects", _refused_with("unauthorized")),
    metric_names.TOKEN_EXPIRED: ("expired tokens", _refused_with("token_expired")),
    metric_names.TOKEN_FAILURES: ("refused tokens", _refused_tokens),
    metric_names.STALE_CURSORS: ("stale cursors", lambda case: len(samples.stale_answers(case.history))),
    metric_names.CONNECTS: ("connects", lambda case: len(case.history.fleet(Kind.CONNECT_DONE))),
    metric_names.EVICTIONS: ("evictions", lambda case: len(case.history.fleet(Kind.EVICTED))),
}


def disagreement(window: StageWindow, sources: Sequence[Counted]) -> str:
    """A text about the first source that contradicts `sources[0]`; empty if all agree or cannot be compared."""
    found = (_disagreement(sources[0], other, _SCRAPE_INTERVALS * window.interval_s) for other in sources[1:])
    return next((text for text in found if text), "")


def _disagreement(first: Counted, other: Counted, delay_s: float) -> str:
    """Compare two sources. The second may be late by `delay_s`. Windows with faults are not compared."""
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
        "and a scraping delay does not explain it"
    )
