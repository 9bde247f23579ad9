"""Figures of a run: what happened, over time, in panels that share their time axis.

Colours are Okabe and Ito's, which people with any of the common colour blindnesses can tell apart; no line is
told from another by colour alone. Matplotlib's global state is never touched, so threads may draw.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from sim.plots.style import BLUE as _BLUE
from sim.plots.style import GREEN as _GREEN
from sim.plots.style import GREY as _GREY
from sim.plots.style import ORANGE as _ORANGE
from sim.plots.style import RED as _RED
from sim.plots.style import ShownMetric
from sim.record.history import PHASES, Floats, History
from sim.record.observations import Kind

_MAX_BINS = 300  # wide enough to see each of them
_NARROWEST_BIN_S = 0.25


def drill_figure(history: History) -> Figure:
    """Clients live, connects attempted and the fleet's lag over the course of a drill, its faults shaded."""
    figure = ShownMetric(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, 1, sharex=True)
    drawers: tuple[Callable[[Axes, History], None], ...] = (_clients_live, _connects, _lag)
    for axes, draw in zip(panels, drawers, strict=True):
        draw(axes, history)
        _mark_course(axes, history)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_ylim(0, max(axes.get_ylim()[1], 1.0) * 1.05)
    _name_course(panels[0], history)
    panels[-1].set_xlabel("time since the run began (s)")
    panels[-1].set_xlim(0, max(history.duration_s, 1e-3))
    header = history.header
    title = (
        f"{header.drill}: {header.clients} clients, policy {header.policy}, {header.engine} engine, {header.target_kind} target"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, in place at once. Raises `OSError`."""
    partial = path.with_suffix(".png.partial")
    figure.savefig(partial, format="png", dpi=120)
    partial.replace(path)


def clients_live(history: History) -> tuple[Floats, Floats]:
    """When the number of live clients changed (s), and what it changed to."""
    if (tally := history.header.tally) is not None:
        changes = np.array(tally.series["went_live"]) - np.array(tally.series["left_live"])
        return (np.arange(len(changes), dtype=np.float64) + 1) * tally.bin_s, np.cumsum(changes).astype(np.float64)
    rows = history.fleet(Kind.SUBSCRIBED, Kind.DISCONNECTED).by_client()
    live = rows.is_kind(Kind.SUBSCRIBED)
    # A client that never went live before it was cut, or is told twice that it is live, changes nothing.
    before = np.append(False, live[:-1] & (np.diff(rows.client) == 0)) if len(rows) else live
    change = live.astype(np.int64) - before.astype(np.int64)
    order = np.argsort(rows.t, kind="stable")
    return rows.t[order], np.cumsum(change[order]).astype(np.float64)


def _clients_live(axes: Axes, history: History) -> None:
    t, live = clients_live(history)
    t, live = np.append(0.0, t), np.append(0.0, live)
    t, live = np.append(t, history.duration_s), np.append(live, live[-1])
    axes.step(t, live, where="post", color=_BLUE, linewidth=1.6)
    axes.fill_between(t, live, step="post", color=_BLUE, alpha=0.12, linewidth=0)
    axes.axhline(history.header.clients, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set_ylabel("clients live")


def _counted(history: History, edges: Floats, kind: Kind) -> Floats:
    """How many of a kind there were between edges of time (s)."""
    if (tally := history.header.tally) is None:
        return np.histogram(history.fleet(kind).t, edges)[0].astype(np.float64)
    counts = np.array(tally.series["connects_attempted" if kind is Kind.CONNECT_ATTEMPTED else "connects_failed"])
    return np.histogram((np.arange(len(counts)) + 0.5) * tally.bin_s, edges, weights=counts)[0]


def _connects(axes: Axes, history: History) -> None:
    width_s = max(_NARROWEST_BIN_S, history.duration_s / _MAX_BINS)
    edges = np.arange(0.0, history.duration_s + 2 * width_s, width_s)
    counts = _counted(history, edges, Kind.CONNECT_ATTEMPTED)
    axes.stairs(counts / width_s, edges, fill=True, color=_ORANGE, alpha=0.85, label="attempted")
    failed = _counted(history, edges, Kind.CONNECT_FAILED)
    if failed.any():
        axes.stairs(np.where(failed, failed / width_s, np.nan), edges, color=_RED, linewidth=1.2, label="failed")
        _legend(axes)
    axes.set_ylabel("connects (1/s)")


def _lag(axes: Axes, history: History) -> None:
    rows = history.of(Kind.CLIENT_LAG)
    rows = rows.take((rows.client < history.header.clients) & np.isfinite(rows.value))
    axes.set_ylabel("lag behind the head (events)")
    if len(rows) == 0:
        why = "no lag was sampled" if history.header.tally is None else "the fleet engine delivers nothing: no lag was measured"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color=_GREY)
        return
    width_s = max(1.0, history.duration_s / _MAX_BINS)
    t, middle, high, most = (np.array(column) for column in zip(*_lag_by_time(rows.t, rows.value, width_s), strict=True))
    axes.plot(t, most, color=_GREY, linewidth=0.9, linestyle=":", label="highest")
    axes.plot(t, high, color=_RED, linewidth=1.4, linestyle="--", label="95th percentile")
    axes.plot(t, middle, color=_GREEN, linewidth=1.8, label="median")
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Above the panel, where it hides nothing."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), borderaxespad=0, frameon=False, fontsize=8, ncols=3)


def _lag_by_time(t: Floats, value: Floats, width_s: float) -> Iterator[tuple[float, float, float, float]]:
    """For each stretch of time with samples: its middle, and the median, 95th percentile and maximum of them."""
    stretch = (t // width_s).astype(np.int64)
    ends = np.flatnonzero(np.append(np.diff(stretch) != 0, True)) + 1
    for begin, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        middle, high = np.percentile(value[begin:end], (50, 95))
        yield (float(stretch[begin]) + 0.5) * width_s, float(middle), float(high), float(value[begin:end].max())


def _faults(history: History) -> Iterator[tuple[str, float, float]]:
    """Every fault's kind, begin and end, in seconds; one that never ended lasts to the end of the run."""
    begun, ended = history.of(Kind.FAULT_INJECTED), history.of(Kind.FAULT_REVERTED)
    ends = dict(zip(ended.attempt.tolist(), ended.t.tolist(), strict=True))
    for index, t, code in zip(begun.attempt.tolist(), begun.t.tolist(), begun.detail.tolist(), strict=True):
        yield history.details[code], t, ends.get(index, history.duration_s)


def _mark_course(axes: Axes, history: History) -> None:
    for _, begin, end in _faults(history):
        axes.axvspan(begin, end, color=_RED, alpha=0.13, linewidth=0)
        axes.axvline(begin, color=_RED, linewidth=1.0)
    for phase in PHASES[1:-1]:
        if phase in history.phases:
            axes.axvline(history.phases[phase], color=_GREY, linewidth=0.8, linestyle="--")


def _name_course(axes: Axes, history: History) -> None:
    """Phases above the panel, faults inside it, each where it begins; labels that would collide move down a line."""
    span = axes.get_xaxis_transform()
    length = max(history.duration_s, 1e-3)
    last_t, row = -np.inf, 0
    for phase in PHASES[:-1]:
        if (t := history.phases.get(phase)) is not None:
            row = row + 1 if t - last_t < 0.06 * length else 0
            axes.text(t, 1.02 + 0.075 * row, f" {phase}", transform=span, fontsize=9, color=_GREY, va="bottom")
            last_t = t
    for place, (kind, begin, _) in enumerate(_faults(history)):
        height = 0.06 + 0.11 * (place % 8)
        label = axes.text(begin, height, f" {kind}", transform=span, fontsize=9, color=_RED, fontweight="bold")
        label.set_path_effects([withStroke(linewidth=3, foreground="white")])
