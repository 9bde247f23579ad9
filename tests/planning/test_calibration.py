"""A calibration recovers known parameters with intervals, and refuses a target that is unready or changes."""

import math
from pathlib import Path

import msgspec
import pytest

from sim.base.errors import EvidenceError, TargetError, UsageError
from sim.calibration import agreement, drills, estimates, files, measuring
from sim.calibration.agreement import Fit, Residual
from sim.calibration.drills import Sizes
from sim.calibration.files import About
from sim.calibration.measuring import Measured
from sim.drill import system_model
from sim.drill.system_model import ControlService, Network, Server, SystemModel
from sim.engines.virtual import engine
from sim.record.run_header import RunHeader
from tests.commands import stormgate_here

SIZES = Sizes(rounds=2, mint_clients=60, small_burst=40, large_burst=80, replay_clients=16, seconds=1.0)
ENDPOINTS = SystemModel(
    network=Network(median_ms=0.3, sigma=0.3),
    server=Server(
        handshake_ms=0.8,
        handshake_workers=2,
        delivery_batch_ms=0.03,
        delivery_event_ms=0.004,
        publish_ms=0.9,
        accept_backlog=512,
    ),
    control=ControlService(mint_ms=1.2),
)


def simulated(model: SystemModel):
    def run(drill, folder: Path, seed: int) -> RunHeader:
        return engine.run(drill, engine.Options(folder, seed, model))

    return run


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return measuring.measure(simulated(ENDPOINTS), tmp_path_factory.mktemp("drills"), SIZES, 1, lambda what: None)


@pytest.fixture(scope="module")
def fit(measured: Measured, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    return agreement.fit(measured, simulated, tmp_path_factory.mktemp("again"), SIZES, 1)


TRUE = {
    "network.median_ms": (0.3, 0.2),
    "server.handshake_workers": (2, 0),
    "server.handshake_ms": (0.8, 0.1),
    "server.delivery_batch_ms": (0.03, 0.2),
    "server.delivery_event_ms": (0.004, 0.1),
    "server.publish_ms": (0.9, 0.01),
    "control.mint_workers": (1, 0),
    "control.mint_ms": (1.2, 0.02),
}


@pytest.mark.parametrize("key", TRUE)
def test_known_parameters_are_recovered(fit: Fit, key: str):
    value, within = TRUE[key]
    assert fit.estimates[key].value == pytest.approx(value, rel=within)
    table, name = key.split(".")
    assert getattr(getattr(fit.model, table), name) == fit.estimates[key].value


def test_one_event_loop_is_distinguished_from_handshake_workers(fit: Fit, tmp_path: Path):
    server = msgspec.structs.replace(ENDPOINTS.server, one_loop=True, handshake_workers=1, handshake_ms=0.5)
    service = msgspec.structs.replace(ENDPOINTS, server=server)
    found = measuring.measure(simulated(service), tmp_path / "drills", SIZES, 1, lambda what: None)
    other = agreement.fit(found, simulated, tmp_path / "again", SIZES, 1)
    assert (fit.model.server.one_loop, other.model.server.one_loop) == (False, True)
    assert (other.model.server.handshake_workers, other.model.server.handshake_ms) == (1, pytest.approx(0.5, rel=0.03))
    assert max(abs(each.error) for each in other.residuals if each.metric == "return_95_s") < 0.05


def test_unmeasured_parameter_keeps_its_default(fit: Fit):
    assert fit.model.server.accept_backlog == Server().accept_backlog


def test_intervals_come_from_the_rounds(fit: Fit):
    found = fit.estimates["server.handshake_ms"]
    assert found.n == SIZES.rounds
    assert found.lower < found.value < found.upper


def test_fitted_model_reproduces_its_calibration_drills(fit: Fit):
    assert {each.drill for each in fit.residuals} == {"burst_small", "burst_large", "burst_busy", "replay"}
    assert max(abs(each.error) for each in fit.residuals) < 0.05


def residual(simulated: float, *rounds: float, metric: str = "return_95_s") -> Residual:
    return Residual("burst_large", metric, sum(rounds) / len(rounds), simulated, 0.0, rounds)


def test_pace_of_residuals():
    slower, quicker = 2 * math.exp(0.3), 2 * math.exp(-0.3)
    rounds = residual(2.0, slower, quicker, slower, 2.0, 2.0)
    half = residual(1.0, 5.0, metric="return_50_s")
    pace = agreement.pace_of([rounds, half])
    assert (pace.free, pace.spread) == (2, pytest.approx(math.sqrt(3 * 0.3**2 / 2)))  # five rounds, three numbers fitted
    assert not agreement.pace_of([residual(2.0, 2.0, 2.0, 2.0)]).is_known
    assert not agreement.pace_of([rounds, residual(2.0, math.nan)]).is_known


def about(fit: Fit) -> About:
    return About(
        date="2026-01-01T00:00:00+00:00",
        target="mock",
        target_kind="mock",
        method='in "words"',
        drills=msgspec.to_builtins(SIZES),
        not_measured=["server.cold_start_s"],
        estimates=fit.estimates,
        residuals=list(fit.residuals),
    )


def test_file_is_a_model_with_its_calibration(fit: Fit, tmp_path: Path):
    path = tmp_path / "deep" / "mock.toml"
    files.write(path, fit, about(fit))
    model, said = files.read(path)
    assert model == system_model.load(path) == fit.model
    assert said == about(fit)
    assert not list(path.parent.glob("*.partial"))


def test_model_without_calibration_is_refused(tmp_path: Path):
    path = tmp_path / "model.toml"
    path.write_text("[server]\nhandshake_ms = 1.0\n")
    with pytest.raises(UsageError, match="it is not a fitted model"):
        files.read(path)


# --- what no model is made of -----------------------------------------------------------------------


def test_target_that_changes_is_refused(tmp_path: Path):
    slower = msgspec.structs.replace(ENDPOINTS, server=msgspec.structs.replace(ENDPOINTS.server, publish_ms=9.0))
    ran: list[str] = []

    def run(drill, folder: Path, seed: int) -> RunHeader:
        ran.append(drill.name)
        return simulated(ENDPOINTS if ran.count("calibrate_quiet") < 2 else slower)(drill, folder, seed)

    with pytest.raises(
        TargetError, match=r"changed during the calibration: publishing an event took 0\.9 ms before and 9 ms after"
    ):
        measuring.measure(run, tmp_path, SIZES, 1, lambda what: None)


def test_unready_target_is_refused(tmp_path: Path):
    unready = msgspec.structs.replace(ENDPOINTS, server=msgspec.structs.replace(ENDPOINTS.server, handshake_ms=5000.0))
    with pytest.raises(TargetError, match="quiet-1: the steady state did not hold"):
        measuring.measure(simulated(unready), tmp_path, SIZES, 1, lambda what: None)


def test_lagging_load_generator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimates, "generator_lag_ms", lambda history: 80.0)
    with pytest.raises(EvidenceError, match="load generator lagged by 80 ms"):
        measuring.measure(simulated(ENDPOINTS), tmp_path, SIZES, 1, lambda what: None)


def test_too_few_clients_are_refused(tmp_path: Path):
    few = Sizes(rounds=2, mint_clients=3, small_burst=3, large_burst=3, replay_clients=3, seconds=1.0)
    found = measuring.measure(simulated(ENDPOINTS), tmp_path, few, 1, lambda what: None)
    with pytest.raises(EvidenceError, match="too few clients became live"):
        agreement.fit(found, simulated, tmp_path, few, 1)


def test_calibration_drills_run_on_both_engines():
    for drill in (drills.quiet(SIZES), *drills.one_round(SIZES)):
        engine.check(drill)
        assert drill.fleet.clients <= 2 * SIZES.large_burst


WRONG = {
    "no such target": (("--target", "nowhere"), "targets.toml"),
    "elsewhere": (("--target", "http://192.0.2.1:80"), "an address must be on this machine"),
    "not there": (("--target", "http://127.0.0.1:1"), "127.0.0.1:1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_target_that_cannot_be_calibrated_is_refused(tmp_path: Path, name: str):
    words, sentence = WRONG[name]
    said = stormgate_here("plan", "calibrate", *words, "--out", tmp_path / "model.toml")
    assert (said.code, sentence in said.sentence) == (3, True), said
    assert list(tmp_path.iterdir()) == []
