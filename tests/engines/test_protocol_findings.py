"""Every drill of the catalogue on every further protocol, simulated: it finds what the table says, and no more."""

from pathlib import Path

import pytest

from sim.record.observations import Kind
from tests import protocol_findings as table
from tests.engines.test_engines_agree import both, judged, observed
from tests.mutation_table import Catch
from tests.storms import CATALOGUE, SOCKETS_ONLY, small, storm


@pytest.mark.parametrize("drill", CATALOGUE)
@pytest.mark.parametrize("protocol", table.PROTOCOLS)
def test_a_healthy_server_is_found_to_have_its_protocols_habits(tmp_path: Path, protocol: str, drill: str):
    planned = small(drill, *table.overrides(protocol, drill))
    verdict = storm(tmp_path, planned, engine="virtual", protocol=protocol)
    assert table.complaints(protocol, drill, verdict) == []


@pytest.mark.parametrize("drill", table.QUICK)
@pytest.mark.parametrize("protocol", table.PROTOCOLS)
def test_real_sockets_and_the_simulation_agree_on_a_protocol(tmp_path: Path, protocol: str, drill: str):
    planned = small(drill, *table.overrides(protocol, drill))
    real, simulated = both(tmp_path, planned, protocol=protocol)
    (header, rows), (other_header, other_rows) = (observed(run_dir, planned) for run_dir in (real, simulated))
    assert header.subscriptions == other_header.subscriptions
    assert header.capabilities == other_header.capabilities
    assert table.complaints(protocol, drill, judged(real)) == []
    assert table.complaints(protocol, drill, judged(simulated)) == []
    upto = min(max(applied_markers(each)) for each in (rows, other_rows))
    for found in (
        rows,
        other_rows,
    ):  # every client of the fleet has every event once, after its first; retried publishes may change places
        for client in range(planned.fleet.clients):
            own = [row["marker"] for row in found if row["client"] == client and row["kind"] == Kind.APPLIED]
            numbers = [number for number in own if 0 < number <= upto]
            assert sorted(numbers) == list(range(min(numbers), upto + 1)), client


@pytest.mark.long
@pytest.mark.parametrize("drill", [*CATALOGUE, *SOCKETS_ONLY, "log_recreated"])
@pytest.mark.parametrize("protocol", table.PROTOCOLS)
def test_real_sockets_find_the_protocols_habits(tmp_path: Path, protocol: str, drill: str):
    verdict = storm(tmp_path, small(drill, *table.overrides(protocol, drill)), protocol=protocol)
    assert table.complaints(protocol, drill, verdict) == []


def applied_markers(rows: list[dict]) -> list[int]:
    return [row["marker"] for row in rows if row["kind"] == Kind.APPLIED]


@pytest.mark.parametrize("case", table.DEFECTS, ids=str)
def test_each_defect_of_a_further_protocol_is_found_by_name(tmp_path: Path, case: Catch):
    verdict = case.judged(tmp_path, "virtual")
    assert case.missed(verdict, "virtual") == "", verdict


@pytest.mark.parametrize("case", [case for case in table.DEFECTS if "sockets" in case.tested], ids=str)
def test_some_defects_of_a_further_protocol_are_found_on_real_sockets(tmp_path: Path, case: Catch):
    verdict = case.judged(tmp_path, "sockets")
    assert case.missed(verdict, "sockets") == "", verdict


@pytest.mark.parametrize("protocol", table.PROTOCOLS)
def test_what_a_protocol_cannot_tell_is_stated_beside_the_decision(tmp_path: Path, protocol: str):
    verdict = storm(tmp_path, small("slow_consumer", *table.SHARED), engine="virtual", protocol=protocol)
    left = [check for check in verdict.checks if not check.is_required]
    assert left
    assert all(check.state == "no_data" and any(check.name in said for said in verdict.remarks) for check in left)
    assert verdict.full_status != "pass", "a stage never does without them"


@pytest.mark.parametrize("protocol", table.PROTOCOLS)
def test_the_fleet_engine_does_not_run_a_server_that_it_does_not_simulate(tmp_path: Path, protocol: str):
    verdict = storm(tmp_path, small("reconnect_storm"), engine="fleet", protocol=protocol)
    assert verdict.status == "not_run"
    assert f"--protocol {protocol}: the fleet engine does not simulate its server" in verdict.not_run


@pytest.mark.parametrize("protocol", table.PROTOCOLS)
def test_narrow_links_drain_after_the_fault_at_the_drills_own_rate(tmp_path: Path, protocol: str):
    """One shared topic with all events fills the narrow links; what waits passes as soon as they are wide again."""
    verdict = storm(tmp_path, small("latency_brownout"), engine="virtual", protocol=protocol)
    (converged,) = (check for check in verdict.checks if check.name == "drill.converged")
    assert converged.state == "pass", converged.reason
