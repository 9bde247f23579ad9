"""The report of a sweep or a search: SUMMARY.md and report.html with figures, written from the stored rows alone.

`plan sweep` and `plan find` write it at their end; `plan report` writes it again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from drills.planning import answers, search, sweeps
from drills.planning import figures as plan_figures
from drills.planning.answers import Answer
from drills.planning.search import Searched
from drills.planning.sweeps import Swept
from drills.reports import page
from drills.reports.report import cell, number
from drills.runs.request import SIMULATED as ENGINES_SAY
from sim.base.atomic_files import write_whole
from sim.planning import bottlenecks
from sim.planning.sweep_file import Sweep
from sim.plots.svg import svg

SUMMARY_NAME = "SUMMARY.md"
_TONES: Mapping[str, page.Tone] = {"": "plain", "green": "good", "red": "bad", "inconclusive": "doubt"}
_FILES = (".json", ".jsonl", ".md", ".parquet", ".png", ".toml")
_STATIONS = (
    "After the first fault, means over the runs of each point. A station is full while at least 95 % of its workers are busy; "
    "stations.parquet has each one over time."
)
_INTERVALS = "Each mean has its 95 % interval over replications (Student's t)."


def read(folder: Path) -> Swept | Searched:
    """The complete sweep or search of a folder. Raises `UsageError`, and `EvidenceError` for missing or damaged files."""
    plan, _ = sweeps.read_kept(folder)
    is_sweep = (folder / sweeps.TABLE_NAME).exists() or not (folder / sweeps.FOUND_NAME).exists()
    return sweeps.read(folder) if is_sweep and plan.sweep.parameters else search.read(folder)


def again(folder: Path) -> Swept | Searched:
    """Write everything except the rows again. Raises like `read`, and `StorageError`."""
    done = read(folder)
    mark = sweeps.lock(folder)
    try:
        sweeps.write_tables(done) if isinstance(done, Swept) else search.write_found(done)
        write(done)
    finally:
        mark.remove()
    return done


def write(done: Swept | Searched) -> list[Path]:
    """Write `SUMMARY.md`, `report.html` and the figures, and remove old figures; returns the paths. Raises `StorageError`."""
    figures = plan_figures.of_sweep(done) if isinstance(done, Swept) else plan_figures.of_search(done)
    paths = {done.folder / f"{plan_figures.PREFIX}{name}.png": figure for name, figure in figures.items()}
    for stale in set(done.folder.glob(f"{plan_figures.PREFIX}*.png")) - set(paths):
        stale.unlink(missing_ok=True)
    for path, figure in paths.items():
        sweeps.write(path, partial(figure.savefig, format="png", dpi=120))
    paragraphs = sweep_paragraphs(done) if isinstance(done, Swept) else search_paragraphs(done)
    text = "\n\n".join([*paragraphs, *(f"![{path.stem}]({path.name})" for path in paths)]) + "\n"
    summary, shown = done.folder / SUMMARY_NAME, done.folder / page.NAME
    write_whole(summary, text.encode())
    write_whole(shown, html(done, figures).encode())
    return [summary, shown, *paths]


def html(done: Swept | Searched, figures: Mapping[str, Figure]) -> str:
    """`report.html`: the answer, the figures and the table of a sweep or a search, in one file."""
    sweep = done.plan.sweep
    if isinstance(done, Swept):
        tone, what = _TONES[""], "Points"
        heads, body = lines(done)
    else:
        tone = _TONES.get(done.found.outcome, _TONES["inconclusive"])
        what = "Tried values"
        heads, body = _searched_table(done)
    place = heads.index("gates")
    rows = [[*line[:place], page.badge(line[place]), *line[place + 1 :]] for line in body]
    drawn = (
        page.Drawn(name.replace("-", " "), f"{name.replace('-', ' ')} of {sweep.name}. {sweep.question}", svg(figure, name))
        for name, figure in figures.items()
    )
    about = (
        *(("Drill", sweep.drill), ("Engine", sweep.engine), ("Replications", str(sweep.replications))),
        ("First seed", str(sweep.seed)),
    )
    files = [page.link(path.name) for path in sorted(done.folder.iterdir()) if path.suffix in _FILES]
    errors = [page.paragraph(error, "note") for error in (_errors(done) if isinstance(done, Swept) else ())]
    return page.html(
        page.Page(
            title=f"{sweep.name}: {sweep.question}",
            headline=sweep.name,
            tone=tone,
            lines=(sweep.question, *answer(done).paragraphs),
            facts=page.together(page.facts(about), page.paragraph(ENGINES_SAY[sweep.engine], "note")),
            sections=(
                page.Section("Figures", page.together(*map(page.figure, drawn))),
                page.Section(what, page.together(page.table(heads, rows), *errors)),
                page.Section("Bottlenecks", page.together(page.paragraph(_STATIONS, "note"), page.table(*stations(done)))),
                page.Section("Files", page.listed(files)),
            ),
            footer=f"{_INTERVALS} To write this report again, run stormgate plan report with its folder.",
        )
    )


def answer(done: Swept | Searched) -> Answer:
    """The answer in words."""
    if isinstance(done, Swept):
        return answers.of_sweep(done, plan_figures.headlines(done.table))
    return answers.of_search(done)


def stations(done: Swept | Searched) -> tuple[list[str], list[list[str]]]:
    """A table as text: how each queue of the service was used at each point, the most limiting first."""
    keys = list(done.points[0].values)
    rows = done.rows if isinstance(done, Swept) else dict(enumerate(done.rows))
    body = [
        [*(search.shown(point.values[key]) for key in keys), *_used(use)]
        for point in done.points
        for use in bottlenecks.uses(rows[point.number])
    ]
    return [*keys, *_STATION_HEADS], body


_STATION_HEADS = ("station", "workers", "busy, mean", "busiest", "full (s)", "most waiting", "queue full")


def _used(use: bottlenecks.Use) -> list[str]:
    shares = (f"{use.busy:.0%}", f"{use.busiest:.0%}", number(use.full_s))
    full = f"{use.refused:,.0f} times (places: {use.places:,})" if use.places else "-"
    return [use.name, str(use.workers), *shares, f"{use.max_waiting:,.1f}", full]


def sweep_paragraphs(swept: Swept) -> list[str]:
    """The paragraphs of a sweep's summary."""
    sweep = swept.plan.sweep
    return [
        *_head(sweep),
        f"Drill `{sweep.drill}` on the {sweep.engine} engine: {len(swept.points)} points ({sweep.design}), "
        f"{sweep.replications} replications per point, first seed {sweep.seed}. {ENGINES_SAY[sweep.engine]} {_INTERVALS}",
        *_answered(swept),
        _table(*lines(swept)),
        *_errors(swept),
        *_bottlenecks(swept),
    ]


def lines(swept: Swept, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """A table as text: headings, and a line per point. A brief table shows the half-width of each interval."""
    keys, words = list(swept.points[0].values), plan_figures.headlines(swept.table)
    names = list(words)
    cells = _cells(swept.table, names, _briefly if brief else _estimate)
    body = [
        [
            *(str(point.values[key]) for key in keys),
            str(swept.verdicts[point.number].status),
            *(cells.get((point.number, name), "-") for name in names),
        ]
        for point in swept.points
    ]
    return [*keys, "gates", *words.values()], body


def _cells(table: pd.DataFrame, names: Sequence[str], say: Callable[["pd.Series[Any]"], str]) -> dict[tuple[int, str], str]:
    """The metrics as text, by the number of the point and the name."""
    wanted = table[table["metric"].isin(names)]
    return {(int(row["point"]), str(row["metric"])): say(row) for _, row in wanted.iterrows()}


def _estimate(row: "pd.Series[Any]") -> str:
    """A mean with its interval, and the number of runs without a value."""
    mean, lower, upper = (float(row[name]) for name in ("mean", "lower", "upper"))
    interval = f" ({number(lower)}..{number(upper)})" if math.isfinite(lower) else ""
    return f"{number(mean)}{interval}" + (f" without {int(row['missing'])} runs" if row["missing"] else "")


def _briefly(row: "pd.Series[Any]") -> str:
    width = float(row["upper"] - row["mean"])
    return f"{number(float(row['mean']))}{f' ±{width:.2g}' if math.isfinite(width) else ''}" if row["n"] else "none"


def _errors(swept: Swept) -> list[str]:
    """A sentence per point that has runs with errors."""
    errors = {number: [row.error for row in rows if row.error] for number, rows in swept.rows.items()}
    return [f"Point {number}: {len(why)} runs have no metrics: {why[0]}" for number, why in errors.items() if why]


def search_paragraphs(searched: Searched) -> list[str]:
    """The paragraphs of a search's summary."""
    sweep = searched.plan.sweep
    return [
        *_head(sweep),
        *_answered(searched),
        f"Drill `{sweep.drill}` on the {sweep.engine} engine, first seed {sweep.seed}. "
        f"{ENGINES_SAY[sweep.engine]} {_INTERVALS}",
        _table(*_searched_table(searched)),
        *_bottlenecks(searched),
    ]


def _answered(done: Swept | Searched) -> list[str]:
    """The answer, with the names of its parts in bold."""
    parts = (text.split(":", 1) for text in answer(done).paragraphs)
    return [f"**{name}:**{text}" for name, text in parts]


def _bottlenecks(done: Swept | Searched) -> list[str]:
    return ["## Bottlenecks", _STATIONS, _table(*stations(done))]


def _searched_table(searched: Searched) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line per tried value."""
    words = plan_figures.headlines(searched.table)
    cells = _cells(searched.table, list(words), _estimate)
    body = [[*line, *(cells.get((number, name), "-") for name in words)] for number, line in enumerate(search.lines(searched))]
    return [searched.find.key, "gates", "replications", "why", *words.values()], body


def _head(sweep: Sweep) -> list[str]:
    return [f"# {sweep.name}", sweep.question]


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in (heads, ["---"] * len(heads), *body))
