"""Every notebook runs from its first cell to its last, with small parameters, and shows its figures."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from drills import CATALOG

ROOT = CATALOG.parents[1]
SMALL = {
    "capacity_planning": "FLEETS, WORKERS, REPLICATIONS, ENGINE, LANE = (20, 40), (1, 2), 2, 'virtual', {}",
    "backoff_policies": "CLIENTS, POLICIES, REPLICATIONS, ENGINE, LANE, OUTAGE_S = "
    "20, ('reference', 'sdk'), 2, 'virtual', {}, 1.0",
    "retention_and_replay_budget": "CLIENTS, OUTAGES_S, WINDOWS, EVENTS_PER_S, REPLICATIONS, ENGINE, LANE = "
    "10, (1.0, 4.0), (32, 256), 10.0, 2, 'virtual', {}",
    "token_and_control_plane": "FLEETS, MINTS_PER_S, REPLICATIONS, ENGINE, LANE = (10, 20), (20.0, 50.0), 2, 'virtual', {}",
    "stage_readout": "from pathlib import Path\nRUN = Path('../results/example')",
}
# How many each shows; of those that are not here, two.
FIGURES = {"capacity_planning": 4, "token_and_control_plane": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The notebooks beside what they read, where they may write."""
    root = tmp_path_factory.mktemp("books")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    (root / "results").mkdir()
    (root / "results" / "example").symlink_to(ROOT / "results" / "example")
    (root / "drills").symlink_to(ROOT / "drills")
    return root / "notebooks"


def test_there_is_a_notebook_for_each_question():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs_to_its_end(folder: Path, name: str):
    book = nbformat.read(folder / f"{name}.ipynb", 4)
    (asked,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ()))
    missing = {line.split("=")[0].strip() for line in asked.source.splitlines() if " = " in line}
    assert missing <= set(SMALL[name].replace(",", " ").split()), "a parameter has no small value here"
    asked.source = SMALL[name]
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    assert _figures(book) == FIGURES.get(name, 2)


@pytest.mark.parametrize("name", SMALL)
def test_what_a_notebook_showed_is_kept(name: str):
    book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    assert _figures(book) == FIGURES.get(name, 2)
    assert not [output for cell in book.cells for output in cell.get("outputs", ()) if output.output_type == "error"]


def _figures(book: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for cell in book.cells for output in cell.get("outputs", ()))
