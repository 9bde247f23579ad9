"""Figures of recovery curves with bands, and of predicted against measured metrics.

Bands and bars show the interval of the data. A single run, or a run that never recovered, has no interval.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sim.plots.style import BLACK, GREEN, GREY, LINES, ShownFigure, figure, quiet
from sim.record.history import Floats
from sim.record.predictions import Compared

_BAND = (0.05, 0.95)
_ALMOST = 0.005


def recovery(curves: Mapping[str, tuple[Floats, Floats]], title: str) -> ShownFigure:
    """Share of live clients against time since the first fault; per name, the times (s) and one row per run (0..1).

    The line is the median over runs, the band is from the 5th to the 95th percentile.
    """
    made = figure(title)
    axes = made.subplots()
    known = {name: curve for name, curve in curves.items() if len(curve[1])}
    for name in curves:
        if name not in known:
            axes.plot([], [], linestyle="none", label=f"{name}: not ready before the fault")
    for (name, (t, shares)), (colour, dash, _) in zip(known.items(), LINES, strict=False):
        low, middle, high = np.quantile(100 * shares, (_BAND[0], 0.5, _BAND[1]), axis=0)
        axes.plot(t, middle, color=colour, linestyle=dash, linewidth=2.0, label=name)
        axes.fill_between(t, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.axhline(95, color=GREY, linewidth=0.8, linestyle=":")
    axes.text(0.995, 94, "95 %", transform=axes.get_yaxis_transform(), fontsize=8, ha="right", va="top", color=GREY)
    axes.set(xlabel="time since the first fault (s)", ylabel="clients live (%)", ylim=(0, 103))
    if known:
        axes.set_xlim(0, _until(known))
    quiet(axes)
    axes.legend(frameon=False, fontsize=9, title="median, band 5 to 95 % of runs", title_fontsize=8, loc="lower right")
    return made


def _until(curves: Mapping[str, tuple[Floats, Floats]]) -> float:
    """A time (s) shortly after all runs have reached their final share, to half a percent."""
    longest = max(float(t[-1]) for t, _ in curves.values())
    still = [
        float(t[int(np.flatnonzero((shares < shares[:, -1:] - _ALMOST).any(axis=0)).max(initial=0))])
        for t, shares in curves.values()
    ]
    return min(1.25 * max(still) + 0.1, longest)


def beside(found: Mapping[str, Sequence[Compared]], title: str, within: float = 0.2) -> ShownFigure:
    """Predicted / measured per run and metric; 1 is exact, the band is `within`, bars are the 95 % intervals."""
    names = list(dict.fromkeys(each.metric for every in found.values() for each in every))
    made = figure(title, height=2.0 + 0.5 * len(names))
    axes = made.subplots()
    axes.axvspan(1 - within, 1 + within, color=GREEN, alpha=0.15, linewidth=0, label=f"within {within:.0%}")
    axes.axvline(1.0, color=BLACK, linewidth=1.0)
    for number, (run, every) in enumerate(found.items()):
        colour, _, marker = LINES[number % len(LINES)]
        offset = (number - (len(found) - 1) / 2) * 0.12
        known = [each for each in every if np.isfinite(each.error)]
        place = [names.index(each.metric) + offset for each in known]
        ratio = np.array([1 + each.error for each in known])
        reach = np.abs(np.array([[_over(each, side) for each in known] for side in (0, 1)]) - ratio)
        axes.errorbar(ratio, place, xerr=reach, fmt=marker, color=colour, capsize=2, markersize=5, linewidth=1.0, label=run)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("predicted / measured")
    quiet(axes, "x")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return made


def _over(each: Compared, side: int) -> float:
    return (each.interval[side] if each.interval else each.predicted) / each.measured
