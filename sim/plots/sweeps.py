"""Figures of whole sweeps and searches: what was measured at each point, with its interval, and what the gates said of it.

They take the tidy frames of `sim.planning.tables` with one column more, `gates`: the state of the point.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sim.plots.planning import height, mark_states, scale, states_legend
from sim.plots.style import GREY, LINES, ShownMetric, figure, limit_line, quiet


def curves(
    table: pd.DataFrame,
    x: str,
    metrics: Mapping[str, str],
    title: str,
    *,
    by: str = "",
    across: str = "",
    limits: Mapping[str, float] | None = None,
) -> ShownMetric:
    """A row of panels for each measure, a column for each value of `across`, a line for each of `by`; bands are intervals."""
    columns = list(dict.fromkeys(table[across])) if across else [""]
    made = figure(title, width=5.5 + 3.2 * len(columns), height=2.2 + 1.9 * len(metrics))
    panels = made.subplots(len(metrics), len(columns), sharex=True, sharey="row", squeeze=False)
    for (metric, words), row in zip(metrics.items(), panels, strict=True):
        of = table[table["measure"] == metric]
        for axes, value in zip(row, columns, strict=True):
            _lines(axes, of[of[across] == value] if across else of, x, by)
            quiet(axes)
        _heights(row, of, words, (limits or {}).get(metric))
    for axes, value in zip(panels[0], columns, strict=True):
        axes.set_title(str(value), fontsize=9, color=GREY)
    for axes in panels[-1]:
        axes.set_xlabel(x)
    _places(panels[-1][0], table[x])
    if by:
        handles, names = panels[0][0].get_legend_handles_labels()
        made.legend(handles, names, frameon=False, fontsize=8, title=by, title_fontsize=8, loc="outside right center")
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
    for (name, group), (colour, dash, _) in zip(groups, LINES, strict=False):
        ordered = group.sort_values(x)
        place, mean, lower, upper = (ordered[key].to_numpy(dtype=float) for key in (x, "mean", "lower", "upper"))
        axes.plot(place, np.where(np.isfinite(mean), mean, np.nan), color=colour, linestyle=dash, linewidth=1.6, label=name)
        axes.fill_between(place, lower, upper, color=colour, alpha=0.2, linewidth=0)
        mark_states(axes, place, mean, ordered["gates"].tolist())


def _places(axes: Axes, values: "pd.Series[Any]") -> None:
    """The axis of a parameter: numbers as they are, words one after the other."""
    if is_number(values):
        scale(axes, values)
    else:
        words = list(dict.fromkeys(map(str, values)))
        axes.set_xticks(range(len(words)), words, rotation=30, ha="right", fontsize=8)


def is_number(values: "pd.Series[Any]") -> bool:
    """Whether a parameter's values are numbers that can be drawn along an axis."""
    return all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in values)


def scatter(table: pd.DataFrame, parameters: Sequence[str], metrics: Mapping[str, str], title: str) -> ShownMetric:
    """Each measure over each parameter, a marker a point with its interval: for designs whose points lie on no grid."""
    made = figure(title, width=2.6 + 2.9 * len(parameters), height=1.8 + 2.0 * len(metrics))
    panels = made.subplots(len(metrics), len(parameters), sharex="col", sharey="row", squeeze=False)
    for (metric, words), row in zip(metrics.items(), panels, strict=True):
        of = table[table["measure"] == metric]
        for axes, key in zip(row, parameters, strict=True):
            _dots(axes, of, key)
        height(row[0], of["mean"])
        row[0].set_ylabel(words)
    for axes, key in zip(panels[-1], parameters, strict=True):
        axes.set_xlabel(key, fontsize=9)
        _places(axes, table[key])
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
) -> ShownMetric:
    """The values that a search of a number looked at, with what was measured there; `marked` are named by upright lines."""
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
