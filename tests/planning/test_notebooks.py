"""Every notebook runs from its first cell to its last, with small parameters, and shows its figures."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from drills import CATALOG
from drills.reports import report
from drills.runs import predictions, results
from sim.calibration import files
from sim.calibration.agreement import Fit, Residual
from sim.calibration.files import About
from sim.calibration.fitting import Estimate
from sim.drill import model as drills
from sim.drill.system_model import SystemModel
from sim.engines.virtual import engine
from tests.planning.plan_files import DRILL

ROOT = CATALOG.parents[1]
SMALL = {
    "capacity_planning": "FLEETS, WORKERS, REPLICATIONS, ENGINE, SERVICE, MODEL = (20, 40), (1, 2), 2, 'virtual', {}, None",
    "backoff_policies": "CLIENTS, POLICIES, REPLICATIONS, ENGINE, SERVICE, OUTAGE_S, MODEL = "
    "20, ('reference', 'sdk'), 2, 'virtual', {}, 1.0, None",
    "retention_and_replay_budget": "CLIENTS, OUTAGES_S, WINDOWS, EVENTS_PER_S, REPLICATIONS, ENGINE, SERVICE, MODEL = "
    "10, (1.0, 4.0), (32, 256), 10.0, 2, 'virtual', {}, None",
    "token_and_control_plane": "FLEETS, MINTS_PER_S, LIMIT_S, REPLICATIONS, ENGINE, SERVICE, MODEL = "
    "(10, 20), (20.0, 50.0), 5.0, 2, 'virtual', {}, None",
    "simulation_vs_reality": "from pathlib import Path\n"
    "CLIENTS, ROUNDS, STORMS, LARGEST, RUNS, WORK = 20, 2, (11,), 12, 2, Path('work')",
    "which_backoff_for_my_service": "RUN, MODEL, CLIENTS, OUTAGE_S, ACCEPT_S, POLICIES, REPLICATIONS, ENGINE = "
    "'../results/example/drills/reconnect_storm', 'work/mock.toml', 20, 1.0, 30.0, ('reference', 'sdk'), 2, 'fleet'",
    "stage_readout": "from pathlib import Path\nRUN = Path('../results/example')",
}
# What each notebook says in words, computed from its own run.
ANSWERS = {
    "capacity_planning": "- **handshake workers 1**: within it at clients 20, 40",
    "backoff_policies": "has the lowest 95 % live again (s)",
    "retention_and_replay_budget": "- **outage (s) 4**: 256 is enough",
    "token_and_control_plane": "- **limit of minted tokens per second 50**: within it at clients 10, 20",
    "simulation_vs_reality": "On average over 2 storms of 12 clients, the prediction of the time until 95 %",
    "which_backoff_for_my_service": "of those that surely bring 95 % back within 30 s, it has the lowest peak.",
    "stage_readout": "checks: ",
}
# Number of figures; two in all other notebooks.
FIGURES = {"capacity_planning": 3, "simulation_vs_reality": 1, "token_and_control_plane": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A writable copy of the notebooks and their inputs; measurements of real sockets are simulated here."""
    root = tmp_path_factory.mktemp("books")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    (root / "results").mkdir()
    (root / "results" / "example").symlink_to(ROOT / "results" / "example")
    (root / "drills").symlink_to(ROOT / "drills")
    _measured(root / "notebooks" / "work")
    return root / "notebooks"


def _measured(work: Path) -> None:
    """A model and three predicted and measured storms, in the files that the notebook reads."""
    work.mkdir()
    (work / "little_storm.toml").write_text(DRILL)
    estimates = {"server.handshake_ms": Estimate(0.5, 0.4, 0.6, 3, "ms", "by hand")}
    told = [Residual("burst_small", "return_95_s", 1.0, 1.1, 0.1, (0.9, 1.0, 1.0, 1.1))]
    said = {"date": "2026-01-01T00:00:00+00:00", "target": "mock", "target_kind": "mock", "method": "by hand"}
    about = About(**said, not_measured=[], estimates=estimates, residuals=told)
    files.write(work / "mock.toml", Fit(SystemModel(), estimates, tuple(told)), about)
    for clients, seed in ((11, 1), (12, 1), (12, 2)):
        drill = drills.load(work / "little_storm.toml", [f"fleet.clients={clients}"])
        run = results.create_run(work, (drill,), engine="virtual", target="embedded mock", target_kind="mock", seed=seed)
        own = results.create_drill_folder(run, drill)
        header = engine.run(drill, engine.Options(own, seed, run_id=run.name))
        predictions.keep(own, header, predictions.predictor(work / "mock.toml", "mock", work).predict(drill, 9, workers=1))
        (work / f"storm-{clients}-{seed}.json").write_bytes(report.summary_json(results.judge_run(run)))


def test_every_notebook_is_tested():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs(folder: Path, name: str):
    book = nbformat.read(folder / f"{name}.ipynb", 4)
    (asked,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ()))
    missing = {line.split("=")[0].strip() for line in asked.source.splitlines() if " = " in line}
    assert missing <= set(SMALL[name].replace(",", " ").split()), "a parameter has no small value here"
    asked.source = SMALL[name]
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    assert _figures(book) == FIGURES.get(name, 2)
    told = _texts(book)
    assert ANSWERS[name] in told
    assert "nan" not in told.split()
    assert "nan.." not in told


@pytest.mark.parametrize("name", SMALL)
def test_notebook_has_stored_figures(name: str):
    book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    assert _figures(book) == FIGURES.get(name, 2)
    assert not [output for cell in book.cells for output in cell.get("outputs", ()) if output.output_type == "error"]


def _texts(book: nbformat.NotebookNode) -> str:
    """What the cells print and show as Markdown or plain text."""
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    shown = (output.get("data", {}) for output in outputs)
    return "\n".join([*(output.get("text", "") for output in outputs), *(data.get("text/markdown", "") for data in shown)])


def _figures(book: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for cell in book.cells for output in cell.get("outputs", ()))
