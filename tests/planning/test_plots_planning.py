"""Figures of plans: axes with units, intervals that are there and none that are not, lines told apart by more than colour."""

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


def test_small_multiples_have_a_panel_a_measure_and_the_limit():
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


def test_no_band_is_drawn_where_there_is_no_interval(tmp_path: Path):
    single = TIDY.assign(lower=math.nan, upper=math.nan)
    made = sweeps.curves(single, "fleet.clients", {"live": "s"}, "T")
    paths = [path for band in made.axes[0].collections for path in band.get_paths()]
    assert not any(np.isfinite(path.vertices).all() and len(path.vertices) for path in paths)
    runs.save(made, tmp_path / "x.png")


def test_a_heat_map_says_what_never_ended_and_hatches_what_is_over():
    endless = TIDY.copy()
    endless.loc[(endless["metric"] == "live") & (endless["fleet.clients"] == 10000), "mean"] = math.inf
    made = sweeps.heat_map(endless, "fleet.clients", "model.workers", "live", "T", words="s", limit=5)
    assert words(made).count("never") == 2
    assert sum(patch.get_hatch() == "//" for patch in made.axes[0].patches) == 3
    assert "hatched: over 5" in words(made)


def test_a_ranking_is_in_order():
    frame = pd.DataFrame(
        [("a", "live", 3.0, 2.5, 3.5), ("b", "live", 1.0, 0.5, 1.5)], columns=["policy", "metric", "mean", "lower", "upper"]
    )
    made = sweeps.ranking(frame, "policy", {"live": "s"}, "T")
    assert [label.get_text() for label in made.axes[0].get_yticklabels()] == ["a", "b"]


def test_recovery_shows_the_median_and_ends_where_all_is_over():
    t = np.linspace(0, 60, 61)
    shares = np.clip(np.array([t / 4, t / 6]), 0, 1)
    made = planning.recovery({"x": (t, shares)}, "T")
    assert made.axes[0].get_xlim()[1] < 10
    (line, _) = made.axes[0].lines
    assert line.get_ydata()[3] == pytest.approx(62.5)


def test_what_may_be_chance_is_hollow():
    frame = pd.DataFrame(
        [("a", 1.0, 1.0, 1, 3.0, 2, 2.0, True), ("b", 1.0, 1.0, 1, 1.1, 2, 0.1, False)],
        columns=["parameter", "base", "min", "at_min", "max", "at_max", "swing", "is_significant"],
    )
    made = sweeps.sensitivity(frame, "T", "s")
    assert [patch.get_facecolor()[3] for patch in made.axes[0].patches] == [0.0, 1.0]


def test_predictions_are_drawn_over_what_was_measured():
    found = {"run": [Compared("live", "s", 1.2, (1.0, 1.4), 1.0, 0.2), Compared("peak", "1/s", 5.0, None, math.nan, math.nan)]}
    made = planning.beside(found, "T")
    assert made.axes[0].get_xlabel() == "predicted / measured"
    assert "within 20%" in words(made)


def test_states_are_told_by_letter_and_not_by_colour_alone():
    made = sweeps.gates(pd.DataFrame({"r": ["pass", "fail", "error", "no_data"]}, index=list("abcd")), "T")
    assert [text.get_text() for text in made.axes[0].texts] == ["P", "F", "E", "?"]


def test_a_figure_shows_itself_in_a_notebook():
    made = sweeps.gates(pd.DataFrame({"r": ["pass"]}, index=["a"]), "T")
    assert made._repr_png_().startswith(b"\x89PNG")


def test_lines_differ_by_dash_and_marker_too():
    assert len({str(dash) for _, dash, _ in LINES}) == len({marker for _, _, marker in LINES}) == len(LINES)


def test_values_too_near_to_each_other_share_a_tick():
    frame = TIDY[TIDY["model.workers"] == 1]
    near = pd.concat([frame, frame[frame["fleet.clients"] == 1000].assign(**{"fleet.clients": 1050})])
    made = sweeps.curves(near, "fleet.clients", {"live": "s"}, "T")
    assert [label.get_text() for label in made.axes[0].get_xticklabels()] == ["100", "1,000", "10,000"]
