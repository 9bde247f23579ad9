"""`stormgate gates`: what the checks are, without running anything."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from drills.judging.checks.thresholds import Thresholds as Limits

gates_app = typer.Typer(help="What the gates' checks measure, and when they pass.", no_args_is_help=True)
Thresholds = Annotated[Path | None, typer.Option(help="Show this file's thresholds instead of the default ones.")]


@gates_app.command("list")
def gates_list(thresholds: Thresholds = None) -> None:
    """Show all checks, of drills and of stages' windows: whom they ask, in which order, and what they allow."""
    from rich.table import Table

    from drills.reports.terminal import out
    from drills.rollout.report import explain

    loaded = _load(thresholds)
    table = Table("check", "asked of", "origins", "window", "passes")
    table.columns[0].no_wrap = True
    for name in explain.names():
        for of, check in explain.asked_of(name).items():
            limit = loaded.get(name) if check.takes_threshold else None
            passes = f"{limit.comparator} {limit.threshold:g} {limit.unit}" if limit else "a law"
            table.add_row(name, of, ", ".join(explain.origins(check)), check.window, passes)
    out().print(table)


@gates_app.command("explain")
def gates_explain(
    check: Annotated[str, typer.Argument(metavar="CHECK", help="Its full name, such as replay.bootstrap_ms.")],
    thresholds: Thresholds = None,
) -> None:
    """Say of one check what it measures, from where, over which window, how it decides, and what happens without data."""
    from rich.table import Table
    from rich.text import Text

    from drills.reports.terminal import out
    from drills.rollout.report import explain

    told = list(explain.lines(check, _load(thresholds)))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for number, (heading, text) in enumerate(told):
        if not heading and number:
            table.add_row("", "")
        table.add_row(heading or "check", Text(text))  # as it stands: [ours] is no style
    out().print(table)


def _load(path: Path | None) -> "Limits":
    from drills.judging import gates
    from drills.judging.checks import thresholds

    return gates.load_thresholds(path or thresholds.DEFAULT_PATH)
