"""The fleet engine comes to the same moments as the virtual engine, and never to a go."""

import errno
import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from drills import CATALOG
from drills.judging.checks.verdicts import RunVerdict, State
from drills.rollout.verdict import stage_drills
from drills.runs import results, running
from drills.runs.request import Request
from sim.analysis import metrics, reconnects
from sim.base import randomness
from sim.base.errors import UsageError
from sim.drill import fault_schedule
from sim.drill import model as drills
from sim.drill.model import Drill, Expect
from sim.drill.system_model import UNLIMITED, Server, SystemModel
from sim.engines.fleet import engine as fleet
from sim.engines.fleet.faults import plan
from sim.engines.fleet.kernel import compilation
from sim.engines.fleet.kernel.randomness import bits_of_all, draw_all, key_of
from sim.engines.fleet.storm import Storm
from sim.engines.virtual import engine as virtual
from sim.record import parquet
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.tally import Tally
from sim.server.settings import Switches
from tests.commands import stormgate_here

SHORT = ("phases.steady_s=2", "phases.fault_s=3", "phases.recovery_s=0.5", "faults.1.at_s=2.2")
POLICIES = ("reference", "desktop", "sdk", "phoenix_js", "centrifuge_js", "ably", "server_hint", "equal_jitter", "decorrelated")


def storm(*overrides: str) -> Drill:
    return drills.load(CATALOG / "reconnect_storm.toml", (*SHORT, *overrides))


def of_virtual(folder: Path, drill: Drill, model: SystemModel, seed: int = 1) -> History:
    header = virtual.run(drill, virtual.Options(folder, seed, model))
    return History(header, parquet.read(folder))


def of_fleet(drill: Drill, model: SystemModel, seed: int = 1) -> Storm:
    simulated = Storm(drill, model, seed)
    simulated.run()
    return simulated


# --- the same draws -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "purpose", "attempt"), [(1, "backoff", 1), (2**63 + 5, "delay_u", 0), (7, "ask", 2**31 - 1)])
def test_compiled_code_draws_the_same(seed: int, purpose: str, attempt: int):
    clients, key = 300, key_of(seed, purpose)
    draws, bits = np.empty(clients), np.empty(clients, np.uint64)
    draw_all(key, draws, attempt)
    bits_of_all(key, bits)
    assert draws.tolist() == [randomness.draw(seed, purpose, client, attempt) for client in range(clients)]
    assert bits.tolist() == [randomness.draw_bits(seed, purpose, client, 0) for client in range(clients)]


def test_faults_concern_the_same_clients():
    waves = [f"faults.{index}.waves=2" for index in (0, 1)]
    for overrides in ((), ("faults.0.share=0.3", "faults.1.share=0.61"), (*waves, "faults.1.wave=2", "faults.0.share=0.5")):
        drill = storm(*overrides)
        theirs, ours = fault_schedule.plan(drill, 5), plan(drill, 5)
        assert [np.flatnonzero(each.chosen).tolist() for each in ours] == [sorted(each.clients) for each in theirs]
        assert [each.describe() for each in ours] == [each.describe() for each in theirs]


# --- the same moments -----------------------------------------------------------------------------------


def last_live(history: History) -> np.ndarray[Any, Any]:
    """When each client went live for the last time."""
    live = np.full(history.header.clients, -np.inf)
    rows = history.fleet(Kind.SUBSCRIBED)
    np.maximum.at(live, rows.client, rows.t)
    return live


@pytest.mark.parametrize("policy", POLICIES)
def test_without_contention_each_client_is_live_at_the_same_microsecond(policy: str, tmp_path: Path):
    drill = storm("fleet.clients=60", f"fleet.policy={policy}", "faults.1.share=0.5", "phases.settle_s=40")
    ours, theirs = of_fleet(drill, UNLIMITED), of_virtual(tmp_path, drill, UNLIMITED)
    assert np.abs(ours.world["clients"]["live_since"] - last_live(theirs)).max() < 1e-6
    replayed = theirs.fleet(Kind.REPLAYED).seq
    assert ours.tally().totals["replayed"] == replayed[replayed > 0].sum()  # and each has missed the same events


def same(ours: Tally, theirs: History, within: float) -> None:
    """Recovery, load and attempts of both, side by side."""
    mine = {each.name: each.value for each in metrics.tally_metrics(ours)}
    other = {each.name: each.value for each in metrics.run_metrics(theirs, Ledger(theirs))}
    names = [f"live_again_{percent}_s" for percent in (50, 95, 99)] + ["peak_connects_per_s", "connects_attempted"]
    names += ["rebootstrapped_share", "stale_answers", "disconnects", "bootstrap_p95_ms", "published_events"]
    for name in names:
        if other[name] != other[name]:
            assert mine[name] != mine[name], name  # neither has measured it
            continue
        assert mine[name] == pytest.approx(other[name], rel=within, abs=1e-9), name
    for found, episode in zip(ours.recoveries, reconnects.episodes(theirs), strict=True):
        assert (found.fault, found.clients) == (episode.fault, episode.clients)
        assert found.attempts_mean == pytest.approx(episode.attempts.mean(), rel=within)


@pytest.mark.parametrize(("seed", "one_loop"), [(1, False), (2, True)])
def test_under_contention_recovery_is_the_same_within_two_percent(seed: int, one_loop: bool, tmp_path: Path):
    """Handshakes take turns, the backlog is full, and a SYN is lost now and then."""
    model = SystemModel(server=Server(accept_backlog=30, handshake_ms=2.0, one_loop=one_loop))
    drill = storm("fleet.clients=400", "load.events_per_s=60", "phases.settle_s=40", "fleet.connects_per_s=40")
    same(of_fleet(drill, model, seed).tally(), of_virtual(tmp_path, drill, model, seed), 0.02)


def test_a_client_that_waits_too_long_in_the_accept_queue_gives_up_and_retries(tmp_path: Path):
    """A return of 15 s and more, as those who are back get frames; a client waits 10 s for a handshake."""
    model = SystemModel(server=Server(one_loop=True, handshake_ms=60.0, delivery_batch_ms=0.15))
    slowly = ("fleet.clients=250", "fleet.connects_per_s=12", "phases.settle_s=90")
    drill = storm(*slowly, "load.events_per_s=60", "faults.1.share=0.2")
    ours, theirs = of_fleet(drill, model).tally(), of_virtual(tmp_path, drill, model)
    failed = theirs.fleet(Kind.CONNECT_FAILED)
    assert ours.totals["connects_failed"] == pytest.approx(len(failed), rel=0.03)
    assert len(failed) > 70
    same(ours, theirs, 0.02)


@pytest.mark.parametrize(
    "name", ["stale_cursor_storm", "runtime_restart", "token_expiry_storm", "control_outage", "rolling_deploy"]
)
def test_every_fault_that_it_represents_comes_to_the_same(name: str, tmp_path: Path):
    drill = drills.load(CATALOG / f"{name}.toml", ("fleet.clients=120",))
    drill = msgspec.structs.replace(drill, expect=Expect())  # probes ask for tokens, too
    ours, theirs = of_fleet(drill, SystemModel()), of_virtual(tmp_path, drill, SystemModel())
    same(ours.tally(), theirs, 0.02)
    seen = theirs.of(Kind.FAULT_OBSERVED)
    for index, acted in zip(seen.attempt.tolist(), seen.value.tolist(), strict=True):
        assert ours.actions.observed[index] == pytest.approx(acted, rel=0.02)


@pytest.mark.parametrize(
    ("name", "clients", "slower", "within"), [("stale_cursor", 100, 10, 0.02), ("rolling_deploy", 200, 25, 0.05)]
)
def test_a_crowded_delivery_comes_to_the_same(name: str, clients: int, slower: int, within: float, tmp_path: Path):
    """Readers are owed more topics than a frame takes, or are sent away while most of them stand in line."""
    model = SystemModel(server=Server(delivery_batch_ms=0.015 * slower, delivery_event_ms=0.002 * slower))
    drill = drills.load(CATALOG / f"{name}.toml", (f"fleet.clients={clients}", "phases.settle_s=10"))
    drill = msgspec.structs.replace(drill, expect=Expect())
    same(of_fleet(drill, model).tally(), of_virtual(tmp_path, drill, model), within)


def test_nobody_is_left_in_line_by_rounding():
    assert (
        fleet.metric(drills.load(CATALOG / "malformed_clients.toml", ("fleet.clients=5000",)), SystemModel(), 1).unconverged
        == 0
    )


# --- what it says ---------------------------------------------------------------------------------------


def judged(out: Path, *chosen: Drill, **more: object) -> RunVerdict:
    like = {"engine": "fleet", "target": "mock", "seed": 1, "defects": (), "thresholds": None}
    return running.conclude(running.run(Request(chosen, out=out, **(like | more))))


def test_the_best_it_can_be_is_inconclusive(tmp_path: Path):
    verdict = judged(tmp_path, storm("fleet.clients=200", "phases.fault_s=9", "phases.steady_s=5", "faults.1.at_s=7"))
    (drill,) = verdict.drills
    states = {check.name: check.state for check in drill.checks}
    assert verdict.exit_code == 2
    assert verdict.status is State.INCONCLUSIVE
    assert (
        states["reconnect.live_again_99_s"] is states["reconnect.backoff_unjittered"] is states["drill.converged"] is State.PASS
    )
    unasked = {name for name, state in states.items() if state is State.NO_DATA}
    assert {
        "drill.invariants",
        "ux.integrity",
        "delivery.dropped_deliveries",
        "drill.audited",
        "drill.negative_clients",
    } <= unasked
    assert all(name in drill.remarks[0] for name in unasked)
    assert any("can never be a go" in note for note in verdict.notes)


def test_what_it_measures_can_fail(tmp_path: Path):
    """A client without jitter that never resets its backoff, and a service that is too slow for it."""
    shape = ("phases.fault_s=9", "phases.steady_s=5", "phases.settle_s=60")
    verdict = judged(tmp_path, storm("fleet.clients=2000", "fleet.policy=desktop", "faults.1.at_s=7", *shape))
    failed = {check.name for check in verdict.drills[0].checks if check.state is State.FAIL}
    assert {"reconnect.backoff_unjittered", "reconnect.backoff_never_resets", "replay.bootstrap_ms"} <= failed
    assert verdict.exit_code == 1


def test_a_service_that_never_reaches_its_steady_state_is_an_error(tmp_path: Path):
    verdict = judged(tmp_path, storm("fleet.clients=40000", "phases.steady_limit_s=1", "phases.settle_s=1"))
    states = {check.name: check.state for check in verdict.drills[0].checks}
    assert states["drill.steady_state"] is states["drill.faults_observed"] is State.ERROR
    assert states["drill.converged"] is State.FAIL
    (peak,) = (metric.value for metric in verdict.drills[0].metrics if metric.name == "peak_connects_per_s")
    assert math.isnan(peak)  # no fault began, so none of its size was seen


def test_an_overloaded_delivery_passes_nothing(tmp_path: Path):
    """Beyond what a reader's queue holds, a service sends it away, which is not simulated."""
    drill = storm("fleet.clients=300", "load.events_per_s=200")
    model = tmp_path / "slow.toml"
    model.write_text("[server]\ndelivery_event_ms = 0.1\n")
    verdict = judged(tmp_path, drill, model=model)
    assert not {check.name for check in verdict.drills[0].checks if check.state is State.PASS} - {"drill.evidence"}
    assert any("evicted slow clients" in remark for remark in verdict.drills[0].remarks)


def test_replications_are_judged_together(tmp_path: Path):
    verdict = judged(tmp_path, storm("fleet.clients=100"), replications=2)
    assert verdict.drills[0].replications == 2
    assert verdict.exit_code == 2
    assert next(spread.n for spread in verdict.drills[0].spreads if spread.name == "live_again_99_s") == 2


def test_a_stage_takes_it_for_no_evidence(tmp_path: Path):
    verdict = judged(tmp_path, storm("fleet.clients=50"))
    plan = SimpleNamespace(target_kind="mock", target="embedded mock", thresholds_sha256=verdict.thresholds_sha256)
    state, why = stage_drills._run(plan, "drills/x", verdict)
    assert (state, "is a simulation, which passes no gate" in why) == (State.ERROR, True)


def test_one_seed_gives_the_same_bytes(tmp_path: Path):
    headers = [fleet.run(storm("fleet.clients=500"), fleet.Options(tmp_path / name)) for name in ("a", "b")]
    assert headers[0].tally == headers[1].tally
    assert headers[0].observations_sha256 == headers[1].observations_sha256


def test_an_interrupted_run_keeps_what_it_had_and_says_so(tmp_path: Path):
    def interrupt(phase: str, text: str, simulated_s: float) -> None:
        signal.raise_signal(signal.SIGINT)

    header = fleet.run(storm("fleet.clients=100"), fleet.Options(tmp_path, progress=interrupt))
    assert not header.complete
    assert header.stopped_because.startswith("it was interrupted in the steady phase, ")
    assert header.tally is not None
    assert header.tally.totals["connects_attempted"] > 0


# --- what it refuses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides", "key"),
    [
        ("jumbled_frames", (), r"'faults\.0\.kind' is 'jumble_deliveries', a fault"),
        ("retired_routes", (), "'expect.retired_routes' is true, HTTP"),
        ("reconnect_storm", ("fleet.policy=wrong_trusts_silence",), "'fleet.policy' is 'wrong_trusts_silence'"),
        ("reconnect_storm", ("load.events_per_s=3000",), "'load.events_per_s' is 3000, throttled publishing"),
        ("reconnect_storm", ("runtime.sync_frames=true",), "'runtime.sync_frames' is true"),
        ("reconnect_storm", ("fleet.token_ttl_s=900",), "the tokens' lifetime is 900 s"),
        (
            "reconnect_storm",
            ("fleet.client_build=20250101T000000Z",),
            "'fleet.client_build' is '20250101T000000Z'",
        ),
        ("rolling_deploy", ("faults.0.waves=40", "faults.0.wave_s=0.1"), "the number of faults and waves is 40"),
        ("reconnect_storm", ("runtime.heartbeat_interval_s=70",), "'runtime.heartbeat_interval_s' is 70"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(name: str, overrides: tuple[str, ...], key: str):
    with pytest.raises(UsageError, match=key):
        fleet.check(drills.load(CATALOG / f"{name}.toml", overrides))


def test_a_defect_and_a_failing_mirror_are_refused():
    with pytest.raises(UsageError, match="--defect is skip_delivery"):
        fleet.check(storm(), switches=Switches(defects={"skip_delivery"}))
    with pytest.raises(UsageError, match=r"mirror_failure_share' is 0\.5"):
        fleet.check(storm(), SystemModel(server=Server(mirror_failure_share=0.5)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("parity", "--engine", "fleet"), "leaves 0 of its variants to compare"),
        (("reconnect_storm", "--engine", "fleet", "--target", "staging"), "the fleet engine simulates its own service"),
        (("reconnect_storm", "--engine", "fleet", "--defect", "skip_delivery"), "a runtime with a defect"),
        (("reconnect_storm", "--engine", "flote"), "sockets, virtual, fleet"),
    ],
)
def test_bad_input_gets_one_sentence(arguments: tuple[str, ...], sentence: str, tmp_path: Path):
    said = stormgate_here("drill", "run", *arguments, "--out", tmp_path)
    assert said.code == 3
    assert sentence in said.sentence
    assert not list(tmp_path.iterdir())


# --- compiled code that cannot be kept ------------------------------------------------------------------


def double(x: float) -> float:
    return 2 * x


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Callable[[float], float]]:
    def compile_into(folder: Path) -> Callable[[float], float]:
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))
        return compilation.compiled(double)

    return compile_into


def test_it_runs_where_nothing_can_be_kept(compiled: Callable[[Path], Callable[[float], float]], tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    assert compiled(tmp_path / "file")(2.0) == 4.0
    assert not list(Path(__file__).with_name("__pycache__").glob("*.nb?"))


def test_it_runs_on_a_full_disk(
    compiled: Callable[[Path], Callable[[float], float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
    assert compiled(tmp_path / "cache")(2.0) == 4.0


def test_it_runs_with_damaged_code(compiled: Callable[[Path], Callable[[float], float]], tmp_path: Path):
    assert compiled(tmp_path)(2.0) == 4.0
    kept = [path for path in tmp_path.rglob("*.nb?") if path.is_file()]
    assert kept
    for path in kept:
        path.write_bytes(b"not what it was")
    assert compiled(tmp_path)(2.0) == 4.0


def test_results_can_be_judged_again(tmp_path: Path):
    verdict = judged(tmp_path, storm("fleet.clients=50"))
    assert results.judge_run(tmp_path / verdict.run_id) == verdict
