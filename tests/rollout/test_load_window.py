"""A window from a stage's folder: its time, and that missing evidence is found."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from drills.judging.checks.verdicts import State
from drills.rollout.setup import records
from drills.rollout.setup.records import CanaryCheckDone, HoldEvent
from drills.rollout.verdict import window
from drills.rollout.verdict.window import StageWindow
from sim.base.clocks import iso
from sim.base.errors import EvidenceError, UsageError
from tests.stage_folders import INTERVAL_S, Folder, dump
from tests.windows import judged


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("rollout") / "runs", "1").write()


@pytest.fixture
def folder(whole: Folder, tmp_path: Path) -> Folder:
    """A copy, for a test to change."""
    return Folder(Path(shutil.copytree(whole.runs, tmp_path / "runs")), "1")


def test_whole_hold_is_loaded(whole: Folder) -> None:
    found = window.load(whole.path, whole.path)
    assert (found.began_s, found.seconds, found.interval_s) == (whole.began.timestamp(), 3600.0, INTERVAL_S)
    assert len(found.snapshots) == 3600 / INTERVAL_S + 1
    assert found.canary_checks[0].began_s >= found.began_s
    assert found.expected_canary_checks == len(found.canary_checks) > 1
    assert found.baseline is not None
    assert (found.problems, found.snapshot_problem, found.canary_check_problem) == ((), "", "")
    assert judged(found)["delivery.dropped_deliveries"].state is State.PASS


def test_only_evidence_within_the_times_is_loaded(whole: Folder) -> None:
    began, ended = whole.began + timedelta(minutes=20), whole.began + timedelta(minutes=30)
    found = window.load(whole.path, began=iso(began), ended=iso(ended))
    assert len(found.snapshots) == 600 / INTERVAL_S + 1
    assert all(began.timestamp() <= check.began_s <= ended.timestamp() for check in found.canary_checks)
    with pytest.raises(EvidenceError, match="ends before it begins"):
        window.load(whole.path, began=iso(ended), ended=iso(began))


def test_window_starts_with_the_restarted_hold(folder: Folder) -> None:
    restarted = folder.began + timedelta(minutes=10)
    events = (("started", folder.began), ("restarted", restarted))
    dump(folder.path / records.HOLD, *(HoldEvent(at=iso(at), kind=kind) for kind, at in events))  # type: ignore[arg-type]
    found = window.load(folder.path)
    assert found.began_s == restarted.timestamp()
    assert found.seconds == 3000.0  # to the last snapshot, as it has not ended


def test_window_without_a_hold_is_the_baseline(folder: Folder) -> None:
    (folder.path / records.HOLD).unlink()
    path = folder.path / records.SNAPSHOTS
    assert window.load(folder.path).seconds == 3600.0  # without both: everything
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + rest.replace(b'"phase":"hold"', b'"phase":"baseline"'))
    assert window.load(folder.path).seconds == 3600.0 - INTERVAL_S


def drop_line(name: str, number: int) -> Callable[[Folder], None]:
    def damage(folder: Folder) -> None:
        path = folder.path / name
        lines = path.read_bytes().splitlines(keepends=True)
        del lines[number]
        path.write_bytes(b"".join(lines))

    return damage


def drop_canary_check(folder: Folder) -> None:
    shutil.rmtree(sorted((folder.path / records.CANARY_CHECKS).iterdir())[0])


def cut_observations(folder: Folder) -> None:
    path = next((folder.path / records.CANARY_CHECKS).rglob("observations.parquet"))
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("number", [0, 1, 30, -2])
def test_missing_snapshot_is_an_error(folder: Folder, number: int) -> None:
    drop_line(records.SNAPSHOTS, number)(folder)
    with pytest.raises(EvidenceError, match="has the number"):
        window.load(folder.path)


@pytest.mark.parametrize("damage", [drop_canary_check, cut_observations])
def test_damaged_canary_check_is_an_error(folder: Folder, damage: Callable[[Folder], None]) -> None:
    damage(folder)
    found = window.load(folder.path)
    assert len(found.problems) == 1
    assert client_states(found) == {State.ERROR}


def client_states(found: StageWindow) -> set[State]:
    results = judged(found)
    return {results[name].state for name in ("ux.integrity", "replay.stale_loops", "window.invariants", "window.canary_checks")}


def test_canary_check_that_could_not_start_is_an_error(folder: Folder) -> None:
    path = folder.path / records.CANARY_CHECK_LIST
    line = CanaryCheckDone(
        at=iso(folder.began), ended=iso(folder.began), run="", drill="observation", phase="baseline", status="error"
    )
    path.write_bytes(path.read_bytes() + msgspec.json.encode(line) + b"\n")
    assert client_states(window.load(folder.path)) == {State.ERROR}


def test_folder_without_a_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a stage's folder"):
        window.load(tmp_path)


@pytest.mark.parametrize("name", [records.PLAN, records.HOLD, records.CANARY_CHECK_LIST])
def test_damaged_file_is_named(folder: Folder, name: str) -> None:
    (folder.path / name).write_bytes(b"{\n")
    with pytest.raises(EvidenceError, match=rf"{name}: (line 1 )?is damaged"):
        window.load(folder.path)
