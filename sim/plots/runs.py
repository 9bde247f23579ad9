"""Figures of one run: what happened over time, how clients recovered, and how long they waited. Title and limits are given.

The numbers are those of `sim.analysis.metrics`, so the figures agree with the tables of the report.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sim.analysis import reconnects, samples
from sim.analysis.metrics import percentile
from sim.plots import series
from sim.plots.style import BLACK, BLUE, GREEN, GREY, LINES, ORANGE, RED, ShownFigure, figure, literal, quiet
from sim.record.history import Floats, History
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.tally import Recovery

_MAX_ENDINGS, _MAX_NAME = 6, 40  # [ours] rows of the timeline, and characters of their names
_PERCENTS = (50, 95, 99)
_WIDTH_IN, _PANEL_IN, _ROW_IN = 10.0, 1.9, 0.24
_FAR = 1.6  # [ours] a limit that is so many times beyond all values is named, not drawn
Limits = Mapping[str, float]
"""The threshold of each check that was asked of the run, by its name."""


def title_of(history: History, said: str = "") -> str:
    """What ran, and what is `said` of it."""
    header = history.header
    what = (
        f"{header.drill}: {header.clients} clients, policy {header.policy}, {header.engine} engine, {header.target_kind} target"
    )
    return f"{what}\n{said}" if said else what


def drill_figure(history: History, said: str = "", limits: Limits | None = None) -> ShownFigure:
    """Phases, faults and ends by code; live clients, connects, lag and backlog over time. `said`: the run and its verdict."""
    rows = _rows(history)
    has_lag = len(history.of(Kind.CLIENT_LAG)) > 0
    drawers: list[Callable[[Axes, History, Limits], None]] = [_clients_live, _connects, *([_lag, _backlog] if has_lag else [])]
    heights = [len(rows) * _ROW_IN, *[_PANEL_IN] * len(drawers)]
    made = figure(title_of(history, said), width=_WIDTH_IN, height=sum(heights) + 1.2)
    top, *panels = made.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _timeline(top, history, rows)
    for axes, draw in zip(panels, drawers, strict=True):
        draw(axes, history, limits or {})
        _shade(axes, history)
        quiet(axes)
        axes.set_ylim(0, max(axes.get_ylim()[1], 1.0) * 1.05)
    panels[-1].set_xlabel(
        "time since the run began (s)" if has_lag else f"time since the run began (s)\n{_why_no_lag(history)}"
    )
    panels[-1].set_xlim(0, max(history.duration_s, 1e-3))
    return made


def recovery_figure(history: History, said: str = "", limits: Limits | None = None) -> ShownFigure | None:
    """Per fault, the share of its clients that were live again over time; None if no fault cut a client off."""
    found = _recovered(history)
    if not found:
        return None
    made = figure(f"Recovery. {title_of(history, said)}", width=_WIDTH_IN, height=3.4)
    axes = made.subplots()
    end_s = max(1.12 * max(float(t[-1]) for _, t, _ in found), 1e-3)
    for (name, t, share), (colour, dash, _) in zip(found, LINES, strict=False):
        t, share = np.append(t, end_s), 100 * np.append(share, share[-1])
        axes.step(t, share, where="post", color=colour, linestyle=dash, linewidth=1.8, label=literal(name))
    for percent, until_s in live_again_s(history).items():
        _mark(axes, until_s, percent, f"{percent} %: {until_s:.4g} s")
    axes.set(xlabel="time since the end of the fault (s)", ylabel="clients live again (%)", ylim=(0, 104), xlim=(0, end_s))
    _limit(axes, (limits or {}).get("reconnect.live_again_99_s"), "limit of the 99 %")
    quiet(axes)
    axes.legend(frameon=False, fontsize=8, loc="center right")
    return made


def live_again_s(history: History) -> dict[int, float]:
    """Per percentage, how long (s) it took until so many clients were live again: the metrics `live_again_99_s` etc."""
    if (tally := history.header.tally) is not None:
        every = [{int(percent): _or_never(s) for percent, s in each.live_again_s.items()} for each in tally.recoveries]
    else:
        found = reconnects.episodes(history)
        every = [{percent: reconnects.time_until(percent / 100, each.live_s) for percent in _PERCENTS} for each in found]
    return {percent: max(each[percent] for each in every) for percent in _PERCENTS}


def _or_never(seconds: float | None) -> float:
    return np.inf if seconds is None else seconds


def _recovered(history: History) -> list[tuple[str, Floats, Floats]]:
    """Per fault that cut clients off: its name, times (s) and the share of its clients that were live again by then."""
    if (tally := history.header.tally) is not None:
        return [_recovered_of_tally(number, each) for number, each in enumerate(tally.recoveries, 1)]
    found = []
    for number, each in enumerate(reconnects.episodes(history), 1):
        t = np.append(0.0, each.live_s[np.isfinite(each.live_s)])
        t, share = series.thinned((t, np.arange(len(t)) / each.clients), float(t[-1]))
        found.append((f"{number}. {each.fault}: {each.clients} clients", t, share))
    return found


def _recovered_of_tally(number: int, found: Recovery) -> tuple[str, Floats, Floats]:
    points = [(0.0, 0.0), *((s, int(percent) / 100) for percent, s in found.live_again_s.items() if s is not None)]
    t, share = (np.array(column) for column in zip(*sorted(points), strict=True))
    return f"{number}. {found.fault}: {found.clients} clients", t, share


def latency_figure(history: History, ledger: Ledger, said: str = "", limits: Limits | None = None) -> ShownFigure | None:
    """How many of the bootstraps, and of the deliveries, took at most so long; None if none was measured."""
    wanted = {
        "replay.bootstrap_ms": ("bootstrap (ms)", samples.bootstrap_ms(history)),
        "ux.publish_to_apply_ms": ("published to applied (ms)", samples.publish_to_apply_ms(history, ledger)),
    }
    measured = {check: (words, np.sort(values)) for check, (words, values) in wanted.items() if len(values)}
    if history.header.tally is not None or not measured:
        return None
    made = figure(f"Latencies. {title_of(history, said)}", width=_WIDTH_IN, height=3.2)
    panels = made.subplots(1, len(measured), squeeze=False)[0]
    for axes, (check, (words, values)) in zip(panels, measured.items(), strict=True):
        t, share = series.thinned((values, np.arange(1, len(values) + 1) / len(values)), float(values[-1]))
        axes.step(t, 100 * share, where="post", color=BLUE, linewidth=1.8)
        p95 = percentile(values, 0.95)
        _mark(axes, p95, 95, f"p95: {p95:.4g} ms")
        axes.set(xlabel=f"{words}, n = {len(values)}", ylabel="share (%)", ylim=(0, 104))
        axes.set_xlim(0, max(1.12 * float(values[-1]), 1e-3))
        _limit(axes, (limits or {}).get(check), "limit of the p95")
        quiet(axes)
    return made


def _mark(axes: Axes, at: float, percent: float, words: str) -> None:
    """A dot with words on a curve; none where it was never reached."""
    if np.isfinite(at):
        axes.plot([at], [percent], marker="o", color=BLACK, markersize=4, zorder=5)
        axes.annotate(words, (at, percent), xytext=(6, -10), textcoords="offset points", fontsize=8)


def _limit(axes: Axes, limit: float | None, name: str) -> None:
    """A dashed line at a limit on the horizontal axis. One that is far beyond all values is only named, at the edge."""
    if limit is None:
        return
    end, words = axes.get_xlim()[1], f"{name}: {limit:g}"
    if limit > _FAR * end:
        axes.text(0.995, 0.03, f"{words}, beyond this axis", transform=axes.transAxes, ha="right", va="bottom", fontsize=8)
        return
    axes.set_xlim(right=max(end, 1.06 * limit))
    axes.axvline(limit, color=BLACK, linewidth=1.0, linestyle=(0, (6, 4)))
    place = axes.get_xaxis_transform()
    axes.text(limit, 0.03, f"{words} ", transform=place, rotation=90, ha="right", va="bottom", fontsize=8)


def save(made: ShownFigure, path: Path) -> None:
    """Write a figure as PNG atomically. Raises `OSError`."""
    partial = path.with_suffix(".png.partial")
    made.savefig(partial, format="png", dpi=120)
    partial.replace(path)


# --- panels over time -------------------------------------------------------------------------------

_Row = tuple[str, Callable[[Axes, float], None]]


def _rows(history: History) -> list[_Row]:
    """The rows of the timeline from the top: phases, faults by kind, ends by code. Each has a name and draws itself."""
    kinds = dict.fromkeys(fault.kind for fault in history.faults)
    ends = ((f"end: {_short(each.name)} ({len(each.t)})", each.t) for each in series.endings(history, _MAX_ENDINGS))
    return [
        ("phases", partial(_phase_row, history)),
        *((f"fault {kind}", partial(_fault_row, history, kind)) for kind in kinds),
        *((name, partial(_ends_row, history, t)) for name, t in ends),
    ]


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


def _timeline(axes: Axes, history: History, rows: list[_Row]) -> None:
    for place, (_, draw) in enumerate(rows):
        draw(axes, -float(place))
    axes.set_yticks([-float(place) for place in range(len(rows))], [literal(name) for name, _ in rows], fontsize=8)
    axes.set_ylim(0.6 - len(rows), 0.6)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _phase_row(history: History, axes: Axes, y: float) -> None:
    length = max(history.duration_s, 1e-3)
    for number, (name, begin, end) in enumerate(series.phases(history)):
        axes.barh(y, end - begin, left=begin, height=0.8, color=GREY, alpha=0.16 if number % 2 else 0.34, linewidth=0)
        if end - begin > 0.011 * len(name) * length:
            axes.text((begin + end) / 2, y, name, fontsize=8, ha="center", va="center", color=BLACK)


def _fault_row(history: History, kind: str, axes: Axes, y: float) -> None:
    least_s = history.duration_s / 200
    for fault in history.faults:
        if fault.kind == kind:
            end = min(fault.end_t, history.duration_s)
            axes.barh(y, max(end - fault.start_t, least_s), left=fault.start_t, height=0.7, color=RED, linewidth=0)


def _ends_row(history: History, t: Floats, axes: Axes, y: float) -> None:
    """The ends per bin, as bars from the row's foot; the highest fills the row."""
    counts, edges = np.histogram(t, series.BINS, (0.0, max(history.duration_s, 1e-3)))
    middle, height = (edges[:-1] + edges[1:]) / 2, 0.8 * counts / counts.max()
    axes.vlines(middle[counts > 0], y - 0.4, (y - 0.4 + height)[counts > 0], color=BLUE, linewidth=1.6)


def _clients_live(axes: Axes, history: History, _: Limits) -> None:
    t, live = series.thinned(series.clients_live(history), history.duration_s)
    t, live = np.append(0.0, t), np.append(0.0, live)
    t, live = np.append(t, history.duration_s), np.append(live, live[-1])
    axes.step(t, live, where="post", color=BLUE, linewidth=1.6)
    axes.fill_between(t, live, step="post", color=BLUE, alpha=0.12, linewidth=0)
    axes.axhline(history.header.clients, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylabel("clients live")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _connects(axes: Axes, history: History, _: Limits) -> None:
    t, value = series.thinned(series.connects_in_last_second(history, Kind.CONNECT_ATTEMPTED), history.duration_s)
    axes.fill_between(t, value, step="post", color=ORANGE, alpha=0.35, linewidth=0)
    axes.step(t, value, where="post", color=ORANGE, linewidth=1.2, label="attempted")
    t, failed = series.thinned(series.connects_in_last_second(history, Kind.CONNECT_FAILED), history.duration_s)
    if failed.any():
        axes.step(t, failed, where="post", color=RED, linewidth=1.2, linestyle="--", label="failed")
    peak = _peak(history)
    if np.isfinite(peak):
        axes.axhline(peak, color=GREY, linewidth=0.8, linestyle=":", label=f"peak after the first fault: {peak:g}")
    _legend(axes)
    axes.set_ylabel("connects in the\nlast second")


def _peak(history: History) -> float:
    """The metric `peak_connects_per_s`."""
    if (tally := history.header.tally) is None:
        return reconnects.peak_connects_per_s(history)
    return np.nan if tally.peak_connects_per_s is None else float(tally.peak_connects_per_s)


def _lag(axes: Axes, history: History, limits: Limits) -> None:
    lag = series.lag(history)
    t = np.append(lag.t, history.duration_s)
    for value, colour, dash, width, label in (
        (lag.highest, GREY, ":", 1.0, "highest"),
        (lag.p95, RED, "--", 1.4, "p95"),
        (lag.median, GREEN, "-", 1.8, "median"),
    ):
        axes.step(t, np.append(value, value[-1:]), where="post", color=colour, linestyle=dash, linewidth=width, label=label)
    if (limit := limits.get("replay.client_lag_events")) is not None:
        words = f"limit of the p95 outside the fault phase: {limit:g}"
        if limit > _FAR * max(axes.get_ylim()[1], 1.0):
            axes.plot([], [], linestyle="none", label=f"{words}, beyond this axis")
        else:
            axes.axhline(limit, color=BLACK, linewidth=1.0, linestyle=(0, (6, 4)), label=words)
    _legend(axes)
    axes.set_ylabel("lag behind the\nhead (events)")


def _backlog(axes: Axes, history: History, _: Limits) -> None:
    lag = series.lag(history)
    t, value = np.append(lag.t, history.duration_s), np.append(lag.backlog, lag.backlog[-1:])
    axes.step(t, value, where="post", color=BLUE, linewidth=1.4)
    axes.fill_between(t, value, step="post", color=BLUE, alpha=0.12, linewidth=0)
    axes.set_ylabel("backlog: events, all\nclients together")


def _why_no_lag(history: History) -> str:
    return "the fleet engine does not simulate delivery: no lag" if history.header.tally is not None else "no lag was sampled"


def _legend(axes: Axes) -> None:
    """A legend above the panel, where it hides nothing."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), borderaxespad=0, frameon=False, fontsize=8, ncols=4)


def _shade(axes: Axes, history: History) -> None:
    """Shade the faults, and mark where phases begin."""
    for fault in history.faults:
        axes.axvspan(fault.start_t, min(fault.end_t, history.duration_s), color=RED, alpha=0.13, linewidth=0)
        axes.axvline(fault.start_t, color=RED, linewidth=1.0)
    for _, begin, _ in series.phases(history)[1:]:
        axes.axvline(begin, color=GREY, linewidth=0.8, linestyle="--")
