"""Ways that once led to a wrong go, or unlocked a stage, and no longer do."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from drills.judging.checks.verdicts import State
from drills.rollout.hold import status
from drills.rollout.hold.hold import rollouts
from drills.rollout.setup import commands, evidence, records, stages
from drills.rollout.setup.journal import NAME, Journal
from drills.rollout.setup.records import CanaryCheckDone, HoldEvent, Revisions, Signoff, Snapshot, StagePlan
from drills.rollout.setup.stages import Command
from drills.rollout.verdict import chain, requirements, window
from drills.rollout.verdict.window_data import counters
from sim.base import atomic_files
from sim.base.clocks import SteppedClock, SystemClock, from_iso, iso
from sim.base.errors import EvidenceError, UsageError
from tests.rollout.hold_world import KilledError as HoldKilledError
from tests.rollout.hold_world import World, between, held_s, never
from tests.rollout.rollout_world import RolloutWorld
from tests.rollout.test_no_false_go import kill_after_an_hour, latest, refused
from tests.rollout.test_stages_file import changed
from tests.stage_folders import NOW, Folder, dump

# --- a stages file with almost no requirements -----------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('to = "17:00"', 'to = "09:01"', "no whole business day"),
        ("every_s = 300.0", "every_s = 43200.0", "canary_check.every_s"),
        ("baseline_s = 3600.0", "baseline_s = 5.0", "a baseline takes at least"),
        ("cohort_percent = 50.0", "cohort_percent = 0.01", "less than the 25 of the stage before"),
        ("cohort_percent = 100.0", "cohort_percent = 50.0", "a full rollout is to 100 percent"),
        ('runner = "cargo"', "", "add 'runner'"),
    ],
)
def test_weakened_stages_file_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        stages.load(changed(tmp_path, (old, new)))


# --- commands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runner", "said"),
    [
        ("cargo", "test result: FAILED. 3 passed; 2 failed; 0 ignored"),
        ("pytest", "== 2 failed, 5 passed in 3.10s ==\n== 7 passed in 1.00s =="),
        ("pytest", "== 5 passed, 1 error in 3.10s =="),
        ("go", "--- PASS: TestA (0.00s)\n--- FAIL: TestB (0.00s)"),
        ("go", '{"Action":"pass","Test":"TestA"}\n{"Action":"fail","Test":"TestB"}'),
        ("go", "ok  \tx/y\t0.010s\nFAIL\tx/z\t0.010s"),
        ("node", "# pass 4\n# fail 1"),
    ],
)
def test_failed_tests_fail_a_command_with_exit_code_0(tmp_path: Path, runner: str, said: str) -> None:
    words = tmp_path / "said.txt"
    words.write_text(said + "\n")
    command = Command(name="check", argv=("sh", "-c", f"cat {words} || true"), runner=runner)  # type: ignore[arg-type]
    done = commands.run(command, tmp_path, SystemClock())
    assert (done.state, done.exit_code) == ("fail", 0)
    assert "failed" in done.reason


# --- changes by hand --------------------------------------------------------------------------------


@pytest.fixture
def killed(rollout: RolloutWorld) -> Path:
    """The folder of a hold of stage 1 that was killed after an hour."""
    kill_after_an_hour(rollout, "1")
    return latest(rollout)


def test_changed_plan_of_a_killed_hold_is_refused(rollout: RolloutWorld, killed: Path) -> None:
    path = killed / records.PLAN
    plan = evidence.read_plan(killed)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(plan, hold_required_s=1.0)))
    refused(rollout, "1", "is not the plan that this stage started with")


def test_backdated_hold_is_refused(rollout: RolloutWorld, killed: Path) -> None:
    (begun,) = evidence.read_lines(killed / records.HOLD, HoldEvent)
    earlier = iso(from_iso(begun.at) - timedelta(hours=5))
    dump(killed / records.HOLD, msgspec.structs.replace(begun, at=earlier))
    refused(rollout, "1", "lacks 'hold_started'")


def test_late_signature_does_not_renew_a_go(rollout: RolloutWorld) -> None:
    run_dir = latest(rollout)
    with Journal(rollout.rollout / NAME, rollout.clock) as journal:
        (run,) = rollouts.runs(journal.entries)
        late = msgspec.structs.replace(atomic_files.read_struct(run_dir / records.SIGNOFF, Signoff), at=iso(_week_on(rollout)))
        (run_dir / records.SIGNOFF).write_bytes(msgspec.json.encode(late))
        sha256 = evidence.sha256(run_dir / records.SIGNOFF)
        journal.append("signed", run=run.run_id, signoff_sha256=sha256, report_sha256=late.report_sha256)
    refused(rollout, "1", "ended 168", "24 h are allowed")


def _week_on(rollout: RolloutWorld) -> object:
    rollout.clock.step(timedelta(days=7))
    return rollout.clock.now()


def test_status_reports_changed_evidence(rollout: RolloutWorld) -> None:
    path = latest(rollout) / records.COMMANDS
    path.write_bytes(path.read_bytes() + b"\n")
    found = status.of(rollout.rollout, rollout.clock.now(), rollout.rules)
    assert found.stages[0].state == "no_go"
    assert "is not the file that the report of that stage is based on" in found.stages[0].why[0]


# --- a previous stage that was run again ------------------------------------------------------------


def test_baseline_ends_with_an_answer_and_doubts_nothing(rollout: RolloutWorld) -> None:
    loaded = window.load(latest(rollout))
    found = replace(loaded, snapshots=tuple(each for each in loaded.snapshots if each.phase == "baseline"))
    assert found.ordered[-1].at == loaded.ordered[-1].at, "nothing else is asked at its end"
    counts = counters.counted(found, ("mirror.failed_total",))
    assert [(each.doubt, bool(each.clean.all())) for each in counts] == [("", True)]


def test_repeated_preflight_blocks_later_stages(rollout: RolloutWorld) -> None:
    rollout.through("1")
    with Journal(rollout.rollout / NAME, rollout.clock) as journal:
        journal.append("stage_started", run="again", stage="0", target="stepped")
    refused(rollout, "2", "rests on", "stage 0 was run again since (again)")
    found = {each.stage: each for each in status.of(rollout.rollout, rollout.clock.now(), rollout.rules).stages}
    assert (found["0"].state, found["1"].state) == ("under_way", "outdated")


# --- revisions --------------------------------------------------------------------------------------


def snapshots(folder: Folder) -> list[Snapshot]:
    return evidence.read_lines(folder.path / records.SNAPSHOTS, Snapshot)


def test_revision_that_changed_during_drills_fails(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs").write()
    there = snapshots(folder)
    after = msgspec.structs.replace(
        there[-1], n=there[-1].n + 1, at=folder.at(9000), phase="drills", revisions=Revisions(runtime="another")
    )
    assert requirements.revisions(folder.plan(), there)[0] is State.PASS
    state, reason = requirements.revisions(folder.plan(), [*there, after])
    assert (state, "another" in reason) == (State.FAIL, True)


def test_unknown_revision_is_inconclusive(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs").write()
    events = evidence.read_lines(folder.path / records.HOLD, HoldEvent)
    there = snapshots(folder)
    silent = [msgspec.structs.replace(each, revisions=Revisions()) if 20 < each.n < 26 else each for each in there]
    assert requirements.hold(events, folder.plan(), there)[0] is State.PASS
    state, reason = requirements.hold(events, folder.plan(), silent)
    assert (state, "was unknown in 4 snapshots" in reason) == (State.INCONCLUSIVE, True)


# --- missing canary checks --------------------------------------------------------------------------


def test_canary_checks_that_did_not_start_are_counted(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs").write()
    path = folder.path / records.CANARY_CHECK_LIST
    recorded = evidence.read_lines(path, CanaryCheckDone)
    refusals = [
        CanaryCheckDone(at=folder.at(s), ended=folder.at(s), run="", drill="observation", phase="baseline", status="not_run")
        for s in range(400, 1800, 300)
    ]
    dump(path, *sorted([*recorded, *refusals], key=lambda each: each.at))
    found = window.load(folder.path)
    assert (len(found.canary_checks), found.cut_short) == (2, 5)


# --- killed while it was broken ---------------------------------------------------------------------


def test_time_of_a_broken_hold_does_not_count_after_a_kill(tmp_path: Path) -> None:
    world = World(tmp_path, killed=between(1200, 1230))
    thresholds = tmp_path / "the-thresholds.toml"
    as_it_was = thresholds.read_text()

    def looser(now: object) -> bool:
        thresholds.write_text("looser" if between(600, 1200)(now) else as_it_was)  # type: ignore[arg-type]
        return False

    world.silent = looser
    with pytest.raises(HoldKilledError):
        world.held()
    thresholds.write_text(as_it_was)
    world.killed = never
    world.clock.step(timedelta(seconds=20))
    events = world.held()
    assert events[-1].kind == "ended"
    assert held_s(events) == 3600.0
    assert (from_iso(events[-1].at) - from_iso(world.plan.began)).total_seconds() >= 1200 + 3600


# --- production uses staging's drills ---------------------------------------------------------------


@pytest.fixture(scope="module")
def on_staging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a rollout on staging whose preflight is a signed go."""
    from drills.rollout.report import figures, stage_files
    from drills.rollout.verdict import judging

    folder = Folder(tmp_path_factory.mktemp("production") / "staging" / "runs").write()
    report = judging.judge_stage(folder.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "of", lambda *_: ())
        stage_files.write(folder.path, msgspec.structs.replace(report, decision="go", reason="", why=()))
    return folder.sign().runs.parent


def preflight_on_staging(on_staging: Path, tmp_path: Path) -> tuple[Folder, Callable[[], list[chain.Earlier]]]:
    folder = Folder(Path(shutil.copytree(on_staging, tmp_path / "staging")) / "runs")
    later = Folder(tmp_path / "production" / "runs", kind="production", began=folder.began + timedelta(hours=2))
    return folder, lambda: list(chain.signed_preflights(later.path, _plan_of(later)))


def _plan_of(folder: Folder) -> StagePlan:
    return folder.plan(revisions=NOW)


def test_forged_signature_of_staging_does_not_count(on_staging: Path, tmp_path: Path) -> None:
    folder, found = preflight_on_staging(on_staging, tmp_path)
    assert found() == []
    folder.add_journal()
    assert len(found()) == 1
    folder.sign(after_s=8000.0)
    assert found() == []


def test_edited_journal_of_staging_does_not_count(on_staging: Path, tmp_path: Path) -> None:
    folder, found = preflight_on_staging(on_staging, tmp_path)
    (folder.runs.parent / NAME).write_text("{}\n")
    assert found() == []
    with pytest.raises(EvidenceError), Journal(folder.runs.parent / NAME, SteppedClock(folder.began)):
        pass
