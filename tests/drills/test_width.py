"""Listings fit a terminal of 80 columns."""

from pathlib import Path

import pytest

from drills.runs import catalog, results
from sim.record.observations import Kind
from tests.commands import stormgate_here
from tests.histories import good_storm, storm_drill

COLUMNS = 80
LISTINGS = (
    *("drill list", "drill show reconnect_storm", "drill show parity", "mock defects", "gates list"),
    *(
        "gates explain replay.bootstrap_ms",
        "target protocols",
        "target servers",
        "--help",
        "drill run --help",
        "stage hold --help",
    ),
)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


@pytest.mark.parametrize("command", LISTINGS)
def test_listing_fits(command: str) -> None:
    said = stormgate_here(*command.split())
    assert said.code == 0
    assert [line for line in said.out.splitlines() if len(line) > COLUMNS] == []


def test_drill_list_has_a_line_per_drill() -> None:
    assert len(stormgate_here("drill", "list").out.splitlines()) == 1 + len(catalog.by_name())


def test_explanations_fit(tmp_path: Path) -> None:
    """Only commands and their options are longer, because people copy them as one line."""
    drill = storm_drill(name="storm")
    run_dir = results.create_run(tmp_path, [drill], engine="sockets", target="mock", target_kind="mock", seed=7)
    lossy = good_storm().without(lambda row: row.kind is Kind.APPLIED and row.client == 3 and row.seq == 5)
    lossy.write(results.create_drill_folder(run_dir, drill), drill)
    lines = stormgate_here("drill", "explain", run_dir).out.splitlines()
    assert len(lines) > 10
    is_command = ("stormgate ", "options ", "all ")
    assert [line for line in lines if len(line) > COLUMNS and not line.strip().startswith(is_command)] == []
