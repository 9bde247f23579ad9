"""What must never end in a go, each on the whole of a stage, and what it is told by."""

import json
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
from drills.rollout.setup.records import HoldEvent, Signoff, StageReport, Waiver
from drills.rollout.verdict import requirements, splits, window
from sim.base.clocks import SteppedClock, from_iso, iso
from sim.base.errors import EvidenceError, StormgateError, UsageError
from sim.drill.model import CLIENT_BUILD
from tests.rollout.rollout_world import RolloutWorld
from tests.rollout.stepped_service import METRICS
from tests.stage_folders import Folder
from tests.windows import BEGAN_S, THRESHOLDS, good


class KilledError(Exception):
    """As SIGKILL: nothing more is written."""


Body = Callable[[RolloutWorld, dict[str, object]], bytes]


def refused(world: RolloutWorld, stage: str, *words: str, **more: object) -> None:
    """The stage cannot begin, and says why."""
    before = len(read(world.rollout / NAME))
    with pytest.raises(StormgateError) as caught:
        world.stage(stage, **more)
    for word in words:
        assert word in str(caught.value), caught.value
    assert len(read(world.rollout / NAME)) == before, "nothing was begun"


def not_a_go(report: StageReport, *words: str) -> None:
    said = "\n".join(report.why)
    assert report.decision == "no_go", said
    for word in words:
        assert word in said, said


def kill_after_an_hour(world: RolloutWorld, stage: str) -> None:
    """The stage is begun, and killed after an hour."""
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


# --- servers that tell nothing ----------------------------------------------------------------------


def nulls(world: RolloutWorld, said: dict[str, object]) -> bytes:
    return json.dumps({key: dict.fromkeys(value) if isinstance(value, dict) else value for key, value in said.items()}).encode()


def yesterdays(world: RolloutWorld, said: dict[str, object]) -> bytes:
    return json.dumps({**said, "generated_at": iso(world.clock.now() - timedelta(days=1))}).encode()


@pytest.mark.parametrize(
    "body",
    [lambda world, said: b"{}", nulls, lambda world, said: b"<html>all is well</html>", yesterdays, None],
    ids=["empty", "nulls", "html", "yesterdays", "dead"],
)
def test_metrics_that_tell_nothing_end_a_hold(rollout: RolloutWorld, body: Body | None):
    half = rollout.clock.now() + timedelta(seconds=9000)

    def spoil(path: str, status: int, content: bytes) -> tuple[int, bytes]:
        if path != METRICS or rollout.clock.now() < half:
            return status, content
        return (200, body(rollout, json.loads(content))) if body else (503, b"")

    rollout.spoil = spoil
    _, report = rollout.stage("1")
    not_a_go(report, "hold: it was stopped", "no usable snapshot for too long")


# --- everything in the first minute -----------------------------------------------------------------


def squeezed(moment_s: float) -> float:
    """What an hour's evidence has, as if all of it were of the first minute."""
    return BEGAN_S + (moment_s - BEGAN_S) / 60


def test_an_hour_of_which_all_samples_were_taken_in_the_first_minute() -> None:
    """As many as there must be, and each of them well; but nobody looked afterwards."""
    hour = replace(good(), control=replace(good(), snapshots=()))
    assert {result.state for result in window.judge(hour, THRESHOLDS)} == {State.PASS}
    snapshots = [
        msgspec.structs.replace(each, at=iso(datetime.fromtimestamp(squeezed(from_iso(each.at).timestamp()), UTC)))
        for each in hour.snapshots
    ]
    watches = tuple(replace(each, began_s=squeezed(each.began_s)) for each in hour.canary_checks)
    assert hour.control is not None
    first = replace(
        hour, snapshots=tuple(snapshots), canary_checks=watches, control=replace(hour.control, canary_checks=watches)
    )
    found = {result.name: result for result in window.judge(first, THRESHOLDS)}
    assert [name for name, result in found.items() if result.state is State.PASS] == []
    assert "61 of 60 snapshots, with a hole of 3540 s" in found["window.coverage"].reason
    assert "no watch began for 3545 s" in found["ux.integrity"].reason
    plan = Folder(Path("runs"), "2").plan(previous_run="", client_builds=(CLIENT_BUILD,))
    apart = splits.of(first, THRESHOLDS, plan)
    assert len(apart) > len(splits.BY_BUILD)
    assert {result.state for result in apart} == {State.INCONCLUSIVE}


def test_a_cohort_that_was_asked_for_in_the_first_minute_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs", "2").write()
    events = evidence.read_lines(folder.path / records.HOLD, HoldEvent)
    assert requirements.cohort(folder.path, folder.plan(), events)[0] is State.PASS
    longer = [*events[:-1], HoldEvent(at=folder.at(8 * 3600), kind="ended")]
    state, reason = requirements.cohort(folder.path, folder.plan(), longer)
    assert (state, "in the hold's last 28775 s" in reason) == (State.INCONCLUSIVE, True), reason


# --- a preflight that asked nothing -----------------------------------------------------------------


NEEDS_SERVER = """
name = "needs_server"
summary = "Does everybody come back after the runtime was killed?"
checks = ["reconnect.live_again_99_s"]
faults = [{ kind = "kill_runtime", at_s = 0.0, down_s = 1.0 }]
fleet = { clients = 20, connects_per_s = 100.0 }
load = { events_per_s = 30.0 }
phases = { steady_s = 1.0, fault_s = 2.0 }
"""


def test_a_preflight_whose_drill_was_refused_and_whose_command_ran_no_test(rollout: RolloutWorld):
    stages = rollout.folder / "their-stages.toml"
    (rollout.folder / "needs_server.toml").write_text(NEEDS_SERVER)
    text = stages.read_text().replace('staging = ["tiny_storm.toml"]', 'staging = ["needs_server.toml"]')
    stages.write_text(text.replace("ok. 1 passed", "ok. 0 passed", 1))
    _, report = rollout.stage("0")
    not_a_go(report, "sync_metrics", "no test ran", "needs_server", "no hook")
    assert report.reason != ""
    with pytest.raises(UsageError, match="no signature makes it a go"):
        rollout.sign("go")
    rollout.sign("no_go")
    refused(rollout, "1", "stage 0", "is a no-go")


def test_empty_thresholds_are_refused(rollout: RolloutWorld):
    empty = rollout.folder / "empty.toml"
    empty.write_text("")
    refused(rollout, "1", "has no thresholds", thresholds=empty)
    refused(rollout, "0", "has no thresholds", thresholds=empty)


# --- signatures -------------------------------------------------------------------------------------


def test_a_report_that_was_edited_after_it_was_signed(rollout: RolloutWorld):
    path = latest(rollout) / records.REPORT
    path.write_bytes(path.read_bytes().replace(b'"preflight"', b'"preflighT"'))
    refused(rollout, "1", "changed afterwards")


def test_evidence_that_was_edited_after_it_was_signed(rollout: RolloutWorld):
    path = latest(rollout) / records.COMMANDS
    path.write_bytes(path.read_bytes().replace(b"sync_metrics", b"sync_metricz"))
    refused(rollout, "1", "is not what the report of that stage rests on")


def test_a_signature_that_was_put_there_by_hand(rollout: RolloutWorld):
    run_dir = latest(rollout)
    signed = msgspec.json.decode((run_dir / records.SIGNOFF).read_bytes(), type=Signoff)
    forged = msgspec.structs.replace(signed, owner="Bob")
    (run_dir / records.SIGNOFF).write_bytes(msgspec.json.encode(forged))
    refused(rollout, "1", "is not the signature that was made")
    (run_dir / records.SIGNOFF).unlink()
    refused(rollout, "1", "is not the signature that was made")


def test_a_report_has_one_signature(rollout: RolloutWorld):
    with pytest.raises(UsageError, match="was signed by Ann already"):
        rollout.sign()


def test_nobody_signs_without_a_name(rollout: RolloutWorld):
    for missing in ("owner", "role", "statement"):
        with pytest.raises(UsageError, match=missing):
            Person(**{**dict.fromkeys(("owner", "role", "statement"), "x"), missing: " "})


def test_a_signature_of_yesterday_is_too_old(rollout: RolloutWorld):
    rollout.clock.step(timedelta(hours=24, seconds=1))
    refused(rollout, "1", "24 h are allowed")


def test_a_clock_that_was_set_back_is_found(rollout: RolloutWorld):
    rollout.clock.step(timedelta(hours=-2))
    with pytest.raises(StormgateError, match="set back"):
        rollout.stage("1")
    rollout.clock.step(timedelta(hours=1))
    with pytest.raises(EvidenceError, match="set back"), rollouts.journal_of(rollout.rollout, rollout.clock) as journal:
        journal.append("anything")


def test_a_waiver_opens_nothing_and_without_a_signature_it_counts_for_nothing(rollout: RolloutWorld):
    """Neither one put there by hand, nor one that somebody stands by."""
    stages = rollout.folder / "their-stages.toml"
    (rollout.folder / "needs_server.toml").write_text(NEEDS_SERVER)
    stages.write_text(stages.read_text().replace("ok. 1 passed", "ok. 0 passed", 1).replace("tiny_storm", "needs_server"))
    run_dir, report = rollout.stage("0")
    not_a_go(report, "no test ran")
    by_hand = Waiver(check="commands", owner="", role="", at="", statement="", report_sha256="")
    (run_dir / records.WAIVERS).write_bytes(msgspec.json.encode([by_hand]))
    person = Person(owner="Ann", role="sync lane", statement="We live with it.")
    with rollouts.journal_of(rollout.rollout, rollout.clock) as journal:
        run = rollouts.runs(journal.entries)[-1]
        with pytest.raises(UsageError, match="nothing to waive"):
            signoff.waive(rollout.rollout, run, "ux.no_such_check", person, journal, rollout.clock)
        signoff.waive(rollout.rollout, run, "commands", person, journal, rollout.clock)
    (told,) = (stage for stage in status.of(rollout.rollout, rollout.clock.now(), rollout.rules).stages if stage.stage == "0")
    assert told.waivers == (
        "commands: does not count, as it is not signed",
        "commands: waived by Ann; the decision stays",
    )
    assert told.state == "no_go"
    refused(rollout, "1", "is a no-go")


# --- what must be the same --------------------------------------------------------------------------


def test_another_revision_than_the_one_that_was_signed(rollout: RolloutWorld):
    rollout.endpoints.panel("traffic", revision="mock-r1")
    refused(rollout, "1", "revisions changed", "mock-r1")


def test_other_thresholds_than_those_that_were_signed(rollout: RolloutWorld):
    path = rollout.folder / "their-thresholds.toml"
    path.write_text(path.read_text() + "\n# looser\n")
    refused(rollout, "1", "thresholds")


def test_a_mock_opens_no_stage(rollout: RolloutWorld):
    rollout.endpoints.write(kind="mock")
    refused(rollout, "1", "is a mock, and a mock unlocks no stage but 0")
    refused(rollout, "1", "is a mock", target="mock", targets=None)
    refused(rollout, "1", "is a mock", target=rollout.endpoints.url, targets=None)


def test_stages_are_held_in_their_order(rollout: RolloutWorld):
    refused(rollout, "2", "stage 1 has not been run")
    refused(rollout, "4", "stage 3b has not been run")
    refused(rollout, "7", "there is no stage '7'")


def test_two_tools_at_once(rollout: RolloutWorld):
    with (
        rollouts.journal_of(rollout.rollout, rollout.clock),
        pytest.raises(UsageError, match="another stormgate works on this rollout"),
    ):
        rollout.stage("1")


def test_a_hold_of_another_target_is_not_gone_on_with(rollout: RolloutWorld):
    kill_after_an_hour(rollout, "1")
    refused(rollout, "1", "is on target 'stepped', not", target=rollout.endpoints.url, targets=None)
    assert "has no report yet" in next(
        unlock.missing(rollout.rollout, read(rollout.rollout / NAME), "2", rollout.clock.now(), rollout.rules)
    )
    _, report = rollout.stage("1")
    assert report.decision == "go", report.why
    assert len(rollouts.runs(read(rollout.rollout / NAME))) == 2, "it went on with the one that was killed"
