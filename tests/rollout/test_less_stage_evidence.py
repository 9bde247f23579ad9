"""Removing evidence of a stage never helps: neither a file nor a line of one, whether it was lost or never recorded."""

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drills.rollout.hold import rollouts, unlock
from drills.rollout.report import figures, stage_files
from drills.rollout.setup import evidence, journal, records, stages
from drills.rollout.setup.records import CanaryCheckDone, HoldEvent, RoutingCheck, Snapshot, StageReport
from drills.rollout.verdict import judging, window
from drills.runs import results
from sim.base.clocks import SteppedClock
from sim.base.errors import StormgateError
from tests.rollout.test_judging import judge_once, requirement
from tests.stage_folders import Folder


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "judge_run", judge_once)
        patch.setattr(figures, "of", lambda *_: ())
        yield


# --- stages as they were recorded -------------------------------------------------------------------


def failing_at_the_end(folder: Folder) -> None:
    """The last minute has failed publishes."""

    def change(found: list[Snapshot]) -> list[Snapshot]:
        failed = {**found[-1].metrics, "mirror.failed_total": 900.0}
        return [*found[:-1], msgspec.structs.replace(found[-1], metrics=failed)]

    folder.edit(records.SNAPSHOTS, Snapshot, change)


def failed_check(folder: Folder) -> None:
    folder.edit(
        records.CANARY_CHECK_LIST,
        CanaryCheckDone,
        lambda found: [*found[:-1], msgspec.structs.replace(found[-1], status="fail", reason="lost")],
    )


def restarted(folder: Folder) -> None:
    again = folder.event(1800, "restarted", reason="thresholds changed")
    folder.edit(records.HOLD, HoldEvent, lambda found: [found[0], again, *found[1:]])


def misrouted(folder: Folder) -> None:
    def change(found: list[RoutingCheck]) -> list[RoutingCheck]:
        return [*found[:-1], msgspec.structs.replace(found[-1], in_cohort=not found[-1].in_cohort)]

    folder.edit(records.ROUTING_CHECKS, RoutingCheck, change)


RECORDED: dict[str, tuple[records.Stage, Callable[[Folder], object]]] = {
    "preflight": ("0", lambda _: None),
    "preflight with failed publishes": ("0", failing_at_the_end),
    "preflight with a failed canary check": ("0", failed_check),
    "hold": ("2", Folder.add_control),
    "restarted hold": ("2", restarted),
    "hold with a key in the wrong cohort": ("2", misrouted),
}
Recorded = dict[str, tuple[Folder, StageReport]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Each stage with its verdict."""
    base = tmp_path_factory.mktemp("stages")
    first = Folder(base / "made" / "runs").write()
    stage_files.conclude(first.path)
    first.sign()
    second = Folder(first.runs, "1", first, began=first.began + timedelta(hours=2)).write()
    stage_files.conclude(second.path)
    second.sign()
    third = Folder(first.runs, "2", second, began=second.began + timedelta(hours=2)).write()
    found = {}
    for n, (name, (stage, change)) in enumerate(RECORDED.items()):
        runs = Path(shutil.copytree(first.runs, base / str(n) / "runs"))
        folder = {"0": replace(first, runs=runs), "2": replace(third, runs=runs, previous=replace(second, runs=runs))}[stage]
        change(folder)
        found[name] = folder, judging.judge_stage(folder.path)
    return found


def parts(report: StageReport) -> dict[str, str]:
    """The state of every check and requirement."""
    checks = [*(check for gate in report.gates for check in gate.checks), *report.splits]
    return {f"{each.gate}.{each.check}": each.state for each in checks} | {
        each.name: each.state for each in report.requirements
    }


# --- what is taken away -----------------------------------------------------------------------------


@contextlib.contextmanager
def changed(folder: Folder) -> Iterator[Path]:
    """The stage's folder, for a test to change; it is as before afterwards."""
    aside = folder.path.with_name("aside")
    shutil.copytree(folder.path, aside)
    window._canary_check.cache_clear()
    try:
        yield folder.path
    finally:
        shutil.rmtree(folder.path)
        aside.rename(folder.path)


def evidence_of(run_dir: Path, suffix: str = "") -> list[Path]:
    """The stage's evidence; of its many similar files only some."""
    found = (run_dir / each.path for each in evidence.files(run_dir))
    return [path for path in found if path.name.endswith(suffix) and not ("-metrics.json" in path.name and path.name[5] != "7")]


def without_file(run_dir: Path, rng: random.Random) -> str:
    path = rng.choice(evidence_of(run_dir))
    path.unlink()
    return path.name


def without_folder(run_dir: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(path for path in run_dir.rglob("*") if path.is_dir()))
    shutil.rmtree(path)
    return path.name


def cut_file(run_dir: Path, rng: random.Random) -> str:
    path = rng.choice(evidence_of(run_dir))
    path.write_bytes(path.read_bytes()[: -rng.randrange(1, 30)])
    return f"{path.name}, cut"


def fewer_lines(run_dir: Path, rng: random.Random) -> str:
    """Without a line or the last ones, and without the run that it lists."""
    path, found = lines_of(run_dir, rng)
    at = rng.choice((0, len(found) - 1, rng.randrange(len(found))))
    gone = found[at:] if rng.random() < 0.3 else found[at : at + 1]
    for line in gone:
        found.remove(line)
        run = str(msgspec.json.decode(line).get("run", ""))
        if run and (run_dir / run).is_dir() and rng.random() < 0.7:
            shutil.rmtree(run_dir / run)
    path.write_bytes(b"".join(found))
    return f"{path.name}: {len(gone)} lines from {at}"


def repeated_line(run_dir: Path, rng: random.Random) -> str:
    path, found = lines_of(run_dir, rng)
    found.insert(rng.randrange(len(found)), rng.choice(found))
    path.write_bytes(b"".join(found))
    return f"{path.name}: a line twice"


def other_order(run_dir: Path, rng: random.Random) -> str:
    path, found = lines_of(run_dir, rng)
    rng.shuffle(found)
    path.write_bytes(b"".join(found))
    return f"{path.name}: another order"


def swapped_files(run_dir: Path, rng: random.Random) -> str:
    """Files of two of its runs, or of this stage and the one before."""
    path = rng.choice(evidence_of(run_dir))
    places = (run_dir, *(each for each in run_dir.parent.iterdir() if each not in (run_dir, run_dir.with_name("aside"))))
    alike = sorted(other for place in places for other in place.rglob(path.name) if other != path)
    if alike:
        shutil.copyfile(rng.choice(alike), path)
    return f"{path.name}, of another"


def lines_of(run_dir: Path, rng: random.Random) -> tuple[Path, list[bytes]]:
    path = rng.choice(evidence_of(run_dir, ".jsonl"))
    return path, path.read_bytes().splitlines(keepends=True)


REMOVALS = (without_file, without_folder, cut_file, fewer_lines, fewer_lines)
EDITS = (repeated_line, other_order, swapped_files)


def judged(folder: Folder) -> StageReport | None:
    """The new verdict; None if there is not even a plan."""
    try:
        return judging.judge_stage(folder.path)
    except StormgateError:
        return None


@pytest.mark.parametrize("name", RECORDED)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_stage_with_changed_evidence_is_no_go_and_the_change_is_named(recorded: Recorded, name: str, seed: int) -> None:
    folder, _ = recorded[name]
    rng, before = random.Random(seed), evidence.files(folder.path)
    with changed(folder) as run_dir:
        what = rng.choice((*REMOVALS, *EDITS))(run_dir, rng)
        found = judged(folder)
        is_same = found is not None and found.evidence == before
        assert found is None or is_same or (found.decision, found.reason) in (("no_go", "error"), ("no_go", "breach")), what
        assert found is None or is_same or records.SEAL in requirement(found, "evidence").reason, what


@pytest.mark.parametrize("name", RECORDED)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_evidence_that_was_never_recorded_lets_nothing_pass(recorded: Recorded, name: str, seed: int) -> None:
    """As if the run had ended without it. What failed by it may be unseen; what was too little evidence stays so.

    The events of the hold say which time counts. They are in the journal, too: see `rollouts.require_hold`.
    """
    folder, before = recorded[name]
    rng, was, held = random.Random(seed), parts(before), (folder.path / records.HOLD).read_bytes()
    with changed(folder) as run_dir:
        what = rng.choice(REMOVALS)(run_dir, rng)
        (run_dir / records.HOLD).write_bytes(held)
        (run_dir / records.SEAL).unlink(missing_ok=True)
        evidence.seal(run_dir)
        found = judged(folder)
        now = parts(found) if found else {}
        assert {key: was.get(key) for key in now if now[key] == "pass" and was.get(key) not in ("pass", "fail")} == {}, what


NEEDED = (
    *(records.PRECONDITIONS, records.COMMANDS, records.DRILLS, records.ROLLBACK, records.HOLD, records.SNAPSHOTS),
    *(records.CANARY_CHECKS, records.CANARY_CHECK_LIST, records.THRESHOLDS, records.STAGES, records.LOGS),
    records.DRILL_RESULTS,
)


@pytest.mark.parametrize("part", NEEDED)
def test_go_of_a_preflight_needs_each_of_its_parts(recorded: Recorded, part: str) -> None:
    folder, before = recorded["preflight"]
    assert before.decision == "go", before.why
    with changed(folder) as run_dir:
        shutil.rmtree(run_dir / part) if (run_dir / part).is_dir() else (run_dir / part).unlink()
        folder.seal()
        assert judging.judge_stage(run_dir).decision == "no_go"


def test_canary_check_that_is_listed_twice_is_an_error(recorded: Recorded) -> None:
    folder, _ = recorded["preflight"]
    with changed(folder):
        folder.edit(records.CANARY_CHECK_LIST, CanaryCheckDone, lambda found: [*found, found[-1]])
        report = judging.judge_stage(folder.path)
    assert (report.decision, requirement(report, "canary_checks").state) == ("no_go", "error")
    assert "more than once" in requirement(report, "canary_checks").reason


def test_seal_is_written_once(recorded: Recorded) -> None:
    folder, _ = recorded["preflight"]
    with changed(folder) as run_dir:
        (run_dir / records.ROLLBACK).unlink()
        evidence.seal(run_dir)
        report = judging.judge_stage(run_dir)
    assert "rollback.json: is missing since this run ended" in requirement(report, "evidence").reason


# --- the journal ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_again(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A preflight that was a signed go, and then run again as a no-go; returns the first."""
    made, _ = recorded["preflight"]
    first = replace(made, runs=tmp_path_factory.mktemp("again") / "runs")
    shutil.copytree(made.path, first.path)
    second = replace(first, began=first.began + timedelta(hours=2))
    shutil.copytree(first.path, second.path)
    (second.path / records.ROLLBACK).unlink()
    (second.path / records.SIGNOFF).unlink()
    (first.path / records.SIGNOFF).unlink()
    second.rewrite(records.PLAN, records.StagePlan, run_id=second.path.name, began=second.at(0))
    with journal.Journal(first.runs.parent / journal.NAME, SteppedClock(first.began)) as entries:
        for folder in (first, second):
            name, sha256 = folder.path.name, partial(_sha256, folder)
            entries.append(rollouts.STARTED, run=name, stage="0", plan_sha256=sha256(records.PLAN))
            stage_files.conclude(folder.path)
            entries.append(rollouts.REPORTED, run=name, report_sha256=sha256(records.REPORT))
            if folder is first:
                folder.sign()
                entries.append(
                    rollouts.SIGNED, run=name, report_sha256=sha256(records.REPORT), signoff_sha256=sha256(records.SIGNOFF)
                )
    return first


def _sha256(folder: Folder, name: str) -> str:
    return evidence.sha256(folder.path / name)


def why_locked(first: Folder) -> list[str]:
    """Why stage 1 cannot begin; empty if it can."""
    now = first.began + timedelta(hours=3)
    try:
        entries = journal.read(first.runs.parent / journal.NAME)
        return list(unlock.missing(first.runs.parent, entries, "1", now, stages.load(stages.DEFAULT_PATH)))
    except StormgateError as error:
        return [str(error)]


def test_shorter_journal_unlocks_no_stage(run_again: Folder) -> None:
    path = run_again.runs.parent / journal.NAME
    whole = path.read_bytes().splitlines(keepends=True)
    assert "is a no-go" in why_locked(run_again)[0]
    for at in range(len(whole)):
        for left in (whole[:at] + whole[at + 1 :], whole[:at], [*whole[:at], whole[at][:-20]], [*whole[: at + 1], *whole[at:]]):
            path.write_bytes(b"".join(left))
            assert why_locked(run_again) != [], left
    path.write_bytes(b"".join(whole))


def test_stage_is_unlocked_by_the_journal_of_its_go_alone(run_again: Folder) -> None:
    """Otherwise the test above could not fail."""
    path, again = run_again.runs.parent / journal.NAME, run_again.began + timedelta(hours=2)
    whole, second = path.read_bytes(), replace(run_again, began=again).path
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    second.rename(run_again.runs.parent / "elsewhere")
    assert why_locked(run_again) == []
    (run_again.runs.parent / "elsewhere").rename(second)
    path.write_bytes(whole)
