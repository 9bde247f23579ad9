"""What must never end in a go, each tried on a whole stage."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from drills.judging.checks.verdicts import State
from drills.rollout.hold import signoff, status, unlock
from drills.rollout.hold.hold import rollouts
from drills.rollout.hold.signoff import Person
from drills.rollout.setup import evidence, records
from drills.rollout.setup.journal import NAME, read
from drills.rollout.setup.records import HoldEvent, RoutingCheck, Signoff, StageReport, Waiver
from drills.rollout.verdict import requirements, splits, window
from sim.base.clocks import SteppedClock, from_iso, iso
from sim.base.errors import EvidenceError, StormgateError, UsageError
from sim.drill.model import CLIENT_BUILD
from tests.rollout.rollout_world import RolloutWorld
from tests.rollout.stepped_service import METRICS
from tests.stage_folders import Folder
from tests.windows import BEGAN_S, THRESHOLDS, good


class KilledError(Exception):
    """Stands for SIGKILL: nothing more is written."""


Body = Callable[[RolloutWorld, dict[str, object]], bytes]


def refused(world: RolloutWorld, stage: str, *words: str, **more: object) -> None:
    """Check that the stage cannot start, and says why."""
    before = len(read(world.rollout / NAME))
    with pytest.raises(StormgateError) as caught:
        world.stage(stage, **more)
    for word in words:
        assert word in str(caught.value), caught.value
    assert len(read(world.rollout / NAME)) == before, "nothing was started"


def not_a_go(report: StageReport, *words: str) -> None:
    said = "\n".join(report.why)
    assert report.decision == "no_go", said
    for word in words:
        assert word in said, said


def kill_after_an_hour(world: RolloutWorld, stage: str) -> None:
    """Start a stage and kill it after an hour."""
    began, sleeping = world.clock.now(), SteppedClock.sleep_until

    def sleep_until(clock: SteppedClock, moment: object) -> None:
        if clock.now() > began + timedelta(hours=1):
            raise KilledError
        sleeping(clock, moment)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SteppedClock, "sleep_until", sleep_until)
        with pytest.raises(KilledError):
            world.stage(stage)


def latest(world: RolloutWorld) -> Path:
    return rollouts.run_dir(world.rollout, rollouts.runs(read(world.rollout / NAME))[-1].run_id)


# --- servers without data ---------------------------------------------------------------------------


def nulls(world: RolloutWorld, said: dict[str, object]) -> bytes:
    return json.dumps({key: dict.fromkeys(value) if isinstance(value, dict) else value for key, value in said.items()}).encode()


def outdated(world: RolloutWorld, said: dict[str, object]) -> bytes:
    return json.dumps({**said, "generated_at": iso(world.clock.now() - timedelta(days=1))}).encode()


@pytest.mark.parametrize(
    "body",
    [lambda world, said: b"{}", nulls, lambda world, said: b"<html>all is well</html>", outdated, None],
    ids=["empty", "nulls", "html", "outdated", "dead"],
)
def test_metrics_without_data_end_a_hold(rollout: RolloutWorld, body: Body | None):
    half = rollout.clock.now() + timedelta(seconds=9000)

    def change(path: str, status: int, content: bytes) -> tuple[int, bytes]:
        if path != METRICS or rollout.clock.now() < half:
            return status, content
        return (200, body(rollout, json.loads(content))) if body else (503, b"")

    rollout.alter = change
    _, report = rollout.stage("1")
    not_a_go(report, "hold: it was stopped", "no usable snapshot for too long")


# --- everything in the first minute -----------------------------------------------------------------


def squeezed(moment_s: float) -> float:
    """Move a time of an hour into its first minute."""
    return BEGAN_S + (moment_s - BEGAN_S) / 60


def test_hour_sampled_only_in_its_first_minute_does_not_pass() -> None:
    """There are enough samples and all are healthy, but none after the first minute."""
    hour = replace(good(), control=replace(good(), snapshots=()))
    assert {result.state for result in window.judge(hour, THRESHOLDS)} == {State.PASS}
    snapshots = [
        msgspec.structs.replace(each, at=iso(datetime.fromtimestamp(squeezed(from_iso(each.at).timestamp()), UTC)))
        for each in hour.snapshots
    ]
    checks = tuple(replace(each, began_s=squeezed(each.began_s)) for each in hour.canary_checks)
    assert hour.control is not None
    first = replace(hour, snapshots=tuple(snapshots), canary_checks=checks, control=replace(hour.control, canary_checks=checks))
    found = {result.name: result for result in window.judge(first, THRESHOLDS)}
    assert [name for name, result in found.items() if result.state is State.PASS] == []
    assert "61 snapshots, 60 expected, with a hole of 3540 s" in found["window.coverage"].reason
    assert "no canary check started for 3545 s" in found["ux.integrity"].reason
    plan = Folder(Path("runs"), "2").plan(previous_run="", client_builds=(CLIENT_BUILD,))
    parts = splits.of(first, THRESHOLDS, plan)
    assert len(parts) > len(splits.BY_BUILD)
    assert {result.state for result in parts} == {State.INCONCLUSIVE}


def test_cohort_checked_only_in_the_first_minute_is_inconclusive(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs", "2").write()
    events = evidence.read_lines(folder.path / records.HOLD, HoldEvent)
    assert requirements.cohort(folder.path, folder.plan(), events)[0] is State.PASS
    longer = [*events[:-1], folder.event(8 * 3600, "ended")]
    state, reason = requirements.cohort(folder.path, folder.plan(), longer)
    assert (state, "no routing check for 28775 s of the hold" in reason) == (State.INCONCLUSIVE, True), reason


def test_cohort_checked_only_in_the_first_and_the_last_minute_is_inconclusive(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs", "2").write()
    path = folder.path / records.ROUTING_CHECKS
    checks = evidence.read_lines(path, RoutingCheck)
    late = [msgspec.structs.replace(each, at=folder.at(8 * 3600 - 10)) for each in checks]
    path.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in (*checks, *late)))
    events = evidence.read_lines(folder.path / records.HOLD, HoldEvent)
    longer = [*events[:-1], folder.event(8 * 3600, "ended")]
    state, reason = requirements.cohort(folder.path, folder.plan(), longer)
    assert (state, "no routing check for" in reason) == (State.INCONCLUSIVE, True), reason


# --- a preflight that showed nothing ----------------------------------------------------------------


NEEDS_SERVER = """
name = "needs_server"
summary = "Does everybody come back after the runtime was killed?"
checks = ["reconnect.live_again_99_s"]
faults = [{ kind = "kill_runtime", at_s = 0.0, down_s = 1.0 }]
fleet = { clients = 20, connects_per_s = 100.0 }
load = { events_per_s = 30.0 }
phases = { steady_s = 1.0, fault_s = 2.0 }
"""


def show_nothing(world: RolloutWorld) -> None:
    """Let the preflight have a drill that cannot run there, and a command without tests."""
    stages = world.folder / "their-stages.toml"
    (world.folder / "needs_server.toml").write_text(NEEDS_SERVER)
    stages.write_text(stages.read_text().replace("ok. 1 passed", "ok. 0 passed", 1).replace("tiny_storm", "needs_server"))


def test_preflight_without_drill_and_tests_is_a_no_go(rollout: RolloutWorld):
    show_nothing(rollout)
    _, report = rollout.stage("0")
    not_a_go(report, "sync_metrics", "it ran no test", "needs_server", "no hook")
    assert report.reason != ""
    with pytest.raises(UsageError, match="no signature makes it a go"):
        rollout.sign("go")
    rollout.sign("no_go")
    refused(rollout, "1", "stage 0", "is a no-go")


def test_empty_thresholds_are_refused(rollout: RolloutWorld):
    empty = rollout.folder / "empty.toml"
    empty.write_text("")
    refused(rollout, "1", "is empty", thresholds=empty)
    refused(rollout, "0", "is empty", thresholds=empty)


# --- signatures -------------------------------------------------------------------------------------


def test_forged_signature_is_refused(rollout: RolloutWorld):
    run_dir = latest(rollout)
    signed = msgspec.json.decode((run_dir / records.SIGNOFF).read_bytes(), type=Signoff)
    forged = msgspec.structs.replace(signed, owner="Bob")
    (run_dir / records.SIGNOFF).write_bytes(msgspec.json.encode(forged))
    refused(rollout, "1", "is not the signature that was made")
    (run_dir / records.SIGNOFF).unlink()
    refused(rollout, "1", "is not the signature that was made")


def test_report_has_one_signature(rollout: RolloutWorld):
    with pytest.raises(UsageError, match="was signed by Ann already"):
        rollout.sign()


def test_signature_needs_owner_role_and_statement(rollout: RolloutWorld):
    for missing in ("owner", "role", "statement"):
        with pytest.raises(UsageError, match=missing):
            Person(**{**dict.fromkeys(("owner", "role", "statement"), "x"), missing: " "})


def test_clock_that_was_set_back_is_refused(rollout: RolloutWorld):
    rollout.clock.set(timedelta(hours=-2))
    with pytest.raises(StormgateError, match="set back"):
        rollout.stage("1")
    rollout.clock.step(timedelta(hours=1))
    with pytest.raises(EvidenceError, match="set back"), rollouts.journal_of(rollout.rollout, rollout.clock) as journal:
        journal.append("anything")


def test_waiver_unlocks_no_stage(rollout: RolloutWorld):
    """Neither a forged waiver nor one with a signature unlocks a stage."""
    show_nothing(rollout)
    run_dir, report = rollout.stage("0")
    not_a_go(report, "it ran no test")
    by_hand = Waiver(check="commands", owner="", role="", at="", statement="", report_sha256="")
    (run_dir / records.WAIVERS).write_bytes(msgspec.json.encode([by_hand]))
    person = Person(owner="Ann", role="sync service", statement="We live with it.")
    with rollouts.journal_of(rollout.rollout, rollout.clock) as journal:
        run = rollouts.runs(journal.entries)[-1]
        with pytest.raises(UsageError, match="nothing to waive"):
            signoff.waive(rollout.rollout, run, "ux.no_such_check", person, journal, rollout.clock)
        signoff.waive(rollout.rollout, run, "commands", person, journal, rollout.clock)
    (shown,) = (stage for stage in status.of(rollout.rollout, rollout.clock.now(), rollout.rules).stages if stage.stage == "0")
    assert shown.waivers == ("commands: does not count, as it is not signed", "commands: waived by Ann; the decision stays")
    assert shown.state == "no_go"
    refused(rollout, "1", "is a no-go")


# --- what must be the same --------------------------------------------------------------------------


def edited(name: str, old: bytes, new: bytes) -> Callable[[RolloutWorld], object]:
    """Change a file of the signed preflight."""

    def edit(world: RolloutWorld) -> None:
        path = latest(world) / name
        path.write_bytes(path.read_bytes().replace(old, new))

    return edit


def loosen(world: RolloutWorld) -> None:
    path = world.folder / "their-thresholds.toml"
    path.write_text(path.read_text() + "\n# looser\n")


def copy_run(world: RolloutWorld) -> None:
    """As if somebody had removed a failed run from the journal, but not its folder."""
    run_dir = latest(world)
    shutil.copytree(run_dir, run_dir.with_name("20261121T000000Z-stage-0-beef"))


CAPS = "caps = { clients = 150, connects_per_s = 200.0, events_per_s = 200.0 }\n"
UNLIKE: dict[str, tuple[Callable[[RolloutWorld], object], tuple[str, ...]]] = {
    "edited report": (edited(records.REPORT, b'"preflight"', b'"preflighT"'), ("changed afterwards",)),
    "edited evidence": (
        edited(records.COMMANDS, b"sync_metrics", b"sync_metricz"),
        ("is not the file that the report of that stage is based on",),
    ),
    "signed yesterday": (lambda world: world.clock.step(timedelta(hours=24, seconds=1)), ("24 h are allowed",)),
    "other revision": (lambda world: world.endpoints.panel("traffic", revision="mock-r1"), ("revisions changed", "mock-r1")),
    "other thresholds": (loosen, ("thresholds",)),
    "other configuration": (lambda world: world.endpoints.write(extra=CAPS), ("configuration sha256 changed",)),
    "unrecorded run": (copy_run, ("the journal lacks the run 20261121T000000Z-stage-0-beef",)),
}


@pytest.mark.parametrize("what", UNLIKE)
def test_stage_after_a_change_is_refused(rollout: RolloutWorld, what: str):
    change, words = UNLIKE[what]
    change(rollout)
    refused(rollout, "1", *words)


def test_mock_unlocks_no_stage(rollout: RolloutWorld):
    rollout.endpoints.write(kind="mock")
    refused(rollout, "1", "is a mock, and a mock unlocks no stage but 0")
    refused(rollout, "1", "is a mock", target="mock", targets=None)
    refused(rollout, "1", "is a mock", target=rollout.endpoints.url, targets=None)


def test_stages_are_held_in_order(rollout: RolloutWorld):
    refused(rollout, "2", "stage 1 has not been run")
    refused(rollout, "4", "stage 3b has not been run")
    refused(rollout, "7", "there is no stage '7'")


def test_second_stormgate_on_a_rollout_is_refused(rollout: RolloutWorld):
    with (
        rollouts.journal_of(rollout.rollout, rollout.clock),
        pytest.raises(UsageError, match="another stormgate works on this rollout"),
    ):
        rollout.stage("1")


def test_hold_of_another_target_is_not_resumed(rollout: RolloutWorld):
    kill_after_an_hour(rollout, "1")
    refused(rollout, "1", "is on target 'stepped', not", target=rollout.endpoints.url, targets=None)
    assert "has no report yet" in next(
        unlock.missing(rollout.rollout, read(rollout.rollout / NAME), "2", rollout.clock.now(), rollout.rules)
    )
    _, report = rollout.stage("1")
    assert report.decision == "go", report.why
    assert len(rollouts.runs(read(rollout.rollout / NAME))) == 2, "it resumed the killed one"
