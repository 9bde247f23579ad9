"""Print the results of commands: plain lines, one JSON object, or a table. Slow imports wait until something is printed."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sim.base.errors import StorageError


def lines(*texts: str) -> None:
    """Print each text unchanged, without markup and without added line breaks."""
    from drills.reports.terminal import out

    for text in texts:
        out().print(text, markup=False, soft_wrap=True)


def sentences(*texts: str) -> None:
    """Print each text on lines of its own, folded between words if the terminal is narrower."""
    from drills.reports import terminal

    for text in texts:
        terminal.say(terminal.out(), text)


def cropped(*texts: str) -> None:
    """Print each text on one line, cut at the width of the terminal."""
    from rich.text import Text

    from drills.reports.terminal import out

    for text in texts:
        out().print(Text(text), no_wrap=True, overflow="ellipsis")


def json_object(value: Any) -> None:
    """Print one JSON object on one line."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def plain(value: Any) -> dict[str, Any]:
    """A struct as a table of plain values, for JSON."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(value)
    return found


def table(heads: Iterable[Any], rows: Iterable[Iterable[str]], **style: Any) -> None:
    """Print a table. Column headings are texts or rich columns. Cells are printed unchanged, without markup."""
    from rich.table import Table
    from rich.text import Text

    from drills.reports.terminal import out

    printed = Table(*heads, **style)
    for row in rows:
        printed.add_row(*map(Text, row))
    out().print(printed)


def prepare_operators(folder: Path | None) -> None:
    """Create the folder of the operators' forms before anything runs; None: not asked for. Raises as `operators.prepare`."""
    if folder is not None:
        from drills.rollout.report import operators

        operators.prepare(folder)


def new_folder(folder: Path) -> Path:
    """Create a folder for results. Raises `StorageError`."""
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); give another folder with --out.") from None
    return folder
