"""Style of all figures: Okabe and Ito's colours, which stay distinct with the common colour blindnesses, and plain axes.

Lines differ by dash and marker as well as by colour.
"""

import io
import textwrap

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
GRID, PAPER = "#dddddd", "#ffffff"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK)
"""Colours of lines beside marks in RED and GREY."""
LINES = (
    (BLUE, "-", "o"),
    (RED, "--", "s"),
    (GREEN, "-.", "^"),
    (ORANGE, ":", "D"),
    (PURPLE, (0, (5, 1)), "v"),
    (SKY, (0, (3, 1, 1, 1)), "P"),
    (BLACK, (0, (1, 1)), "X"),
    (GREY, (0, (7, 3)), "*"),
)
"""Colour, dash and marker of each line; a figure has at most this many lines."""
_INCONCLUSIVE = (ORANGE, "?", "D", "inconclusive")
STATES = {
    "pass": (GREEN, "P", "o", "pass"),
    "fail": (RED, "F", "X", "fail"),
    "error": (BLACK, "E", "s", "error"),
    **dict.fromkeys(("inconclusive", "no_data", "not_run"), _INCONCLUSIVE),
}
"""Colour, letter, marker and label of each state of a gate."""
STATES_LEGEND = "P pass, F fail, E error, ? inconclusive"


class ShownFigure(Figure):
    """A figure that notebooks display without Matplotlib's global state, so threads may draw."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def figure(title: str, width: float = 9.0, height: float = 5.0) -> ShownFigure:
    """An empty figure with a title, each of whose lines is wrapped as necessary; sizes in inches."""
    made = ShownFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    lines = [textwrap.fill(line, max(int(9 * width), 24)) for line in title.splitlines()]
    made.suptitle(literal("\n".join(lines)), x=0.01, ha="left", fontsize=12, fontweight="bold")
    return made


def literal(text: str) -> str:
    """Text of others for a figure, without Matplotlib's formulas in dollar signs."""
    return text.replace("$", r"\$")


def quiet(axes: Axes, grid: str = "y") -> None:
    """Remove the upper and right spine, and draw a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=GRID, linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def limit_line(axes: Axes, value: float, name: str) -> None:
    """A dashed horizontal line for a limit, with its name."""
    axes.axhline(value, color=BLACK, linewidth=1.0, linestyle=(0, (6, 4)))
    place = axes.get_yaxis_transform()
    axes.text(0.995, value, f"{name} {value:g}", transform=place, fontsize=8, ha="right", va="bottom", color=BLACK)


def plain(axis: Axis) -> None:
    """Format ticks as plain numbers, on logarithmic axes as well."""
    axis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
