"""The frame of every HTML report: one file that opens offline, in light and dark, on a phone and on paper.

A report is a `Page` of sections. The functions below make the parts of a section. They return `Markup` and escape every text
that is not `Markup` itself, so no name or reason of a server becomes HTML. No part uses a script or another file; links go to
files beside the page.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from markupsafe import Markup, escape

from drills.reports.report import environment

NAME = "report.html"  # of the page in a run's or a sweep's folder
HOW_DECIDED = (
    "Bounds are one-sided, with 95 % confidence each. The bound decides a check, not the value. Only a pass counts as a pass."
)
Tone = Literal["good", "bad", "doubt", "plain"]
Text = str | Markup
_NUMBER = re.compile(r"$|never|[-+]?[\d.]|-$|[<>]=? ")  # begin of a cell with a number
_SENTENCE = 60  # characters from which a cell needs a wide column
_EMPTY = Markup()


@dataclass(frozen=True)
class Drawn:
    """One figure. `says` is its caption and text alternative, `svg` comes from `sim.plots.svg`."""

    title: str
    says: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A heading and what follows it. Links reach it by its `anchor`."""

    title: Text
    content: Markup
    anchor: str = ""


@dataclass(frozen=True)
class Page:
    """A report. `lines` stand in the box of the headline, `facts` below it."""

    title: str
    headline: str
    tone: Tone
    lines: Sequence[Text]
    facts: Markup
    sections: Sequence[Section]
    footer: Text


def html(page: Page) -> str:
    """The page as one HTML file."""
    return environment({}, is_html=True).get_template("page.html.j2").render(page=page)


def tone(decision: str, reason: str) -> Tone:
    """The colour of a decision: `go`, or `no_go` with its reason."""
    return "good" if decision == "go" else "bad" if reason in ("breach", "error") else "doubt"


# --- parts ------------------------------------------------------------------------------------------


def together(*parts: Text) -> Markup:
    """The parts one after the other."""
    return Markup("\n").join(part for part in parts if part)


def paragraph(text: Text, kind: str = "") -> Markup:
    """A paragraph; `kind` note is less prominent."""
    return Markup('<p class="{}">{}</p>').format(kind, text) if kind else Markup("<p>{}</p>").format(text)


def heading(text: Text) -> Markup:
    """A heading below that of a section."""
    return Markup("<h3>{}</h3>").format(text)


def listed(items: Iterable[Text], numbered: bool = False) -> Markup:
    """A list; empty without items."""
    lines = Markup("\n").join(Markup("<li>{}</li>").format(item) for item in items)
    kind = Markup("ol") if numbered else Markup("ul")
    return Markup("<{0}>{1}</{0}>").format(kind, lines) if lines else _EMPTY


def code(text: str) -> Markup:
    """A command, a name or a hash."""
    return Markup("<code>{}</code>").format(text) if text else _EMPTY


def output(text: str) -> Markup:
    """The output of a command, or several lines."""
    return Markup("<pre>{}</pre>").format(text)


def badge(state: str) -> Markup:
    """The state of a check, in its colour."""
    return Markup('<span class="state {}">{}</span>').format(state, state.replace("_", " "))


def link(path: str, text: Text | None = None) -> Markup:
    """A link to a file beside the page; `path` is relative to the page's folder."""
    return Markup('<a href="{}">{}</a>').format(quote(path, safe="/"), code(path) if text is None else text)


def jump(anchor: str, text: Text) -> Markup:
    """A link to a section of the page."""
    return Markup('<a href="#{}">{}</a>').format(quote(anchor, safe=""), text)


def facts(pairs: Iterable[tuple[str, Text]]) -> Markup:
    """Names and values, as many side by side as fit; without those that are empty."""
    lines = [Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, value) for name, value in pairs if value]
    return Markup("<dl>\n{}\n</dl>\n").format(Markup("\n").join(lines))


def table(heads: Sequence[str], rows: Iterable[Sequence[Text]]) -> Markup:
    """A table; the first cell of a row is its heading. Empty without rows.

    Columns of numbers are aligned to the right, and columns with sentences are wide. On a phone each row becomes a block.
    """
    lines = list(rows)
    if not lines:
        return _EMPTY
    kinds = [_kind(column) for column in zip(*lines, strict=True)]
    body = Markup("\n").join(_row(heads, kinds, row) for row in lines)
    head = _EMPTY.join(
        Markup('<th scope="col" class="{}">{}</th>').format(kind, name) for kind, name in zip(kinds, heads, strict=True)
    )
    return Markup("<table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table>").format(head, body)


def _kind(column: Sequence[Text]) -> str:
    """The style of a column, by its cells."""
    if all(not isinstance(cell, Markup) and _NUMBER.match(cell) for cell in column):
        return "number"
    return "long" if any(len(cell) >= _SENTENCE and " " in cell for cell in column) else ""


def _row(heads: Sequence[str], kinds: Sequence[str], cells: Sequence[Text]) -> Markup:
    first, *others = zip(heads, kinds, cells, strict=True)
    named = Markup('<th scope="row" class="{1}" data-head="{0}"><span class="cell">{2}</span></th>').format(*first)
    rest = (Markup('<td class="{1}" data-head="{0}"><span class="cell">{2}</span></td>').format(*each) for each in others)
    return Markup("<tr>{}{}</tr>").format(named, _EMPTY.join(rest))


def card(title: Text, *parts: Text, tone: Tone = "plain") -> Markup:
    """A box with a heading."""
    return Markup('<div class="card {}">{}\n{}</div>').format(tone, heading(title), together(*parts))


def cards(each: Iterable[Markup]) -> Markup:
    """Boxes, as many side by side as fit."""
    return Markup('<div class="cards">\n{}\n</div>').format(together(*each))


def folded(summary: Text, *parts: Text, is_open: bool = False) -> Markup:
    """Parts that a reader can open. On paper they are open."""
    start = Markup("<details open>") if is_open else Markup("<details>")
    return Markup("{}<summary>{}</summary>\n{}</details>").format(start, summary, together(*parts))


def figure(drawn: Drawn) -> Markup:
    """A figure with its caption; it scrolls sideways where it would become too small to read."""
    return Markup(
        '<figure>{}<div class="drawn" tabindex="0" role="group" aria-label="{}"><div role="img" aria-label="{}">{}</div></div>'
        "<figcaption>{}</figcaption></figure>"
    ).format(heading(drawn.title), drawn.title, drawn.says, Markup(drawn.svg), escape(drawn.says))
