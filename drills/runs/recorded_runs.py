"""The recorded runs in a folder: the only run of each drill, its replications or its variants."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drills.runs import results
from drills.runs.run_files import DRILL_NAME, PLAN_NAME, read_plan, recorded
from sim.base.errors import UsageError
from sim.drill.model import Drill
from sim.record.history import History
from sim.record.parquet import FILE_NAME


@dataclass(frozen=True)
class RecordedRun:
    """One run of one drill, read from its files."""

    name: str  # of the drill; for one of several runs also its seed or its variant
    folder: Path
    drill: Drill
    history: History


def runs_in(folder: Path, drill: str | None = None) -> Iterator[RecordedRun]:
    """Read the runs of a run's folder one by one, or the single run of a drill's folder. `drill` selects by name.

    Raises `UsageError` if nothing was recorded there, and `EvidenceError` for evidence that is incomplete or changed.
    """
    yield from (read(name, path) for name, path in folders_in(folder, drill))


def folders_in(folder: Path, drill: str | None = None) -> list[tuple[str, Path]]:
    """The name and the folder of each run, as `runs_in` reads them. Raises `UsageError` without any."""
    found = list(_folders(folder))
    chosen = [(name, path) for name, path in found if drill is None or drill in (name, name.split(":")[0])]
    if not found:
        raise UsageError(f"{folder}: no drill was recorded here. Give the folder of a run, such as results/<run id>.")
    if not chosen:
        names = ", ".join(name for name, _ in found)
        raise UsageError(f"{folder}: has no drill {drill!r}. It has {names}.")
    return chosen


def read(name: str, folder: Path) -> RecordedRun:
    """Read one run of `folders_in`. Raises `EvidenceError` for evidence that is incomplete or changed."""
    return RecordedRun(name, folder, *recorded(folder, results.folder_of_drill(folder)))


def is_replication(folder: Path) -> bool:
    """Whether a run's folder is that of one of several replications."""
    return folder.parent.name == results.REPLICATIONS


def _folders(folder: Path) -> Iterator[tuple[str, Path]]:
    """The name and the folder of each run."""
    if (folder / FILE_NAME).exists() and (folder / DRILL_NAME).exists():
        yield folder.name, folder
        return
    if not (folder / PLAN_NAME).exists():
        return
    plan = read_plan(folder)
    for planned in plan.drills:
        if not planned.not_run and results.drill_folder(folder, planned.name).is_dir():
            yield from results.run_folders(folder, plan, planned)
