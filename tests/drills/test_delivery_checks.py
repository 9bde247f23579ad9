"""What clients are handed, and what they notice: hand-written histories for and against."""

import pytest
from msgspec.structs import replace

from drills.judging import gates
from sim.drill.fault_kinds import DuplicateDeliveries, RollingDeploy
from sim.drill.model import Drill
from sim.record.observations import Kind
from tests.drills.asking import FAIL, NO_DATA, PASS, state
from tests.histories import STREAM, Story, good_storm, storm_drill

NOTICED = {
    "duplicate_deliveries": Kind.DUPLICATE_DROPPED,
    "jumble_deliveries": Kind.HASH_MISMATCH,
    "malform_frames": Kind.MALFORMED,
    "reorder_deliveries": Kind.GAP,
    "delay_deliveries": Kind.GAP,
}


def under(kind: str, acted: int, noticed: int, t: float = 21.0) -> Story:
    story = good_storm(10)
    story.header["plan"] = [{"kind": kind}]
    story.rows = [row for row in story.rows if row.kind not in (Kind.FAULT_INJECTED, Kind.FAULT_OBSERVED, Kind.FAULT_REVERTED)]
    story.tell(20.0, Kind.FAULT_INJECTED, detail=kind).tell(22.0, Kind.FAULT_REVERTED, detail=kind)
    if acted:
        story.tell(22.0, Kind.FAULT_OBSERVED, value=acted, detail=kind)
    for number in range(noticed):
        story.tell(t, NOTICED[kind], number % 10, STREAM, number, detail="live")
    return story


@pytest.mark.parametrize("kind", NOTICED)
def test_what_goes_wrong_must_be_noticed(kind: str) -> None:
    assert state("drill.faults_noticed", under(kind, 10, 5)) is PASS
    assert state("drill.faults_noticed", under(kind, 10, 4)) is FAIL
    assert state("drill.faults_noticed", under(kind, 10, 10, t=19.0)) is FAIL
    assert state("drill.faults_noticed", under(kind, 10, 10, t=24.0)) is FAIL
    assert state("drill.faults_noticed", under(kind, 0, 10)) is NO_DATA


def test_every_fault_must_be_noticed() -> None:
    story = under("malform_frames", 10, 10)
    story.header["plan"].append({"kind": "jumble_deliveries"})
    assert state("drill.faults_noticed", story) is FAIL


def asked(fault: object) -> set[str]:
    drill: Drill = replace(storm_drill(10), faults=(fault,))
    return {spec.name for spec in gates.asked_of(drill)}


def test_drills_that_break_it_are_asked() -> None:
    duplicates = DuplicateDeliveries(at_s=0.0, clients_share=0.5, events_share=0.5, for_s=1.0)
    deploy = RollingDeploy(at_s=0.0, waves=2, wave_s=1.0)
    assert "drill.faults_noticed" in asked(duplicates) - asked(deploy)
    assert "drill.cut_once" in asked(deploy) - asked(duplicates)


def test_all_clients_see_one_order() -> None:
    assert state("delivery.one_order", good_storm(3)) is PASS
    other = good_storm(3).changed(lambda row: row.kind == Kind.APPLIED and (row.client, row.seq) == (1, 7), detail="h8")
    assert state("delivery.one_order", other) is FAIL


def test_one_client_alone_cannot_disagree() -> None:
    story = Story(2).publish(1, 2).fresh(0).apply(0, 1, 2)
    assert state("delivery.one_order", story) is NO_DATA


def test_applying_an_event_again_is_another_question() -> None:
    assert state("delivery.one_order", good_storm(3).apply(0, 5, t=50.0)) is PASS


def test_rolling_deploy_disconnects_each_client_once() -> None:
    assert state("drill.cut_once", good_storm(4)) is PASS
    assert state("drill.cut_once", good_storm(4).tell(22.0, Kind.DISCONNECTED, 2, detail="stream_closed")) is FAIL
    assert state("drill.cut_once", good_storm(4).tell(30.0, Kind.DISCONNECTED, 2, detail="stream_closed")) is PASS
    assert state("drill.cut_once", good_storm(4).without(lambda row: row.kind == Kind.DISCONNECTED)) is NO_DATA
