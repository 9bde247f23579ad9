"""Whether the way back is still open at the gates of the full rollout: looked at without going it, and judged."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.judging.checks.verdicts import State
from drills.rollout.hold.hold import Hold
from drills.rollout.setup import evidence, records, stage_target, stages
from drills.rollout.setup.records import Armed, HoldEvent, Revisions, Rollback
from drills.rollout.verdict import armed, requirements
from drills.rollout.verdict.armed import Monitor
from sim.base.clocks import SteppedClock, iso
from tests.rollout.hold_world import World, between
from tests.stage_folders import NOW, Folder, dump

PASS, FAIL, INCONCLUSIVE, NO_DATA, ERROR, NOT_RUN = State
AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
GOOD = Revisions(control="control-00041", runtime="runtime-00016")
TARGETS = """
[targets.elsewhere]
kind = "staging"
runtime_url = "http://127.0.0.1:9"
control_url = "http://127.0.0.1:9"
session_token_env = "SESSION"
caps = { clients = 100, connects_per_s = 10.0, events_per_s = 10.0 }

[targets.elsewhere.rollback]
check = ["sh", "-c", "echo looking for $STORMGATE_RUNTIME_REVISION with $SESSION; exit 0"]
throttle = { apply = ["true"], restore = ["true"] }
cohort = { apply = ["true"], restore = ["true"] }

[targets.elsewhere.rollback.traffic]
apply = ["sh", "SCRIPT"]
restore = ["true"]
control_revision = "control-00041"
runtime_revision = "runtime-00016"
"""


@pytest.fixture
def monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Monitor:
    """On a full rollout whose rollback was rehearsed as it is configured."""
    monkeypatch.setenv("SESSION", "s3cret-session")
    (tmp_path / "back.sh").write_text("go back\n")
    (tmp_path / "targets.toml").write_text(TARGETS.replace("SCRIPT", str(tmp_path / "back.sh")))
    target = stage_target.resolve("elsewhere", tmp_path / "targets.toml")
    assert target.entry is not None
    folder = Folder(tmp_path / "runs", "4")
    folder.path.mkdir(parents=True)
    (folder.path / records.STAGES).write_bytes(stages.DEFAULT_PATH.read_bytes())
    rehearsed = folder.rollback(ended=iso(AT - timedelta(days=5)), hooks_sha256=armed.digest(target.entry.rollback))
    monkeypatch.setattr(armed, "_rehearsal", lambda *_: rehearsed)
    plan = folder.plan(gates_at_h=(0.0, 1.0), revisions=NOW)
    return Monitor(target, plan, folder.path, SteppedClock(AT))


def lines(monitor: Monitor) -> list[Armed]:
    return evidence.read_lines(monitor.folder / records.ARMED, Armed)


def edit(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "targets.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_rollback_is_armed(monitor: Monitor) -> None:
    assert monitor.check(0.0) == ""
    (line,) = lines(monitor)
    assert (line.at, line.gate_h, line.state, line.last_good) == (iso(AT), 0.0, "pass", GOOD)
    (log,) = (monitor.folder / records.LOGS).iterdir()
    assert "looking for runtime-00016" in log.read_text()
    assert "s3cret" not in log.read_text()


@pytest.mark.parametrize(
    ("old", "new", "state", "words"),
    [
        ("exit 0", "exit 3", "fail", "are not those that were rehearsed"),  # what looks is a part of the way, too
        ('["true"]', '["true", "again"]', "fail", "are not those that were rehearsed"),
        ('runtime_revision = "runtime-00016"', 'runtime_revision = "runtime-00015"', "fail", "are not those that were"),
        ("[targets.elsewhere.rollback.traffic]", "[no]", "fail", "unknown key"),
        ('apply = ["true"]', 'apply = ["no-such-program"]', "fail", "no-such-program"),
        ('kind = "staging"', "", "fail", "key 'kind' is missing"),
    ],
)
def test_rollback_that_differs_from_the_rehearsal_is_not_armed(
    monitor: Monitor, tmp_path: Path, old: str, new: str, state: str, words: str
) -> None:
    edit(tmp_path, old, new)
    assert words in monitor.check(1.0)
    assert [line.state for line in lines(monitor)] == [state]


def test_edited_script_disarms_the_rollback(monitor: Monitor, tmp_path: Path) -> None:
    (tmp_path / "back.sh").write_text("do nothing\n")
    assert "are not those that were rehearsed" in monitor.check(1.0)


@pytest.mark.parametrize(("check", "state", "words"), [("exit 3", "fail", "exit code 3"), (None, "not_run", "check = [...]")])
def test_missing_rollback_command_disarms_the_rollback(
    monitor: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str | None, state: str, words: str
) -> None:
    edit(tmp_path, "exit 0" if check else "check =", check or "# check =")
    rules = monitor._rules()
    rehearsed = msgspec.structs.replace(armed._rehearsal(monitor.folder, monitor.plan), hooks_sha256=armed.digest(rules))
    monkeypatch.setattr(armed, "_rehearsal", lambda *_: rehearsed)
    assert words in monitor.check(0.0)
    assert words in monitor.check(0.0)
    assert [line.state for line in lines(monitor)] == [state], "the same again is not written again"


def judged(monitor: Monitor, *found: Armed) -> requirements.Found:
    dump(monitor.folder / records.ARMED, *found)
    return armed.requirement(monitor.folder, monitor.plan, [HoldEvent(at=iso(AT), kind="started")])


def line(monitor: Monitor, after_h: float, **changes: Any) -> Armed:
    fields: dict[str, Any] = {
        "at": iso(AT + timedelta(hours=after_h)),
        "gate_h": after_h,
        "state": "pass",
        "reason": "so it is",
        "hooks_sha256": armed._rehearsal(monitor.folder, monitor.plan).hooks_sha256,
        "last_good": GOOD,
    }
    return Armed(**{**fields, **changes})


def test_rollback_armed_at_every_gate_passes(monitor: Monitor) -> None:
    assert judged(monitor, line(monitor, 0.0), line(monitor, 1.0))[0] is PASS
    retried = line(monitor, 1.0, state="fail"), line(monitor, 1.0, at=iso(AT + timedelta(hours=1.1)))
    assert judged(monitor, line(monitor, 0.0), *retried)[0] is PASS


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"state": "fail", "reason": "it is gone"}, FAIL, "it is gone"),
        ({"state": "not_run", "reason": "nobody looks"}, NOT_RUN, "nobody looks"),
        ({"gate_h": 2.0}, NOT_RUN, "1 h into the hold it was not checked"),
        ({"at": iso(AT + timedelta(minutes=30))}, NOT_RUN, "1 h into the hold it was not checked"),  # before that gate
        ({"hooks_sha256": "another"}, FAIL, "not those that were rehearsed"),
        ({"last_good": NOW}, FAIL, "are the deployed ones"),
        ({"last_good": Revisions(control="c")}, FAIL, "are not configured"),
        ({"at": iso(AT + timedelta(days=9, minutes=1))}, INCONCLUSIVE, "14 days"),  # after a rehearsal five days before
    ],
)
def test_one_unarmed_gate_decides(monitor: Monitor, changes: dict[str, Any], state: State, words: str) -> None:
    found = judged(monitor, line(monitor, 0.0), line(monitor, 1.0, **changes))
    assert (found[0], words in found[1]) == (state, True), found


def test_gates_without_a_check_are_not_run(monitor: Monitor) -> None:
    assert judged(monitor)[0] is NOT_RUN
    assert armed.requirement(monitor.folder, monitor.plan, [])[0] is NOT_RUN


@pytest.mark.parametrize("changes", [{"state": "fail"}, {"dry_run": True}])
def test_missing_rehearsal_leaves_the_rollback_unarmed(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    rehearsed: Rollback = msgspec.structs.replace(armed._rehearsal(monitor.folder, monitor.plan), **changes)
    monkeypatch.setattr(armed, "_rehearsal", lambda *_: rehearsed)
    assert "was not rehearsed" in monitor.check(0.0)
    assert judged(monitor, line(monitor, 0.0), line(monitor, 1.0))[0] is FAIL


def test_no_gate_passes_while_the_rollback_is_not_armed(tmp_path: Path) -> None:
    world, asked = World(tmp_path, "4"), list[float]()
    closed = between(-1, 3 * 3600)

    def arm(hour: float) -> str:
        asked.append(hour)
        return "the last good revisions are gone" if closed(world.clock.now()) else ""

    with world.stage_run() as run:
        Hold(run, world, world, world.judge, check_routing=world.check_routing, arm=arm).run()
    gates = [(each.gate_h, each.at) for each in world.events() if each.kind == "gate"]
    assert [hour for hour, _ in gates] == [0.0, 1.0, 6.0, 24.0]
    assert gates[0][1] >= iso(AT + timedelta(hours=3))
    assert any("not armed (the last good revisions are gone)" in said for said in world.said)
