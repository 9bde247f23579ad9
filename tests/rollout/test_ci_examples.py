"""The CI examples, run as a CI server would: they leave with stormgate's exit code, and keep what it left."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
import yaml

from drills.rollout.report import stage_files
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import StageReport
from tests.stage_folders import Folder

EXAMPLES = Path(__file__).parents[2] / "drills" / "examples" / "ci"
# In place of a rehearsal of hours: it prints the report that lies there and leaves as that says; all else is stormgate's own.
STUB = """
import sys
from pathlib import Path
from drills.cli import main as cli
code, report = int(sys.argv[1]), Path(sys.argv[2])
if sys.argv[3:5] in (["stage", "run"], ["stage", "hold"]):
    print(" ".join(sys.argv[3:]), file=sys.stderr)
    sys.stdout.write(report.read_text() if report.is_file() else "")
    sys.exit(code)
sys.argv[:] = ["stormgate", *sys.argv[3:]]
cli.main()
"""


def script(name: str, *arguments: object, **environment: object) -> "subprocess.CompletedProcess[str]":
    command = ["bash", str(EXAMPLES / name), *map(str, arguments)]
    given = {**os.environ, **{key: str(value) for key, value in environment.items()}}
    return subprocess.run(command, capture_output=True, text=True, env=given, timeout=300, check=False)


@pytest.fixture(scope="module")
def concluded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, StageReport]:
    """A preflight, judged by the real window: with what was written by hand it cannot tell."""
    folder = Folder(tmp_path_factory.mktemp("ci") / "rollouts" / "november" / "runs").write()
    return folder, stage_files.conclude(folder.path)


def stub(tmp_path: Path, code: int, report: Path) -> str:
    (tmp_path / "stub.py").write_text(STUB)
    return f"{sys.executable} {tmp_path / 'stub.py'} {code} {report}"


@pytest.mark.parametrize("code", [0, 1])
def test_ci_gets_a_stages_exit_code_and_files(concluded: tuple[Folder, StageReport], tmp_path: Path, code: int) -> None:
    folder, report = concluded
    compact = tmp_path / "compact.json"
    compact.write_bytes(msgspec.json.encode(report) + b"\n")
    done = script(
        "stage.sh",
        *("0", "elsewhere", "november", "--stages", "mine.toml"),
        STORMGATE=stub(tmp_path, code, compact if code else folder.path / records.REPORT),
        RESULTS=folder.runs.parents[2],
        ARTIFACTS=tmp_path / "kept",
    )
    assert done.returncode == code, done.stderr
    assert "stage run 0 --target elsewhere --rollout november --out" in done.stderr
    assert "--stages mine.toml --json" in done.stderr
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert {records.REPORT, records.REPORT_HTML, records.REPORT_MD, records.JUNIT, records.GATE_RESULTS} <= kept
    ElementTree.parse(tmp_path / "kept" / records.JUNIT)


def test_stage_that_does_not_verify_is_an_error(concluded: tuple[Folder, StageReport], tmp_path: Path) -> None:
    folder, report = concluded
    forged = msgspec.structs.replace(report, notes=("All is well.",))
    written = (folder.path / records.REPORT).read_bytes()
    (folder.path / records.REPORT).write_bytes(evidence.encoded(forged))
    given = stub(tmp_path, 0, folder.path / records.REPORT)
    done = script(
        "stage.sh", "0", "elsewhere", "november", STORMGATE=given, RESULTS=folder.runs.parents[2], ARTIFACTS=tmp_path / "kept"
    )
    (folder.path / records.REPORT).write_bytes(written)
    assert done.returncode == 4
    assert "notes" in done.stdout


@pytest.mark.parametrize(("code", "left"), [(3, 3), (0, 4)])
def test_missing_report_never_passes(tmp_path: Path, code: int, left: int) -> None:
    done = script(
        "stage.sh", "1", "staging", "november", STORMGATE=stub(tmp_path, code, tmp_path / "none"), ARTIFACTS=tmp_path / "kept"
    )
    assert done.returncode == left
    assert "stage hold 1" in done.stderr


def test_ci_gets_the_verdict_of_drills(tmp_path: Path) -> None:
    given = f"{sys.executable} -m drills"
    drill = ("runtime_restart", "--engine", "virtual")
    done = script("drills.sh", *drill, STORMGATE=given, ARTIFACTS=tmp_path / "kept")
    summary = msgspec.json.decode((tmp_path / "kept" / "summary.json").read_bytes())
    root = ElementTree.parse(tmp_path / "kept" / "drills.xml").getroot()
    assert (done.returncode, summary["decision"], root.get("failures")) == (0, "go", "0"), done.stderr
    assert summary["run_id"] in (tmp_path / "kept" / "SUMMARY.md").read_text()
    done = script("drills.sh", "no_such_drill", STORMGATE=given, ARTIFACTS=tmp_path / "kept")
    assert done.returncode == 3


# A stand-in for the program that runs one simulated drill where the workflow asks for the quick set.
QUICK = """
import sys
from drills.cli import main as cli
words = [word for word in sys.argv[1:] if word != "--quick"]
sys.argv[:] = ["stormgate", *words, "runtime_restart", "--engine", "virtual"]
cli.main()
"""


def test_workflow_steps_leave_a_summary_and_junit(tmp_path: Path) -> None:
    workflow = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())
    lines = [step["run"] for step in workflow["jobs"]["drills"]["steps"] if "run" in step]
    (tmp_path / "quick.py").write_text(QUICK)
    kept, job_summary = tmp_path / "artifacts", tmp_path / "job-summary.md"
    given = {"STORMGATE": f"{sys.executable} {tmp_path / 'quick.py'}", "GITHUB_STEP_SUMMARY": str(job_summary)}
    (tmp_path / "drills").symlink_to(EXAMPLES.parents[1])
    installs, *others = lines
    assert installs == "pip install --constraint constraints.txt ."
    for line in others:
        environment = {**os.environ, **given, "PYTHONPATH": str(EXAMPLES.parents[2])}
        done = subprocess.run(["bash", "-e", "-c", line], cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
    assert ElementTree.parse(kept / "drills.xml").getroot().get("failures") == "0"
    assert job_summary.read_text() == (kept / "SUMMARY.md").read_text()
    assert "runtime_restart" in job_summary.read_text()


def test_workflow_runs_existing_scripts() -> None:
    text = (EXAMPLES / "github-actions.yml").read_text()
    named = re.findall(r"bash (drills/examples/ci/\S+)", text)
    assert {EXAMPLES.parents[2] / name for name in named} == set(EXAMPLES.glob("*.sh"))
    assert "${{ inputs" not in "".join(line for line in text.splitlines() if line.lstrip().startswith("- run:"))
