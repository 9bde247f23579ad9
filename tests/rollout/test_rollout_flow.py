"""A whole rollout, from the preflight to the day after, in compressed time on a staging-like mock."""

from datetime import timedelta

from rollout_world import START, RolloutWorld

from drills.rollout import evidence, records, rollouts, status
from drills.rollout.clock import from_iso
from drills.rollout.journal import NAME, read
from drills.rollout.records import HoldEvent


def test_a_rollout_from_its_preflight_to_its_final_report(rollout: RolloutWorld):
    rollout.through("1", "2", "3a", "3b", "4")
    runs = rollouts.runs(read(rollout.rollout / NAME))
    assert [run.stage for run in runs] == ["0", "1", "2", "3a", "3b", "4"]
    holds = {
        run.stage: evidence.read_lines(rollouts.run_dir(rollout.rollout, run.run_id) / records.HOLD, HoldEvent) for run in runs
    }
    assert from_iso(holds["2"][0].at).weekday() == 0, "begun on a Friday evening, it waits for the Monday"
    assert [event.gate_h for event in holds["4"] if event.kind == "gate"] == [0.0, 1.0, 6.0, 24.0]
    assert rollout.clock.now() - START > timedelta(days=4)
    found = status.of(rollout.rollout, rollout.clock.now(), 24.0)
    assert {stage.state for stage in found.stages} == {"go, signed"}
    assert (found.next_stage, found.missing) == ("", ())
