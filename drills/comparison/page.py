"""A comparison as one HTML page: the result, the conditions, every metric with its interval, and overlaid curves."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from drills.comparison import words
from drills.comparison.records import ComparedDrill, Comparison, Versus
from drills.comparison.sides import Side
from drills.reports import page
from drills.reports.page import Drawn, Section, Tone
from sim.base.errors import StorageError
from sim.plots import comparison as curves
from sim.plots.svg import svg
from sim.record.history import Floats

_TONES: dict[str, Tone] = {"worse": "bad", "not_worse": "good", "unclear": "doubt", "compared": "plain"}
_STATES = {"worse": "fail", "better": "pass", "not_worse": "pass", "unclear": "inconclusive"}  # whose colours they have
# Samples -> what a curve of them shows.
_CURVES = {
    "live_again_99_s": "Recovery: time from the end of the fault until a client was live again (s)",
    "publish_to_apply": "Delivery: time from the moment an event was due until a client applied it (ms)",
    "bootstrap": "Bootstrap: time from a connect's due time until caught up (ms)",
}


def write(path: Path, found: Comparison, sides: Sequence[Side]) -> None:
    """Write the page. `sides`: the baseline and the others. Raises `StorageError`."""
    try:
        path.write_text(html(found, sides), encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); give --html a file in a folder that exists."
        ) from None


def html(found: Comparison, sides: Sequence[Side]) -> str:
    """The page as HTML."""
    names = labels(sides)
    about = [("baseline", page.code(found.baseline)), ("its verdict", _verdict(sides[0]))]
    for name, side in zip(names[1:], sides[1:], strict=True):
        about += [(name, page.code(str(side.path))), (f"verdict on {name}", _verdict(side))]
    return page.html(
        page.Page(
            title="Comparison of runs",
            headline=words.headline(found).partition(" (")[0],
            tone=_TONES[found.result],
            lines=[words.headline(found).partition(" (")[2].rstrip(")")],
            facts=page.facts(about),
            sections=[*_sections(found, sides, names)],
            footer=f"Made by stormgate {found.tool_version}. The intervals are of 95 % for each metric, not for all together.",
        )
    )


def labels(sides: Sequence[Side]) -> list[str]:
    """Short names of the sides, for curves."""
    return ["baseline", *(f"other {n}" if len(sides) > 2 else "other" for n in range(1, len(sides)))]


def _verdict(side: Side) -> str:
    return words.verdict(side.decision, side.reason)


def _sections(found: Comparison, sides: Sequence[Side], names: Sequence[str]) -> Iterator[Section]:
    for name, other in zip(names[1:], found.others, strict=True):
        if answers := _answers(other):
            yield Section(f"What was asked of {name}", answers)
    for drill in dict.fromkeys(drill.name for other in found.others for drill in other.drills):
        parts: list[page.Text] = [page.figure(drawn) for drawn in _drawn(drill, sides, names)]
        for name, other in zip(names[1:], found.others, strict=True):
            parts += [part for each in other.drills if each.name == drill for part in _drill(each, name)]
        yield Section(drill, page.together(*parts))


def _answers(other: Versus) -> Markup:
    rows = (
        (
            limit.asked,
            limit.drill,
            page.badge(_STATES[limit.answer]),
            limit.answer.replace("_", " "),
            limit.allowed,
            limit.reason,
        )
        for limit in other.limits
    )
    heads = ("asked", "drill", "state", "answer", "allowed", "reason")
    return page.together(page.table(heads, rows), page.listed(words.remarks(other)))


def _drill(drill: ComparedDrill, name: str) -> Iterator[page.Text]:
    yield page.heading(f"{name} against the baseline")
    verdicts = f"verdict {drill.verdict_baseline} on the baseline, {drill.verdict_other} on {name}"
    yield page.paragraph(f"{drill.runs_baseline} and {drill.runs_other} runs; {verdicts}.")
    if drill.reason:
        yield page.paragraph(f"Not comparable: {drill.reason}.")
    yield from (page.paragraph(note, "note") for note in drill.notes)
    conditions = ((each.name, each.baseline, each.other, "yes" if each.blocks else "no") for each in drill.conditions)
    yield page.table(("condition", "baseline", name, "makes it meaningless"), conditions)
    rows = ((*words.cells(each)[:-1], page.badge(each.finding), each.reason) for each in drill.metrics)
    heads = ("metric", *words.HEADS, "why unclear")
    yield page.folded("All metrics", page.table(heads, rows), is_open=True)
    for method in dict.fromkeys(each.method for each in drill.metrics if each.method != "none"):
        yield page.paragraph(f"Interval: {method}.", "note")


def _drawn(drill: str, sides: Sequence[Side], names: Sequence[str]) -> Iterator[Drawn]:
    """The overlaid curves of a drill."""
    for samples, title in _CURVES.items():
        found = {name: _pooled(side, drill, samples) for name, side in zip(names, sides, strict=True)}
        if any(len(values) for values in found.values()):
            counts = ", ".join(f"{name} {len(values)} samples" for name, values in found.items())
            head, _, label = title.partition(": ")
            drawn = svg(curves.shares(found, label), f"{drill}-{samples}")
            yield Drawn(head, f"{title}. Share of samples up to each value, all runs of a side together: {counts}.", drawn)


def _pooled(side: Side, drill: str, name: str) -> Floats:
    runs = side.drills[drill].runs if drill in side.drills else []
    found: Iterable[Floats] = (each.values for run in runs for each in run.samples if each.name == name)
    return np.concatenate([np.zeros(0), *found])
