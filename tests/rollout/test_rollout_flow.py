"""A whole rollout, from the preflight to the day after, in compressed time on a staging-like mock."""

from datetime import timedelta
from pathlib import Path

from drills.rollout.hold import status
from drills.rollout.hold.hold import rollouts
from drills.rollout.setup import evidence, records, stages
from drills.rollout.setup.journal import NAME, read
from drills.rollout.setup.records import Armed, HoldEvent, Rollback, StageReport
from sim.base import atomic_files
from sim.base.clocks import from_iso
from sim.server.deployment import Deployment
from tests.rollout.rollout_world import ROLLBACK, START, RolloutWorld
from tests.rollout.stepped_service import stepped_service
from tests.rollout.test_no_false_go import refused


def with_added_stage(rollout: RolloutWorld) -> None:
    """Add a stage 3c to the rollout's own stages file."""
    path = rollout.folder / "their-stages.toml"
    start, full, rest = path.read_text().partition("[stages.4]")
    third = start[start.index("[stages.3b]") :].replace("3b", "3c").replace("second", "third").replace("50.0", "75.0")
    path.write_text(start + third + full + rest)


def test_rollout_runs_from_preflight_to_final_report(rollout: RolloutWorld, tmp_path: Path):
    with_added_stage(rollout)
    (tmp_path / "control").mkdir()
    before = Deployment(revision="mock-r1", previous_revision="")
    with stepped_service(tmp_path / "control", rollout.clock, name="control", deployment=before) as control:
        rollout.endpoints.control_url = control.url
        rollout.endpoints.write(extra=ROLLBACK)
        rollout.through("1")
        rules = stages.load(stages.DEFAULT_PATH)
        (lacks,) = status.of(rollout.rollout, rollout.clock.now(), rules).missing
        assert 'control = "NAME" into [stages.2]' in lacks
        rollout.through("2")
    rollout.through("3a", "3b")
    refused(rollout, "4", "stage 3c has not been run")
    rollout.through("3c", "4")
    runs = rollouts.runs(read(rollout.rollout / NAME))
    assert [run.stage for run in runs] == ["0", "1", "2", "3a", "3b", "3c", "4"]
    holds = {
        run.stage: evidence.read_lines(rollouts.run_dir(rollout.rollout, run.run_id) / records.HOLD, HoldEvent) for run in runs
    }
    assert from_iso(holds["2"][0].at).weekday() == 0, "started on a Friday evening, it waits for Monday"
    assert [event.gate_h for event in holds["4"] if event.kind == "gate"] == [0.0, 1.0, 6.0, 24.0]
    assert rollout.clock.now() - START > timedelta(days=4)
    second = next(run for run in runs if run.stage == "2")
    report = atomic_files.read_struct(rollouts.run_dir(rollout.rollout, second.run_id) / records.REPORT, StageReport)
    assert {part.name: part.state for part in report.requirements if part.name in ("builds", "canary_vs_control")} == {
        "builds": "pass",
        "canary_vs_control": "pass",
    }
    assert len({check.check.split()[0] for check in report.splits if check.gate == "builds"}) == 2
    first = rollouts.run_dir(rollout.rollout, runs[0].run_id)
    rehearsed = atomic_files.read_struct(first / records.ROLLBACK, Rollback)
    assert from_iso(holds["0"][0].at) >= from_iso(rehearsed.ended), "the baseline comes last"
    (fourth,) = (run for run in runs if run.stage == "4")
    looks = evidence.read_lines(rollouts.run_dir(rollout.rollout, fourth.run_id) / records.ARMED, Armed)
    assert [(look.gate_h, look.state) for look in looks] == [(0.0, "pass"), (1.0, "pass"), (6.0, "pass"), (24.0, "pass")]
    found = status.of(rollout.rollout, rollout.clock.now(), rollout.rules)
    assert [stage.stage for stage in found.stages] == ["0", "1", "2", "3a", "3b", "3c", "4"]
    assert {stage.state for stage in found.stages} == {"go, signed"}
    assert (found.next_stage, found.missing) == ("", ())
