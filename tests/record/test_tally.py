"""Counts of a fleet run that stand for its samples."""

import numpy as np

from sim.record.tally import Herd, Sizes, sizes


def test_histogram_has_a_sample_for_each_count():
    found = sizes([1.0, 2.0, 3.0], np.array([2, 0, 1]))
    assert found == Sizes([1.0, 3.0], [2, 1])
    assert found.n == 3
    assert found.samples().tolist() == [1.0, 1.0, 3.0]


def test_histogram_without_samples_is_empty():
    assert (Sizes().n, Sizes().samples().tolist()) == (0, [])


def test_share_of_a_herd_is_of_all_delays_of_its_attempt():
    assert Herd(1, 8, 2).share == 0.25
