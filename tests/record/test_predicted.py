"""Predicted metrics against what a run measured."""

import math

import pytest

from sim.record.predictions import Predicted, Prediction, compare


def test_each_metric_is_compared_with_what_was_measured():
    metrics = (
        Predicted("p95", "ms", 12.0, 10.0, 15.0),
        Predicted("open", "ms", 8.0, None, 9.0),
        Predicted("none", "", 1.0, 0.0, None),
        Predicted("absent", "", 1.0, 0.0, 2.0),
    )
    prediction = Prediction(model="m", model_sha256="", engine="virtual", replications=3, made_at="", predicted=metrics)
    found = compare(prediction, {"p95": 10.0, "open": 16.0, "none": 0.0})
    assert [(each.metric, each.unit, each.predicted) for each in found] == [(m.metric, m.unit, m.value) for m in metrics]
    assert [each.interval for each in found] == [(10.0, 15.0), None, None, (0.0, 2.0)]
    assert [each.measured for each in found] == pytest.approx([10.0, 16.0, 0.0, math.nan], nan_ok=True)
    assert [each.error for each in found] == pytest.approx([0.2, -0.5, math.nan, math.nan], nan_ok=True)
