"""What is wrong is caught on real sockets, too: a few rows of the table, with few clients and short phases.

`tests/mutation_table.py` has them all.
"""

from pathlib import Path

import pytest

from tests.mutation_table import HARMLESS, LIVE_PERIOD, MUTATIONS, Catch
from tests.storms import small, storm, troubles


@pytest.mark.parametrize("case", [case for case in MUTATIONS if "sockets" in case.tested], ids=str)
def test_what_is_wrong_is_caught_by_name(tmp_path: Path, case: Catch):
    verdict = case.judged(tmp_path, "sockets")
    assert case.missed(verdict, "sockets") == "", verdict
    if case.kind == "defect":
        assert verdict.defects == (case.wrong,)
    if case.kind == "policy":
        assert verdict.policy == case.wrong


@pytest.mark.parametrize("drill", ["reconnect_storm", "dropped_delivery"])
def test_duplicates_on_the_wire_turn_nothing_red(tmp_path: Path, drill: str):
    assert troubles(storm(tmp_path, small(drill), defects=(HARMLESS,))) == []


def test_the_reference_client_passes_where_the_shipped_one_fails(tmp_path: Path):
    verdict = storm(tmp_path, small("reconnect_storm", *LIVE_PERIOD))
    assert troubles(verdict) == []
    states = {check.name: check.state for check in verdict.checks}
    assert states["reconnect.backoff_never_resets"] == "pass"
    assert states["reconnect.backoff_unjittered"] == "pass"
