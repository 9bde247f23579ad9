"""What people read of a sweep or a search: SUMMARY.md with figures beside it, from the kept rows alone.

`plan sweep` and `plan find` end with it, and `plan report` does it again.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from drills.planning import figures as plan_figures
from drills.planning import search, sweeps
from drills.planning.search import Searched
from drills.planning.sweeps import Swept
from drills.reports.report import number
from drills.runs.request import SIMULATED as ENGINES_SAY
from sim.planning.sweeps import Sweep

SUMMARY_NAME = "SUMMARY.md"


def read(folder: Path) -> Swept | Searched:
    """The complete sweep or search of a folder. Raises `UsageError`, and `EvidenceError` for what is not whole."""
    plan, _ = sweeps.read_kept(folder)
    is_sweep = (folder / sweeps.TABLE_NAME).exists() or not (folder / sweeps.FOUND_NAME).exists()
    return sweeps.read(folder) if is_sweep and plan.sweep.parameters else search.read(folder)


def again(folder: Path) -> Swept | Searched:
    """Write everything but the rows again. Raises as `read` does, and `StorageError`."""
    done = read(folder)
    mark = sweeps.take(folder)
    try:
        sweeps.write_tables(done) if isinstance(done, Swept) else search.write_found(done)
        write(done)
    finally:
        mark.remove()
    return done


def write(done: Swept | Searched) -> list[Path]:
    """`SUMMARY.md` and the figures, instead of those that are there; returns them. Raises `StorageError`."""
    figures = plan_figures.of_sweep(done) if isinstance(done, Swept) else plan_figures.of_search(done)
    paths = {done.folder / f"{plan_figures.PREFIX}{name}.png": figure for name, figure in figures.items()}
    for stale in set(done.folder.glob(f"{plan_figures.PREFIX}*.png")) - set(paths):
        stale.unlink(missing_ok=True)
    for path, figure in paths.items():
        sweeps.write(path, partial(figure.savefig, format="png", dpi=120))
    said = sweep_words(done) if isinstance(done, Swept) else search_words(done)
    text = "\n\n".join([*said, *(f"![{path.stem}]({path.name})" for path in paths)]) + "\n"
    summary = done.folder / SUMMARY_NAME
    sweeps.write(summary, lambda path: path.write_text(text, encoding="utf-8"))
    return [summary, *paths]


# --- a sweep's words --------------------------------------------------------------------------------


def sweep_words(swept: Swept) -> list[str]:
    """The paragraphs of a sweep's summary."""
    sweep = swept.plan.sweep
    return [
        *_head(sweep),
        f"Drill `{sweep.drill}` by the engine {sweep.engine}: {len(swept.points)} points ({sweep.design}), each under the "
        f"{sweep.replications} seeds from {sweep.seed} on. {ENGINES_SAY[sweep.engine]} "
        "Behind each mean stands its 95 % interval over replications (Student's t).",
        _table(*lines(swept)),
        *_troubles(swept),
    ]


def lines(swept: Swept, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """A table for people: the heads, and a line a point; a brief one has room for half an interval's width only."""
    keys, words = list(swept.points[0].values), plan_figures.headlines(swept.table)
    names = list(words)
    told = _told(swept.table, names, _briefly if brief else _estimate)
    body = [
        [
            *(str(point.values[key]) for key in keys),
            str(swept.verdicts[point.number].status),
            *(told.get((point.number, name), "-") for name in names),
        ]
        for point in swept.points
    ]
    return [*keys, "gates", *words.values()], body


def _told(table: pd.DataFrame, names: Sequence[str], say: Callable[["pd.Series[Any]"], str]) -> dict[tuple[int, str], str]:
    """Measures in words, by the point's number and their names."""
    wanted = table[table["measure"].isin(names)]
    return {(int(row["point"]), str(row["measure"])): say(row) for _, row in wanted.iterrows()}


def _estimate(row: "pd.Series[Any]") -> str:
    """A mean with its interval, and how many runs had no value."""
    mean, lower, upper = (float(row[name]) for name in ("mean", "lower", "upper"))
    interval = f" ({number(lower)}..{number(upper)})" if math.isfinite(lower) else ""
    return f"{number(mean)}{interval}" + (f" without {int(row['missing'])} runs" if row["missing"] else "")


def _briefly(row: "pd.Series[Any]") -> str:
    width = float(row["upper"] - row["mean"])
    return f"{number(float(row['mean']))}{f' ±{width:.2g}' if math.isfinite(width) else ''}" if row["n"] else "none"


def _troubles(swept: Swept) -> list[str]:
    """Points with runs that never ended, in sentences."""
    troubled = {number: [row.trouble for row in rows if row.trouble] for number, rows in swept.rows.items()}
    return [f"Point {number}: {len(why)} runs have no measures: {why[0]}" for number, why in troubled.items() if why]


# --- a search's words -------------------------------------------------------------------------------


def search_words(searched: Searched) -> list[str]:
    """The paragraphs of a search's summary."""
    sweep, words = searched.plan.sweep, plan_figures.headlines(searched.table)
    names = list(words)
    told = _told(searched.table, names, _estimate)
    body = [[*line, *(told.get((number, name), "-") for name in names)] for number, line in enumerate(search.lines(searched))]
    return [
        *_head(sweep),
        f"**{searched.sentence}**",
        f"{searched.confidence} Drill `{sweep.drill}` by the engine {sweep.engine}, under seeds from {sweep.seed} on. "
        f"{ENGINES_SAY[sweep.engine]} Behind each mean stands its 95 % interval over replications (Student's t).",
        _table([searched.find.key, "gates", "replications", "why", *words.values()], body),
    ]


def _head(sweep: Sweep) -> list[str]:
    return [f"# {sweep.name}", sweep.question]


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in (heads, ["---"] * len(heads), *body))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
