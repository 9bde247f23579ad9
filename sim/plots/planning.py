"""Figures of sweeps and forecasts: recovery curves with bands, knees, heat maps, rankings, predicted beside measured.

They take the tidy frames of `sim.planning.tables`. A band or a bar is always the interval that the frame has, and what has none
is drawn without: a single run, or one in which somebody never came back.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from sim.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LINES,
    RED,
    STATES,
    STATES_SAY,
    ShownMetric,
    figure,
    limit_line,
    plain,
    quiet,
)
from sim.record.history import Floats
from sim.record.predictions import Compared

_BAND = (0.05, 0.95)
_ALMOST = 0.005
_TICK_ROOM = 0.11  # of the axis, that a tick's number needs
_FAR = 50.0
_BORDER = 0.96  # of an axis, where that stands which has no place on it
_MAX_WIDE = 8  # columns, from which on each is narrow
_MANY = 4  # steps a decade, from which on an axis is logarithmic


def recovery(curves: Mapping[str, tuple[Floats, Floats]], title: str) -> ShownMetric:
    """Share of clients live against time since the first cut: by name, the times (s) and a row for each run (0..1).

    The line is the median over runs, the band from the 5th to the 95th percentile.
    """
    made = figure(title)
    axes = made.subplots()
    known = {name: curve for name, curve in curves.items() if len(curve[1])}
    for name in curves:
        if name not in known:
            axes.plot([], [], linestyle="none", label=f"{name}: never well before the cut")
    for (name, (t, shares)), (colour, dash, _) in zip(known.items(), LINES, strict=False):
        low, middle, high = np.quantile(100 * shares, (_BAND[0], 0.5, _BAND[1]), axis=0)
        axes.plot(t, middle, color=colour, linestyle=dash, linewidth=2.0, label=name)
        axes.fill_between(t, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.axhline(95, color=GREY, linewidth=0.8, linestyle=":")
    axes.text(0.995, 94, "95 %", transform=axes.get_yaxis_transform(), fontsize=8, ha="right", va="top", color=GREY)
    axes.set(xlabel="time since the first cut (s)", ylabel="clients live (%)", ylim=(0, 103))
    if known:
        axes.set_xlim(0, _until(known))
    quiet(axes)
    axes.legend(frameon=False, fontsize=9, title="median, band 5 to 95 % of runs", title_fontsize=8, loc="lower right")
    return made


def _until(curves: Mapping[str, tuple[Floats, Floats]]) -> float:
    """A little beyond the moment from which every run has all it ever has, to half a percent."""
    longest = max(float(t[-1]) for t, _ in curves.values())
    still = [
        float(t[int(np.flatnonzero((shares < shares[:, -1:] - _ALMOST).any(axis=0)).max(initial=0))])
        for t, shares in curves.values()
    ]
    return min(1.25 * max(still) + 0.1, longest)


def small_multiples(
    table: pd.DataFrame,
    x: str,
    metrics: Mapping[str, str],
    title: str,
    *,
    by: str = "",
    limits: Mapping[str, float] | None = None,
    x_label: str = "",
) -> ShownMetric:
    """A panel for each measure (its name, and the words for its axis) against one parameter, a line for each value of `by`."""
    made = figure(title, height=2.4 + 1.9 * len(metrics))
    panels = made.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (metric, words) in zip(panels, metrics.items(), strict=True):
        _lines(axes, table[table["measure"] == metric], x, by)
        axes.set_ylabel(words)
        height(axes, table[table["measure"] == metric]["mean"])
        if limits and metric in limits:
            axes.set_ylim(top=max(axes.get_ylim()[1], 1.15 * limits[metric]))
            limit_line(axes, limits[metric], "limit")
        quiet(axes)
    panels[-1].set_xlabel(x_label or x)
    scale(panels[-1], table[x])
    if by:
        handles, names = panels[0].get_legend_handles_labels()
        made.legend(handles, names, frameon=False, fontsize=8, title=by, title_fontsize=8, loc="outside right center")
    return made


def _lines(axes: Axes, rows: pd.DataFrame, x: str, by: str) -> None:
    groups: list[tuple[str, pd.DataFrame]] = [(str(key), group) for key, group in rows.groupby(by)] if by else [("", rows)]
    for (name, group), (colour, dash, marker) in zip(groups, LINES, strict=False):
        ordered = group.sort_values(x)
        place, mean, lower, upper = (ordered[key].to_numpy(dtype=float) for key in (x, "mean", "lower", "upper"))
        axes.plot(place, mean, color=colour, linestyle=dash, marker=marker, markersize=5, linewidth=1.8, label=name)
        axes.fill_between(place, lower, upper, color=colour, alpha=0.18, linewidth=0)


def height(axes: Axes, values: "pd.Series[Any]") -> None:
    """From zero, but logarithmic where the values are so far apart that the small ones could not be seen."""
    places = values.to_numpy(dtype=float)
    places = places[np.isfinite(places)]
    if len(places) and places.min() > 0 and places.max() / places.min() > _FAR:
        axes.set_yscale("log")

    else:
        axes.set_ylim(bottom=0)
    plain(axes.yaxis)


def scale(axes: Axes, values: "pd.Series[Any]") -> None:
    """Logarithmic where the values spread over more than a decade; those of the values that have room are the ticks."""
    places = sorted({float(value) for value in values})
    plain(axes.xaxis)
    if places[0] > 0 and places[-1] / places[0] >= 10:
        axes.set_xscale("log")
        plain(axes.xaxis)
        if len(places) <= 3 * _MANY:
            ticks = _far_enough(places)
            axes.set_xticks(ticks, [f"{place:,.6g}" for place in ticks])
            axes.minorticks_off()


def _far_enough(places: Sequence[float]) -> list[float]:
    """Of rising values the first, the last, and those between that are not too near to another on a logarithmic axis."""
    least = (places[-1] / places[0]) ** _TICK_ROOM
    kept = [places[0]]
    for place in places[1:-1]:
        if place / kept[-1] >= least and places[-1] / place >= least:
            kept.append(place)
    return [*kept, places[-1]]


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
) -> ShownMetric:
    """A measure's mean over two parameters, its number in each field; fields over the limit are hatched.

    Where the table has a column `gates` with a state for each point, it stands in the field's corner.
    """
    rows = table[table["measure"] == metric]
    grid = rows.pivot(index=y, columns=x, values="mean").sort_index(ascending=False)
    values = grid.to_numpy(dtype=float)
    made = figure(title, width=max(2.5 + 1.1 * values.shape[1], 7.5), height=2.0 + 0.7 * values.shape[0])
    axes = made.subplots()
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if limit is not None and not value <= limit:
            axes.add_patch(_hatched(column, row))
        shade = image.cmap(image.norm(value))[:3] if np.isfinite(value) else (1.0, 1.0, 1.0)
        bright = float(np.dot(shade, (0.299, 0.587, 0.114))) > 0.5
        text = _short(value) if np.isfinite(value) else "never" if np.isinf(value) else "-"
        label = axes.text(column, row, text, ha="center", va="center", fontsize=9, color=BLACK if bright else "white")
        label.set_path_effects([withStroke(linewidth=3, foreground=shade)])  # a hatch must not cross it out
    if "gates" in rows:
        _corner_states(axes, rows.pivot(index=y, columns=x, values="gates").reindex_like(grid))
    axes.set_xticks(range(values.shape[1]), [_word(value) for value in grid.columns])
    axes.set_yticks(range(values.shape[0]), [_word(value) for value in grid.index])
    axes.set(xlabel=x_label or x, ylabel=y_label or y)
    bar = made.colorbar(image, ax=axes, label=words or metric)
    if limit is not None and not (values <= limit).all():
        bar.ax.set_title(f"hatched: over {limit:g}", fontsize=8)
    return made


def _corner_states(axes: Axes, states: pd.DataFrame) -> None:
    for (row, column), state in np.ndenumerate(states.to_numpy(dtype=object)):
        colour, letter, *_ = STATES.get(str(state), ("white", ""))
        axes.text(
            column - 0.45, row - 0.42, letter, ha="left", va="top", fontsize=7, color="white", fontweight="bold",
            bbox={"facecolor": colour, "edgecolor": "white", "linewidth": 0.5, "pad": 1.5},
        )  # fmt: skip
    axes.set_title(f"the gates of each point: {STATES_SAY}", fontsize=8, color=GREY, loc="left")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _hatched(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="//", edgecolor=RED, linewidth=0)


def _word(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, int | float | np.number) else str(value)


def ranking(table: pd.DataFrame, key: str, metrics: Mapping[str, str], title: str) -> ShownMetric:
    """The values of one parameter, the least of the first measure at the top: a dot and its interval in each panel."""
    first = table[table["measure"] == next(iter(metrics))].sort_values("mean", ascending=False)
    order = [str(value) for value in first[key]]
    made = figure(title, width=3.6 + 3.0 * len(metrics), height=1.8 + 0.36 * len(order))
    panels = made.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, (metric, words) in zip(panels, metrics.items(), strict=True):
        rows = table[table["measure"] == metric].assign(**{key: lambda frame: frame[key].astype(str)}).set_index(key).loc[order]
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


def mark_states(axes: Axes, x: Sequence[float] | Floats, y: Sequence[float] | Floats, states: Sequence[str]) -> None:
    """A marker for what the gates said at each place; what has no finite place is at the border, with the reason."""
    for place, height, state in zip(x, y, states, strict=True):
        colour, _, marker, _ = STATES[state]
        look: dict[str, Any] = {"color": colour, "marker": marker, "s": 48, "edgecolors": "white", "linewidths": 0.8}
        look |= {"zorder": 5, "clip_on": False}
        if np.isfinite(place) and np.isfinite(height):
            axes.scatter([place], [height], **look)
            continue
        upright = bool(np.isfinite(place))
        across = axes.get_xaxis_transform() if upright else axes.get_yaxis_transform()
        at = (float(place), _BORDER) if upright else (_BORDER, float(height))
        axes.scatter([at[0]], [at[1]], transform=across, **look)
        said = "no value" if np.isnan(place) or np.isnan(height) else "never"
        axes.annotate(said, at, xycoords=across, xytext=(-6, -3), textcoords="offset points", fontsize=8, ha="right")


def states_legend(made: ShownMetric, title: str = "gates") -> None:
    """What the markers of `mark_states` mean, beside the panels."""
    looks = dict.fromkeys(STATES.values())
    handles = [
        Line2D([], [], linestyle="none", color=colour, marker=marker, markersize=7, label=words)
        for colour, _, marker, words in looks
    ]
    made.legend(handles=handles, frameon=False, fontsize=8, title=title, title_fontsize=8, loc="outside right lower")


def sensitivity(frame: pd.DataFrame, title: str, words: str) -> ShownMetric:
    """How far each parameter moves a measure, of `tables.sensitivity`; what may be chance is drawn hollow."""
    rows = frame.iloc[::-1].reset_index(drop=True)
    made = figure(title, height=1.6 + 0.5 * len(rows))
    axes = made.subplots()
    for place, row in rows.iterrows():
        told = bool(row["told"])
        axes.barh(
            int(str(place)),
            row["greatest"] - row["least"],
            left=row["least"],
            color=BLUE if told else "none",
            edgecolor=BLUE,
            hatch="" if told else "..",
        )
        for side, at in (("least", "at_least"), ("greatest", "at_greatest")):
            where = "right" if side == "least" else "left"
            axes.annotate(
                f"{_word(row[at])}", (row[side], int(str(place))), xytext=(-4 if side == "least" else 4, 0), ha=where,
                textcoords="offset points", va="center", fontsize=8, color=GREY,
            )  # fmt: skip
    axes.axvline(float(rows["base"].iloc[0]), color=BLACK, linewidth=1.0)
    axes.set_yticks(range(len(rows)), rows["parameter"].tolist())
    axes.set_xlabel(f"{words}\nline: the base; hollow: may be chance")
    low, high = float(rows["least"].min()), float(rows["greatest"].max())
    room = 0.12 * (high - low or 1.0)
    axes.set_xlim(low - room, high + room)
    quiet(axes, "x")
    return made


def beside(found: Mapping[str, Sequence[Compared]], title: str, within: float = 0.2) -> ShownMetric:
    """Predicted over measured, by run and measure: 1 is right, the band is `within`, bars are where 95 % of runs should be."""
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


def gates(states: pd.DataFrame, title: str) -> ShownMetric:
    """What each check said: rows are checks, columns runs or drills, a letter and a colour for each state."""
    many = states.shape[1] > _MAX_WIDE
    made = figure(title, width=4.5 + (0.36 if many else 0.8) * states.shape[1], height=2.0 + 0.28 * len(states))
    axes = made.subplots()
    for (row, column), state in np.ndenumerate(states.to_numpy(dtype=object)):
        colour, letter = STATES.get(str(state), ("white", ""))[:2]
        axes.add_patch(_box(column, row, colour))
        axes.text(column, row, letter, ha="center", va="center", fontsize=8, color="white", fontweight="bold")
    axes.set(xlim=(-0.5, states.shape[1] - 0.5), ylim=(len(states) - 0.5, -0.5))
    names = [str(name) for name in states.columns]
    axes.set_xticks(range(len(names)), names, rotation=90 if many else 30, ha="center" if many else "right", fontsize=8)
    axes.set_yticks(range(len(states)), [str(name) for name in states.index], fontsize=8)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("\n".join(filter(None, (str(states.columns.name or ""), STATES_SAY))), fontsize=8, color=GREY)
    return made


def _box(column: int, row: int, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, facecolor=colour, linewidth=0)
