"""The answers of notebooks in words: from a study's table, never more than it shows."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from sim.analysis.metrics import Metric
from sim.planning import bottlenecks, sliders, words
from sim.planning.designs import Point
from sim.planning.store import Row
from sim.planning.studies import Curves, Study, study
from tests.planning.plan_files import DRILL

Values = Mapping[tuple[object, ...], tuple[float, ...]]


def made(keys: tuple[str, ...], values: Values, metric: str = "live_again_95_s", **more: Values) -> Study:
    """A study with invented metrics of three seeds at each point."""
    points = tuple(Point(n, dict(zip(keys, at, strict=True)), None, None) for n, at in enumerate(values))
    every = {metric: values, **more}
    rows = {
        n: [Row("", seed, tuple(Metric(name, each[at][seed], "", 1) for name, each in every.items())) for seed in range(3)]
        for n, at in enumerate(values)
    }
    return Study(points, rows, Curves(1.0))


SIZES = {"live_again_95_s": "recovery (s)", "clients": "clients", "workers": "workers"}


def test_values_are_within_beyond_or_undecided():
    found = made(("clients", "workers"), {(10, 1): (1.0, 1.1, 1.0), (20, 1): (4.0, 6.0, 5.0), (30, 1): (9.0, 9.1, 9.0)})
    said = words.within(found, "live_again_95_s", 5.0, key="clients", by="workers", words=SIZES)
    assert "- **workers 1**: within it at clients 10; beyond it at clients 30; not decided at clients 20" in said


@pytest.mark.parametrize(("value", "verb"), [(math.inf, "beyond it"), (math.nan, "not decided")])
def test_what_never_ends_is_beyond_and_what_is_missing_undecided(value: float, verb: str):
    found = made(("clients", "workers"), {(10, 1): (value,) * 3})
    said = words.within(found, "live_again_95_s", 5.0, key="clients", by="workers", words=SIZES)
    assert f"**workers 1**: {verb} at clients 10" in said
    assert "nan" not in said


POLICIES = {"live_again_95_s": "recovery (s)", "peak_reached_per_s": "peak (1/s)"}
TIMES: Values = {("sdk",): (1.0, 1.2, 1.1), ("ably",): (1.1, 1.1, 1.0), ("slow",): (9.0, 9.2, 9.1)}
PEAKS: Values = {("sdk",): (90.0, 91.0, 92.0), ("ably",): (50.0, 51.0, 52.0), ("slow",): (5.0, 5.0, 6.0)}


def test_best_tells_its_ties():
    said = words.best(made(("policy",), TIMES, peak_reached_per_s=PEAKS), "live_again_95_s", key="policy", words=POLICIES)
    assert said.startswith("**ably** has the lowest recovery (s): 1.07 (")
    assert "cannot be told apart from sdk: the difference may be chance" in said
    assert "With it: peak (1/s) 51 (" in said


def test_recommended_is_the_lowest_peak_of_those_that_are_soon_enough():
    found = made(("policy",), TIMES, peak_reached_per_s=PEAKS)
    said = words.recommended(found, 5.0, key="policy", words=POLICIES)
    assert said.startswith("**Use ably**")
    assert "Too slow, or not surely fast enough: slow." in said
    assert words.recommended(found, 60.0, key="policy", words=POLICIES).startswith("**Use slow**")
    assert words.recommended(found, 0.5, key="policy", words=POLICIES).startswith("**None** brings 95 %")


def test_value_with_a_run_that_never_ended_is_not_recommended():
    endless = {**TIMES, ("ably",): (1.0, math.inf, 1.0)}
    said = words.recommended(made(("policy",), endless, peak_reached_per_s=PEAKS), 5.0, key="policy", words=POLICIES)
    assert said.startswith("**Use sdk**")


def test_model_that_is_off_is_told_with_its_error():
    found = made(("policy",), {("sdk",): (2.0, 2.0, 2.0)})
    assert "is off by up to 50%" in words.compared({"live_again_95_s": 4.0}, found, {"live_again_95_s": "recovery (s)"})
    assert "trust no number" in words.compared({"live_again_95_s": math.nan}, found, {"live_again_95_s": "recovery (s)"})


def test_smallest_counts_the_worst_run():
    shares = {
        (64, 5.0): (0.0, 0.1, 0.0),
        (256, 5.0): (0.0, 0.0, 0.0),
        (64, 50.0): (1.0, 1.0, 1.0),
        (256, 50.0): (0.5, 0.0, 0.0),
    }
    found = made(("window", "outage"), shares, "rebootstrapped_share")
    said = words.smallest(
        found, "rebootstrapped_share", 0.0, key="window", by="outage", words={"window": "window", "outage": "outage"}
    )
    assert "- **outage 5**: 256 is enough" in said
    assert "- **outage 50**: even 256, the largest that was tried, is not enough" in said


@pytest.mark.parametrize("engine", ["fleet", "virtual"])
def test_peak_counts_connects_that_reach_the_service(tmp_path: Path, engine: str):
    """While their network is away, clients try again and again, and nothing reaches the service."""
    (tmp_path / "storm.toml").write_text(DRILL)
    away = {"faults": [{"kind": "drop_sockets", "at_s": 0.0, "offline_s": 3.0}], "phases.fault_s": 12.0, "fleet.clients": 40}
    found = study(
        tmp_path / "storm.toml",
        {"fleet.policy": ("reference",)},
        fixed=away,
        engine=engine,
        replications=2,
        folder=tmp_path / "kept",
    )
    means = dict(zip(found.table["metric"], found.table["mean"], strict=True))
    assert 0 < means["peak_reached_per_s"] <= 41  # the virtual engine has an auditor
    assert means["peak_reached_per_s"] < means["peak_connects_per_s"]
    assert bottlenecks.uses(found.rows[0])


def test_sliders_simulate_what_they_are_set_to(tmp_path: Path):
    (tmp_path / "storm.toml").write_text(DRILL)
    fixed = {"load.events_per_s": 5.0}
    box = sliders.explore(
        tmp_path / "storm.toml", ("reference", "sdk"), clients=20, fixed=fixed, replications=2, folder=tmp_path / "kept"
    )
    clients, policy, workers, button, shown = box.children
    first = str(shown.outputs)
    assert "95 % live again after" in first
    assert "image/png" in first
    clients.value, policy.value, workers.value = 60, "sdk", 2
    assert str(shown.outputs) == first  # nothing is simulated before the button
    button.click()
    assert "Recovery of 60 clients" in str(sliders.tried(60, "sdk", 2, tmp_path / "storm.toml", fixed=fixed, replications=2,
                                                        folder=tmp_path / "kept")[1].get_suptitle())  # fmt: skip
    assert str(shown.outputs) != first
    fixed["load.events_per_s"] = -1.0
    sliders.show(shown, lambda: sliders.tried(60, "sdk", 2, tmp_path / "storm.toml", fixed=fixed))
    assert "Not simulated" in str(shown.outputs)


def test_missing_model_file_is_told(tmp_path: Path):
    with pytest.raises(Exception, match="there is no such model file"):
        study(tmp_path / "storm.toml", {"fleet.clients": (1,)}, model_file=tmp_path / "none.toml")
