"""A rollout keeps the options of its runs: a hold resumes without any, and refuses others."""

import re
from pathlib import Path

import pytest

from drills.rollout.hold import rollouts
from drills.rollout.hold.rollout_options import Options, settled
from drills.rollout.setup import stages
from drills.rollout.setup.journal import Journal
from sim.base.clocks import SystemClock
from sim.base.errors import UsageError
from tests.commands import stormgate_here

TARGETS = """
[targets.staging]
kind = "staging"
runtime_url = "http://127.0.0.1:9"
control_url = "http://127.0.0.1:9"
session_token_env = "A_SESSION"
caps = { clients = 400, connects_per_s = 400.0, events_per_s = 50.0 }
"""


def started(folder: Path, stage: str, is_finished: bool, **options: str) -> None:
    """Write to the journal what a run of this stage writes there."""
    folder.mkdir(parents=True, exist_ok=True)
    with rollouts.journal_of(folder, SystemClock()) as journal:
        run = f"run-{len(journal.entries)}"
        journal.append(rollouts.STARTED, run=run, stage=stage, target="staging", plan_sha256="", options=options)
        if is_finished:
            journal.append(rollouts.REPORTED, run=run, decision="go", reason="", report_sha256="")


def entries(folder: Path) -> list:
    with Journal(folder / "journal.jsonl", SystemClock()) as journal:
        return journal.entries


def test_hold_under_way_keeps_its_options(tmp_path: Path):
    kept = {"target": "staging", "targets": "/t.toml", "stages": "/s.toml", "thresholds": ""}
    started(tmp_path, "1", False, **kept)
    assert settled(Options(), entries(tmp_path), "1") == Options(**kept)
    assert settled(Options(stages="/s.toml"), entries(tmp_path), "1") == Options(**kept)


@pytest.mark.parametrize(
    ("name", "was"), [("target", "staging"), ("targets", "/t.toml"), ("stages", "/s.toml"), ("thresholds", "the default")]
)
def test_another_option_for_a_hold_under_way_is_refused_with_both_values(tmp_path: Path, name: str, was: str):
    started(tmp_path, "1", False, target="staging", targets="/t.toml", stages="/s.toml", thresholds="")
    with pytest.raises(UsageError, match=re.escape(f"--{name} /other") + r".*\brun-0\b.*" + re.escape(was)):
        settled(Options(**{name: "/other"}), entries(tmp_path), "1")


def test_next_stage_takes_what_is_not_given_from_the_latest_run(tmp_path: Path):
    started(tmp_path, "0", True, target="staging", targets="/t.toml", stages="/s.toml")
    found = settled(Options(thresholds="/mine.toml", stages="/new.toml"), entries(tmp_path), "1")
    assert found == Options(target="staging", targets="/t.toml", stages="/new.toml", thresholds="/mine.toml")


def test_first_run_names_the_targets_file_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert settled(Options(target="staging"), [], "0").targets == str(tmp_path / "targets.toml")
    assert settled(Options(target="http://127.0.0.1:1"), [], "0").targets == ""


def test_command_line_needs_no_more_than_the_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From another folder, too."""
    (tmp_path / "theirs.toml").write_text(TARGETS)
    text = stages.DEFAULT_PATH.read_text()
    (tmp_path / "stages.toml").write_text(text.replace("hold_s = 3600.0 ", "hold_s = 4200.0 "))
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "results"
    files = {"targets": str(tmp_path / "theirs.toml"), "stages": str(tmp_path / "stages.toml")}
    started(rollouts.folder_of(out, "november"), "1", False, target="staging", **files)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("A_SESSION", "a session")
    command = ("stage", "hold", "1", "--rollout", "november", "--out", out, "--dry-run")
    done = stormgate_here(*command)
    assert "hold: 4200 s" in done.out, done
    refused = stormgate_here(*command, "--stages", stages.DEFAULT_PATH)
    assert refused.code == 3
    assert str(stages.DEFAULT_PATH) in refused.sentence
    assert files["stages"] in refused.sentence


def test_hold_without_rollout_and_target_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    refused = stormgate_here("stage", "hold", "1")
    assert refused.code == 3
    assert "--rollout" in refused.sentence
