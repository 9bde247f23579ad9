"""Why drills failed, and rows of the record, as text for a terminal."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from drills.judging.explanations import Event, Explanation, where

WIDTH = 80
_LABEL = 10


def lines(name: str, found: Sequence[Explanation], command: str) -> Iterator[str]:
    """The explanations of one drill. `command` prints rows of its record; the options of each event narrow them down."""
    if not found:
        yield f"{name}: nothing failed."
        return
    yield f"{name}: {len(found)} {'failure' if len(found) == 1 else 'failures'}. Print the rows of an event with its options:"
    yield f"  {command} OPTIONS"
    for each in found:
        yield ""
        yield from _wrapped("", f"{each.name}: {each.state}")
        yield from _wrapped("  ", each.reason)
        if each.expected:
            yield from _labelled("expected", each.expected)
        for number, event in enumerate(each.events, 1):
            yield from _event(number, event)
        if each.count < 0:
            yield from _wrapped("  ", "No single events decide it.")
        elif each.query and each.count > 0:
            yield from _labelled("all", each.query, wraps=False)


def _event(number: int, event: Event) -> Iterator[str]:
    yield from _wrapped("  ", f"{number}. {event.t:.3f} s  {', '.join(where(event))}")
    yield from _labelled("seen", event.seen)
    if event.blamed:
        yield from _labelled("blamed", f"{event.blamed}: {event.why}")
    for place, line in enumerate(event.story):
        yield from _labelled("story" if not place else "", line)
    if event.query:
        yield from _labelled("options", event.query, wraps=False)


def _labelled(label: str, text: str, wraps: bool = True) -> Iterator[str]:
    head = "     " + label.ljust(_LABEL)
    if not wraps:  # a command is copied as one line
        yield head + text
        return
    yield from textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False)


def _wrapped(indent: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def table(rows: Iterable[Mapping[str, object]], width: int | None) -> Iterator[str]:
    """Rows of a record in columns: time, kind, client, position, marker, attempt, value, stream and detail.

    The last column takes lines of its own where `width` columns are too few for it. None: there are always enough.
    """
    heads = "         t  kind                client  position    marker  attempt       value"
    yield from _row(heads, "stream and detail", width)
    for row in rows:
        cells = [_cell(row.get(name)) for name in ("client", "position", "marker", "attempt", "value")]
        numbers = f"{cells[0]:>8}{cells[1]:>10}{cells[2]:>10}{cells[3]:>9}{cells[4]:>12}"
        text = "  ".join(str(row[name]) for name in ("stream", "detail") if row.get(name))
        yield from _row(f"{row['t']:>10.3f}  {row['kind']!s:<18}{numbers}", text, width)


def _row(columns: str, text: str, width: int | None) -> Iterator[str]:
    one_line = f"{columns}  {text}".rstrip()
    if width is None or len(one_line) <= width:
        yield one_line
        return
    yield columns.rstrip()
    yield from textwrap.wrap(text, width, initial_indent=" " * 12, subsequent_indent=" " * 12)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
