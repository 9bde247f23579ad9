"""What a check of a stage found: one item each, with what to change."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from sim.base.errors import StormgateError

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
_COLOURS = {"ok": "green", "note": "yellow", "fails": "red"}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One item. `fails`: the stage cannot be a go; `note`: worth knowing. `change`: file and key to change, or what to do."""

    item: str
    state: Literal["ok", "note", "fails"]
    reason: str
    change: str = ""


def ok(item: str, reason: str) -> Finding:
    """An item that will not fail."""
    return Finding(item=item, state="ok", reason=reason)


def note(item: str, reason: str, change: str = "") -> Finding:
    """An item that does not fail, but is worth knowing."""
    return Finding(item=item, state="note", reason=reason, change=change)


def fails(item: str, reason: str, change: str = "") -> Finding:
    """An item that will fail."""
    return Finding(item=item, state="fails", reason=reason.rstrip("."), change=change)


def attempt(found: list[Finding], item: str, work: Callable[[], T], change: str = "") -> T | None:
    """Do something that the stage will do. If it raises a `StormgateError`, add its sentence as a failure, and return None."""
    try:
        return work()
    except StormgateError as error:
        found.append(fails(item, str(error), change))
        return None


def failed(found: Iterable[Finding]) -> list[Finding]:
    """The items that will fail."""
    return [each for each in found if each.state == "fails"]


def show(found: Iterable[Finding], console: "Console") -> None:
    """Print a table: item, state, and what to change."""
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    table = Table("item", "state", Column("what, and what to change", overflow="fold"), box=box.SIMPLE_HEAD, pad_edge=False)
    for each in found:
        words = Text(each.reason + (f"\n-> {each.change}" if each.change else ""))
        table.add_row(Text(each.item), Text(each.state, style=_COLOURS[each.state]), words)
    console.print(table)
