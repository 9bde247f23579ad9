"""A canary check whose parent was killed: it ends by itself, and the resumed hold records it."""

import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.judging.checks.verdicts import State
from drills.rollout.hold import canary_checks
from drills.rollout.preflight.one_drill import Order
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import CanaryCheckDone, HoldEvent, Revisions
from drills.rollout.verdict import requirements, window
from drills.runs import results
from sim.base.clocks import SteppedClock, from_iso, iso
from sim.base.errors import EvidenceError
from sim.base.ownership import is_left_over
from sim.record import observations, run_header
from tests.commands import soon
from tests.served import serving
from tests.stage_folders import CONTROL, Folder, dump, quiet_story

PARENT = """
import sys, time
from pathlib import Path
import msgspec
from drills.rollout.preflight.drill_runs import Child
from drills.rollout.preflight.one_drill import Order
child = Child(msgspec.json.decode(sys.argv[1], type=Order), Path(sys.argv[2]))
time.sleep(600)
"""
LONG = """
name = "long_check"
summary = "Is the service healthy for a long time?"
checks = ["ux.integrity"]
faults = []
fleet = { clients = 5 }
load = { events_per_s = 20.0 }
phases = { steady_s = 1.0, fault_s = 600.0, recovery_s = 0.0, settle_s = 5.0 }
"""
LEFT = CanaryCheckDone(
    at="2026-11-23T09:30:00.000Z",
    ended="2026-11-23T09:30:00.000Z",
    run=records.CANARY_CHECKS,
    drill="observation",
    phase="hold",
    status="not_run",
    reason="it was killed",
    build="20260601T000000Z",
)


def test_canary_check_ends_after_its_parent_was_killed(tmp_path: Path) -> None:
    (tmp_path / "long_check.toml").write_text(LONG)
    mark, log = tmp_path / records.UNDER_WAY, tmp_path / "log.txt"
    mark.write_bytes(msgspec.json.encode(LEFT))
    with serving(tmp_path / "mock") as served:
        order = Order(
            drill=str(tmp_path / "long_check.toml"),
            target=served.url,
            thresholds=str(DEFAULT_PATH),
            out=str(tmp_path / records.CANARY_CHECKS),
            mark=str(mark),
        )
        parent = subprocess.Popen([sys.executable, "-c", PARENT, msgspec.json.encode(order).decode(), str(log)])
        assert soon(lambda: log.exists() and "steady" in log.read_text(), 60.0)
        assert not is_left_over(mark), "it holds its mark while it runs"
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert soon(lambda: is_left_over(mark), 60.0)
    (line,) = canary_checks.adopt(tmp_path, SteppedClock(from_iso(LEFT.at)))
    assert line.run.startswith("canary-checks/")
    assert line.status != State.PASS
    assert line.reason.startswith("the stormgate that started it was killed")
    (folder,) = results.drill_folders(tmp_path / line.run)
    assert run_header.read_header(folder).stopped_because, "it saved its observations"
    assert canary_checks.adopt(tmp_path, SteppedClock(from_iso(LEFT.at))) == [], "it is recorded once"


# --- what was left ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("left") / "runs", "1").write()


@pytest.fixture
def folder(whole: Folder, tmp_path: Path) -> Folder:
    """A hold that was killed during its second canary check, which is not recorded."""
    folder = Folder(Path(shutil.copytree(whole.runs, tmp_path / "runs")), "1")
    lines = evidence.read_lines(folder.path / records.CANARY_CHECK_LIST, CanaryCheckDone)
    dump(folder.path / records.CANARY_CHECK_LIST, *lines[:1])
    (folder.path / records.UNDER_WAY).write_bytes(msgspec.json.encode(msgspec.structs.replace(LEFT, at=lines[1].at)))
    return folder


def left(folder: Folder) -> Path:
    recorded = evidence.read_lines(folder.path / records.CANARY_CHECK_LIST, CanaryCheckDone)
    (found,) = [
        path for path in (folder.path / records.CANARY_CHECKS).iterdir() if f"canary-checks/{path.name}" != recorded[0].run
    ]
    return found


def adopted(folder: Folder) -> CanaryCheckDone:
    (line,) = canary_checks.adopt(folder.path, SteppedClock(folder.began + timedelta(hours=1)))
    assert not (folder.path / records.UNDER_WAY).exists()
    return line


def judged(folder: Folder) -> requirements.Found:
    events = evidence.read_lines(folder.path / records.HOLD, HoldEvent)
    return requirements.canary_checks(folder.path, events, (State.PASS, "healthy"))


def assert_counted(folder: Folder, finished: int, cut_short: int) -> None:
    """Check how many canary checks of the window are finished and cut short, and that they have no problem."""
    found = window.load(folder.path)
    assert (len(found.canary_checks), found.cut_short, found.canary_check_problem) == (finished, cut_short, "")


def test_finished_canary_check_counts(folder: Folder) -> None:
    assert judged(folder)[0] is State.ERROR
    line = adopted(folder)
    assert line.at == evidence.read_lines(folder.path / records.CANARY_CHECK_LIST, CanaryCheckDone)[1].at
    assert judged(folder)[0] is State.PASS
    assert_counted(folder, 2, cut_short=0)


def test_failure_of_a_left_canary_check_counts(folder: Folder) -> None:
    (drill,) = results.drill_folders(left(folder))
    recorded, _ = results.recorded(drill)
    story = quiet_story().without(lambda row: row.kind == observations.Kind.APPLIED and row.seq == 30 and row.client == 3)
    header = run_header.read_header(drill)
    story.write(drill, recorded, target=header.target, target_kind=header.target_kind, plan=[])
    assert adopted(folder).status == State.FAIL
    assert judged(folder)[0] is State.FAIL


def test_cut_short_canary_check_is_left_out(folder: Folder) -> None:
    (drill,) = results.drill_folders(left(folder))
    header = run_header.read_header(drill)
    header.complete = False
    run_header.write_header(drill, header)
    assert adopted(folder).status != State.PASS
    assert_counted(folder, 1, cut_short=1)


def test_canary_check_without_observations_is_left_out(folder: Folder) -> None:
    for path in left(folder).iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert adopted(folder).status == State.NOT_RUN
    assert judged(folder)[0] is State.PASS
    assert_counted(folder, 1, cut_short=1)


def test_canary_check_without_a_folder_is_not_recorded(folder: Folder) -> None:
    shutil.rmtree(left(folder))
    assert canary_checks.adopt(folder.path, SteppedClock(folder.began)) == []
    assert canary_checks.adopt(folder.path, SteppedClock(folder.began)) == []


def test_canary_check_of_the_control_is_recorded_with_the_control(folder: Folder) -> None:
    shutil.copytree(left(folder), folder.path / records.CONTROL / "one")
    mark = msgspec.structs.replace(LEFT, run=records.CONTROL, revisions=CONTROL.revisions)
    (folder.path / records.UNDER_WAY).write_bytes(msgspec.json.encode(mark))
    line = adopted(folder)
    assert (line.run, line.revisions) == ("control/one", Revisions()), "the revisions at its end are unknown"
    assert evidence.read_lines(folder.path / records.CONTROL_LIST, CanaryCheckDone) == [line]


def test_damaged_mark_is_an_error(folder: Folder) -> None:
    (folder.path / records.UNDER_WAY).write_text("{")
    with pytest.raises(EvidenceError, match=records.UNDER_WAY):
        canary_checks.adopt(folder.path, SteppedClock(folder.began))
    assert iso(folder.began) < LEFT.at
