"""Figures of sweeps and searches: the metrics at each point with their intervals, and the state of the gates there.

They take the data frames of `sim.planning.tables`. With an additional column `gates`, the state of each point is marked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from sim.plots.style import BLACK, BLUE, GREY, LINES, RED, STATES, STATES_LEGEND, ShownFigure, figure, limit_line, plain, quiet
from sim.record.history import Floats

_TICK_WIDTH = 0.11  # of the axis, that a tick's number needs
_LOG_RATIO = 50.0  # of the largest to the smallest value, above which the axis is logarithmic
_BORDER = 0.96  # position on the axis of a marker without a finite value
_NO_DATA = "#e6e6e6"  # colour of a cell without a value
_MAX_WIDE = 8  # columns, above which each is narrow
_MAX_TICKS = 12  # of a logarithmic axis


def curves(
    table: pd.DataFrame,
    x: str,
    metrics: Mapping[str, str],
    title: str,
    *,
    by: str = "",
    across: str = "",
    limits: Mapping[str, float] | None = None,
    x_label: str = "",
) -> ShownFigure:
    """Metrics against a parameter: a row of panels per metric (its name and the label of its axis), with interval bands.

    There is a column of panels per value of `across`, and a line per value of `by`.
    """
    columns = list(dict.fromkeys(table[across])) if across else [""]
    made = figure(title, width=5.5 + 3.2 * len(columns), height=2.2 + 1.9 * len(metrics))
    panels = made.subplots(len(metrics), len(columns), sharex=True, sharey="row", squeeze=False)
    for (metric, words), row in zip(metrics.items(), panels, strict=True):
        of = table[table["metric"] == metric]
        for axes, value in zip(row, columns, strict=True):
            _lines(axes, of[of[across] == value] if across else of, x, by)
            quiet(axes)
        _heights(row, of, words, (limits or {}).get(metric))
    for axes, value in zip(panels[0], columns, strict=True):
        axes.set_title(str(value), fontsize=9, color=GREY)
    for axes in panels[-1]:
        axes.set_xlabel(x_label or x)
    _parameter_axis(panels[-1][0], table[x])
    if by:
        handles, names = panels[0][0].get_legend_handles_labels()
        made.legend(handles, names, frameon=False, fontsize=8, title=by, title_fontsize=8, loc="outside right center")
    if "gates" in table:
        states_legend(made)
    return made


def _heights(row: Sequence[Axes], of: pd.DataFrame, words: str, limit: float | None) -> None:
    row[0].set_ylabel(words)
    height(row[0], of["mean"])
    if limit is None:
        return
    row[0].set_ylim(top=max(row[0].get_ylim()[1], 1.15 * limit))
    for axes in row:
        limit_line(axes, limit, "limit")


def _lines(axes: Axes, rows: pd.DataFrame, x: str, by: str) -> None:
    groups: list[tuple[str, pd.DataFrame]] = [(str(key), group) for key, group in rows.groupby(by)] if by else [("", rows)]
    has_gates = "gates" in rows
    for (name, group), (colour, dash, marker) in zip(groups, LINES, strict=False):
        ordered = group.sort_values(x)
        place, mean, lower, upper = (ordered[key].to_numpy(dtype=float) for key in (x, "mean", "lower", "upper"))
        known = np.where(np.isfinite(mean), mean, np.nan)
        shape = "" if has_gates else marker
        axes.plot(place, known, color=colour, linestyle=dash, marker=shape, markersize=5, linewidth=1.7, label=name)
        axes.fill_between(place, lower, upper, color=colour, alpha=0.2, linewidth=0)
        if has_gates:
            mark_states(axes, place, mean, ordered["gates"].tolist())


def _parameter_axis(axes: Axes, values: "pd.Series[Any]") -> None:
    """Scale the axis of a parameter: numbers by value, texts one after the other."""
    if is_number(values):
        scale(axes, values)
    else:
        words = list(dict.fromkeys(map(str, values)))
        axes.set_xticks(range(len(words)), words, rotation=30, ha="right", fontsize=8)


def is_number(values: "pd.Series[Any]") -> bool:
    """Whether all values of a parameter are numbers."""
    return all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in values)


def scatter(table: pd.DataFrame, parameters: Sequence[str], metrics: Mapping[str, str], title: str) -> ShownFigure:
    """Each metric against each parameter, a marker with its interval per point: for designs without a grid."""
    made = figure(title, width=2.6 + 2.9 * len(parameters), height=1.8 + 2.0 * len(metrics))
    panels = made.subplots(len(metrics), len(parameters), sharex="col", sharey="row", squeeze=False)
    for (metric, words), row in zip(metrics.items(), panels, strict=True):
        of = table[table["metric"] == metric]
        for axes, key in zip(row, parameters, strict=True):
            _dots(axes, of, key)
        height(row[0], of["mean"])
        row[0].set_ylabel(words)
    for axes, key in zip(panels[-1], parameters, strict=True):
        axes.set_xlabel(key, fontsize=9)
        _parameter_axis(axes, table[key])
    states_legend(made)
    return made


def _dots(axes: Axes, rows: pd.DataFrame, key: str) -> None:
    words = {word: place for place, word in enumerate(dict.fromkeys(map(str, rows[key])))}
    place = rows[key].to_numpy(dtype=float) if is_number(rows[key]) else np.array([words[str(value)] for value in rows[key]])
    mean, lower, upper = (rows[name].to_numpy(dtype=float) for name in ("mean", "lower", "upper"))
    axes.vlines(place, lower, upper, color=GREY, linewidth=1.0)
    mark_states(axes, place.tolist(), mean.tolist(), rows["gates"].tolist())
    quiet(axes)


def trials(
    table: pd.DataFrame,
    key: str,
    metrics: Mapping[str, str],
    title: str,
    marked: Mapping[str, float],
    limits: Mapping[str, float],
) -> ShownFigure:
    """The values that a search tried, with their metrics; vertical lines mark the values of `marked` by name."""
    made = curves(table, key, metrics, title, limits=limits)
    ordered = sorted(marked.items(), key=lambda named: named[1])
    for axes in made.axes:
        for _, value in ordered:
            axes.axvline(value, color=GREY, linewidth=1.0, linestyle=":")
    top = made.axes[0]
    for (name, value), side in zip(ordered, ("right", "left"), strict=False):
        place = top.get_xaxis_transform()
        top.text(value, 1.01, f" {name} ", transform=place, fontsize=8, ha=side, va="bottom", color=GREY)
    return made


def heat_map(
    table: pd.DataFrame,
    x: str,
    y: str,
    metric: str,
    title: str,
    *,
    words: str = "",
    limit: float | None = None,
    x_label: str = "",
    y_label: str = "",
) -> ShownFigure:
    """The mean of a metric over two parameters, with its value in each cell: hatched over the limit, grey without a value.

    With a column `gates`, the state of each point is in the corner of its cell.
    """
    rows = table[table["metric"] == metric]
    grid = rows.pivot(index=y, columns=x, values="mean").sort_index(ascending=False)
    values = grid.to_numpy(dtype=float)
    made = figure(title, width=max(2.5 + 1.1 * values.shape[1], 7.5), height=2.0 + 0.7 * values.shape[0])
    axes = made.subplots()
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=_NO_DATA, linewidth=0))
        elif limit is not None and value > limit:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="//", edgecolor=RED, linewidth=0))
        shade = image.cmap(image.norm(value))[:3] if np.isfinite(value) else to_rgb(_NO_DATA if np.isnan(value) else "white")
        bright = float(np.dot(shade, (0.299, 0.587, 0.114))) > 0.5
        text = _short(value) if np.isfinite(value) else "never" if np.isinf(value) else "no data"
        label = axes.text(column, row, text, ha="center", va="center", fontsize=9, color="#010101" if bright else "#fefefe")
        label.set_path_effects([withStroke(linewidth=3, foreground=shade)])  # keep it readable over a hatch
    if "gates" in rows:
        _corner_states(axes, rows.pivot(index=y, columns=x, values="gates").reindex_like(grid))
    axes.set_xticks(range(values.shape[1]), [_word(value) for value in grid.columns])
    axes.set_yticks(range(values.shape[0]), [_word(value) for value in grid.index])
    axes.set(xlabel=x_label or x, ylabel=y_label or y)
    bar = made.colorbar(image, ax=axes, label=words or metric)
    if limit is not None and (values > limit).any():
        bar.ax.set_title(f"hatched: over {limit:g}", fontsize=8)
    return made


def _corner_states(axes: Axes, states: pd.DataFrame) -> None:
    for (row, column), state in np.ndenumerate(states.to_numpy(dtype=object)):
        colour, letter, *_ = STATES.get(str(state), ("white", ""))
        axes.text(
            column - 0.45, row - 0.42, letter, ha="left", va="top", fontsize=7, color="white", fontweight="bold",
            bbox={"facecolor": colour, "edgecolor": "white", "linewidth": 0.5, "pad": 1.5},
        )  # fmt: skip
    axes.set_title(f"the gates of each point: {STATES_LEGEND}", fontsize=8, color=GREY, loc="left")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _word(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, int | float | np.number) else str(value)


def ranking(table: pd.DataFrame, key: str, metrics: Mapping[str, str], title: str) -> ShownFigure:
    """The values of one parameter, sorted by the first metric with the lowest at the top: a dot and its interval per metric."""
    first = table[table["metric"] == next(iter(metrics))].sort_values("mean", ascending=False)
    order = [str(value) for value in first[key]]
    made = figure(title, width=3.6 + 3.0 * len(metrics), height=1.8 + 0.36 * len(order))
    panels = made.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, (metric, words) in zip(panels, metrics.items(), strict=True):
        rows = table[table["metric"] == metric].assign(**{key: lambda frame: frame[key].astype(str)}).set_index(key).loc[order]
        mean = rows["mean"].to_numpy(dtype=float)
        reach = np.array([mean - rows["lower"].to_numpy(dtype=float), rows["upper"].to_numpy(dtype=float) - mean])
        fmt = "none" if "gates" in rows else "o"
        axes.errorbar(mean, range(len(order)), xerr=np.nan_to_num(reach, posinf=0), fmt=fmt, color=BLUE, ecolor=BLUE, capsize=3)
        if "gates" in rows:
            mark_states(axes, mean, range(len(order)), rows["gates"].tolist())
        axes.set_xlabel(words)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        plain(axes.xaxis)
        quiet(axes, "x")
    panels[0].set_yticks(range(len(order)), order)
    if "gates" in table:
        states_legend(made)
    return made


def sensitivity(frame: pd.DataFrame, title: str, words: str) -> ShownFigure:
    """How far each parameter moves a metric (`tables.sensitivity`); a swing that may be chance is hollow."""
    rows = frame.iloc[::-1].reset_index(drop=True)
    made = figure(title, height=1.6 + 0.5 * len(rows))
    axes = made.subplots()
    for place, row in rows.iterrows():
        colour, hatch = (BLUE, "") if row["is_significant"] else ("none", "..")
        axes.barh(int(str(place)), row["max"] - row["min"], left=row["min"], color=colour, edgecolor=BLUE, hatch=hatch)
        for side, at in (("min", "at_min"), ("max", "at_max")):
            where = "right" if side == "min" else "left"
            axes.annotate(
                f"{_word(row[at])}", (row[side], int(str(place))), xytext=(-4 if side == "min" else 4, 0), ha=where,
                textcoords="offset points", va="center", fontsize=8, color=GREY,
            )  # fmt: skip
    axes.axvline(float(rows["base"].iloc[0]), color=BLACK, linewidth=1.0)
    axes.set_yticks(range(len(rows)), rows["parameter"].tolist())
    axes.set_xlabel(f"{words}\nline: the base; hollow: may be chance")
    low, high = float(rows["min"].min()), float(rows["max"].max())
    room = 0.12 * (high - low or 1.0)
    axes.set_xlim(low - room, high + room)
    quiet(axes, "x")
    return made


def gates(states: pd.DataFrame, title: str) -> ShownFigure:
    """A table of states: rows are checks, columns are runs or drills; a letter and a colour per state."""
    many = states.shape[1] > _MAX_WIDE
    made = figure(title, width=4.5 + (0.36 if many else 0.8) * states.shape[1], height=2.0 + 0.28 * len(states))
    axes = made.subplots()
    for (row, column), state in np.ndenumerate(states.to_numpy(dtype=object)):
        colour, letter = STATES.get(str(state), ("white", ""))[:2]
        axes.add_patch(Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, facecolor=colour, linewidth=0))
        axes.text(column, row, letter, ha="center", va="center", fontsize=8, color="white", fontweight="bold")
    axes.set(xlim=(-0.5, states.shape[1] - 0.5), ylim=(len(states) - 0.5, -0.5))
    names = [str(name) for name in states.columns]
    axes.set_xticks(range(len(names)), names, rotation=90 if many else 30, ha="center" if many else "right", fontsize=8)
    axes.set_yticks(range(len(states)), [str(name) for name in states.index], fontsize=8)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("\n".join(filter(None, (str(states.columns.name or ""), STATES_LEGEND))), fontsize=8, color=GREY)
    return made


# --- axes and markers -------------------------------------------------------------------------------


def height(axes: Axes, values: "pd.Series[Any]") -> None:
    """Start the axis at zero, or make it logarithmic if small values would be invisible."""
    places = values.to_numpy(dtype=float)
    places = places[np.isfinite(places)]
    if len(places) and places.min() > 0 and places.max() / places.min() > _LOG_RATIO:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    plain(axes.yaxis)


def scale(axes: Axes, values: "pd.Series[Any]") -> None:
    """Make the axis logarithmic for values over more than a decade; the values are the ticks, where they fit."""
    places = sorted({float(value) for value in values})
    plain(axes.xaxis)
    if places[0] > 0 and places[-1] / places[0] >= 10:
        axes.set_xscale("log")
        plain(axes.xaxis)
        if len(places) <= _MAX_TICKS:
            ticks = _far_enough(places)
            axes.set_xticks(ticks, [f"{place:,.6g}" for place in ticks])
            axes.minorticks_off()


def _far_enough(places: Sequence[float]) -> list[float]:
    """The first and last of ascending values, and those in between that have enough space on a logarithmic axis."""
    min_ratio = (places[-1] / places[0]) ** _TICK_WIDTH
    kept = [places[0]]
    for place in places[1:-1]:
        if place / kept[-1] >= min_ratio and places[-1] / place >= min_ratio:
            kept.append(place)
    return [*kept, places[-1]]


def mark_states(axes: Axes, x: Sequence[float] | Floats, y: Sequence[float] | Floats, states: Sequence[str]) -> None:
    """A marker with the state of the gates at each point; a point without a finite value is at the border, with the reason."""
    for place, height, state in zip(x, y, states, strict=True):
        colour, _, marker, _ = STATES[state]
        style: dict[str, Any] = {"color": colour, "marker": marker, "s": 48, "edgecolors": "white", "linewidths": 0.8}
        style |= {"zorder": 5, "clip_on": False}
        if np.isfinite(place) and np.isfinite(height):
            axes.scatter([place], [height], **style)
            continue
        upright = bool(np.isfinite(place))
        across = axes.get_xaxis_transform() if upright else axes.get_yaxis_transform()
        at = (float(place), _BORDER) if upright else (_BORDER, float(height))
        axes.scatter([at[0]], [at[1]], transform=across, **style)
        reason = "no value" if np.isnan(place) or np.isnan(height) else "never"
        axes.annotate(reason, at, xycoords=across, xytext=(-6, -3), textcoords="offset points", fontsize=8, ha="right")


def states_legend(made: ShownFigure) -> None:
    """A legend for the markers of `mark_states`, beside the panels."""
    handles = [
        Line2D([], [], linestyle="none", color=colour, marker=marker, markersize=7, label=words)
        for colour, _, marker, words in dict.fromkeys(STATES.values())
    ]
    made.legend(handles=handles, frameon=False, fontsize=8, title="gates", title_fontsize=8, loc="outside right lower")
