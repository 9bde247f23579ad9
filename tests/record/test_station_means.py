"""Means of a station's levels per bin of time, and what is kept of them."""

import numpy as np
import pytest

from sim.record.stations import FINE_S, Level, fine_s, load, means


def test_level_is_the_exact_mean_of_each_bin():
    level = Level(begin=10.0)
    level.between(10.05, 10.25, 2.0)
    level.between(10.3, 10.3)
    assert level.means(0.4).tolist() == pytest.approx([1.0, 2.0, 1.0, 0.0])
    assert level.means(0.6).tolist() == pytest.approx([1.0, 2.0, 1.0, 0.0, 0.0, 0.0])
    assert level.means(0.2).tolist() == pytest.approx([1.0, 2.0])
    assert Level().means(0.0).tolist() == [0.0]


def test_level_that_is_set_lasts_until_the_next():
    level = Level()
    for at, value in ((0.05, 4.0), (0.2, 4.0), (0.25, 1.0)):
        level.set(at, value)
    assert level.means(0.5).tolist() == pytest.approx([2.0, 4.0, 2.5, 1.0, 1.0])


def test_bins_may_have_any_width():
    found = means(np.array([2.0, -1.0]), np.array([1.0, -0.5]), 0.5, 2.0)
    assert found.tolist() == [1.0, 1.5, 1.0, 1.0]
    assert means(np.array([-1.0]), np.array([-0.5]), 0.5, 0.5).tolist() == [0.0]


@pytest.mark.parametrize(("horizon_s", "width"), [(400.0, FINE_S), (4000.0, 1.0)])
def test_long_run_has_wider_bins(horizon_s: float, width: float):
    assert (fine_s(horizon_s), FINE_S) == (width, 0.1)


def test_load_keeps_at_most_120_bins_and_the_extremes():
    busy = np.zeros(121)
    busy[:3] = (1.9, 2.0, 1.89)
    found = load("x", 2, 0.5, busy, busy * 3, 0.0, places=7, refused=1)
    assert (found.bin_s, len(found.busy), len(found.waiting)) == (1.0, 61, 61)
    assert (found.busy[:2], found.waiting[0], found.busy[-1]) == ([1.95, 0.945], 5.85, 0.0)
    assert (found.max_busy, found.max_waiting, found.full_s, found.places, found.refused) == (2.0, 6.0, 1.0, 7, 1)
    assert load("x", 2, 0.5, busy[:120], busy[:120], 0.0).bin_s == 0.5
    plain = load("x", 2, 0.5, busy[:1], busy[:1], 0.0)
    assert (plain.name, plain.workers, plain.places, plain.refused) == ("x", 2, 0, 0)


def test_a_level_that_changes_long_after_the_end_of_a_run_costs_no_memory():
    level = Level()
    level.between(0.0, 1e12)
    assert level.means(1.0).tolist() == [1.0] * 10
