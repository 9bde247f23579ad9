"""Figures of a run agree with the metrics of its report, and show nothing before it happened."""

import random

import numpy as np
import pytest

from sim.analysis import reconnects
from sim.analysis.metrics import run_metrics
from sim.plots import runs, series
from sim.plots.svg import svg
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from tests.histories import Story, good_storm


def stormy(seed: int) -> History:
    """Random connects before and after a fault at 10 s, of 20 clients."""
    chance, story = random.Random(seed), Story(20)
    moments = sorted([chance.uniform(0, 10) for _ in range(40)] + [10 + chance.expovariate(0.7) for _ in range(200)])
    story.tell(0.0, Kind.PHASE, detail="steady").tell(10.0, Kind.FAULT_INJECTED, detail="drop_sockets")
    for t in moments:
        story.tell(t, Kind.CONNECT_ATTEMPTED, chance.randrange(20))
    return story.tell(60.0, Kind.PHASE, detail="end").history()


@pytest.mark.parametrize("seed", range(5))
def test_highest_connects_after_the_fault_are_the_metric(seed: int) -> None:
    history = stormy(seed)
    t, value = series.thinned(series.connects_in_last_second(history, Kind.CONNECT_ATTEMPTED), history.duration_s)
    assert value[t >= 10].max() == reconnects.peak_connects_per_s(history)
    assert (np.diff(t) >= 0).all()
    assert value[t < 10].max() < value.max(), "the storm is not drawn before its fault"


def lag_between(history: History, since: float, until: float) -> list[float]:
    """The values of the highest lag that a reader sees between two times."""
    lag = series.lag(history)
    grid = np.linspace(since, until, 200, endpoint=False)
    place = np.searchsorted(lag.t, grid, side="right") - 1
    return sorted(set(lag.highest[place[place >= 0]].tolist()))


def sampled(*lags: tuple[float, float], fault_t: float = 5.3) -> History:
    story = Story(2).tell(0.0, Kind.PHASE, detail="steady").tell(fault_t, Kind.FAULT_INJECTED, detail="partition")
    for t, lag in lags:
        for client in range(2):
            story.tell(t, Kind.CLIENT_LAG, client, value=lag)
    return story.tell(12.0, Kind.PHASE, detail="end").history()


def test_lag_does_not_rise_before_the_cut() -> None:
    history = sampled(*((t / 10, 0.0) for t in range(10, 53)), *((t / 10, 9.0) for t in range(53, 80)), (9.0, 0.0))
    assert lag_between(history, 1.0, 5.3) == [0.0]
    assert lag_between(history, 5.3, 9.0) == [9.0]
    assert lag_between(history, 9.0, 12.0) == [0.0]
    assert series.lag(history).backlog.max() == 18.0


def test_lag_is_not_drawn_where_nothing_was_sampled() -> None:
    history = sampled((1.0, 3.0), (1.5, 3.0), (11.0, 0.0))
    lag = series.lag(history)
    assert np.isnan(lag.highest[(lag.t > 1.0) & (lag.t < 11.0)]).all()
    assert len(lag.t) == 3


def test_recovery_dots_are_the_metrics_of_the_report() -> None:
    history = good_storm().history()
    told = {metric.name: metric.value for metric in run_metrics(history, Ledger(history))}
    assert runs.live_again_s(history) == {percent: told[f"live_again_{percent}_s"] for percent in (50, 95, 99)}
    (axes,) = runs.recovery_figure(history, "", {"reconnect.live_again_99_s": 60.0}).axes
    words = [text.get_text() for text in axes.texts]
    assert f"99 %: {told['live_again_99_s']:.4g} s" in words
    assert "limit of the 99 %: 60, beyond this axis" in words


def test_limit_within_the_axis_is_a_line() -> None:
    history = good_storm().history()
    limit = runs.live_again_s(history)[99] * 1.2
    (axes,) = runs.recovery_figure(history, "", {"reconnect.live_again_99_s": limit}).axes
    assert limit in [line.get_xdata()[0] for line in axes.lines]
    assert axes.get_xlim()[1] > limit


def test_thinning_keeps_highest_lowest_and_last() -> None:
    chance = np.random.default_rng(1)
    t, value = np.sort(chance.uniform(0, 100, 50_000)), chance.normal(size=50_000)
    thin_t, thin = series.thinned((t, value), 100.0)
    assert len(thin) <= 4 * (series.BINS + 1)
    assert (thin.max(), thin.min(), thin[-1]) == (value.max(), value.min(), value[-1])
    assert (np.diff(thin_t) >= 0).all()


def test_names_of_others_are_text_and_not_formulas() -> None:
    story = good_storm()
    for place, code in enumerate(("$\\frac{$", "<script>alert(1)</script>", "x" * 300)):
        story.tell(40.0 + place, Kind.ENDED, 0, attempt=4000 + place, detail=f"server:{code}:retry")
    drawn = svg(runs.drill_figure(story.history(), "run $x$: pass"), "name")
    assert "server 4000 $\\frac{$" in drawn
    assert "<script" not in drawn
    assert "x" * 41 not in drawn
    assert drawn.startswith("<svg viewBox=")
    assert "#0072b2" not in drawn.lower(), "the page's colours"
