"""Figures as SVG for a page. They use the page's colours, so that they fit its light and its dark style.

Each colour of `sim.plots.style` becomes a variable of the page's style. Text stays text. The same figure gives the same bytes.
"""

import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

from sim.plots.style import BLACK, BLUE, GREEN, GREY, GRID, ORANGE, PAPER, PURPLE, RED, SKY

_VARIABLES = {
    BLACK: "--ink",
    GREY: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    RED: "--bad",
    BLUE: "--series-1",
    ORANGE: "--series-2",
    GREEN: "--series-3",
    PURPLE: "--series-4",
    SKY: "--series-5",
}
_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element. `name` differs between the figures of one page, so that their ids differ."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata=_METADATA)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = re.sub(re.escape(colour), f"var({variable})", text, flags=re.IGNORECASE)
    text = re.sub(r'^<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="presentation">', text, count=1)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return _without_unused_ids(text).strip()


def _without_unused_ids(text: str) -> str:
    """Remove the ids to which nothing refers: they are the same in all figures, and ids of a page must differ."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    return re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
