"""Predictions of a drill by a fitted model, compared with measurements."""

import math
from pathlib import Path

import msgspec
import pytest

from drills import CATALOG
from drills.judging.checks.verdicts import RunVerdict
from drills.reports import report
from drills.runs import predictions, results
from drills.runs.predictions import Predictor
from sim.analysis.metrics import Metric
from sim.base.errors import UsageError
from sim.calibration.agreement import Pace
from sim.drill import model as drills
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.engines.virtual import engine
from sim.planning.store import Row
from sim.record import run_header
from sim.record.predictions import Predicted, Prediction, compare
from tests.commands import stormgate_here
from tests.planning.plan_files import DRILL

FITTED = """
[server]
handshake_ms = 0.5
[calibration]
date = "2026-01-01T00:00:00+00:00"
target = "mock"
target_kind = "mock"
method = "none"
drills = {}
not_measured = []
estimates = {}
[[calibration.residuals]]
drill = "burst_large"
metric = "return_95_s"
measured = 1.0
simulated = 1.0
error = 0.0
rounds = [0.9, 1.0, 1.1, 0.9, 1.0, 1.1]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "little_storm.toml").write_text(DRILL)
    (folder / "fitted.toml").write_text(FITTED)
    return folder


@pytest.fixture(scope="module")
def drill(folder: Path) -> Drill:
    return drills.load(folder / "little_storm.toml")


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return predictions.predictor(folder / "fitted.toml", "mock", folder)


@pytest.fixture(scope="module")
def prediction(predictor: Predictor, drill: Drill) -> Prediction:
    return predictor.predict(drill, 100, workers=1)


@pytest.fixture(scope="module")
def verdict(folder: Path, predictor: Predictor, prediction: Prediction, drill: Drill) -> RunVerdict:
    """The verdict of a run of the predicting model itself, with another seed."""
    run = results.create_run(folder, (drill,), engine="virtual", target="embedded mock", target_kind="mock", seed=7)
    own = results.create_drill_folder(run, drill)
    header = engine.run(drill, engine.Options(own, 7, predictor.model, run_id=run.name))
    predictions.keep(own, header, prediction)
    return results.judge_run(run)


def test_run_of_the_same_model_is_inside_its_interval(verdict: RunVerdict):
    (judged,) = verdict.drills
    assert judged.prediction is not None
    found = compare(judged.prediction, {metric.name: metric.value for metric in judged.metrics})
    assert {"live_again_95_s", "peak_connects_per_s"} <= {each.metric for each in found}
    outside = [each for each in found if not each.interval[0] <= each.measured <= each.interval[1]]
    assert len(outside) <= 1, outside


def told(prediction: Prediction, metric: str) -> Predicted:
    return next(each for each in prediction.predicted if each.metric == metric)


def test_interval_covers_the_variation_between_rounds(predictor: Predictor, drill: Drill):
    """A slower run is inside the interval if one round was as slow, and outside if all rounds were equal."""
    storm = msgspec.structs.replace(drill, fleet=msgspec.structs.replace(drill.fleet, policy="sdk"))
    busy = msgspec.convert({"server": {"handshake_ms": 40.0}, "network": {"sigma": 0.0}}, SystemModel)  # a queue
    slower = Predictor(predictor.path, busy.slowed(1.2), "nothing", Pace(0.0, 9)).predict(storm, 7, workers=1)
    took = told(slower, "live_again_95_s").value
    paces = (Pace(0.15, 9), Pace(0.0, 9))
    unlike, alike = (Predictor(predictor.path, busy, "nothing", pace).predict(storm, 7, workers=1) for pace in paces)
    assert told(unlike, "live_again_95_s").lower < took < told(unlike, "live_again_95_s").upper
    assert told(alike, "live_again_95_s").upper < took
    assert told(unlike, "live_again_95_s").value == pytest.approx(told(alike, "live_again_95_s").value, rel=0.05)


def rows(*values: float) -> list[Row]:
    """Rows of services from the fastest to the slowest."""
    return [Row("", seed, (Metric("x", value, "s", 1),)) for seed, value in enumerate(values)]


def test_constant_metric_is_predicted_exactly():
    peak = predictions.predicted("x", rows(*[2000.0] * 5), Pace(0.2, 9))
    assert peak is not None
    assert (peak.lower, peak.value, peak.upper) == (2000.0, 2000.0, 2000.0)


def test_prediction_has_no_interval_if_slower_replications_never_recover():
    told = predictions.predicted("x", rows(1.0, 1.5, 2.0, 8.0, math.nan), Pace(0.2, 9))
    assert told == Predicted("x", "s", 2.0, None, None)
    assert predictions.predicted("x", rows(1.0, 1.5, math.nan, math.nan, math.nan), Pace(0.2, 9)) is None


def test_prediction_without_known_pace_has_no_interval(predictor: Predictor, drill: Drill):
    alone = Predictor(predictor.path, predictor.model, "nothing", Pace(math.nan, 0)).predict(drill, 1, workers=1)
    assert {(each.lower, each.upper) for each in alone.predicted} == {(None, None)}


def test_prediction_does_not_change_the_verdict(verdict: RunVerdict, folder: Path, drill: Drill):
    before = report.summary(verdict)["drills"][0]
    run = next(path for path in folder.iterdir() if (path / "run-plan.json").exists())
    header = run_header.read_header(results.drill_folder(run, drill.name))
    wrong = msgspec.structs.replace(header.prediction, predicted=(Predicted("live_again_95_s", "s", 1e6, 1e6, 1e6),))
    predictions.keep(results.drill_folder(run, drill.name), header, wrong)
    after = report.summary(results.judge_run(run))["drills"][0]
    assert after["prediction"]["metrics"]["live_again_95_s"]["predicted"] == 1e6
    assert {**before, "prediction": None} == {**after, "prediction": None}


def test_error_is_in_the_summary_and_the_report(verdict: RunVerdict, prediction: Prediction):
    said = report.summary(verdict)["drills"][0]["prediction"]
    peak = said["metrics"]["peak_connects_per_s"]
    assert peak["error"] == pytest.approx((peak["predicted"] - peak["measured"]) / peak["measured"])
    assert said["model"] == "fitted.toml, fitted to mock on 2026-01-01T00:00:00+00:00"
    text = report.summary_markdown(verdict)
    assert "### Predicted and measured" in text
    assert "| live_again_95_s | " in text


def test_missing_metric_has_no_error():
    told = Prediction(
        model="m",
        model_sha256="",
        engine="virtual",
        replications=5,
        made_at="",
        predicted=(Predicted("x", "s", 1.0, 0.5, 1.5),),
    )
    (missing,), (endless,), (found,) = (compare(told, measured) for measured in ({}, {"x": math.inf}, {"x": 2.0}))
    assert math.isnan(missing.error)
    assert math.isnan(endless.error)
    assert found.error == -0.5


def test_metric_without_simulated_value_is_not_predicted(folder: Path, drill: Drill):
    """A service that accepts no client has no recovery time, and none is predicted."""
    never = msgspec.convert({"server": {"handshake_ms": 5000.0}}, SystemModel)
    told = Predictor(folder / "fitted.toml", never, "nothing", Pace(0.1, 9)).predict(drill, 1, workers=1)
    assert "live_again_99_s" in told.not_predicted
    assert not any(each.metric == "live_again_99_s" for each in told.predicted)


def test_parity_drill_is_not_predicted():
    with pytest.raises(UsageError, match="compares variants"):
        predictions.check(drills.load(CATALOG / "parity.toml"))


WRONG = {
    "nothing was fitted": (("reconnect_storm", "--predict"), "there is no model fitted to 'mock'"),
    "a plain model": (("reconnect_storm", "--predict", "--model", "plain.toml"), "is not a fitted model"),
    "what cannot be simulated": (
        ("retired_routes", "--predict", "--model", "fitted.toml"),
        "does not run on the engine",
    ),
    "in simulation": (("reconnect_storm", "--predict", "--engine", "virtual"), "leave --engine virtual out"),
}


@pytest.mark.parametrize("name", WRONG)
def test_unpredictable_drill_is_refused(folder: Path, tmp_path: Path, name: str):
    (tmp_path / "plain.toml").write_text("[server]\nhandshake_ms = 1.0\n")
    (tmp_path / "fitted.toml").write_text(FITTED)
    words, sentence = WRONG[name]
    given = [tmp_path / word if word.endswith(".toml") else word for word in words]
    said = stormgate_here("drill", "run", *given, "--out", tmp_path / "out")
    assert (said.code, sentence in said.sentence) == (3, True), said
    assert not (tmp_path / "out").exists()


def test_prediction_is_made_before_the_run(folder: Path, tmp_path: Path):
    words = ("drill", "run", folder / "little_storm.toml", "--predict", "--model", folder / "fitted.toml", "--out", tmp_path)
    said = stormgate_here(*words, "--json")
    body = msgspec.json.decode(said.out)
    metrics = body["drills"][0]["prediction"]["metrics"]
    assert metrics["live_again_95_s"]["measured"] > 0
    assert math.isfinite(metrics["peak_connects_per_s"]["error"])
