"""Overlaid curves of several sides of a comparison."""

from collections.abc import Mapping

import numpy as np

from sim.plots.style import LINES, RED, ShownFigure, figure, quiet
from sim.record.history import Floats

_LINES = [line for line in LINES if line[0] != RED]  # red means bad on a page, and no side is bad by itself
_POINTS = 400  # of a curve; more would only make the file larger


def shares(sides: Mapping[str, Floats], label: str) -> ShownFigure:
    """Per side, the share of its samples that a value does not exceed. `label` names the value, with its unit.

    A sample of infinity (never) keeps its curve below 100 %. Sides without samples are left out; at most seven are drawn.
    """
    made = figure("", width=9.0, height=3.2)
    axes = made.subplots()
    for (name, values), (colour, dashes, _) in zip(sides.items(), _LINES, strict=False):
        if not len(values):
            continue
        ordered = np.sort(values)
        rank = np.unique(np.linspace(0, len(ordered) - 1, _POINTS).astype(np.int64))
        rank = rank[np.isfinite(ordered[rank])]
        reached = 100.0 * (rank + 1) / len(ordered)
        axes.step(ordered[rank], reached, where="post", color=colour, linestyle=dashes, linewidth=1.8, label=name)
    quiet(axes, grid="both")
    axes.set_xlabel(label)
    axes.set_ylabel("share of samples (%)")
    axes.set_ylim(0, 102)
    axes.set_xlim(left=0)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return made
