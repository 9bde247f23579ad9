"""What our own machine did to a run: the times in which latencies may be ours, and clocks that are off.

A process of ours delays the clients only while it has work that waits: its timers are late, or it never rests because it runs
or waits for a core all the time. The length of such a time bounds what it can add to a latency. So a latency without the busy
time inside it is one that the target took for certain.

A target on this machine that never rests is slow by itself, unless it often waits for cores that others have.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.record.history import Floats, History, Mask, Rows
from sim.record.observations import Kind

LATE_MS = 50.0  # [ours] timers are due every 50 ms, so that this is the shortest stop that each of them sees
BUSY_SHARE = 0.9  # [ours] share of the time in which a process wanted a core; a tenth is for the resolution of the samples
TAKEN_SHARE = 0.2  # [ours] of the time in which a target wanted a core; with less, it is slow by itself
PRESSED_SHARE = 0.9  # [ours] share of a second in which some process waited for a core
SWAPPING_SHARE = 0.5  # [ours] share of a second in which some process waited for memory
MAX_CLOCK_OFF_S = 5.0  # [ours] of a wall clock; a `Date` has whole seconds and may be a second old
_LACKED_SHARE = 0.2  # [ours] share of the time for something from which a busy machine may be why it was not done
_APART_S = 0.5  # busy times closer together are one
_DROPS_WITHIN_S, _DROPS_AFTER_S = 10.0, 5.0  # [ours] busy for half of so long, a connection or a request may be given up
_TARGET = "the service on this machine"
_WHO = {"generator": "the load generator", "server": "the service that stormgate started"}


@dataclass(frozen=True)
class BusyTime:
    """A time in which our machine may have delayed what was measured."""

    start_t: float
    end_t: float
    why: str

    def __str__(self) -> str:
        return f"from {self.start_t:.1f} s to {self.end_t:.1f} s ({self.why})"


class Spans:
    """Times in seconds that do not overlap, in order."""

    def __init__(self, spans: Sequence[tuple[float, float]] = ()) -> None:
        edges = np.array(spans, np.float64).reshape(-1)
        lengths = np.where(np.arange(len(edges)) % 2 == 1, np.diff(edges, prepend=0.0), 0.0)
        self._edges, self._sums = edges, np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self._edges) // 2

    def within_s(self, since_t: Floats, until_t: Floats) -> Floats:
        """For each pair of times, the seconds between them that lie in a span."""
        if not len(self):
            return np.zeros(len(until_t))
        finite = np.where(np.isfinite(until_t), until_t, since_t)
        found: Floats = np.interp(finite, self._edges, self._sums) - np.interp(since_t, self._edges, self._sums)
        return np.maximum(found, 0.0)

    def has(self, t: Floats) -> Mask:
        """Which times lie in a span."""
        inside: Mask = np.searchsorted(self._edges, t, side="right") % 2 == 1
        return inside

    def without_ms(self, rows: Rows) -> Floats:
        """The values of rows that end a duration in ms, without the time in a span."""
        kept: Floats = rows.value - 1000.0 * self.within_s(rows.t - rows.value / 1000.0, rows.t)
        return kept

    def may_drop(self, t: Floats) -> Mask:
        """At which times a connection or a request may have ended because nothing was done for so long before."""
        dropped: Mask = self.within_s(t - _DROPS_WITHIN_S, t) >= _DROPS_AFTER_S
        return dropped


NO_SPANS = Spans()


def had_no_time(history: History, busy: Spans, since: str, until: str) -> bool:
    """Whether the machine was busy for too much of the time between the beginnings of two phases to do something in it."""
    since_t, until_t = (np.array([history.phases.get(phase, history.duration_s)]) for phase in (since, until))
    return len(busy) > 0 and bool(busy.within_s(since_t, until_t)[0] >= _LACKED_SHARE * (until_t - since_t)[0])


def busy_times(history: History) -> list[BusyTime]:
    """The times in which the generator, its machine or a server on it was too busy or stopped, in order."""
    found = [*_late(history), *_without_rest(history), *_starved(history), *_stopped(history), *_swapping(history)]
    found.sort(key=lambda each: each.start_t)
    merged: list[BusyTime] = []
    for each in found:
        if merged and each.start_t <= merged[-1].end_t + _APART_S:
            last = merged.pop()
            whys = dict.fromkeys((*last.why.split("; "), *each.why.split("; ")))
            each = BusyTime(last.start_t, max(last.end_t, each.end_t), "; ".join(whys))
        merged.append(each)
    return merged


def busy_spans(times: Sequence[BusyTime]) -> Spans:
    """The same as spans."""
    return Spans([(each.start_t, each.end_t) for each in times])


def in_words(times: Sequence[BusyTime], most: int = 3) -> str:
    """The longest of some times, as text."""
    shown = sorted(times, key=lambda each: each.start_t - each.end_t)[:most]
    more = f" and {len(times) - most} times more" if len(times) > most else ""
    return ", ".join(map(str, sorted(shown, key=lambda each: each.start_t))) + more


def _late(history: History) -> Iterator[BusyTime]:
    rows = history.of(Kind.GENERATOR_LAG)
    late = rows.take(rows.value >= LATE_MS)
    for t, lag_ms in zip(late.t.tolist(), late.value.tolist(), strict=True):
        yield BusyTime(t - lag_ms / 1000, t, "the load generator was late")


def _without_rest(history: History) -> Iterator[BusyTime]:
    rows = history.of(Kind.MACHINE)
    for name in dict.fromkeys(history.details[code] for code in rows.detail):
        who, ran, suffix = name.partition("_ran")
        if who not in _WHO or not ran:
            continue
        own, waited = (rows.take(history.detail_is(rows, [f"{who}_{what}{suffix}"])) for what in ("ran", "waited"))
        wanted = own.value + _at(waited, own.t)
        for n in np.flatnonzero(wanted >= BUSY_SHARE):
            t, seconds = float(own.t[n]), float(own.attempt[n]) / 1000
            # The time that it waited is counted when it runs again, and may be longer than the sample.
            yield BusyTime(t - seconds * max(float(wanted[n]), 1.0), t, f"{_WHO[who]}{suffix} had no rest")


def _starved(history: History) -> Iterator[BusyTime]:
    """The times in which others took a target's cores; without samples of its processes, those in which cores were scarce."""
    rows = history.of(Kind.MACHINE)
    ran, waited, longest = (rows.take(history.detail_is(rows, [f"target_{what}"])) for what in ("ran", "waited", "longest"))
    lost = _at(waited, ran.t)
    most = _at(longest, ran.t)
    for n in np.flatnonzero((ran.value + lost >= BUSY_SHARE) & (lost >= TAKEN_SHARE * (ran.value + lost))):
        t, seconds = float(ran.t[n]), float(ran.attempt[n]) / 1000
        yield BusyTime(t - seconds * max(float(most[n]), 1.0), t, f"{_TARGET} waited for a core")
    unseen = rows.take(history.detail_is(rows, ["target_unseen"]))
    pressed = _at(rows.take(history.detail_is(rows, ["cpu_pressure"])), unseen.t) >= PRESSED_SHARE
    for t, ms in zip(unseen.t[pressed].tolist(), unseen.attempt[pressed].tolist(), strict=True):
        yield BusyTime(t - ms / 1000, t, f"processes waited for a core, perhaps {_TARGET}")


def _stopped(history: History) -> Iterator[BusyTime]:
    for who, name in _WHO.items():
        for t, seconds, _ in _samples(history, f"{who}_stopped"):
            yield BusyTime(t - seconds, t, f"{name} was stopped")


def _at(rows: Rows, t: Floats) -> Floats:
    """The values at these times; 0 without one."""
    place = np.searchsorted(rows.t, t)
    known = place < len(rows)
    known[known] = rows.t[place[known]] == t[known]
    found = np.zeros(len(t))
    found[known] = rows.value[place[known]]
    return found


def _swapping(history: History) -> Iterator[BusyTime]:
    for t, seconds, share in _samples(history, "memory_pressure"):
        if share >= SWAPPING_SHARE:
            yield BusyTime(t - seconds, t, "processes waited for memory")
    for t, _, asleep_s in _samples(history, "asleep"):
        yield BusyTime(max(t - _DROPS_AFTER_S, 0.0), t + _DROPS_AFTER_S, f"the machine was asleep for {asleep_s:.1f} s")


def _samples(history: History, what: str) -> Iterator[tuple[float, float, float]]:
    """Time, length in seconds and value of each sample, of every process."""
    rows = history.of(Kind.MACHINE)
    names = [name for name in history.details if name.partition(" of ")[0] == what]
    rows = rows.take(history.detail_is(rows, names))
    yield from zip(rows.t.tolist(), (rows.attempt / 1000.0).tolist(), rows.value.tolist(), strict=True)


@dataclass(frozen=True)
class ClockOff:
    """By how much a wall clock was off at most, in seconds, and when. `n`: the number of samples."""

    seconds: float
    t: float
    n: int
    longest_hole_s: float = 0.0  # without a sample


def own_clock(history: History) -> ClockOff:
    """How far our wall clock left the monotonic clock since the run began; positive: it was set forward, or is fast."""
    found = [(t, value) for t, _, value in _samples(history, "wall_clock")]
    seen = [history.phases.get("steady", 0.0), *(t for t, _ in found), history.phases.get("end", history.duration_s)]
    return replace(_most(found), longest_hole_s=float(np.diff(seen).max()))


def target_clock(history: History) -> ClockOff:
    """How far the target's clock was ahead of ours at most."""
    return _most([(t, value) for t, _, value in _samples(history, "target_clock")])


def _most(samples: Sequence[tuple[float, float]]) -> ClockOff:
    t, seconds = max(samples, key=lambda each: abs(each[1]), default=(0.0, float("nan")))
    return ClockOff(seconds, t, len(samples))
