"""Every defect is caught in simulation, too, by the names that catch it on real sockets; and what is lawful is not."""

from pathlib import Path

import pytest
from catchers import (
    ALL_CATCHERS,
    CLIENT_CATCHERS,
    DELIVERY_CATCHERS,
    DESKTOP_CATCHERS,
    DESKTOP_NETWORK_CATCHERS,
    HARMLESS,
    IMPATIENT,
    LIVE_PERIOD,
    NETWORK_CATCHERS,
    SETTING_CATCHERS,
    Catch,
)
from storms import CATALOGUE, all_red, red, small, storm, troubles


@pytest.mark.parametrize("case", ALL_CATCHERS + NETWORK_CATCHERS, ids=lambda case: f"{case.wrong}-{case.drill}")
def test_a_defect_is_caught_by_name(tmp_path: Path, case: Catch):
    verdict = storm(tmp_path, small(case.drill, *IMPATIENT), defects=(case.wrong,), engine="virtual")
    assert case.names <= red(verdict), verdict


@pytest.mark.parametrize("case", DELIVERY_CATCHERS, ids=lambda case: f"{case.wrong}-{case.drill}")
def test_a_defect_of_delivery_turns_nothing_else_red(tmp_path: Path, case: Catch):
    verdict = storm(tmp_path, small(case.drill, *IMPATIENT), defects=(case.wrong,), engine="virtual")
    assert all_red(verdict) == case.names, verdict


@pytest.mark.parametrize("case", DESKTOP_CATCHERS, ids=lambda case: case.wrong)
def test_the_shipped_clients_defects_are_caught_by_name(tmp_path: Path, case: Catch):
    long = LIVE_PERIOD if case.drill == "reconnect_storm" else ()
    verdict = storm(tmp_path, small(case.drill, "fleet.policy=desktop", *long), engine="virtual")
    assert case.names <= red(verdict), verdict


@pytest.mark.parametrize("case", SETTING_CATCHERS, ids=lambda case: case.wrong)
def test_what_a_fleet_must_not_do_is_caught_by_name(tmp_path: Path, case: Catch):
    verdict = storm(tmp_path, small(case.drill, case.wrong), engine="virtual")
    assert case.names <= red(verdict), verdict


@pytest.mark.parametrize("case", CLIENT_CATCHERS, ids=lambda case: f"{case.wrong}-{case.drill}")
def test_a_client_that_is_wrong_on_purpose_turns_just_this_red(tmp_path: Path, case: Catch):
    verdict = storm(tmp_path, small(case.drill, *IMPATIENT, f"fleet.policy={case.wrong}"), engine="virtual")
    assert all_red(verdict) == case.names, verdict


@pytest.mark.parametrize("case", DESKTOP_NETWORK_CATCHERS, ids=lambda case: f"{case.wrong}-{case.drill}")
def test_the_shipped_client_is_caught_by_the_networks_drills(tmp_path: Path, case: Catch):
    verdict = storm(tmp_path, small(case.drill, f"fleet.policy={case.wrong}"), engine="virtual")
    assert case.names <= red(verdict), verdict


@pytest.mark.parametrize("defects", [(), (HARMLESS,)], ids=["healthy", HARMLESS])
@pytest.mark.parametrize("drill", CATALOGUE)
def test_a_healthy_lane_and_lawful_duplicates_turn_nothing_red(tmp_path: Path, drill: str, defects: tuple[str, ...]):
    assert troubles(storm(tmp_path, small(drill), defects=defects, engine="virtual")) == []
