"""Figure of the queues of a simulated service over a run: how busy each is, and how many wait."""

from collections.abc import Sequence

import numpy as np

from sim.plots.style import LINES, ShownFigure, figure, plain, quiet
from sim.record.stations import StationLoad


def over_time(loads: Sequence[StationLoad], title: str) -> ShownFigure:
    """Per station, the share of busy workers (%) above, and how many wait below, against time since the start (s)."""
    made = figure(title, height=5.6)
    busy, waiting = made.subplots(2, 1, sharex=True)
    for load, (colour, dash, _) in zip(loads, LINES, strict=False):
        t = load.bin_s * (np.arange(len(load.busy)) + 0.5)
        words = f"{load.name} ({load.workers} worker{'s' if load.workers != 1 else ''})"
        busy.plot(t, 100 * np.array(load.busy) / load.workers, color=colour, linestyle=dash, linewidth=1.7, label=words)
        waiting.plot(t, load.waiting, color=colour, linestyle=dash, linewidth=1.7)
    busy.set(ylabel="busy workers (%)", ylim=(0, 105))
    waiting.set(ylabel="waiting", xlabel="time since the start (s)")
    waiting.set_ylim(bottom=0)
    for axes in (busy, waiting):
        quiet(axes)
    plain(waiting.yaxis)
    made.legend(frameon=False, fontsize=8, loc="outside right center")
    return made
