"""Whole runs from the command line: what is printed, what is kept, and that judging needs the files alone."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import httpx
import pytest

from drills.cli import main
from drills.reports import report
from drills.runs import results
from sim.record import parquet, run_header
from tests.commands import sets, started, stormgate
from tests.storms import SHORT, SMALL, patient_thresholds

FAIL, STORAGE = 1, 4


def settings(name: str, *more: str) -> list[str]:
    return sets(*SMALL, *SHORT[name], *more)


def judge(capsys: pytest.CaptureFixture[str], run_dir: Path, *options: str) -> tuple[int, dict]:
    code = main.run_words(["judge", str(run_dir), "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def known_bad(run_dir: Path, name: str) -> tuple[Path, Path]:
    """A copy of a run to do damage to, and its observations."""
    copy = run_dir.with_name(name)
    shutil.copytree(run_dir, copy)
    return copy, copy / "drills" / "dropped_delivery" / parquet.FILE_NAME


def test_a_run_and_what_can_be_concluded_from_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    options = settings("dropped_delivery", "load.events_per_s=60", "fleet.clients=20")
    said = stormgate(
        *("drill", "run", "dropped_delivery", "--json", "--out", out, "--thresholds", patient_thresholds(tmp_path), *options)
    )
    summary = json.loads(said.out)
    assert (said.code, summary["decision"], summary["failures"]) == (0, "go", 0), said
    assert "Traceback" not in said.err
    (run_dir,) = out.iterdir()
    assert sorted(path.name for path in run_dir.iterdir()) == sorted(
        ["SUMMARY.md", "drills", "gate-results.jsonl", "report.html", "run-plan.json", "summary.json", "thresholds.toml"]
    )
    assert (run_dir / "drills" / "dropped_delivery" / "dropped_delivery.png").stat().st_size > 10_000
    assert (run_dir / "summary.json").read_text() == said.out
    assert summary["run_id"] == run_dir.name
    assert {"live_again_99_s", "connects_peak_per_s"} & set(summary["drills"][0]["metrics"])

    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    again = stormgate("judge", run_dir, "--json")
    assert (again.code, again.out, again.err) == (0, said.out, "")
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before, "judging writes nothing"

    copy, path = known_bad(run_dir, "gone")
    path.unlink()
    code, verdict = judge(capsys, copy)
    assert (code, verdict["decision"], verdict["decision_reason"]) == (STORAGE, "no_go", "error")
    copy, _ = known_bad(run_dir, "edited")
    edited = re.sub(r"(\[ux.publish_to_apply_ms\]\nthreshold = )\d+", r"\g<1>0", (copy / "thresholds.toml").read_text())
    (copy / "thresholds.toml").write_text(edited)
    refused = stormgate("judge", copy)
    assert (refused.code, "are not the thresholds with which this run began" in refused.err) == (STORAGE, True), refused
    assert judge(capsys, run_dir, "--thresholds", str(copy / "thresholds.toml"))[0] == FAIL
    assert judge(capsys, run_dir)[0] == 0


def wait_for(process, word: str) -> None:
    """Wait until a command prints this word on stderr."""
    while word not in (line := process.stderr.readline()):
        assert line, "it ended before"


@pytest.mark.parametrize(("name", "after_s"), [("runtime_restart", 2.0), ("reconnect_storm", 0.3)])
def test_ctrl_c_in_the_middle_of_a_fault_heals_keeps_and_says_where(tmp_path: Path, name: str, after_s: float):
    """Of the restart it hits the moment at which there is no runtime at all."""
    small = sets("fleet.clients=20", "phases.steady_s=2", "phases.fault_s=9")
    with started("drill", "run", name, "dropped_delivery", "--out", tmp_path, *small) as process:
        wait_for(process, " fault: ")
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=60)
    (run_dir,) = tmp_path.iterdir()
    assert process.returncode == STORAGE, (out, rest)
    assert f"stormgate: it was interrupted; the observations until then are in {run_dir}." in rest.splitlines()
    assert "Traceback" not in rest + out
    assert "error" in out
    kept(run_dir, name)


def kept(run_dir: Path, name: str) -> None:
    """What is left of an interrupted run: readable, ended in order, and an error whoever judges it."""
    folder = results.drill_folder(run_dir, name)
    header = run_header.read_header(folder)
    assert (header.complete, header.stopped_because) == (False, "it was interrupted")
    rows = parquet.read(folder).to_pylist()
    assert len(rows) == header.observations_rows > 0
    phases = [row["detail"] for row in rows if row["kind"] == "phase"]
    assert phases == ["steady", "fault", "recovery", "settle", "end"]
    begun = {row["attempt"] for row in rows if row["kind"] == "fault_injected"}
    assert begun == {row["attempt"] for row in rows if row["kind"] == "fault_reverted"}
    assert begun
    verdict = results.judge_run(run_dir)
    assert (verdict.exit_code, [str(drill.status) for drill in verdict.drills]) == (STORAGE, ["error", "error"])
    assert (run_dir / "summary.json").read_bytes() == report.summary_json(verdict)


def test_a_runtime_that_is_already_there_is_stormed_and_left_as_it_was(tmp_path: Path):
    with started("mock", "serve") as served:
        url = re.search(r"http://\S+", served.stdout.readline())[0]
        command = ("drill", "run", "dropped_delivery", "--target", url, "--out", tmp_path, "--json")
        said = stormgate(*command, *settings("dropped_delivery", "fleet.clients=10", "phases.settle_s=2"))
        summary = json.loads(said.out)
        assert (summary["target"], summary["target_kind"]) == (url, "mock")
        assert summary["drills"][0]["violations"] == []
        state = httpx.get(f"{url}/_mock/state", trust_env=False).json()
        assert state["switches"]["skip_live_clients"] == 0
        assert state["acted"]["skip_deliveries"] > 0
        assert served.poll() is None
