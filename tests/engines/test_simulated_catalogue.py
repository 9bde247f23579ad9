"""Every drill of the catalogue on every simulated third-party server: it finds what the table says, and no more."""

from pathlib import Path

import pytest

from drills.judging.checks.verdicts import State
from sim.drill.model import Drill
from tests import protocol_findings as table
from tests import simulated_findings as simulated
from tests.storms import BY_NAME, CATALOGUE, OF_TIME, all_red, small, storm, with_faults


@pytest.mark.parametrize("drill", [*CATALOGUE, *BY_NAME])
@pytest.mark.parametrize("protocol", simulated.PROTOCOLS)
def test_a_simulated_server_has_its_protocols_habits_and_no_other_faults(tmp_path: Path, protocol: str, drill: str) -> None:
    planned = small(drill, *table.overrides(protocol, drill))
    verdict = storm(tmp_path, planned, engine="virtual", protocol=simulated.spoken(protocol))
    assert table.complaints(protocol, drill, verdict) == []


def malformed(*settings: str) -> Drill:
    """The half of `jumbled_frames` that needs no hashes."""
    fault = {"kind": "malform_frames", "at_s": 0.0, "clients_share": 0.5, "events_share": 0.1, "for_s": 3.0}
    return with_faults(small("jumbled_frames", *settings), fault)


@pytest.mark.parametrize("protocol", simulated.PROTOCOLS)
def test_clients_recover_what_was_in_a_malformed_frame(tmp_path: Path, protocol: str) -> None:
    """Where positions do not show what is missing, the client ends the connection, or the request, and resumes."""
    drill = malformed(*table.overrides(protocol, ""))
    verdict = storm(tmp_path, drill, engine="virtual", protocol=simulated.spoken(protocol))
    checks = {check.name: check for check in verdict.checks}
    assert checks["drill.faults_noticed"].state is State.PASS
    assert checks["delivery.dropped_deliveries"].state is State.PASS
    assert all_red(verdict) - {*OF_TIME} == set()


@pytest.mark.parametrize("protocol", simulated.PROTOCOLS)
def test_clients_with_two_streams_come_back_with_both(tmp_path: Path, protocol: str) -> None:
    """Where each stream has a connection of its own, one may return while the other still waits."""
    drill = small("network_flap", *table.overrides(protocol, ""), "fleet.topics_per_client=2", "load.run_streams=3")
    verdict = storm(tmp_path, drill, engine="virtual", protocol=simulated.spoken(protocol))
    assert all_red(verdict) - {*OF_TIME} == set()
