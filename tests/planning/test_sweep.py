"""Runs of a sweep: reproducible in every process, and incomplete results are never used."""

import math
import os
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.judging.checks.verdicts import State
from drills.planning import sweeps
from drills.planning.gates import Gates
from drills.planning.sweeps import CutShortError, Swept
from sim.analysis.metrics import Metric
from sim.base.errors import StorageError
from sim.base.ownership import Mark
from sim.planning import designs, runs, tables
from sim.planning.store import Row, Store
from sim.planning.sweep_file import Parameter
from tests.commands import STORMGATE, stormgate_here
from tests.planning.plan_files import TWO_POINTS, here, load, made, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(folder: Path) -> Swept:
    return sweeps.sweep(load(folder, TWO_POINTS), folder, here)


def test_table_has_a_row_per_point_and_metric(swept: Swept):
    table = pd.read_parquet(swept.folder / "sweep.parquet")
    live = table[table["metric"] == "live_again_95_s"]
    assert live["fleet.clients"].tolist() == [8, 16]
    assert live["n"].tolist() == [3, 3]
    assert ((live["lower"] < live["mean"]) & (live["mean"] < live["upper"])).all()
    assert not table.duplicated(["point", "metric"]).any()
    every = pd.read_parquet(swept.folder / "runs.parquet")
    some = every[(every["metric"] == "live_again_95_s") & (every["fleet.clients"] == 8)]
    assert some["seed"].tolist() == [1, 2, 3]
    assert some["value"].mean() == pytest.approx(live["mean"].iloc[0], rel=1e-12)


def test_point_is_judged_by_the_gates(swept: Swept):
    assert [verdict.status for verdict in swept.verdicts.values()] == [State.PASS, State.PASS]
    assert swept.verdicts[0].replications == 3


def test_complete_sweep_simulates_nothing_again(swept: Swept, monkeypatch: pytest.MonkeyPatch):
    before = (swept.folder / "sweep.parquet").read_bytes()
    monkeypatch.setattr(runs, "perform", lambda job, say: pytest.fail("it was there already"))
    sweeps.sweep(swept.plan, swept.folder.parents[1], here)
    assert (swept.folder / "sweep.parquet").read_bytes() == before


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: whole[:-1] + b"!", lambda whole: b""])
def test_damaged_row_is_simulated_again_with_equal_result(swept: Swept, damage):
    path = sorted((swept.folder / "rows").iterdir())[0]
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert Store(swept.folder).get(path.stem) is None
    sweeps.sweep(swept.plan, swept.folder.parents[1], here)
    assert path.read_bytes() == whole


def test_row_under_another_name_is_not_used(swept: Swept):
    one, other = sorted((swept.folder / "rows").iterdir())[:2]
    whole = one.read_bytes()
    one.write_bytes(other.read_bytes())
    assert Store(swept.folder).get(one.stem) is None
    one.write_bytes(whole)


def test_killed_sweep_resumes_with_equal_rows(swept: Swept, tmp_path: Path):
    """Killed by SIGKILL after some rows; then resumed by two processes."""
    path = write(tmp_path, TWO_POINTS)
    command = (*STORMGATE, "plan", "sweep", str(path), "--out", str(tmp_path), "--workers", "1")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = tmp_path / "plans" / "little" / "rows"
    limit = time.monotonic() + 60
    while not list(rows.glob("*.row")) and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = {row.name: row.stat().st_mtime_ns for row in rows.glob("*.row")}
    assert len(there) > 0
    assert not (rows.parent / "sweep.parquet").exists()
    again = sweeps.sweep(sweeps.load(path), tmp_path, sweeps.on_all_cores("little", 2))
    assert {name: (rows / name).stat().st_mtime_ns for name in there} == there
    assert {row.name: row.read_bytes() for row in rows.iterdir()} == {
        row.name: row.read_bytes() for row in (swept.folder / "rows").iterdir()
    }
    pd.testing.assert_frame_equal(again.table, swept.table, check_exact=True)


def test_runs_in_this_process_report_their_progress_the_largest_first(tmp_path: Path):
    plan = load(tmp_path, TWO_POINTS)
    jobs = runs.jobs("virtual", designs.points(plan), [1], Gates())
    seen = []
    runs.run(jobs, Store(tmp_path / "kept"), lambda standings: seen.append(tuple(standings)), workers=1)
    assert [job.drill.fleet.clients for job in runs.in_order(jobs)] == [16, 8]
    running = dict.fromkeys(n for standings in seen for n, each in enumerate(standings) if each.is_running)
    assert list(running) == [0, 1]
    assert all(standing.is_done for standing in seen[-1])


def test_interrupted_sweep_says_how_to_resume(tmp_path: Path):
    with pytest.raises(CutShortError, match=r"interrupted, with 0 of 6 runs done. Run the same command again") as told:
        sweeps.sweep(load(tmp_path, TWO_POINTS), tmp_path, lambda jobs, store: "it was interrupted")
    assert told.value.exit_code == 4
    assert not (tmp_path / "plans" / "little" / "sweep.parquet").exists()


def test_failed_write_leaves_no_file(tmp_path: Path):
    def fill(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"table: cannot be written \(No space left on device\)"):
        sweeps.write(tmp_path / "table", fill)
    assert list(tmp_path.iterdir()) == []


def test_too_large_fleet_is_one_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def too_large(*_: object) -> None:
        raise MemoryError("Unable to allocate 931. GiB")

    monkeypatch.setattr(sweeps, "load", too_large)
    said = stormgate_here("plan", "sweep", folder / "sweep.toml", "--out", tmp_path)
    assert said.code == 4
    assert said.err == "stormgate: this machine has too little memory (Unable to allocate 931. GiB); ask for less.\n"


def test_restarted_sweep_has_no_table_until_it_is_complete(tmp_path: Path):
    plan = load(tmp_path, TWO_POINTS)
    table = tmp_path / "plans" / "little" / "sweep.parquet"
    table.parent.mkdir(parents=True)
    table.write_bytes(b"of an earlier one")
    with pytest.raises(CutShortError):
        sweeps.sweep(plan, tmp_path, lambda jobs, store: "")
    assert not table.exists()


def test_second_process_in_one_folder_is_refused(tmp_path: Path):
    folder = tmp_path / "plans" / "little"
    folder.mkdir(parents=True)
    mark = Mark(folder / "owner")
    with pytest.raises(StorageError, match="another stormgate is using this folder"):
        sweeps.sweep(load(tmp_path, TWO_POINTS), tmp_path, here)
    mark.remove()


def test_points_are_run_under_the_same_seeds(swept: Swept):
    """The first client's backoff is the same in both fleets."""
    assert [row.seed for row in swept.rows[0]] == [row.seed for row in swept.rows[1]] == [1, 2, 3]
    same = tables.difference(swept.rows[0], swept.rows[0], "live_again_95_s")
    assert (same.value, same.lower, same.upper, same.n) == (0.0, 0.0, 0.0, 3)


def test_point_without_recovery_is_an_error(tmp_path: Path):
    """A service that accepts no client gives no metrics and an error, and the sweep continues."""
    parameters = (Parameter(key="model.server.handshake_ms", values=(0.3, 1e8)),)
    found = sweeps.sweep(made(tmp_path, replications=1, parameters=parameters), tmp_path, here)
    assert [verdict.status for verdict in found.verdicts.values()] in ([State.PASS, State.ERROR], [State.PASS, State.FAIL])
    live = found.table[found.table["metric"] == "live_again_95_s"]
    assert not any(math.isfinite(mean) for mean in live[live["point"] == 1]["mean"])


def row(seed: int, **metrics: float) -> Row:
    return Row("", seed, tuple(Metric(name, value, "s", 1) for name, value in metrics.items()))


def test_single_or_infinite_value_has_no_interval(tmp_path: Path, swept: Swept):
    point = swept.points[0]
    one = tables.summary([point], {0: [row(1, live=2.0)]}).iloc[0]
    assert (one["mean"], one["n"]) == (2.0, 1)
    assert math.isnan(one["lower"])
    never = tables.summary([point], {0: [row(1, live=2.0), row(2, live=math.inf)]}).iloc[0]
    assert never["mean"] == math.inf
    assert math.isnan(never["upper"])
    gone = tables.summary([point], {0: [row(1, live=2.0), row(2, live=math.nan), row(3, live=4.0)]}).iloc[0]
    assert (gone["n"], gone["missing"], gone["mean"]) == (2, 1, 3.0)


def test_difference_with_a_missing_value_is_nan():
    one, other = [row(1, live=2.0), row(2, live=math.inf)], [row(1, live=1.0), row(2, live=1.0)]
    assert math.isnan(tables.difference(one, other, "live").value)
    assert tables.difference([row(1, live=2.0)], [row(2, live=2.0)], "live").n == 0


def test_common_seeds_reveal_small_differences():
    """Two points with a small difference and a large variance: only the comparison per seed shows it."""
    rows = [[row(seed, live=10.0 * seed + more + 0.01 * (seed % 2)) for seed in range(1, 9)] for more in (0.0, 1.0)]
    found = tables.difference(rows[1], rows[0], "live")
    assert found.lower > 0


def test_sensitivity_ranks_parameters_and_marks_significance():
    lines = [("", 1, 1, 5.0, 4.9, 5.1), ("a", 2, 1, 9.0, 8.5, 9.5), ("b", 1, 2, 5.2, 4.6, 5.8)]
    frame = pd.DataFrame(lines, columns=["varies", "a", "b", "mean", "lower", "upper"]).assign(metric="live")
    found = tables.sensitivity(frame, "live")
    assert found["parameter"].tolist() == ["a", "b"]
    assert found["is_significant"].tolist() == [True, False]
    assert found["swing"].tolist() == pytest.approx([4.0, 0.2])


def test_evaluator_is_part_of_a_row_s_digest(swept: Swept, tmp_path: Path):
    other = tmp_path / "thresholds.toml"
    other.write_text(DEFAULT_PATH.read_text().replace("threshold = 60\n", "threshold = 61\n"))
    point = swept.points[0]
    assert runs.job("virtual", point, 1, Gates()).digest != runs.job("virtual", point, 1, Gates(other)).digest


def test_command_reports_points_and_gates(swept: Swept):
    said = stormgate_here("plan", "sweep", swept.plan.where, "--out", swept.folder.parents[1], "--json", "--workers", 1)
    body = msgspec.json.decode(said.out)
    assert said.code == 0
    assert [point["values"] for point in body["points"]] == [{"fleet.clients": 8}, {"fleet.clients": 16}]
    assert body["points"][0]["metrics"]["live_again_95_s"]["n"] == 3
    assert body["points"][0]["gates"] == "pass"


def test_dry_run_simulates_nothing(folder: Path, tmp_path: Path):
    said = stormgate_here("plan", "sweep", folder / "sweep.toml", "--dry-run", "--out", tmp_path)
    assert said.code == 2
    assert "2 points, 3 replications each" in said.out
    assert list(tmp_path.iterdir()) == []
