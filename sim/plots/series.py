"""What the figures of a run draw: numbers over time, from the same rows as the metrics of the run's report.

A series is a pair of times (s since the run began) and values; each value holds from its time until the next one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sim.analysis.endings import parts_of
from sim.record.history import PHASES, Floats, History, Ints
from sim.record.observations import Kind

Series = tuple[Floats, Floats]
BINS = 300  # [ours] of a figure's width: more cannot be seen
_MIN_LAG_BIN_S = 1.0  # [ours] a large fleet is sampled in turns
_GAP_BINS = 3  # [ours] bins without a sample after which a line ends
_EMPTY = np.zeros(0, np.float64)


def clients_live(history: History) -> Series:
    """Times at which the number of live clients changed, and the new numbers."""
    if (tally := history.header.tally) is not None:
        changes = np.array(tally.series["went_live"]) - np.array(tally.series["left_live"])
        return (np.arange(len(changes), dtype=np.float64) + 1) * tally.bin_s, np.cumsum(changes).astype(np.float64)
    rows = history.fleet(Kind.SUBSCRIBED, Kind.DISCONNECTED).by_client()
    live = rows.is_kind(Kind.SUBSCRIBED)
    # A disconnect of a client that was not live, or a second subscribe of a live one, changes nothing.
    before = np.append(False, live[:-1] & (np.diff(rows.client) == 0)) if len(rows) else live
    change = live.astype(np.int64) - before.astype(np.int64)
    order = np.argsort(rows.t, kind="stable")
    return rows.t[order], np.cumsum(change[order]).astype(np.float64)


def connects_in_last_second(history: History, kind: Kind) -> Series:
    """The fleet's connects of the last second: attempts, or those that failed.

    What came before the first fault does not count after it, so that the highest value since the fault is the run's
    `peak_connects_per_s`. The fleet engine counts in bins: wider than a second, they show the mean of each bin.
    """
    fault_t = history.first_fault_t
    if (tally := history.header.tally) is not None:
        counts = np.array(tally.series["connects_attempted" if kind is Kind.CONNECT_ATTEMPTED else "connects_failed"])
        first = int(fault_t / tally.bin_s) if np.isfinite(fault_t) else len(counts)
        width = max(round(1.0 / tally.bin_s), 1)
        sums = np.concatenate([_rolling(counts[:first], width), _rolling(counts[first:], width)])
        return (np.arange(len(counts), dtype=np.float64) + 1) * tally.bin_s, sums / max(tally.bin_s, 1.0)
    t = np.sort(history.fleet(kind).t)
    (before_t, before), (after_t, after) = _in_last_second(t[t < fault_t]), _in_last_second(t[t >= fault_t])
    kept = before_t < fault_t
    end = [fault_t] if np.isfinite(fault_t) and not np.any(after_t == fault_t) else []
    return np.concatenate([before_t[kept], end, after_t]), np.concatenate([before[kept], np.zeros(len(end)), after])


def _rolling(counts: Ints, width: int) -> Floats:
    """Per bin, the sum of it and of the bins before it, `width` in all."""
    sums = np.concatenate([np.zeros(width), np.cumsum(counts)])
    return np.asarray(sums[width:] - sums[: len(counts)], np.float64)


def _in_last_second(t: Floats) -> Series:
    change = np.repeat([1, -1], len(t))
    times = np.concatenate([t, t + 1.0])
    order = np.lexsort((change, times))  # what is a second old leaves before the next one comes
    return times[order], np.cumsum(change[order]).astype(np.float64)


@dataclass(frozen=True)
class Lag:
    """How far clients were behind the head, in events, from each of the times `t` on; NaN where nothing was sampled.

    `backlog` is for all clients together: the mean of those that were sampled, times the number of clients.
    """

    t: Floats
    median: Floats
    p95: Floats
    highest: Floats
    backlog: Floats


def lag(history: History) -> Lag:
    """The sampled lag of the fleet. No value covers samples from both sides of a phase's or a fault's begin or end."""
    rows = history.of(Kind.CLIENT_LAG)
    rows = rows.take((rows.client < history.header.clients) & np.isfinite(rows.value))
    if not len(rows):
        return Lag(*[_EMPTY] * 5)
    t, value = rows.t, rows.value
    width_s = max(_MIN_LAG_BIN_S, history.duration_s / BINS)
    cuts = np.array(
        sorted({*history.phases.values(), *(each for fault in history.faults for each in (fault.start_t, fault.end_t))})
    )
    part, stretch = np.searchsorted(cuts, t, side="right"), (t // width_s).astype(np.int64)
    is_last = np.append((np.diff(part) != 0) | (np.diff(stretch) != 0), True)
    ends = np.flatnonzero(is_last) + 1
    found = list(_lag_of_bins(t, value, np.append(0, ends[:-1]), ends, history.header.clients, _GAP_BINS * width_s))
    return Lag(*(np.array(column, np.float64) for column in zip(*found, strict=True)))


def _lag_of_bins(
    t: Floats, value: Floats, begins: Ints, ends: Ints, clients: int, gap_s: float
) -> Iterator[tuple[float, float, float, float, float]]:
    nan = float("nan")
    for begin, end in zip(begins, ends, strict=True):
        if begin and t[begin] - t[begin - 1] > gap_s:
            yield float(t[begin - 1]), nan, nan, nan, nan
        of_bin = value[begin:end]
        median, p95 = np.percentile(of_bin, (50, 95))
        yield float(t[begin]), float(median), float(p95), float(of_bin.max()), float(of_bin.mean()) * clients


@dataclass(frozen=True)
class Ends:
    """When connections ended in one way: who ended them, and the code."""

    name: str
    t: Floats


def endings(history: History, most: int) -> list[Ends]:
    """The fleet's ends by who and code, the most frequent first; from `most` on, all others together."""
    rows = history.fleet(Kind.ENDED)
    groups: dict[str, list[float]] = {}
    for code, number, t in zip(rows.detail.tolist(), rows.attempt.tolist(), rows.t.tolist(), strict=True):
        by, said, _ = parts_of(history.details[code], number)
        groups.setdefault(by if by == said else f"{by} {said}", []).append(t)
    found = [Ends(name, np.array(t)) for name, t in sorted(groups.items(), key=lambda each: (-len(each[1]), each[0]))]
    if len(found) <= most:
        return found
    others = np.sort(np.concatenate([each.t for each in found[most - 1 :]]))
    return [*found[: most - 1], Ends(f"{len(found) - most + 1} other ways", others)]


def phases(history: History) -> list[tuple[str, float, float]]:
    """Name, begin and end (s) of each phase that was reached."""
    reached = [(name, history.phases[name]) for name in PHASES if name in history.phases]
    ends = [*(t for _, t in reached[1:]), history.duration_s]
    return [(name, begin, end) for (name, begin), end in zip(reached, ends, strict=True) if name != PHASES[-1]]


def thinned(series: Series, duration_s: float) -> Series:
    """The series with at most four changes per bin: the first, the last, the lowest and the highest."""
    t, value = series
    if len(t) <= 4 * BINS:
        return series
    place = np.minimum((t / max(duration_s, 1e-9) * BINS).astype(np.int64), BINS)
    by_value = np.lexsort((value, place))
    is_first = np.append(True, np.diff(place) != 0)
    is_last = np.append(is_first[1:], True)
    chosen: Sequence[Ints] = (
        *(np.flatnonzero(is_first), np.flatnonzero(is_last)),
        *(by_value[np.append(True, np.diff(place[by_value]) != 0)], by_value[np.append(np.diff(place[by_value]) != 0, True)]),
    )
    kept = np.unique(np.concatenate(chosen))
    return t[kept], value[kept]
