"""Sweeps and searches on the fleet engine: it agrees with the virtual one, and unsupported checks are never green."""

from pathlib import Path

import numpy as np
import pytest

from drills.judging.checks.verdicts import State
from drills.planning import report, search, sweeps
from drills.planning.gates import Gates
from drills.planning.sweeps import Swept
from sim.engines.fleet import engine as fleet
from sim.planning import designs, runs
from sim.planning.search import Outcome
from sim.planning.studies import CURVE_STEPS, study
from sim.record import run_header
from sim.record.history import History
from tests.planning.plan_files import SWEEP, TWO_POINTS, here, load, write


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("fleet")
    return sweeps.sweep(load(folder, 'engine = "fleet"\n' + TWO_POINTS), folder, here)


def test_fleet_and_virtual_engine_agree(swept: Swept, tmp_path: Path):
    virtual = sweeps.sweep(load(tmp_path, TWO_POINTS), tmp_path, here)
    for name in ("live_again_95_s", "peak_connects_per_s"):
        one, other = (each.table[each.table["metric"] == name]["mean"].to_numpy() for each in (swept, virtual))
        assert one == pytest.approx(other, rel=0.02), name


def test_unsupported_check_is_never_green(swept: Swept):
    verdict = swept.verdicts[0]
    assert verdict.status is State.INCONCLUSIVE
    states = {check.name: check.state for check in verdict.checks}
    assert states["reconnect.live_again_99_s"] is State.PASS
    assert states["delivery.dropped_deliveries"] is State.NO_DATA
    assert "checked no invariant" in " ".join(report.sweep_paragraphs(swept))


FIND = (
    'engine = "fleet"\n' + SWEEP + '[find]\nkey = "fleet.clients"\nwant = "largest"\nlow = 8\nhigh = 16\nmax_replications = 4\n'
)


def test_search_with_unsupported_checks_is_inconclusive(tmp_path: Path):
    every = search.find(load(tmp_path, FIND), tmp_path / "1", here)
    assert (every.found.answer, every.found.outcome) == (None, Outcome.INCONCLUSIVE)
    assert "delivery.dropped_deliveries no_data" in every.sentence
    kept = search.find(load(tmp_path, FIND + 'keep = ["reconnect.live_again_99_s"]\n'), tmp_path / "2", here)
    assert (kept.found.answer, kept.found.outcome) == (16, Outcome.GREEN)
    assert "checks no invariant" in kept.confidence


@pytest.mark.parametrize("engine", ["virtual", "fleet"])
def test_study_keeps_recovery_curves(tmp_path: Path, engine: str):
    write(tmp_path, SWEEP)
    done = study(
        tmp_path / "little_storm.toml", {"fleet.clients": (8, 16)}, replications=2, engine=engine, folder=tmp_path, curve_s=5.0
    )
    t, shares = done.curve(clients=16)
    assert shares.shape == (2, CURVE_STEPS)
    assert shares.min() < 0.5  # the fleet engine counts in bins, so it is a moment late
    assert (shares[:, -1] == 1.0).all()
    reached = [float(t[np.flatnonzero(run < 0.95)[-1]]) for run in shares]
    live = done.runs[(done.runs["metric"] == "live_again_95_s") & (done.runs["fleet.clients"] == 16)]["value"]
    assert reached == pytest.approx(live.tolist(), abs=0.3)
    with pytest.raises(ValueError, match="0 points have"):
        done.curve(clients=9)


def test_run_without_folder_is_judged_like_one_with_a_folder(tmp_path: Path):
    point = designs.points(load(tmp_path, 'engine = "fleet"\n' + TWO_POINTS))[1]
    row = runs.perform(runs.job("fleet", point, 3, Gates()), lambda phase, reached: None)
    fleet.run(point.drill, fleet.Options(tmp_path / "run", 3, point.model))
    metrics, judgement = Gates().evaluate(point.drill, History(*run_header.read_verified(tmp_path / "run")))
    assert row is not None
    assert repr(row.metrics) == repr(metrics)  # some are NaN
    assert row.judgement == judgement
