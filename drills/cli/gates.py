"""`stormgate gates`: what the checks of the gates measure and when they pass. It runs nothing."""

from typing import TYPE_CHECKING, Annotated

import typer

from drills.cli import output
from drills.cli.options import Thresholds

if TYPE_CHECKING:
    from pathlib import Path

    from drills.judging.checks.thresholds import Thresholds as Limits

gates_app = typer.Typer(help="List and explain the checks of the gates.", no_args_is_help=True)


@gates_app.command("list")
def gates_list(thresholds: Thresholds = None) -> None:
    """List all checks with sources and thresholds, and invariants."""
    from rich.table import Column

    from drills.rollout.report import explain_checks

    loaded = _load(thresholds)
    heads = (Column("check", no_wrap=True), "asked of", "sources", "window", "passes")
    output.table(
        heads,
        (explain_checks.summary(name, loaded, of) for name in explain_checks.names() for of in explain_checks.asked_of(name)),
    )
    output.table((Column("invariant", no_wrap=True), "violated when"), explain_checks.invariants())


@gates_app.command("explain")
def gates_explain(
    check: Annotated[
        str, typer.Argument(metavar="CHECK", help="Name of a check or invariant: replay.bootstrap_ms, silent_loss.")
    ],
    thresholds: Thresholds = None,
) -> None:
    """Explain what a check or an invariant means.

    What a check measures and how it decides, or when an invariant is violated.
    """
    from rich.table import Column

    from drills.rollout.report import explain_checks

    rows: list[tuple[str, str]] = []
    for heading, text in explain_checks.lines(check, _load(thresholds)):
        if not heading and rows:
            rows.append(("", ""))
        rows.append((heading or "check", text))
    heads = (Column(no_wrap=True, style="bold"), Column(overflow="fold"))
    output.table(heads, rows, show_header=False, box=None, padding=(0, 2, 0, 0))


def _load(path: "Path | None") -> "Limits":
    from drills.judging import gates
    from drills.judging.checks import thresholds

    return gates.load_thresholds(path or thresholds.DEFAULT_PATH)
