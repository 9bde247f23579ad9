"""Every defect, and the drill and names that catch it: on real sockets, with few clients and short phases."""

from pathlib import Path

import pytest
from catchers import (
    ALL_CATCHERS,
    CLIENT_CATCHERS,
    DEFECT_CATCHERS,
    DESKTOP_CATCHERS,
    HARMLESS,
    IMPATIENT,
    LIVE_PERIOD,
    SETTING_CATCHERS,
    SILENCE_CATCHERS,
    SOCKETS_CATCHERS,
    Catch,
)
from storms import red, small, storm, troubles

from sim.contract.policies import WRONG
from sim.contract.settings import DEFECTS


def test_every_defect_has_a_catcher():
    assert sorted({case.wrong for case in (*ALL_CATCHERS, *SOCKETS_CATCHERS)} | {HARMLESS}) == sorted(DEFECTS)


# Of the network's drills two, one by the proxy and one without; simulation has them all.
NETWORK = tuple(case for case in SILENCE_CATCHERS if case.wrong in ("skip_for_slow_consumers", "drop_late_heartbeats"))


@pytest.mark.parametrize("case", DEFECT_CATCHERS + NETWORK + SOCKETS_CATCHERS, ids=lambda case: case.wrong)
def test_a_defect_is_caught_by_name(tmp_path: Path, case: Catch):
    # Under wrong hashes nobody ever gets going, so there is no steady state to wait for.
    hasty = ("phases.steady_limit_s=3",) if case.wrong == "wrong_payload_hash" else ()
    verdict = storm(tmp_path, small(case.drill, *IMPATIENT, *hasty), defects=(case.wrong,))
    assert case.names <= red(verdict), verdict
    assert verdict.defects == (case.wrong,)


@pytest.mark.parametrize("drill", sorted({case.drill for case in DEFECT_CATCHERS}))
def test_duplicates_on_the_wire_turn_nothing_red(tmp_path: Path, drill: str):
    assert troubles(storm(tmp_path, small(drill), defects=(HARMLESS,))) == []


@pytest.mark.parametrize("case", DESKTOP_CATCHERS, ids=lambda case: case.wrong)
def test_the_shipped_clients_defects_are_caught_by_name(tmp_path: Path, case: Catch):
    long = LIVE_PERIOD if case.drill == "reconnect_storm" else ()
    verdict = storm(tmp_path, small(case.drill, "fleet.policy=desktop", *long))
    assert case.names <= red(verdict), verdict
    assert verdict.policy == "desktop"


def test_the_reference_client_passes_where_the_shipped_one_fails(tmp_path: Path):
    verdict = storm(tmp_path, small("reconnect_storm", *LIVE_PERIOD))
    assert troubles(verdict) == []
    states = {check.name: check.state for check in verdict.checks}
    assert states["reconnect.backoff_never_resets"] == "pass"
    assert states["reconnect.backoff_unjittered"] == "pass"


def test_every_client_that_is_wrong_on_purpose_has_a_catcher():
    cases = (*CLIENT_CATCHERS, *SETTING_CATCHERS)
    assert {case.wrong.removeprefix("fleet.policy=") for case in cases} >= set(WRONG)
