"""The results tree: what a run leaves, and that no damage to it ever turns into a go."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from drills import CATALOG
from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.judging.checks.verdicts import RunVerdict, State
from drills.runs import results
from sim.base import bounded_reads
from sim.base.errors import EvidenceError, StorageError, UsageError
from sim.drill.model import Drill, load
from sim.record import parquet, run_header
from sim.record.observations import Kind
from sim.record.parquet import FILE_NAME
from tests.histories import GATED, good_storm, storm_drill

EXAMPLE = Path(__file__).parents[2] / "results" / "example"
CHECKS = tuple(name for name in GATED if name != "reconnect.backoff_never_resets")
DRILL = storm_drill(checks=CHECKS)


def create(out: Path, *drills: Drill, now: datetime | None = None) -> Path:
    return results.create_run(out, drills, engine="sockets", target="mock", target_kind="mock", seed=7, now=now)


def make_run(out: Path, *drills: Drill) -> Path:
    run_dir = create(out, *drills)
    for drill in drills:
        good_storm().write(results.create_drill_folder(run_dir, drill), drill)
    return run_dir


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("results"), DRILL)


@pytest.fixture
def run_dir(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / pristine.name))


def reason(verdict: RunVerdict) -> str:
    (check,) = (check for check in verdict.drills[0].checks if check.name == "drill.evidence")
    return check.reason


def test_a_run_id_says_when_and_what(tmp_path: Path) -> None:
    now = datetime(2026, 11, 23, 14, 5, 1, tzinfo=UTC)
    made = create(tmp_path, DRILL, now=now)
    assert made.name.startswith("20261123T140501Z-storm-")
    assert (made / "thresholds.toml").read_bytes() == DEFAULT_PATH.read_bytes()
    made = create(tmp_path, DRILL, storm_drill(name="other"), now=now)
    assert made.name.startswith("20261123T140501Z-all-")


def test_a_good_run_is_a_go(pristine: Path) -> None:
    verdict = results.judge_run(pristine)
    assert (verdict.decision, verdict.decision_reason, verdict.failures, verdict.exit_code) == ("go", "", 0, 0)
    assert any("mock" in note for note in verdict.notes)
    assert results.judge_run(EXAMPLE).decision == "go"


def test_judging_writes_nothing_and_says_the_same_again(run_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert results.judge_run(run_dir) == results.judge_run(run_dir)
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


# --- other thresholds -------------------------------------------------------------------------------


def without(run_dir: Path, check: str) -> None:
    """Take one threshold out of a run's own copy."""
    path = run_dir / results.THRESHOLDS_NAME
    tables = re.split(r"(?m)^(?=\[)", path.read_text())
    left = [table for table in tables if not table.startswith(f"[{check}]")]
    assert len(left) == len(tables) - 1
    path.write_text("".join(left))
    plan = results.read_plan(run_dir)
    plan = msgspec.structs.replace(plan, thresholds_sha256=bounded_reads.file_sha256(path))
    (run_dir / results.PLAN_NAME).write_bytes(msgspec.json.encode(plan))


def test_a_run_older_than_a_check_is_judged_without_it(tmp_path: Path) -> None:
    newer = "error.tokens_too_old"
    run_dir = make_run(tmp_path, storm_drill(checks=tuple(check for check in CHECKS if check != newer)))
    without(run_dir, newer)
    assert results.judge_run(run_dir).decision == "go"


def test_a_threshold_that_the_drill_needs_is_missed(run_dir: Path) -> None:
    without(run_dir, "ux.integrity")
    with pytest.raises(UsageError, match=r"'ux\.integrity' has no threshold"):
        results.judge_run(run_dir)


def test_other_thresholds_give_another_verdict(pristine: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict.toml"
    strict.write_text(DEFAULT_PATH.read_text().replace("threshold = 600\n", "threshold = 1\n"))
    verdict = results.judge_run(pristine, strict)
    assert (verdict.decision, verdict.decision_reason, verdict.exit_code) == ("no_go", "breach", 1)
    assert verdict.thresholds_sha256 != verdict.recorded_thresholds_sha256
    assert any("differs from the thresholds that this run" in note for note in verdict.notes)


def test_changed_drill_of_the_catalogue_is_noted(tmp_path: Path) -> None:
    """One client in a hundred and fifty was cut, and the report said that the drill had passed."""
    path = CATALOG / "partition_heal.toml"
    for overrides, said in ((), False), (("faults.0.share=0.01",), True):
        drill = load(path, overrides)
        made = create(tmp_path, drill)
        assert any("partition_heal differs from the drill" in note for note in results.judge_run(made).notes) is said


def test_an_edited_copy_is_refused(run_dir: Path) -> None:
    path = run_dir / "thresholds.toml"
    path.write_text(path.read_text() + "\n# looser\n")
    with pytest.raises(EvidenceError, match="are not the thresholds with which this run began"):
        results.judge_run(run_dir)
    assert results.judge_run(run_dir, path).decision == "go", "asked for, it is a judgement by other thresholds"


def test_a_copy_that_is_gone_or_broken_is_not_replaced(run_dir: Path) -> None:
    (run_dir / "thresholds.toml").write_text("")
    with pytest.raises(UsageError, match="is empty"):
        results.judge_run(run_dir)
    (run_dir / "thresholds.toml").unlink()
    with pytest.raises(EvidenceError, match="--thresholds"):
        results.judge_run(run_dir)


# --- damage -----------------------------------------------------------------------------------------


def storm_folder(run_dir: Path) -> Path:
    return run_dir / "drills" / "storm"


def edit_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_header(folder: Path, **fields: object) -> None:
    """Change the header as if the run had written it so."""
    header = run_header.read_header(folder)
    for name, value in fields.items():
        setattr(header, name, value)
    run_header.write_header(folder, header)


def drop_column(folder: Path) -> None:
    pq.write_table(pq.read_table(folder / FILE_NAME).drop_columns(["seq"]), folder / FILE_NAME)


def drop_rows(folder: Path) -> None:
    pq.write_table(pq.read_table(folder / FILE_NAME).slice(10), folder / FILE_NAME)


def truncate(folder: Path) -> None:
    data = (folder / FILE_NAME).read_bytes()
    (folder / FILE_NAME).write_bytes(data[: len(data) // 2])


NOT_PLANNED = "not the drill that was planned"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "the folder is gone": (shutil.rmtree, "folder is missing"),
    "no observations": (lambda folder: (folder / FILE_NAME).unlink(), "no observations"),
    "a column is missing": (drop_column, "column seq is missing"),
    "the file is cut": (truncate, "cannot be read"),
    "rows are missing": (drop_rows, "SHA-256"),
    "an empty file": (lambda folder: (folder / FILE_NAME).write_bytes(b""), "cannot be read"),
    "no header": (lambda folder: (folder / "run.json").unlink(), "it never started"),
    "an edited header": (lambda folder: edit_json(folder / "run.json", remarks=["fine"]), "is not as it was written"),
    "a broken header": (lambda folder: (folder / "run.json").write_text("{"), "damaged"),
    "no drill": (lambda folder: (folder / "drill.json").unlink(), "drill.json"),
    "a broken drill": (lambda folder: (folder / "drill.json").write_text("[]"), "damaged"),
    "another drill": (lambda folder: edit_json(folder / "drill.json", summary="Is this easier?"), NOT_PLANNED),
    "fewer checks": (lambda folder: edit_json(folder / "drill.json", checks=["ux.integrity"]), NOT_PLANNED),
    "cut short": (lambda folder: edit_header(folder, complete=False), "did not complete"),
    "fewer clients": (lambda folder: edit_header(folder, clients=5), "clients"),
    "another seed": (lambda folder: edit_header(folder, seed=8), "seed"),
    "another engine": (lambda folder: edit_header(folder, engine="virtual"), "engine"),
    "another target": (lambda folder: edit_header(folder, target_kind="staging"), "target_kind"),
    "another drill's run": (lambda folder: edit_header(folder, drill_sha256="0"), "drill_sha256"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_evidence_is_an_error(run_dir: Path, damage: str) -> None:
    do, said = DAMAGE[damage]
    do(storm_folder(run_dir))
    verdict = results.judge_run(run_dir)
    assert (verdict.decision, verdict.decision_reason, verdict.exit_code) == ("no_go", "error", 4)
    assert verdict.failures == 1
    assert said in reason(verdict)
    assert "\n" not in reason(verdict)


def test_unplanned_drill_is_an_error(run_dir: Path) -> None:
    shutil.copytree(storm_folder(run_dir), run_dir / "drills" / "another")
    verdict = results.judge_run(run_dir)
    assert [drill.status for drill in verdict.drills] == [State.PASS, State.ERROR]
    assert verdict.decision == "no_go"


@pytest.mark.parametrize(("leaks", "exit_code"), [(True, 1), (False, 4)])
def test_crashed_run_is_an_error_or_fails_by_what_it_observed(tmp_path: Path, leaks: bool, exit_code: int) -> None:
    run_dir = create(tmp_path, DRILL)
    story = good_storm().without(lambda row: row.t > 15.0)
    if leaks:
        story.tell(15.0, Kind.UNGRANTED, 0, "runtime.run.9.events", 3)
    story.write(results.create_drill_folder(run_dir, DRILL), DRILL, complete=False)
    verdict = results.judge_run(run_dir)
    assert "did not complete" in reason(verdict)
    assert [violation.invariant for violation in verdict.drills[0].violations] == ["cross_topic_leak"] * leaks
    assert verdict.exit_code == exit_code


def test_one_missing_drill_of_two_is_no_go(tmp_path: Path) -> None:
    other = storm_drill(checks=CHECKS, name="other")
    run_dir = make_run(tmp_path, DRILL, other)
    assert results.judge_run(run_dir).decision == "go"
    shutil.rmtree(run_dir / "drills" / "other")
    verdict = results.judge_run(run_dir)
    assert [drill.status for drill in verdict.drills] == [State.PASS, State.ERROR]
    assert verdict.decision == "no_go"


# --- what is no run ---------------------------------------------------------------------------------


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run's folder"):
        results.judge_run(tmp_path)
    with pytest.raises(UsageError, match="not a run's folder"):
        results.judge_run(tmp_path / "nowhere")


def test_a_run_without_its_plan(run_dir: Path) -> None:
    (run_dir / "run-plan.json").unlink()
    with pytest.raises(EvidenceError, match=r"run-plan\.json"):
        results.judge_run(run_dir)


def test_a_plan_without_drills_is_no_go(run_dir: Path) -> None:
    edit_json(run_dir / "run-plan.json", drills=[])
    shutil.rmtree(run_dir / "drills")
    verdict = results.judge_run(run_dir)
    assert (verdict.decision, verdict.decision_reason, verdict.exit_code) == ("no_go", "insufficient_evidence", 2)


@pytest.mark.parametrize("drills", [[], [DRILL, DRILL], [storm_drill(2, ("ux.happiness",))]])
def test_a_plan_that_cannot_be(tmp_path: Path, drills: list[Drill]) -> None:
    with pytest.raises(UsageError):
        create(tmp_path, *drills)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--out"):
        create(tmp_path / "file", DRILL)


def test_figures_are_drawn(run_dir: Path) -> None:
    shown = results.show(run_dir, results.judge_run(run_dir).drills[0])
    assert results.figure_path(run_dir, "storm").read_bytes().startswith(b"\x89PNG")
    assert [each.title for each in shown.figures] == ["Over time", "Recovery", "Latencies"]
    assert all(f"Run {run_dir.name}: pass." in each.says for each in shown.figures)


# --- the files of a report --------------------------------------------------------------------------


def reported(run_dir: Path) -> Path:
    results.write_reports(run_dir, results.judge_run(run_dir))
    return run_dir


def test_a_report_has_the_hash_of_every_file_that_was_judged(run_dir: Path) -> None:
    summary = msgspec.json.decode((reported(run_dir) / results.SUMMARY_NAME).read_bytes())
    folder = f"drills/{DRILL.name}"
    wanted = (
        "run-plan.json",
        "thresholds.toml",
        *(f"{folder}/{name}" for name in ("drill.json", "run.json", parquet.FILE_NAME)),
    )
    assert summary["files"] == {name: bounded_reads.file_sha256(run_dir / name) for name in wanted}
    assert summary["tool_version"] == results.read_plan(run_dir).tool_version != ""
    assert results.judge_run(run_dir).decision == "go", "nothing was changed"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"malformed_kinds"', b'"malformed_kind_"')), "was changed"),
        (lambda path: path.with_name("more.json").write_text("{}"), "was added"),
        (lambda path: path.unlink(), "is missing"),
    ],
    ids=["edited", "added", "removed"],
)
def test_a_folder_that_is_not_the_one_of_the_report_is_an_error(run_dir: Path, change: Any, what: str) -> None:
    change(reported(run_dir) / "drills" / DRILL.name / "run.json")
    verdict = results.judge_run(run_dir)
    assert (verdict.decision, verdict.decision_reason) == ("no_go", "error")
    (evidence, *_) = verdict.drills[0].checks
    assert evidence.name == "drill.evidence"
    assert what in evidence.reason


def test_a_plan_that_was_changed_after_the_report_is_refused(run_dir: Path) -> None:
    path = reported(run_dir) / results.PLAN_NAME
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(EvidenceError, match="was changed since the report"):
        results.judge_run(run_dir)
