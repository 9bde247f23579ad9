"""What the virtual engine refuses by name, and how it ends where it cannot go on."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import simpy

from drills import EXAMPLES
from drills.judging.checks.verdicts import State
from drills.runs import results, running
from drills.runs.request import Request
from sim.base.errors import UsageError
from sim.drill import model as drills
from sim.drill import system_model
from sim.drill.fault_bases import Fault
from sim.drill.model import Drill
from sim.drill.phase_runner import PhaseRunner
from sim.drill.system_model import Network, Server, SystemModel
from sim.drill.waiting import Wait
from sim.engines.virtual import engine
from sim.protocols import registry
from sim.record import parquet, run_header
from sim.record.history import History
from sim.record.observations import Kind
from sim.record.run_header import RunHeader
from sim.server.admission import PublishLimits
from sim.server.settings import RuntimeSettings, Switches
from tests.commands import stormgate
from tests.storms import run_all, small

USAGE, INTERNAL = 3, 4
ROLLOUT_DAY = EXAMPLES / "rollout_day.toml"


def simulate(folder: Path, drill: Drill, model: SystemModel | None = None, **options: object) -> History:
    header = engine.run(drill, engine.Options(folder, 1, model or SystemModel(), **options))
    return History(header, parquet.read(folder))


def request(out: Path, *chosen: Drill, **more: object) -> Request:
    like = {"engine": "virtual", "target": "mock", "seed": 1, "defects": (), "thresholds": None}
    return Request(chosen, out=out, **(like | more))


# --- by name --------------------------------------------------------------------------------------------


class Meteor(Fault, frozen=True, tag="meteor"):
    """A fault that nobody has thought of yet."""


def test_a_fault_without_meaning_in_simulation(tmp_path: Path):
    storm = small("reconnect_storm")
    odd = Drill(**{name: getattr(storm, name) for name in storm.__struct_fields__} | {"faults": (Meteor(at_s=0.5),)})
    with pytest.raises(UsageError, match=r"'faults\.0\.kind' is 'meteor', which has no meaning in simulation"):
        engine.run(odd, engine.Options(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_drill_of_another_engine(tmp_path: Path):
    day = drills.load(ROLLOUT_DAY)
    with pytest.raises(UsageError, match=r"'rollout_day' does not run on --engine sockets; 'engines' has: virtual"):
        running.run(request(tmp_path / "out", day, engine="sockets"))
    assert not (tmp_path / "out").exists()


def test_a_target(tmp_path: Path):
    with pytest.raises(UsageError, match="leave --target out"):
        running.run(request(tmp_path / "out", small("reconnect_storm"), target="http://127.0.0.1:1"))


def test_a_model_for_sockets(tmp_path: Path):
    with pytest.raises(UsageError, match="add --engine virtual"):
        running.run(request(tmp_path / "out", small("reconnect_storm"), engine="sockets", model=tmp_path / "m.toml"))


@pytest.mark.parametrize("when", [5.0, 2.6])
def test_a_fault_after_the_end(tmp_path: Path, when: float):
    with pytest.raises(UsageError, match=r"'faults\.1\.at_s' is .*, but the fault phase ends after 2\.5 s"):
        small("reconnect_storm", f"faults.1.at_s={when}")


# --- models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nhandshake_workers = 0", ["'server.handshake_workers'", "is 0", ">= 1"]),
        ("[server]\npublish_workers = 0", ["'server.publish_workers'", "is 0", ">= 1"]),
        ("[server]\naccept_backlog = 0", ["'server.accept_backlog'", "is 0", ">= 1"]),
        ("[control]\nmint_workers = 0", ["'control.mint_workers'", "is 0", ">= 1"]),
        ("[server]\nhandshake_ms = -1.0", ["'server.handshake_ms'", "is -1.0", ">= 0"]),
        ("[server]\ncold_start_s = -0.1", ["'server.cold_start_s'", "is -0.1", ">= 0"]),
        ("[network]\nmedian_ms = -10", ["'network.median_ms'", "is -10", ">= 0"]),
        ("[network]\nmedian_ms = nan", ["'network.median_ms'", "nan", "finite"]),
        ("[network]\nsigma = inf", ["'network.sigma'", "inf", "finite"]),
        ("[server]\ndelivery_event_ms = 'fast'", ["'server.delivery_event_ms'", "'fast'", "float"]),
        ("syn_retry_s = 0", ["'syn_retry_s'", "is 0", "> 0"]),
        ("sample_period_s = 1e-9", ["'sample_period_s'", "1e-09", ">= 0.01"]),
        ("[server]\nthreads = 4", ["unknown key 'server.threads'", "handshake_workers"]),
        ("[disk]\nfsync_ms = 1", ["unknown key 'disk'", "network, server, control"]),
        ("[server", ["not valid TOML"]),
    ],
)
def test_a_model_that_cannot_be(tmp_path: Path, text: str, words: list[str]):
    path = tmp_path / "model.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        running.run(request(tmp_path / "out", small("reconnect_storm"), model=path))
    assert [word for word in [str(path), *words] if word not in str(refused.value)] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [["--dry-run"], ["--replications", "3"], []])
def test_a_bad_model_is_the_users_mistake(tmp_path: Path, more: list[str]):
    (tmp_path / "model.toml").write_text("[control]\nmint_workers = 0\n")
    command = ("drill", "run", "reconnect_storm", "--engine", "virtual", "--model", tmp_path / "model.toml", *more)
    said = stormgate(*command, "--out", tmp_path / "out")
    assert (said.code, said.out, "mint_workers" in said.sentence) == (USAGE, "", True)
    assert not (tmp_path / "out").exists()


def test_a_model_file_fits_the_defaults(tmp_path: Path):
    (tmp_path / "model.toml").write_text("[server]\nhandshake_workers = 4\n")
    assert system_model.load(tmp_path / "model.toml") == SystemModel(server=Server(handshake_workers=4))


# --- what takes no end ----------------------------------------------------------------------------------


def test_who_can_never_converge_is_listed_with_the_reason(tmp_path: Path):
    drill = small("dropped_delivery")
    run_dir = run_all(tmp_path, drill, defects=("skip_delivery",), engine="virtual")
    header, table = run_header.read_verified(results.drill_folder(run_dir, drill.name))
    history = History(header, table)
    pending = history.of(Kind.STILL_PENDING)
    assert len(pending) > 0
    (concluded,) = set(pending.t.tolist())
    assert drill.phases.settle_s <= concluded - history.phases["settle"] <= drill.phases.settle_s + 0.2
    assert header.auditor not in pending.client  # it reads everything afterwards, within a limit of its own
    assert concluded < history.phases["end"] <= concluded + drill.phases.settle_s
    assert all(history.details[code] for code in pending.detail)
    (verdict,) = results.judge_run(run_dir).drills
    (converged,) = (check for check in verdict.checks if check.name == "drill.converged")
    assert (verdict.status, converged.state) == (State.FAIL, State.FAIL)


def test_a_network_too_slow_to_connect_makes_an_unhealthy_system(tmp_path: Path):
    drill = small("reconnect_storm", "phases.steady_limit_s=2")
    history = simulate(tmp_path, drill, SystemModel(network=Network(median_ms=1e6, sigma=0.0)))
    assert history.header.complete
    pending = set(history.of(Kind.STILL_PENDING).client.tolist())
    assert pending == set(range(drill.fleet.clients + 2))  # the probe and the auditor, too
    (why,) = history.detail_counts(history.of(Kind.STEADY))
    assert why == "0 of 40 clients live"


def test_publishes_that_nobody_answers_fail_and_the_run_ends(tmp_path: Path):
    drill = small("reconnect_storm", "phases.steady_limit_s=1")
    history = simulate(tmp_path, drill, SystemModel(server=Server(publish_ms=1e9)))
    failed = history.of(Kind.PUBLISH_FAILED)
    assert len(history.of(Kind.PUBLISHED)) == 0
    assert history.detail_counts(failed) == {"unknown_outcome": len(failed)}
    asked = drill.load.events_per_s * (history.phases["recovery"] + drill.phases.recovery_s - history.phases["steady"])
    assert len(failed) == pytest.approx(asked, abs=1.5)
    assert history.header.duration_s <= engine.latest_end_s(drill, SystemModel())


def never(self: object) -> Iterator[simpy.Event]:
    """A process that waits for an event that never comes."""
    yield self._env.event()


def waits_for_ever(self: object) -> Iterator[Wait]:
    """A phase that waits for nothing."""
    yield Wait(())


@pytest.mark.parametrize("sampled", [True, False])
def test_a_standstill_is_reported_and_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampled: bool):
    monkeypatch.setattr(PhaseRunner, "_settle", waits_for_ever)
    if not sampled:
        monkeypatch.setattr(engine._VirtualRun, "_sample_lag", never)
    with pytest.raises(UsageError, match="came to a standstill in the settle phase") as told:
        simulate(tmp_path, small("reconnect_storm"))
    header = run_header.read_header(tmp_path)
    assert (header.complete, header.stopped_because) == (False, str(told.value))
    assert header.observations_rows > 1000


# --- cut short ------------------------------------------------------------------------------------------


def interrupt_at(simulated_s: float) -> object:
    def progress(phase: str, text: str, now_s: float) -> None:
        if now_s >= simulated_s:
            signal.raise_signal(signal.SIGINT)

    return progress


def test_a_run_that_is_cut_short_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(engine, "_SAY_EVERY_S", 0.0)
    real = engine.run

    def run(drill: Drill, options: engine.Options) -> RunHeader:
        progress = interrupt_at(3.0)
        return real(drill, engine.Options(options.folder, options.seed, options.model, Switches(), progress))

    monkeypatch.setattr(engine, "run", run)
    run_dir = running.run(request(tmp_path, small("reconnect_storm")))
    (said,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("stormgate: "))
    assert said.startswith("stormgate: it was interrupted in the fault phase, 3.0 s simulated; the observations until then")
    assert str(run_dir) in said
    folder = results.drill_folder(run_dir, "reconnect_storm")
    table = parquet.read(folder)
    assert 2.5 <= max(table.column("t").to_pylist()) <= 3.5
    verdict = results.judge_run(run_dir)
    assert (verdict.exit_code, [drill.status for drill in verdict.drills]) == (INTERNAL, [State.ERROR])


# --- what is honoured -----------------------------------------------------------------------------------


def test_limits_of_publishing_hold_in_simulation(tmp_path: Path):
    drill = small("reconnect_storm", "runtime.publishes_per_s=2")  # 30 a second come, over 3 streams
    history = simulate(tmp_path, drill)
    settle_t, published_t = history.phases["settle"], history.of(Kind.PUBLISHED).t
    assert 10 < (published_t < settle_t).sum() <= 3 * 2 * (settle_t + 1)


def test_an_event_too_large_is_refused_for_good(tmp_path: Path):
    history = simulate(tmp_path, small("reconnect_storm", "load.payload_bytes=300000", "phases.steady_limit_s=0.5"))
    failed = history.of(Kind.PUBLISH_FAILED)
    assert history.detail_counts(failed) == {"spacetime_frame_payload_too_large": len(failed)}
    assert failed.value.max() == 0


def test_the_bucket_lets_a_second_of_publishes_through_at_once():
    limits = PublishLimits(RuntimeSettings(publishes_per_s=2), registry.server_forms(registry.DEFAULT).profile)
    answers = [limits.refusal("run:a:events", 10, 100.0) for _ in range(3)]
    assert [answer is None for answer in answers] == [True, True, False]
    assert answers[2].retry_after_ms == 501
    assert limits.refusal("run:b:events", 10, 100.0) is None
    assert limits.refusal("run:a:events", 10, 100.51) is None


def test_clients_too_old_for_the_runtime_stay_out(tmp_path: Path):
    late = 'runtime.min_client_build="20990101T000000Z"'
    history = simulate(tmp_path, small("reconnect_storm", late, "phases.steady_limit_s=0.5"))
    assert len(history.of(Kind.SUBSCRIBED)) == 0


def test_a_long_day_is_looked_at_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "_MAX_LAG_SAMPLES", 200)
    history = simulate(tmp_path, small("reconnect_storm"))
    assert 100 <= len(history.fleet(Kind.CLIENT_LAG)) <= 240


def test_the_rollout_day_made_short(tmp_path: Path):
    """The whole day with every wave, but ten minutes long and with few clients."""
    short = (
        *("fleet.clients=60", "phases.steady_s=200", "phases.fault_s=200", "phases.recovery_s=200", "load.events_per_s=0.4"),
        *(f"faults.{number}.at_s={40 * number}" for number in range(4)),
        "load.run_streams=2",
    )
    history = simulate(tmp_path, drills.load(ROLLOUT_DAY, short))
    cut = history.detail_is(rows := history.fleet(Kind.DISCONNECTED), ["network"])
    assert sorted(rows.client[cut].tolist()) == list(range(60))  # every client in exactly one wave
    assert len(rows) - cut.sum() >= 60  # and every token is due for a new one at least once
    assert len(history.of(Kind.STILL_PENDING)) == 0


def test_examples_are_listed_and_not_of_all(tmp_path: Path):
    listed = stormgate("drill", "list")
    assert "rollout_day" in listed.out
    planned = stormgate("drill", "run", "--all", "--engine", "virtual", "--dry-run", "--json", "--out", tmp_path)
    assert "rollout_day" not in planned.out
