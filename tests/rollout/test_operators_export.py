"""`--export-operators`: verdicts in the operators' forms. What is not a pass is neither `passed` nor `allow`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from drills.judging.checks.verdicts import CheckResult, DrillVerdict, RunVerdict, State
from drills.rollout.report import operators as export
from tests.commands import sets, stormgate_here
from tests.stage_folders import Folder, passing

NOT_A_PASS = [state for state in State if state is not State.PASS]
SHORT = ("--engine", "virtual", *sets("fleet.clients=20"))


def verdict(*checks: CheckResult, kind: str = "staging", not_run: str = "") -> RunVerdict:
    drills = [DrillVerdict("storm", 10, 12.4, checks or (passing("ux.integrity"),))]
    if not_run:
        drills.append(DrillVerdict("half_open", 0, 0.0, (), not_run=not_run))
    return RunVerdict("r1", "sockets", "staging", kind, 1, tuple(drills), "", "")


def exported(found: RunVerdict, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any], str]:
    export.prepare(folder)
    export.of_run(found, folder.parent, folder)
    return read(folder)


def read(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any], str]:
    steps, gates = ([json.loads(line) for line in (folder / name).read_text().splitlines()] for name in FILES[:2])
    return steps, gates, json.loads((folder / FILES[2]).read_text()), (folder / FILES[3]).read_text()


FILES = (export.RESULTS, export.GATES_FILE, export.SNAPSHOT, export.SUMMARY)


def accepts(snapshot: Path, jq: str = "jq") -> bool:
    """Whether a script that reads the snapshot with jq and compares with awk goes on."""
    values = []
    for field in ("p95_latency_ms", "error_budget_ratio"):
        done = subprocess.run([jq, "-r", f".{field} // empty", snapshot], capture_output=True, text=True, check=True)
        values.append(done.stdout.strip())
    if "" in values:
        return False
    limits = zip(values, ("600", "0.020"), strict=True)
    return all(
        subprocess.run(["awk", f"BEGIN {{ exit !({value} <= {limit}) }}"], check=False).returncode == 0
        for value, limit in limits
    )


def test_lines_have_the_operators_keys_and_logs_that_exist(tmp_path: Path):
    steps, gates, _, summary = exported(verdict(), tmp_path / "out")
    (step,) = steps
    assert list(step) == ["scenario", "status", "duration_seconds", "log_file"]
    assert (step["scenario"], step["status"], step["duration_seconds"]) == ("storm", "passed", 12)
    assert "ux.integrity pass" in Path(step["log_file"]).read_text()
    assert [(gate["gate"], gate["status"]) for gate in gates] == [("ux", "passed")]
    assert "- Failures: 0\n" in summary
    assert "- Decision: allow\n" in summary


@pytest.mark.parametrize("state", NOT_A_PASS)
def test_what_is_not_a_pass_is_neither_passed_nor_allowed(state: State, tmp_path: Path):
    steps, gates, _, summary = exported(verdict(passing("ux.integrity", state=state)), tmp_path / "out")
    assert [each["status"] for each in (*steps, *gates)] == ["failed", "failed"]
    assert "- Failures: 2\n" in summary
    assert "- Decision: block\n" in summary


def test_a_go_against_a_mock_allows_nothing_and_tells_no_numbers(tmp_path: Path):
    checks = passing("ux.publish_to_apply_ms", value=80.0), passing("error.error_budget_ratio", value=0.001)
    _, _, snapshot, summary = exported(verdict(*checks, kind="mock"), tmp_path / "out")
    assert "- Decision: block\n" in summary
    assert not {"p95_latency_ms", "error_budget_ratio"} & snapshot.keys()


def test_a_drill_that_cannot_run_is_skipped(tmp_path: Path):
    steps, _, _, summary = exported(verdict(not_run="no hook"), tmp_path / "out")
    assert [each["status"] for each in steps] == ["passed", "skipped"]
    assert "- Skipped: 1\n" in summary


@pytest.mark.parametrize(
    ("latency", "budget", "goes_on"),
    [
        ({"value": 80.0, "interval": (70.0, 90.0)}, {"value": 0.001, "interval": (0.0, 0.004)}, True),
        ({"value": 0.0, "interval": (0.0, 0.0)}, {"value": 0.0, "interval": (0.0, 0.0)}, True),
        ({"value": 590.0, "interval": (570.0, 610.0)}, {"value": 0.001}, False),  # the upper bound counts
        ({"value": 80.0, "state": State.INCONCLUSIVE}, {"value": 0.001}, False),
        ({"value": 80.0}, {"value": 0.0, "state": State.NO_DATA}, False),
        ({"value": 700.0, "state": State.FAIL}, {"value": 0.001}, False),
        ({"value": float("inf"), "state": State.FAIL}, {"value": 0.001}, False),
        ({"value": float("nan")}, {"value": 0.001}, False),
    ],
)
def test_scripts_that_read_the_snapshot_go_on_only_after_a_pass(
    latency: dict[str, Any], budget: dict[str, Any], goes_on: bool, tmp_path: Path
):
    checks = passing("ux.publish_to_apply_ms", **latency), passing("error.error_budget_ratio", **budget)
    exported(verdict(*checks), tmp_path / "out")
    assert accepts(tmp_path / "out" / export.SNAPSHOT) == goes_on


# --- stages ---------------------------------------------------------------------------------------------


def test_a_stage_that_is_a_go_allows_and_a_missing_requirement_blocks(tmp_path: Path):
    stage = Folder(tmp_path / "runs").write()
    said = stormgate_here("stage", "judge", stage.path, "--export-operators", tmp_path / "out")
    steps, gates, snapshot, summary = read(tmp_path / "out")
    assert said.code == 0
    assert {each["status"] for each in steps} == {"passed"}
    assert {each["status"] for each in gates} == {"passed", "skipped"}  # some are for information only at stage 0
    assert {"p95_latency_ms", "error_budget_ratio"} <= snapshot.keys()
    assert "- Decision: allow\n" in summary
    (stage.path / "rollback.json").unlink()
    said = stormgate_here("stage", "judge", stage.path, "--export-operators", tmp_path / "again")
    steps, gates, _, summary = read(tmp_path / "again")
    assert said.code != 0
    assert "failed" in {each["status"] for each in gates}
    assert "- Decision: block\n" in summary


# --- the command line -----------------------------------------------------------------------------------


def test_a_run_writes_them_beside_its_own_files(tmp_path: Path):
    said = stormgate_here(
        "drill", "run", "reconnect_storm", *SHORT, "--out", tmp_path / "r", "--export-operators", tmp_path / "o"
    )
    steps, _, _, summary = read(tmp_path / "o")
    assert [each["scenario"] for each in steps] == ["reconnect_storm"]
    assert (steps[0]["status"] == "passed") == (said.code == 0)
    assert "- Decision: block\n" in summary  # it was simulated
    (run_dir,) = (tmp_path / "r").iterdir()
    stormgate_here("judge", run_dir, "--export-operators", tmp_path / "again")
    assert [each["status"] for each in read(tmp_path / "again")[0]] == [each["status"] for each in steps]


def test_a_folder_that_has_files_or_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "results.jsonl").write_text("theirs\n")
    for folder, code, sentence in (
        (tmp_path / "full", 3, "has files already, such as results.jsonl"),
        (tmp_path / "full" / "results.jsonl" / "below", 4, "cannot be written"),
    ):
        said = stormgate_here("drill", "run", "reconnect_storm", *SHORT, "--out", tmp_path / "r", "--export-operators", folder)
        assert (said.code, sentence in said.sentence) == (code, True), said.sentence
    assert not (tmp_path / "r").exists()
    assert (tmp_path / "full" / "results.jsonl").read_text() == "theirs\n"
