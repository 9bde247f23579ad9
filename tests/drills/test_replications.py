"""Replications end to end: real worker processes, evidence of each, and the same verdict from the files alone."""

import json
import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from drills.judging.checks.verdicts import DrillVerdict, RunVerdict, State
from drills.reports import report
from drills.runs import results, running, simulations
from drills.runs.request import Request
from drills.runs.simulations import Job
from sim.base.errors import StorageError, UsageError
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.record import parquet, run_header
from sim.server.settings import Switches
from tests.commands import started, stormgate
from tests.storms import small

ERROR, USAGE = 4, 3
SEEDS = (5, 6, 7)


def replicate(out: Path, drill: Drill, count: int, seed: int = SEEDS[0], engine: str = "virtual") -> Path:
    more = {"seed": seed, "defects": (), "thresholds": None, "out": out, "replications": count}
    return running.run(Request((drill,), engine=engine, target="mock", **more))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = replicate(tmp_path_factory.mktemp("results"), small("reconnect_storm"), len(SEEDS))
    running.conclude(run_dir)
    return run_dir


@pytest.fixture
def run_dir(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / pristine.name))


def only(verdict: RunVerdict) -> DrillVerdict:
    (drill,) = verdict.drills
    return drill


def test_each_replication_is_an_ordinary_run_under_its_own_seed(pristine: Path, tmp_path: Path):
    alone = replicate(tmp_path, small("reconnect_storm"), 1, seed=6)
    folders = [results.replication_folder(pristine, "reconnect_storm", seed) for seed in SEEDS]
    headers = [run_header.read_verified(folder)[0] for folder in folders]
    assert tuple(header.seed for header in headers) == SEEDS
    assert len({header.observations_sha256 for header in headers}) == 3
    header, _ = run_header.read_verified(results.drill_folder(alone, "reconnect_storm"))
    assert header.observations_sha256 == headers[1].observations_sha256


def test_the_summary_has_intervals_and_quantiles(pristine: Path):
    found = json.loads((pristine / "summary.json").read_text())
    (drill,) = found["drills"]
    live = drill["metrics"]["live_again_99_s"]
    assert (drill["replications"], live["n"], found["seed"]) == (3, 3, 5)
    assert live["interval"][0] < live["value"] < live["interval"][1]
    assert live["quantiles"]["min"] <= live["quantiles"]["p50"] <= live["quantiles"]["p95"] <= live["quantiles"]["max"]
    singles = [only_measure(pristine, seed, "live_again_99_s") for seed in SEEDS]
    assert live["value"] == pytest.approx(math.fsum(singles) / 3)
    text = (pristine / "SUMMARY.md").read_text()
    assert "over 3 replications" in text
    assert "with the seeds 5 to 7" in text


def only_measure(run_dir: Path, seed: int, name: str) -> float:
    """A measure of one replication, judged as the ordinary run that it is."""
    copy = run_dir.parent / f"single-{seed}"
    folder = results.drill_folder(copy, "reconnect_storm")
    shutil.copytree(results.replication_folder(run_dir, "reconnect_storm", seed), folder)
    plan = json.loads((run_dir / results.PLAN_NAME).read_text()) | {"replications": 1, "seed": seed}
    (copy / results.PLAN_NAME).write_text(json.dumps(plan))
    shutil.copy(results.drill_folder(run_dir, "reconnect_storm") / results.DRILL_NAME, folder)
    shutil.copy(run_dir / results.THRESHOLDS_NAME, copy)
    return next(metric.value for metric in only(results.judge_run(copy)).metrics if metric.name == name)


def test_judging_again_says_the_same(pristine: Path):
    again = results.judge_run(pristine)
    assert only(again).replications == 3
    assert report.summary_json(again) == (pristine / "summary.json").read_bytes()
    assert results.figure_path(pristine, "reconnect_storm").stat().st_size > 10_000


def cut_short(replication: Path) -> None:
    path = replication / parquet.FILE_NAME
    path.write_bytes(path.read_bytes()[:-100])


def copy_another(replication: Path) -> None:
    shutil.rmtree(replication)
    shutil.copytree(replication.parent / "5", replication)


def never_finish(replication: Path) -> None:
    header = run_header.read_header(replication)
    header.complete, header.stopped_because = False, "it was interrupted"
    run_header.write_header(replication, header)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": shutil.rmtree,
    "no header": lambda replication: (replication / run_header.HEADER_NAME).unlink(),
    "cut short": cut_short,
    "a copy of another": copy_another,
    "not finished": never_finish,
    "one too many": lambda replication: shutil.copytree(replication, replication.parent / "8"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_to_one_replication_is_an_error(run_dir: Path, damage: Callable[[Path], None]):
    damage(results.replication_folder(run_dir, "reconnect_storm", 6))
    drill = only(results.judge_run(run_dir))
    (evidence, *_) = (check for check in drill.checks if check.name == "drill.evidence")
    assert (drill.status, evidence.state) == (State.ERROR, State.ERROR)
    assert "6" in evidence.reason or "8" in evidence.reason


@pytest.mark.parametrize("count", [0, -1, "three"])
def test_a_plan_without_replications_is_damaged(run_dir: Path, count: object):
    path = run_dir / results.PLAN_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"replications": count}))
    said = stormgate("judge", run_dir)
    assert (said.code, "damaged" in said.sentence) == (ERROR, True)


@pytest.mark.parametrize(("engine", "count"), [("sockets", 3), ("sockets", 0), ("virtual", 0), ("virtual", -2)])
def test_replications_that_cannot_be_are_refused(tmp_path: Path, engine: str, count: int):
    with pytest.raises(UsageError, match=f"--replications {count}: "):
        replicate(tmp_path / "out", small("reconnect_storm"), count, engine=engine)
    assert not (tmp_path / "out").exists()


def test_an_error_of_one_replication_is_told(tmp_path: Path):
    (tmp_path / "full").write_text("no folder")
    job = Job(small("reconnect_storm"), tmp_path / "full", 1, SystemModel(), Switches())
    with pytest.raises(StorageError, match="cannot be created"):
        simulations.run([job], lambda standings: None)


def test_ctrl_c_keeps_what_was_finished_and_says_so(tmp_path: Path):
    command = ("drill", "run", "reconnect_storm", "--engine", "virtual", "--clients", 50, "--replications", 400)
    with started(*command, "--out", tmp_path, "--json") as process:
        while " 0 of 400" in (line := process.stderr.readline()):
            pass
        assert " of 400 done" in line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    (run_dir,) = tmp_path.iterdir()
    (sentence,) = (line for line in err.splitlines() if line.startswith("stormgate: "))
    assert "interrupted" in sentence
    assert f"the observations until then are in {run_dir}." in sentence
    assert "Traceback" not in err
    assert process.returncode == ERROR
    finished = list(run_dir.glob("drills/reconnect_storm/replications/*/observations.parquet"))
    assert 1 <= len(finished) < 400
    (drill,) = json.loads(out)["drills"]
    assert drill["status"] == "error"
    assert 1 <= drill["metrics"]["live_again_99_s"]["n"] < 400
