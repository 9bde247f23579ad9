"""`stormgate stage verify`: an unchanged folder holds, and one changed byte anywhere is found."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from drills.judging.checks.verdicts import State
from drills.rollout.report import schemas, stage_files
from drills.rollout.report.stage_page import Kept
from drills.rollout.report.verify import verify
from drills.rollout.setup import evidence, journal, records
from drills.rollout.setup.records import Armed, Evaluated, Revisions, Signoff, StageReport, Waiver
from drills.rollout.verdict import judging, window
from drills.runs import results
from sim.base.errors import UsageError
from tests.commands import stormgate_here
from tests.rollout.test_judging import judge_once
from tests.stage_folders import Folder, dump, passing

CHECKED_BODIES = 2  # of many similar files


@pytest.fixture(scope="module", autouse=True)
def _healthy_window() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "judge", lambda *_: tuple(passing(name) for name in window.REGISTRY))
        patch.setattr(results, "judge_run", judge_once)
        yield


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("verified") / "runs").write()
    stage_files.conclude(folder.path)
    folder.sign().add_journal()
    return folder


@pytest.fixture
def folder(pristine: Folder, tmp_path: Path) -> Folder:
    shutil.copytree(pristine.runs.parent, tmp_path / "rollout")
    return Folder(tmp_path / "rollout" / "runs")


def has_problem(folder: Folder, *words: str) -> bool:
    """Whether one of the problems has all these words."""
    return any(all(word in problem for word in words) for problem in verify(folder.path).problems)


def test_unchanged_folder_holds(pristine: Folder) -> None:
    found = verify(pristine.path)
    assert (found.problems, found.decision, found.holds) == ((), "go", True)
    assert found.signed_by.startswith("Robin Example (release owner)")
    said = stormgate_here("stage", "verify", pristine.path)
    assert said.code == 0
    assert "files are unchanged" in said.out


def test_one_changed_byte_is_found_in_every_file(folder: Folder) -> None:
    files = sorted(path for path in folder.path.rglob("*") if path.is_file())
    bodies = [path for path in files if path.parent.name == records.BODIES]
    for path in (path for path in files if path not in bodies[CHECKED_BODIES:]):
        content = path.read_bytes()
        at = len(content) // 2
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        said = stormgate_here("stage", "verify", folder.path)
        assert said.code == 4, path
        assert path.name in said.out + said.err, path
        path.write_bytes(content)
    assert verify(folder.path).holds


@pytest.mark.parametrize("name", ["rollback.json", "logs/docs.txt", "snapshots/000007-metrics.json", "STAGE_REPORT.md"])
def test_missing_file_is_found(folder: Folder, name: str) -> None:
    (folder.path / name).unlink()
    assert has_problem(folder, name)


@pytest.mark.parametrize("name", ["extra.json", "snapshots/999999-metrics.json", "drills/notes.txt", "blockers.json"])
def test_additional_file_is_found(folder: Folder, name: str) -> None:
    (folder.path / name).write_text("[]")
    assert has_problem(folder, name)


def test_link_is_no_evidence(folder: Folder) -> None:
    (folder.path / "logs" / "more.txt").symlink_to("/etc/hostname")
    said = stormgate_here("stage", "verify", folder.path)
    assert said.code == 4
    assert "is a link" in said.err


def rewritten(folder: Folder, **changes: Any) -> StageReport:
    """The report with changed fields and matching hashes, as a careful forger writes it."""
    report = evidence.read_report(folder.path)
    assert report is not None
    report = msgspec.structs.replace(report, **changes)
    html = (folder.path / records.REPORT_HTML).read_bytes()
    rendered = {**stage_files.render(report, Kept()), records.REPORT_HTML: html}
    report = msgspec.structs.replace(report, rendered=stage_files.described(rendered))
    for name, content in {**rendered, records.REPORT: evidence.encoded(report)}.items():
        (folder.path / name).write_bytes(content)
    return report


def test_forged_verdict_is_found(folder: Folder) -> None:
    folder.edit(records.HOLD, records.HoldEvent, lambda lines: lines[:1])
    rewritten(folder, evidence=evidence.files(folder.path))
    assert has_problem(folder, "says go, but the evidence says no_go error")


def test_report_edited_after_its_signature_is_found(folder: Folder) -> None:
    rewritten(folder, notes=("All is well.",))
    assert has_problem(folder, "was changed after Robin Example signed it")
    assert has_problem(folder, "notes", "differs from the evidence")
    assert has_problem(folder, "not the one that the journal records")


def test_signature_is_compared_with_the_journal(folder: Folder) -> None:
    folder.rewrite(records.SIGNOFF, Signoff, owner="Somebody Else")
    assert has_problem(folder, "signoff.json", "journal")
    (folder.path / records.SIGNOFF).unlink()
    assert has_problem(folder, "signoff.json", "journal")


def test_forged_waiver_is_found(folder: Folder) -> None:
    sha = hashlib.sha256((folder.path / records.REPORT).read_bytes()).hexdigest()
    waiver = Waiver(check="ux.integrity", owner="A", role="B", at=folder.at(1), statement="so be it", report_sha256=sha)
    (folder.path / records.WAIVERS).write_bytes(msgspec.json.encode([waiver]))
    assert has_problem(folder, "waiver of ux.integrity")
    assert judging.judge_stage(folder.path).decision == "go"


def test_stage_without_a_report_does_not_hold(folder: Folder) -> None:
    (folder.path / records.REPORT).unlink()
    assert has_problem(folder, "has no verdict yet")


def test_json_output_is_one_object(folder: Folder) -> None:
    (folder.path / "logs" / "docs.txt").write_text("another")
    said = stormgate_here("stage", "verify", folder.path, "--json")
    found = msgspec.json.decode(said.out)
    assert (said.code, found["holds"], found["run_id"]) == (4, False, folder.path.name)
    assert "logs/docs.txt: was changed (its SHA-256 differs)." in found["problems"]


def test_signed_report_is_not_overwritten(folder: Folder) -> None:
    assert stage_files.conclude(folder.path).decision == "go"
    folder.edit(records.HOLD, records.HoldEvent, lambda lines: lines[:1])
    before = (folder.path / records.REPORT).read_bytes()
    with pytest.raises(UsageError, match="is signed"):
        stage_files.conclude(folder.path)
    assert (folder.path / records.REPORT).read_bytes() == before


@pytest.mark.parametrize("artifact", list(schemas.ARTIFACTS))
def test_schema_of_every_artifact_is_up_to_date(artifact: str) -> None:
    assert schemas.path_of(artifact).read_bytes() == schemas.generate(artifact), "run python -m drills.rollout.report.schemas"


def test_artifacts_match_their_schemas(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    second = Folder(folder.runs, "2", folder, began=folder.began + timedelta(hours=2)).write().add_control()
    gone = Revisions(control="control-00041", runtime="runtime-00016")
    dump(
        second.path / records.ARMED, Armed(at=second.at(5), gate_h=0, state="pass", reason="", hooks_sha256="", last_good=gone)
    )
    evaluated = Evaluated(at=second.at(5), coverage="pass", worst="every check passes", next=second.at(6))
    dump(second.path / records.EVALUATIONS, evaluated)
    answers = {name: passing(name) for name in window.REGISTRY}
    answers["ux.integrity"] = passing("ux.integrity", state=State.NO_DATA, value=float("nan"), interval=(float("nan"), 1.0))
    monkeypatch.setattr(window, "judge", lambda *_: tuple(answers.values()))
    stage_files.conclude(second.path)
    second.sign()
    seen = set()
    for run in (folder.path, second.path, folder.runs.parent):
        for artifact in schemas.ARTIFACTS:
            if (run / artifact).exists():
                seen.add(artifact)
                validate(run / artifact, artifact)
    assert set(schemas.ARTIFACTS) - seen == {records.WAIVERS}


def validate(path: Path, artifact: str) -> None:
    schema = msgspec.json.decode(schemas.path_of(artifact).read_bytes())
    checker = jsonschema.Draft202012Validator(schema)
    checker.check_schema(schema)
    content = path.read_bytes()
    assert b"NaN" not in content
    assert b"Infinity" not in content
    for text in content.splitlines() if artifact.endswith("l") else [content]:
        assert list(checker.iter_errors(msgspec.json.decode(text))) == []
        with pytest.raises(jsonschema.ValidationError):
            checker.validate({"nothing": "of it"})


@pytest.mark.parametrize(
    "edit", [lambda text: text + "\n", lambda text: text.replace('"schema": 1,', '"schema": 1, "more": 1,', 1)]
)
def test_edit_is_found_without_signature_and_journal(folder: Folder, edit: Callable[[str], str]) -> None:
    (folder.path / records.SIGNOFF).unlink()
    (folder.runs.parent / journal.NAME).unlink()
    assert verify(folder.path).holds
    path = folder.path / records.REPORT
    path.write_text(edit(path.read_text()))
    assert has_problem(folder, "was edited")
