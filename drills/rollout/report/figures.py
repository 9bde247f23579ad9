"""Figures of a stage's window for its page. Lines differ in their dashes as well as in their colours."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drills.reports.page import Drawn
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import HoldEvent, Snapshot, StageReport
from drills.rollout.verdict.window import StageWindow, load
from drills.rollout.verdict.window_data.stage_window import moment_s
from sim.analysis import samples
from sim.base.clocks import from_iso
from sim.base.errors import StormgateError
from sim.plots.style import BLACK, GREY, RED, SERIES, quiet
from sim.plots.svg import svg
from sim.record.history import Floats
from sim.record.ledger import Ledger
from sim.service.metric_names import is_counter

_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
_WIDTH_IN = 9.0
_LEGEND: dict[str, Any] = dict(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8, labelcolor=BLACK)  # noqa: C408
_AUTH, _APPLY = "auth_failures.", "ux.publish_to_apply_ms"
_PANELS = {
    "failures (1/s)": ("mirror.failed_total", "delivery.stale_cursor_events_total"),
    "events (1/s)": ("mirror.published_total", "delivery.served_messages"),
    "consumers": ("delivery.active_consumers",),
}


def of(run_dir: Path, report: StageReport) -> tuple[Drawn, ...]:
    """The figures of a stage; empty if the window cannot be read, which the report states."""
    try:
        window = load(run_dir)
        events = evidence.read_lines(run_dir / records.HOLD, HoldEvent)
    except StormgateError:
        return ()
    found = (_server(window, events), _latency(window, report), _coverage(window))
    return tuple(drawn for drawn in found if drawn is not None)


def _server(window: StageWindow, events: Sequence[HoldEvent]) -> Drawn | None:
    """The servers' metrics over the window."""
    snapshots = [each for each in window.snapshots if each.source == "metrics" and each.ok]
    panels = [(label, lines) for label, names in _panels(snapshots) if (lines := _lines(snapshots, names))]
    if not panels:
        return None

    def draw(figure: Figure) -> None:
        found = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (label, lines) in zip(found, panels, strict=True):
            for n, (name, t, value) in enumerate(lines):
                axes.plot(t, value, color=SERIES[n % 6], linestyle=_DASHES[n % 6], linewidth=1.7, label=name)
            _frame(axes, label, window)
            _mark(axes, window, snapshots, events)
            axes.set_ylim(0, max(axes.get_ylim()[1], 0.1) * 1.08)
            axes.legend(ncols=4, **_LEGEND)

    says = "Metrics of the runtime over the window. Shaded: minutes with a fault. Lines: restarts."
    return Drawn("Server metrics", says, _svg(draw, 1.9 * len(panels) + 0.4, "server"))


def _panels(snapshots: Sequence[Snapshot]) -> Iterator[tuple[str, list[str]]]:
    """Each panel's label with its unit, and the metrics in it."""
    names = sorted({name for each in snapshots for name in each.metrics})
    yield "refusals (1/s)", [name for name in names if name.startswith(_AUTH)]
    for label, shown in _PANELS.items():
        yield label, [name for name in names if name in shown]


Line = tuple[str, Floats, Floats]
Seconds = TypeVar("Seconds", float, Floats)


def _lines(snapshots: Sequence[Snapshot], names: Sequence[str]) -> list[Line]:
    """Draw each metric over time. A counter is shown as its increase per second, with a gap at a restart."""
    found = [_line(snapshots, name) for name in names]
    moving = [line for line in found if len(line[1]) and np.nanmax(np.nan_to_num(line[2])) > 0]
    return moving or [line for line in found if len(line[1])][:1]


def _line(snapshots: Sequence[Snapshot], name: str) -> Line:
    having = [each for each in snapshots if name in each.metrics]
    t = np.array([moment_s(each) for each in having], np.float64)
    value = np.array([each.metrics[name] for each in having], np.float64)
    label = name.removeprefix(_AUTH).removeprefix("delivery.").removeprefix("mirror.").removesuffix("_total").replace("_", " ")
    if not is_counter(name):
        return label, _days(t), value
    seconds, steps = np.diff(t), np.diff(value)
    rate = np.where((steps >= 0) & (seconds > 0), steps / np.maximum(seconds, 1e-9), np.nan)
    return label, _days(t[1:]), rate


def _mark(axes: Axes, window: StageWindow, snapshots: Sequence[Snapshot], events: Sequence[HoldEvent]) -> None:
    """Mark minutes with a fault, restarts of the runtime, and restarts of the hold."""
    half_s = window.interval_s / 2
    for each in snapshots:
        if each.fault:
            span = _days(moment_s(each) - half_s), _days(moment_s(each) + half_s)
            axes.axvspan(*span, color=RED, alpha=0.16, linewidth=0)
    for at in _restarts(snapshots):
        axes.axvline(_days(at), color=RED, linewidth=1.2, linestyle="--")
    for event in events:
        at = from_iso(event.at).timestamp()
        if event.kind == "restarted" and window.began_s < at <= window.ended_s:
            axes.axvline(_days(at), color=BLACK, linewidth=1.0, linestyle=":")


def _restarts(snapshots: Sequence[Snapshot]) -> Iterator[float]:
    """Times at which a counter was lower than before, in POSIX seconds."""
    for before, after in pairwise(snapshots):
        common = (name for name in after.metrics if is_counter(name) and name in before.metrics)
        if any(after.metrics[name] < before.metrics[name] for name in common):
            yield moment_s(after)


def _latency(window: StageWindow, report: StageReport) -> Drawn | None:
    """Percentiles of the time from publish to apply, by canary check."""
    points = []
    for check in window.canary_checks:
        values = samples.publish_to_apply_ms(check.history, Ledger(check.history))
        if len(values):
            points.append((check.began_s, *np.percentile(values, (50, 95, 99))))
    if not points:
        return None
    t, *percentiles = (np.array(column, np.float64) for column in zip(*points, strict=True))
    checks = (check for gate in report.gates for check in gate.checks)
    limit = next((check.threshold for check in checks if f"{check.gate}.{check.check}" == _APPLY), None)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for n, (label, values) in enumerate(zip(("median", "p95", "p99"), percentiles, strict=True)):
            line = axes.plot(_days(t), values, linewidth=1.7, marker="os^"[n], markersize=4, label=label)[0]
            line.set(color=SERIES[n], linestyle=_DASHES[n])
        top = float(max(values.max() for values in percentiles))
        if limit is not None:
            axes.axhline(limit, color=RED, linewidth=1.2, label=f"limit of the p95: {limit:g} ms")
            top = max(top, limit)
        _frame(axes, "published to applied (ms)", window)
        axes.set_ylim(0, top * 1.12)
        axes.legend(ncols=4, **_LEGEND)

    says = f"Time from publish to apply: median, p95 and p99 of each of {len(points)} canary checks."
    return Drawn("Time from publish to apply", says, _svg(draw, 2.7, "latency"))


def _coverage(window: StageWindow) -> Drawn | None:
    """When the servers answered and when they did not."""
    if window.ended_s <= window.began_s:
        return None
    good, bad = ([moment_s(each) for each in window.snapshots if each.ok is ok] for ok in (True, False))
    edges = [window.began_s, *sorted(good), window.ended_s]
    holes = [(a, b) for a, b in pairwise(edges) if b - a > 3 * window.interval_s]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for begin, end in holes:
            axes.axvspan(_days(begin), _days(end), facecolor=RED, alpha=0.22, linewidth=0)
        axes.vlines(_days(np.array(good)), 0.1, 0.9, color=SERIES[0], linewidth=1.0, label=f"answered ({len(good)})")
        if bad:
            label = f"no answer ({len(bad)})"
            axes.plot(_days(np.array(bad)), np.full(len(bad), 0.5), "x", color=RED, markersize=7, label=label)
        _frame(axes, "snapshots", window)
        axes.set_ylim(0, 1)
        axes.set_yticks([])
        axes.legend(ncols=3, **_LEGEND)

    says = f"{len(good)} snapshots were answered, {len(bad)} were not. {len(holes)} holes are longer than three intervals."
    return Drawn("Coverage", says, _svg(draw, 1.35, "coverage"))


def _frame(axes: Axes, label: str, window: StageWindow) -> None:
    axes.set_ylabel(label, fontsize=9, color=BLACK)
    axes.set_xlabel("time (UTC)" if _is_last(axes) else "", fontsize=9, color=BLACK)
    axes.set_xlim(_days(window.began_s), _days(max(window.ended_s, window.began_s + 1)))
    axes.xaxis_date(tz=UTC)
    locator = dates.AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
    for spine in axes.spines.values():
        spine.set_color(GREY)
    axes.tick_params(labelsize=8)
    axes.xaxis.get_offset_text().set_fontsize(8)
    quiet(axes)


def _is_last(axes: Axes) -> bool:
    place = axes.get_subplotspec()
    return place is None or place.is_last_row()


def _days(seconds: Seconds) -> Seconds:
    """Convert POSIX seconds to Matplotlib's unit of time."""
    return seconds / 86400.0


def _svg(draw: Callable[[Figure], None], height_in: float, name: str) -> str:
    """Draw a figure as SVG for a page."""
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    draw(figure)
    return svg(figure, name)
