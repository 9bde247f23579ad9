"""A stage's verdict from its folder: a healthy one is a go; anything missing, damaged or of another stage is not."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.judging.checks.verdicts import CheckResult, RunVerdict, State
from drills.rollout.report import stage_files
from drills.rollout.setup import records, stages
from drills.rollout.setup.records import (
    CanaryCheckDone,
    CommandDone,
    DrillDone,
    HoldEvent,
    Precondition,
    Revisions,
    Rollback,
    RoutingCheck,
    Signoff,
    Snapshot,
    StagePlan,
    StageReport,
)
from drills.rollout.verdict import judging, splits, stage_drills, window
from drills.rollout.verdict.window_checks import AGAINST_CONTROL
from drills.runs import results
from sim.base.atomic_files import read_struct
from sim.base.clocks import iso
from sim.base.errors import EvidenceError, UsageError
from tests.stage_folders import CONTROL, DRILL, KIND, NOW, TARGET, Folder, passing

Answers = dict[str, CheckResult]
Stage = Callable[[records.Stage], Folder]


def healthy() -> Answers:
    return {name: passing(name) for name in window.REGISTRY}


def healthy_splits(window: object, thresholds: object, plan: StagePlan) -> tuple[CheckResult, ...]:
    """Passed checks of every build and against the control; other tests cover their failures."""
    builds = [
        replace(passing(name), gate="builds", check=f"{build} {name}")
        for build in plan.client_builds
        for name in splits.BY_BUILD
    ]
    return (*builds, *(passing(name) for name in AGAINST_CONTROL))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """The answers of the window, for a test to change; other tests cover how they are found."""
    found = healthy()
    monkeypatch.setattr(window, "judge", lambda *_: tuple(found.values()))
    monkeypatch.setattr(splits, "of", healthy_splits)
    monkeypatch.setattr(results, "judge_run", judge_once)
    return found


KNOWN: dict[object, RunVerdict] = {}


def judge_once(run_dir: Path, judge: Callable[[Path], RunVerdict] = results.judge_run) -> RunVerdict:
    """Judge an unchanged run only once for all tests."""
    files = sorted(path for path in run_dir.rglob("*") if path.is_file())
    key = tuple((str(path.relative_to(run_dir.parent)), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    if key not in KNOWN:
        KNOWN[key] = judge(run_dir)
    return KNOWN[key]


@pytest.fixture(scope="module")
def rollout(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Stage 1, held, after a signed go of stage 0; and the folder of stage 2, not yet judged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "judge", lambda *_: tuple(healthy().values()))
        first = Folder(tmp_path_factory.mktemp("rollout") / "runs").write()
        stage_files.conclude(first.path)
        first.sign()
        second = Folder(first.runs, "1", first, began=first.began + timedelta(hours=2)).write()
        stage_files.conclude(second.path)
        second.sign()
        Folder(first.runs, "2", second, began=second.began + timedelta(hours=2)).write()
    return second


@pytest.fixture
def stage(rollout: Folder, tmp_path: Path) -> Stage:
    """Copies of all folders, for a test to change; returns a stage's folder."""
    runs = Path(shutil.copytree(rollout.runs, tmp_path / "runs"))
    first = Folder(runs)
    second = replace(rollout, runs=runs, previous=first)
    third = Folder(runs, "2", second, began=second.began + timedelta(hours=2))
    return {"0": first, "1": second, "2": third}.__getitem__


@pytest.fixture
def quick(rollout: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Stage 1, to be judged with many windows: everything else is computed once."""
    drills = stage_drills.of_stage(rollout.path, rollout.plan())
    loaded = window.load(rollout.path)
    monkeypatch.setattr(judging.stage_drills, "of_stage", lambda *_: drills)
    monkeypatch.setattr(window, "load", lambda *_: loaded)
    monkeypatch.setattr(judging.chain, "require_unchanged", lambda _: None)
    monkeypatch.setattr(judging.evidence, "files", lambda _: ())
    monkeypatch.setattr(judging.evidence, "require_sealed", lambda *_: None)
    return rollout


def requirement(report: StageReport, name: str) -> records.Requirement:
    (found,) = (each for each in report.requirements if each.name == name)
    return found


@pytest.mark.parametrize("name", ["0", "1", "2"])
def test_healthy_stage_is_a_go(stage: Stage, answers: Answers, name: records.Stage) -> None:
    report = judging.judge_stage(stage(name).path)
    assert (report.decision, report.reason, report.why, report.blockers) == ("go", "", (), ())
    assert {gate.name: gate.state for gate in report.gates} == dict.fromkeys(
        ("error", "replay", "reconnect", "delivery", "ux"), "pass"
    )
    assert {each.state for each in report.requirements} == {"pass"}


def test_later_stage_uses_the_drills_of_the_preflight(stage: Stage, answers: Answers) -> None:
    report = judging.judge_stage(stage("2").path)
    (found,) = (check for gate in report.gates for check in gate.checks if check.check == "live_again_99_s")
    assert found.state == "pass"
    assert "drills of stage 0" in found.window
    assert report.hold_observed_s == 3600.0


Damage = Callable[[Folder], None]


def lines(name: str, of: type[Any], change: Callable[[list[Any]], list[Any]]) -> Damage:
    return lambda folder: folder.edit(name, of, change)


def every(name: str, of: type[Any], /, **changes: Any) -> Damage:
    return lines(name, of, lambda found: [msgspec.structs.replace(each, **changes) for each in found])


def last(name: str, of: type[Any], /, **changes: Any) -> Damage:
    return lines(name, of, lambda found: [*found[:-1], msgspec.structs.replace(found[-1], **changes)])


def resumed(**changes: Any) -> Damage:
    """As if the hold had been resumed after half an hour; all its events with these changes."""

    def change(folder: Folder) -> None:
        again = folder.event(1800, "resumed")
        every(records.HOLD, HoldEvent, **changes)(folder)
        folder.edit(records.HOLD, HoldEvent, lambda found: [found[0], msgspec.structs.replace(again, **changes), found[1]])

    return change


def without(name: str) -> Damage:
    def remove(folder: Folder) -> None:
        path = folder.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def plan(**changes: Any) -> Damage:
    return lambda folder: folder.rewrite(records.PLAN, StagePlan, **changes)


def rollback(**changes: Any) -> Damage:
    return lambda folder: folder.rewrite(records.ROLLBACK, Rollback, **changes)


def steps(change: Callable[[tuple[records.RollbackStep, ...]], tuple[records.RollbackStep, ...]]) -> Damage:
    def damage(folder: Folder) -> None:
        folder.rewrite(records.ROLLBACK, Rollback, steps=change(folder.rollback().steps))

    return damage


def append(name: str, text: str) -> Damage:
    def damage(folder: Folder) -> None:
        with (folder.path / name).open("a") as file:
            file.write(text)

    return damage


def before(damage: Damage) -> Damage:
    """The same in the folder of the previous stage."""

    def damage_before(folder: Folder) -> None:
        assert folder.previous is not None
        damage(folder.previous)

    return damage_before


def resigned(**changes: Any) -> Damage:
    return before(lambda folder: folder.rewrite(records.SIGNOFF, Signoff, **changes))


def drill_file(change: Callable[[Path], object]) -> Damage:
    def damage(folder: Folder) -> None:
        (path,) = (path for path in (folder.path / records.DRILLS).rglob("observations.parquet") if DRILL.name in str(path))
        change(path)

    return damage


def add_unknown_run(folder: Folder) -> None:
    (folder.path / records.CONTROL / "somebody-elses").mkdir(parents=True)


FEW = "insufficient_evidence"
KNOWN_BAD: list[tuple[records.Stage, str, Damage, str, str]] = [
    # stage, requirement, damage, reason of the no-go, words of its reason
    ("0", "preconditions", without(records.PRECONDITIONS), FEW, "was not checked"),
    ("0", "preconditions", last(records.PRECONDITIONS, Precondition, state="fail", reason="none"), "breach", "none"),
    ("0", "preconditions", last(records.PRECONDITIONS, Precondition, state="not_run", required=False), FEW, ""),
    ("0", "preconditions", lines(records.PRECONDITIONS, Precondition, lambda found: found[:-1]), FEW, "rollback"),
    ("0", "commands", without(records.COMMANDS), FEW, "no command"),
    ("0", "commands", lines(records.COMMANDS, CommandDone, lambda found: found[:1]), FEW, "docs: was not run"),
    ("0", "commands", every(records.COMMANDS, CommandDone, tests=0), "breach", "ran no test"),
    ("0", "commands", last(records.COMMANDS, CommandDone, exit_code=1), "error", "exit code 1"),
    ("0", "commands", last(records.COMMANDS, CommandDone, state="not_run", required=False), FEW, ""),
    ("0", "commands", append("logs/docs.txt", "x"), "error", "was changed"),
    ("0", "commands", without("logs/docs.txt"), "error", "missing"),
    ("0", "drills", without(records.DRILLS), FEW, "was not run"),
    ("0", "drills", plan(drills=("storm", "resets", "parity")), FEW, "parity: was not run"),
    ("0", "drills", last(records.DRILL_RESULTS, DrillDone, status="not_run", reason="skipped"), "error", "resets"),
    ("0", "drills", last(records.DRILL_RESULTS, DrillDone, status="fail", reason="no"), "breach", "resets: no"),
    ("0", "drills", lines(records.DRILL_RESULTS, DrillDone, lambda found: found[:1]), "error", "is not recorded"),
    ("0", "drills", drill_file(lambda path: path.write_bytes(path.read_bytes()[:-9])), "error", "storm"),
    ("0", "drills", drill_file(lambda path: path.unlink()), "error", "storm"),
    ("0", "drills", plan(target="another"), "error", "ran against elsewhere"),
    ("0", "drills", plan(thresholds_sha256="d" * 64), "error", "other thresholds"),
    ("0", "rollback", without(records.ROLLBACK), FEW, "no rollback"),
    ("0", "rollback", rollback(dry_run=True), FEW, "dry run"),
    ("0", "rollback", rollback(seconds=None), "breach", "never"),
    ("0", "rollback", rollback(seconds=301.0, limit_s=900.0), "breach", "301 s"),
    ("0", "rollback", rollback(stable_s=899.0), FEW, "899 s; 900 s are needed"),
    ("0", "rollback", rollback(stable_s=None), FEW, "for 0 s; 900 s"),
    ("0", "rollback", rollback(state="error", reason="unreachable"), "error", "unreachable"),
    ("0", "rollback", rollback(run_id="another"), "error", "another"),
    ("0", "rollback", steps(lambda found: (found[1], found[0], *found[2:])), "error", "in this order"),
    ("0", "rollback", steps(lambda found: found[:3]), "error", "in this order"),
    ("0", "rollback", steps(lambda f: (*f[:3], msgspec.structs.replace(f[3], state="not_run"))), FEW, "step 4"),
    ("0", "rollback", steps(lambda f: (msgspec.structs.replace(f[0], restored=False), *f[1:])), "error", "restored"),
    ("0", "rollback", steps(lambda f: (msgspec.structs.replace(f[0], verified_by=""), *f[1:])), "error", "verified"),
    ("0", "baseline", last(records.HOLD, HoldEvent, at="2026-11-23T09:59:00.000Z", elapsed_s=4540.0), FEW, "3540 s"),
    ("0", "revisions", plan(revisions=Revisions(control="c")), FEW, "runtime unknown"),
    ("0", "evidence", append(records.THRESHOLDS, "\n"), "error", "thresholds.toml"),
    ("0", "evidence", without(records.STAGES), "error", "stages.toml"),
    ("0", "evidence", append(records.SNAPSHOTS, "{}\n"), "error", "snapshots.jsonl"),
    ("0", "canary_checks", last(records.CANARY_CHECK_LIST, CanaryCheckDone, status="fail", reason="ux"), "breach", "ux"),
    (
        "0",
        "canary_checks",
        lines(records.CANARY_CHECK_LIST, CanaryCheckDone, lambda found: found[:1]),
        "error",
        "is not recorded",
    ),
    ("1", "hold", without(records.HOLD), FEW, "nothing was held"),
    ("1", "hold", lines(records.HOLD, HoldEvent, lambda found: found[:1]), "error", "cut short"),
    ("1", "hold", last(records.HOLD, HoldEvent, kind="aborted", reason="a stale loop"), "breach", "a stale loop"),
    ("1", "hold", last(records.HOLD, HoldEvent, elapsed_s=None), "error", "lacks the time of the clock"),
    ("1", "hold", last(records.HOLD, HoldEvent, elapsed_s=4590.0), "error", "the clock was set by 10 s"),
    ("1", "hold", last(records.HOLD, HoldEvent, boot="boot-2"), "error", "the machine was started again"),
    ("1", "hold", resumed(boot=""), "error", "the machine was started again, or may have been"),
    ("1", "hold", plan(hold_required_s=3601.0), FEW, "3600 s of 3601 s"),
    ("1", "hold", plan(gates_at_h=(0.5,)), FEW, "0.5 h"),
    ("1", "hold", last(records.SNAPSHOTS, Snapshot, revisions=Revisions(runtime="newer")), "breach", "newer"),
    ("1", "target", plan(target_kind="mock"), "breach", "unlocks no stage"),
    ("1", "nonsense", plan(required=("hold", "nonsense")), "error", "cannot judge"),
    ("1", "previous_stage", plan(previous_run=""), "error", ""),
    ("1", "previous_stage", plan(revisions=Revisions(control="c", runtime="r")), "breach", "revisions changed"),
    ("1", "previous_stage", plan(rollout="december"), "breach", "rollout changed"),
    ("1", "previous_stage", plan(previous_report_sha256="e" * 64), "error", "not the report"),
    ("1", "previous_stage", before(without(records.SIGNOFF)), FEW, "is not signed"),
    ("1", "previous_stage", before(append(records.REPORT, "\n")), "error", "not the report"),
    ("1", "previous_stage", before(without(records.REPORT)), "error", "missing"),
    ("1", "previous_stage", resigned(decision="no_go"), "breach", "not a signed go"),
    ("1", "previous_stage", resigned(report_sha256="f" * 64), "breach", "another report"),
    ("1", "previous_stage", resigned(at="2026-11-23T12:00:00.000Z"), "breach", "after this stage"),
    ("1", "previous_stage", resigned(at="2026-11-22T10:00:00.000Z"), "expired", "1 day"),
    ("1", "previous_stage", resigned(at="yesterday"), "error", "yesterday"),
    ("1", "evidence", before(append("logs/docs.txt", "x")), "error", "docs.txt"),
    ("2", "previous_stage", plan(stage="3a"), "breach", "not the previous stage"),
    ("2", "cohort", without(records.ROUTING_CHECKS), FEW, "not asked"),
    ("2", "cohort", every(records.ROUTING_CHECKS, RoutingCheck, in_cohort=None, outcome="timeout"), FEW, "no answer"),
    ("2", "cohort", last(records.ROUTING_CHECKS, RoutingCheck, in_cohort=True), "breach", "wrong side"),
    ("2", "cohort", plan(cohort_percent=25.0), "breach", "wrong side"),
    ("2", "builds", plan(client_builds=()), "error", "names no client build"),
    ("2", "canary_vs_control", plan(control=None), FEW, 'control = "NAME" to [stages.2]'),
    ("2", "canary_vs_control", plan(control=msgspec.structs.replace(CONTROL, revisions=NOW)), FEW, "canary's revisions"),
    ("2", "canary_vs_control", plan(control=msgspec.structs.replace(CONTROL, revisions=Revisions())), FEW, "are unknown"),
    ("2", "canary_vs_control", add_unknown_run, "error", "is either missing, or not recorded"),
]


@pytest.mark.parametrize(
    ("name", "which", "damage", "reason", "words"), KNOWN_BAD, ids=[f"{row[0]}-{row[1]}-{n}" for n, row in enumerate(KNOWN_BAD)]
)
def test_failed_requirement_is_a_no_go(
    stage: Stage, answers: Answers, name: records.Stage, which: str, damage: Damage, reason: str, words: str
) -> None:
    folder = stage(name)
    damage(folder)
    folder.seal()
    report = judging.judge_stage(folder.path)
    assert (report.decision, report.reason) == ("no_go", reason)
    assert requirement(report, which).state != "pass"
    assert words in requirement(report, which).reason
    assert any(blocker.check == which and blocker.remediation and blocker.retest for blocker in report.blockers)


@pytest.mark.parametrize("damage", [resumed(), every(records.HOLD, HoldEvent, boot="")], ids=["resumed", "unknown boot"])
def test_hold_of_one_boot_or_one_process_is_a_go(stage: Stage, answers: Answers, damage: Damage) -> None:
    folder = stage("1")
    damage(folder)
    assert judging.judge_stage(folder.path).decision == "go"


@pytest.mark.parametrize("check", list(window.REGISTRY))
def test_only_a_pass_of_a_window_check_counts(quick: Folder, answers: Answers, check: str) -> None:
    for state in set(State) - {State.PASS}:
        answers[check] = passing(check, state=state, reason="given")
        report = judging.judge_stage(quick.path)
        optional = check in judging.OPTIONAL_WITHOUT_DATA and state is State.NO_DATA
        assert report.decision == ("go" if optional else "no_go")
        assert any("given" in sentence for sentence in (report.skipped if optional else report.why))


def test_nan_does_not_pass(stage: Stage, answers: Answers) -> None:
    answers["ux.integrity"] = passing("ux.integrity", value=float("nan"))
    report = judging.judge_stage(stage("1").path)
    assert (report.decision, report.reason) == ("no_go", "error")


def test_missing_check_does_not_pass(stage: Stage, answers: Answers) -> None:
    del answers["replay.divergence"]
    report = judging.judge_stage(stage("1").path)
    assert (report.decision, report.reason) == ("no_go", FEW)
    assert any("replay.divergence" in sentence for sentence in report.why)


def test_window_that_cannot_be_judged_passes_no_gate(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no width")

    monkeypatch.setattr(window, "judge", broken)
    report = judging.judge_stage(stage("1").path)
    assert (report.decision, report.reason) == ("no_go", "error")
    assert {gate.state for gate in report.gates} == {"error"}
    assert "no width" in requirement(report, "evidence").reason


def test_only_a_failed_window_check_counts_in_a_preflight(stage: Stage, answers: Answers) -> None:
    answers["replay.client_lag_events"] = passing("replay.client_lag_events", state=State.NO_DATA)
    report = judging.judge_stage(stage("0").path)
    assert report.decision == "go"
    assert any("replay.client_lag_events (no_data)" in sentence for sentence in report.skipped)
    answers["replay.client_lag_events"] = passing("replay.client_lag_events", state=State.FAIL)
    assert judging.judge_stage(stage("0").path).reason == "breach"


def test_missing_window_check_of_a_preflight_is_only_reported(stage: Stage, answers: Answers) -> None:
    del answers["replay.divergence"]
    report = judging.judge_stage(stage("0").path)
    assert report.decision == "go"
    assert any("replay.divergence (not_run)" in sentence for sentence in report.skipped)


def test_mock_needs_no_commands_of_operators(tmp_path: Path, answers: Answers) -> None:
    folder = Folder(tmp_path / "runs", kind="mock").write()
    last(records.COMMANDS, CommandDone, state="not_run", reason="no checkout", required=False)(folder)
    report = stage_files.conclude(folder.path)
    assert report.decision == "go"
    assert "not required on a mock: docs" in requirement(report, "commands").reason
    first_line = (folder.path / records.REPORT_MD).read_text().splitlines()[0]
    assert first_line.startswith("# GO (against the embedded mock")
    assert "unlocks no stage" in first_line


def test_most_severe_reason_comes_first(stage: Stage, answers: Answers) -> None:
    for name, state in (
        ("error.stale_cursors", State.INCONCLUSIVE),
        ("ux.integrity", State.FAIL),
        ("replay.errors", State.ERROR),
    ):
        answers[name] = passing(name, state=state)
    why = judging.judge_stage(stage("1").path).why
    assert [sentence.partition(":")[0] for sentence in why] == ["fail", "error", "inconclusive"]


def test_judging_writes_nothing_and_is_repeatable(stage: Stage, answers: Answers) -> None:
    folder = stage("1").path
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert judging.judge_stage(folder) == judging.judge_stage(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_folder_without_a_stage_is_refused(tmp_path: Path, stage: Stage) -> None:
    with pytest.raises(UsageError, match="is not a stage's folder"):
        judging.judge_stage(tmp_path)
    folder = stage("1").path
    (folder / records.PLAN).unlink()
    with pytest.raises(EvidenceError, match="missing"):
        judging.judge_stage(folder)
    (folder / records.PLAN).write_text("{")
    with pytest.raises(EvidenceError, match="damaged"):
        judging.judge_stage(folder)


def test_plan_cannot_remove_requirements_of_its_stage(stage: Stage, answers: Answers) -> None:
    """A plan without requirements is judged by those of its stage."""
    folder = stage("0")
    plan(required=())(folder)
    without(records.ROLLBACK)(folder)
    assert judging.judge_stage(folder.path).decision == "no_go"
    assert set(stages.minimum("0").required) <= {each.name for each in judging.judge_stage(folder.path).requirements}
    assert (KIND, TARGET, NOW.known) == ("staging", "elsewhere", True)


def production(runs: Path, began: datetime) -> Folder:
    """A preflight on production, without faults."""
    folder = Folder(runs, kind="production", began=began).write(drills=())
    for path in (folder.path / records.DRILLS).iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder.path / records.DRILL_RESULTS).write_bytes(msgspec.json.encode(folder.observed()) + b"\n")
    return folder.seal()


def test_production_uses_drills_of_a_signed_staging(tmp_path: Path, rollout: Folder, answers: Answers) -> None:
    shutil.copytree(rollout.runs.parent, tmp_path / "staging")
    staging = Folder(tmp_path / "staging" / "runs")
    staging.add_journal()
    folder = production(tmp_path / "production" / "runs", rollout.began)
    report = judging.judge_stage(folder.path)
    assert (report.decision, report.why) == ("go", ())
    (found,) = (check for gate in report.gates for check in gate.checks if check.check == "live_again_99_s")
    assert "drills of stage 0 on elsewhere" in found.window
    later = tmp_path / "again" / "runs" / "later"
    shutil.copytree(staging.path, later)
    report = read_struct(later / records.REPORT, StageReport)
    worse = msgspec.structs.replace(report, ended=iso(rollout.began), decision="no_go")
    (later / records.REPORT).write_bytes(msgspec.json.encode(worse))
    assert any("a later preflight there was none" in each for each in judging.judge_stage(folder.path).why)
    shutil.rmtree(later.parents[1])
    plan(revisions=Revisions(control="c", runtime="r"))(folder)
    assert judging.judge_stage(folder.path).decision == "no_go"
    folder.rewrite(records.PLAN, StagePlan, revisions=NOW, began=staging.at(9 * 86400))
    assert any("168" in each or "7 days" in each for each in judging.judge_stage(folder.path).why)
    folder.rewrite(records.PLAN, StagePlan, began=staging.at(0))
    assert any("no drill with this check was run" in each for each in judging.judge_stage(folder.path).why)
    folder.rewrite(records.PLAN, StagePlan, began=folder.at(0))
    append("logs/docs.txt", "x")(staging)
    assert judging.judge_stage(folder.path).reason == "error"
    without(records.SIGNOFF)(staging)
    assert judging.judge_stage(folder.path).reason == "insufficient_evidence"
