"""Several simulated drills at once: the same runs and verdicts as one by one, and an interruption loses nothing."""

import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from drills.reports import report
from drills.runs import results, running
from drills.runs.request import Request
from sim.base import process_pool
from sim.base.errors import EvidenceError
from sim.base.process_pool import Say, Standing
from sim.record import run_header
from tests.commands import children_of, started, stormgate
from tests.storms import small

ERROR = 4
NAMES = ("reconnect_storm", "mutation_over_socket")


def run(out: Path, *names: str) -> Path:
    chosen = tuple(small(name) for name in names)
    return running.run(Request(chosen, engine="virtual", target="mock", seed=4, defects=(), thresholds=None, out=out))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("both"), *NAMES)


def test_parallel_drills_equal_single_drills(both: Path, tmp_path: Path):
    for name in NAMES:
        header, _ = run_header.read_verified(results.drill_folder(both, name))
        alone, _ = run_header.read_verified(results.drill_folder(run(tmp_path / name, name), name))
        assert header.observations_sha256 == alone.observations_sha256
        assert header.run_id == both.name


def test_verdict_does_not_depend_on_worker_processes(both: Path, monkeypatch: pytest.MonkeyPatch):
    few = report.summary_json(running.conclude(both))
    monkeypatch.setattr(running, "_MANY_BYTES", 0)
    for name in NAMES:
        results.figure_path(both, name).unlink()
    many = report.summary_json(running.conclude(both))
    assert few == many == report.summary_json(results.judge_run(both)) == (both / "summary.json").read_bytes()
    assert all(results.figure_path(both, name).stat().st_size > 10_000 for name in NAMES)


def test_ctrl_c_keeps_the_observations_of_all_drills(tmp_path: Path):
    options = ("--engine", "virtual", "--clients", 2000, "--set", "phases.steady_s=900", "--out", tmp_path, "--json")
    with started("drill", "run", *NAMES, "runtime_restart", *options) as process:
        line = process.stderr.readline()
        assert line.startswith("3 drills: 0 of 3 done")
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*/drills/*/run.json"))) < min(2, os.cpu_count() or 1) and time.monotonic() < deadline:
            time.sleep(0.05)
        children = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    (run_dir,) = tmp_path.iterdir()
    (sentence,) = (line for line in err.splitlines() if line.startswith("stormgate: "))
    assert sentence == (f"stormgate: it was interrupted, after 0 of 3 runs; the observations until then are in {run_dir}.")
    assert "Traceback" not in err
    assert process.returncode == ERROR
    assert [drill["status"] for drill in json.loads(out)["drills"]] == ["error"] * 3
    started_runs = list(run_dir.glob("drills/*/run.json"))
    headers = [run_header.read_header(path.parent) for path in started_runs]
    assert started_runs
    assert all(header.stopped_because.startswith("it was interrupted in the") for header in headers)
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def small_files() -> None:
    """Limit file sizes, which observations exceed."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))


def test_error_of_one_drill_ends_the_others(tmp_path: Path):
    said = stormgate("drill", "run", *NAMES, "--engine", "virtual", "--out", tmp_path / "out", before=small_files)
    assert (said.code, "observations cannot be written" in said.sentence) == (ERROR, True), said


# --- the pool itself --------------------------------------------------------------------------------


def halve(number: int, say: Say) -> float:
    say("judging", 1.0)
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 13:
        raise EvidenceError("thirteen.")
    return number / 2


def test_results_keep_their_order_and_standings_show_progress():
    seen: list[list[Standing]] = []
    outcome = process_pool.run(halve, range(5), lambda standings: seen.append(list(standings)), workers=2)
    assert (outcome.results, outcome.stopped_because) == ({n: n / 2 for n in range(5)}, "")
    assert seen[0] == [Standing(False, False, "", 0.0)] * 5
    assert seen[-1] == [Standing(False, True, "judging", 1.0)] * 5


def test_result_can_end_the_rest():
    outcome = process_pool.run(halve, range(200), lambda standings: None, lambda half: "enough" if half == 1 else "", workers=1)
    assert outcome.stopped_because == "enough"
    assert len(outcome.results) < 200


def test_killed_worker_is_reported():
    outcome = process_pool.run(halve, (1, -1, 2), lambda standings: None, workers=1)
    assert "was killed" in outcome.stopped_because


def test_first_error_is_raised():
    with pytest.raises(EvidenceError, match="thirteen"):
        process_pool.run(halve, (1, 13, 2), lambda standings: None, workers=1)


def test_failed_judging_names_the_command_to_retry(both: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running, "_MANY_BYTES", 0)
    monkeypatch.setattr(process_pool, "run", lambda *arguments: process_pool.Outcome({}, "a worker process was killed"))
    with pytest.raises(EvidenceError, match=r"a worker process was killed; `stormgate judge`"):
        running.conclude(both)
