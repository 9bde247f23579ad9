"""Whatever is wrong is caught in simulation by the names that catch it on real sockets; and what is lawful is not."""

from pathlib import Path

import pytest

from tests.mutation_table import HARMLESS, MUTATIONS, Catch
from tests.storms import CATALOGUE, small, storm, troubles


@pytest.mark.parametrize("case", [case for case in MUTATIONS if "virtual" in case.tested], ids=str)
def test_what_is_wrong_is_caught_by_name(tmp_path: Path, case: Catch):
    verdict = case.judged(tmp_path, "virtual")
    assert case.missed(verdict, "virtual") == "", verdict


@pytest.mark.parametrize("defects", [(), (HARMLESS,)], ids=["healthy", HARMLESS])
@pytest.mark.parametrize("drill", CATALOGUE)
def test_a_healthy_service_and_allowed_duplicates_turn_nothing_red(tmp_path: Path, drill: str, defects: tuple[str, ...]):
    assert troubles(storm(tmp_path, small(drill), defects=defects, engine="virtual")) == []
