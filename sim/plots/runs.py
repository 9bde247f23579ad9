"""Figures of a run over time, in panels that share their time axis."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from sim.plots.style import BLUE, GREEN, GREY, ORANGE, RED, ShownFigure, figure, quiet
from sim.record.history import PHASES, Floats, History
from sim.record.observations import Kind

_MAX_BINS = 300
_MIN_BIN_S = 0.25


def drill_figure(history: History) -> ShownFigure:
    """Live clients, connects and the fleet's lag over time, with the faults shaded."""
    header = history.header
    title = (
        f"{header.drill}: {header.clients} clients, policy {header.policy}, {header.engine} engine, {header.target_kind} target"
    )
    made = figure(title, width=11, height=8)
    panels = made.subplots(3, 1, sharex=True)
    drawers: tuple[Callable[[Axes, History], None], ...] = (_clients_live, _connects, _lag)
    for axes, draw in zip(panels, drawers, strict=True):
        draw(axes, history)
        _mark_phases(axes, history)
        quiet(axes)
        axes.set_ylim(0, max(axes.get_ylim()[1], 1.0) * 1.05)
    _name_phases(panels[0], history)
    panels[-1].set_xlabel("time since the run began (s)")
    panels[-1].set_xlim(0, max(history.duration_s, 1e-3))
    return made


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG atomically. Raises `OSError`."""
    partial = path.with_suffix(".png.partial")
    figure.savefig(partial, format="png", dpi=120)
    partial.replace(path)


def clients_live(history: History) -> tuple[Floats, Floats]:
    """Times (s) at which the number of live clients changed, and the new numbers."""
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


def _clients_live(axes: Axes, history: History) -> None:
    t, live = clients_live(history)
    t, live = np.append(0.0, t), np.append(0.0, live)
    t, live = np.append(t, history.duration_s), np.append(live, live[-1])
    axes.step(t, live, where="post", color=BLUE, linewidth=1.6)
    axes.fill_between(t, live, step="post", color=BLUE, alpha=0.12, linewidth=0)
    axes.axhline(history.header.clients, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylabel("clients live")


def _counted(history: History, edges: Floats, kind: Kind) -> Floats:
    """Number of rows of a kind in each time bin; `edges` in seconds."""
    if (tally := history.header.tally) is None:
        return np.histogram(history.fleet(kind).t, edges)[0].astype(np.float64)
    counts = np.array(tally.series["connects_attempted" if kind is Kind.CONNECT_ATTEMPTED else "connects_failed"])
    return np.histogram((np.arange(len(counts)) + 0.5) * tally.bin_s, edges, weights=counts)[0]


def _connects(axes: Axes, history: History) -> None:
    width_s = max(_MIN_BIN_S, history.duration_s / _MAX_BINS)
    edges = np.arange(0.0, history.duration_s + 2 * width_s, width_s)
    counts = _counted(history, edges, Kind.CONNECT_ATTEMPTED)
    axes.stairs(counts / width_s, edges, fill=True, color=ORANGE, alpha=0.85, label="attempted")
    failed = _counted(history, edges, Kind.CONNECT_FAILED)
    if failed.any():
        axes.stairs(np.where(failed, failed / width_s, np.nan), edges, color=RED, linewidth=1.2, label="failed")
        _legend(axes)
    axes.set_ylabel("connects (1/s)")


def _lag(axes: Axes, history: History) -> None:
    rows = history.of(Kind.CLIENT_LAG)
    rows = rows.take((rows.client < history.header.clients) & np.isfinite(rows.value))
    axes.set_ylabel("lag behind the head (events)")
    if len(rows) == 0:
        is_fleet = history.header.tally is not None
        why = "the fleet engine does not simulate delivery: no lag" if is_fleet else "no lag was sampled"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color=GREY)
        return
    width_s = max(1.0, history.duration_s / _MAX_BINS)
    t, middle, high, most = (np.array(column) for column in zip(*_lag_by_time(rows.t, rows.value, width_s), strict=True))
    axes.plot(t, most, color=GREY, linewidth=0.9, linestyle=":", label="highest")
    axes.plot(t, high, color=RED, linewidth=1.4, linestyle="--", label="95th percentile")
    axes.plot(t, middle, color=GREEN, linewidth=1.8, label="median")
    _legend(axes)


def _legend(axes: Axes) -> None:
    """A legend above the panel, where it hides nothing."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), borderaxespad=0, frameon=False, fontsize=8, ncols=3)


def _lag_by_time(t: Floats, value: Floats, width_s: float) -> Iterator[tuple[float, float, float, float]]:
    """Per time bin with samples: its middle, and the median, 95th percentile and maximum of the samples."""
    stretch = (t // width_s).astype(np.int64)
    ends = np.flatnonzero(np.append(np.diff(stretch) != 0, True)) + 1
    for begin, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        middle, high = np.percentile(value[begin:end], (50, 95))
        yield (float(stretch[begin]) + 0.5) * width_s, float(middle), float(high), float(value[begin:end].max())


def _mark_phases(axes: Axes, history: History) -> None:
    for fault in history.faults:
        axes.axvspan(fault.start_t, min(fault.end_t, history.duration_s), color=RED, alpha=0.13, linewidth=0)
        axes.axvline(fault.start_t, color=RED, linewidth=1.0)
    for phase in PHASES[1:-1]:
        if phase in history.phases:
            axes.axvline(history.phases[phase], color=GREY, linewidth=0.8, linestyle="--")


def _name_phases(axes: Axes, history: History) -> None:
    """Write phases above the panel and faults into it, at their start; labels that would collide move by a line."""
    span = axes.get_xaxis_transform()
    length = max(history.duration_s, 1e-3)
    last_t, row = -np.inf, 0
    for phase in PHASES[:-1]:
        if (t := history.phases.get(phase)) is not None:
            row = row + 1 if t - last_t < 0.06 * length else 0
            axes.text(t, 1.02 + 0.075 * row, f" {phase}", transform=span, fontsize=9, color=GREY, va="bottom")
            last_t = t
    for place, fault in enumerate(history.faults):
        height = 0.06 + 0.11 * (place % 8)
        label = axes.text(fault.start_t, height, f" {fault.kind}", transform=span, fontsize=9, color=RED, fontweight="bold")
        label.set_path_effects([withStroke(linewidth=3, foreground="white")])
