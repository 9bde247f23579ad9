"""Figures of sweeps and predictions: axes, intervals, markers and legends."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.plots import planning, runs, sweeps
from sim.plots.style import LINES
from sim.record.predictions import Compared

TIDY = pd.DataFrame(
    [
        (clients, workers, metric, mean, mean * 0.9, mean * 1.1)
        for clients in (100, 1000, 10000)
        for workers in (1, 4)
        for metric, mean in (("live", clients / workers / 100), ("peak", float(clients)))
    ],
    columns=["fleet.clients", "model.workers", "metric", "mean", "lower", "upper"],
)


def words(figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text")))


def test_curves_have_a_panel_per_metric_and_the_limit():
    made = sweeps.curves(
        TIDY,
        "fleet.clients",
        {"live": "live again (s)", "peak": "connects (1/s)"},
        "T",
        by="model.workers",
        limits={"live": 30},
    )
    assert [axes.get_ylabel() for axes in made.axes] == ["live again (s)", "connects (1/s)"]
    assert made.axes[-1].get_xscale() == "log"
    assert len(made.axes[0].collections) == 2  # a band for each line
    assert "limit 30" in words(made)


def test_missing_interval_has_no_band(tmp_path: Path):
    single = TIDY.assign(lower=math.nan, upper=math.nan)
    made = sweeps.curves(single, "fleet.clients", {"live": "s"}, "T")
    paths = [path for band in made.axes[0].collections for path in band.get_paths()]
    assert not any(np.isfinite(path.vertices).all() and len(path.vertices) for path in paths)
    runs.save(made, tmp_path / "x.png")


def test_heat_map_marks_infinite_values_and_hatches_cells_over_the_limit():
    endless = TIDY.copy()
    endless.loc[(endless["metric"] == "live") & (endless["fleet.clients"] == 10000), "mean"] = math.inf
    made = sweeps.heat_map(endless, "fleet.clients", "model.workers", "live", "T", words="s", limit=5)
    assert words(made).count("never") == 2
    assert sum(patch.get_hatch() == "//" for patch in made.axes[0].patches) == 3
    assert "hatched: over 5" in words(made)


def test_cell_without_a_value_is_no_data_and_not_over_the_limit():
    empty = TIDY.copy()
    empty.loc[(empty["metric"] == "live") & (empty["fleet.clients"] == 10000), "mean"] = math.nan
    made = sweeps.heat_map(empty, "fleet.clients", "model.workers", "live", "T", words="s", limit=1e6)
    assert words(made).count("no data") == 2
    assert not any(patch.get_hatch() for patch in made.axes[0].patches)
    assert "hatched" not in words(made)


def test_ranking_is_sorted():
    frame = pd.DataFrame(
        [("a", "live", 3.0, 2.5, 3.5), ("b", "live", 1.0, 0.5, 1.5)], columns=["policy", "metric", "mean", "lower", "upper"]
    )
    made = sweeps.ranking(frame, "policy", {"live": "s"}, "T")
    assert [label.get_text() for label in made.axes[0].get_yticklabels()] == ["a", "b"]


def test_recovery_shows_the_median_and_ends_after_the_last_recovery():
    t = np.linspace(0, 60, 61)
    shares = np.clip(np.array([t / 4, t / 6]), 0, 1)
    made = planning.recovery({"x": (t, shares)}, "T")
    assert made.axes[0].get_xlim()[1] < 10
    (line, _) = made.axes[0].lines
    assert line.get_ydata()[3] == pytest.approx(62.5)


def test_insignificant_swing_is_hollow():
    frame = pd.DataFrame(
        [("a", 1.0, 1.0, 1, 3.0, 2, 2.0, True), ("b", 1.0, 1.0, 1, 1.1, 2, 0.1, False)],
        columns=["parameter", "base", "min", "at_min", "max", "at_max", "swing", "is_significant"],
    )
    made = sweeps.sensitivity(frame, "T", "s")
    assert [patch.get_facecolor()[3] for patch in made.axes[0].patches] == [0.0, 1.0]


def test_predictions_are_drawn_relative_to_measurements():
    found = {"run": [Compared("live", "s", 1.2, (1.0, 1.4), 1.0, 0.2), Compared("peak", "1/s", 5.0, None, math.nan, math.nan)]}
    made = planning.beside(found, "T")
    assert made.axes[0].get_xlabel() == "predicted / measured"
    assert "within 20%" in words(made)


def test_states_have_letters_as_well_as_colours():
    made = sweeps.gates(pd.DataFrame({"r": ["pass", "fail", "error", "no_data"]}, index=list("abcd")), "T")
    assert [text.get_text() for text in made.axes[0].texts] == ["P", "F", "E", "?"]


def test_figure_shows_itself_in_a_notebook():
    made = sweeps.gates(pd.DataFrame({"r": ["pass"]}, index=["a"]), "T")
    assert made._repr_png_().startswith(b"\x89PNG")


def test_lines_differ_by_dash_and_marker():
    assert len({str(dash) for _, dash, _ in LINES}) == len({marker for _, _, marker in LINES}) == len(LINES)


def test_close_values_share_a_tick():
    frame = TIDY[TIDY["model.workers"] == 1]
    near = pd.concat([frame, frame[frame["fleet.clients"] == 1000].assign(**{"fleet.clients": 1050})])
    made = sweeps.curves(near, "fleet.clients", {"live": "s"}, "T")
    assert [label.get_text() for label in made.axes[0].get_xticklabels()] == ["100", "1,000", "10,000"]
