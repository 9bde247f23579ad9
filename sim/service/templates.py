"""Templates of requests, such as `/rooms/{stream}/events`, and pointers into answers.

A pointer is one of `sim.base.json_pointer`, possibly with names as in `/events/key={key}/seq`. The pointer `none` means that
the answer does not have the value.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from sim.base import json_pointer
from sim.base.errors import UsageError

Pointer = Annotated[str, msgspec.Meta(pattern=r"^(none|(/[^\n]*)?)$")]  # the empty pointer is the whole answer
NOWHERE = "none"
SECRET_PREFIX = "env:"
_NAME = re.compile(r"\{((?:env:)?[A-Za-z_][A-Za-z0-9_]*)\}")


def names_in(template: object) -> Iterator[str]:
    """Yield the names in a template: a text, or tables and lists of texts."""
    if isinstance(template, str):
        yield from _NAME.findall(template)
    else:
        for part in _parts(template):
            yield from names_in(part)


def check(template: object, known: Iterable[str], where: str) -> None:
    """Raise `UsageError` for a name that is neither known nor an environment variable (`env:NAME`)."""
    for name in names_in(template):
        if not name.startswith(SECRET_PREFIX) and name not in known:
            raise UsageError(
                f"{where} has the unknown name {{{name}}}; known here: "
                f"{', '.join(f'{{{each}}}' for each in sorted(known))}, and {{env:NAME}} for an environment variable."
            )


def render(template: Any, values: Mapping[str, object]) -> Any:
    """Return a template's JSON value. A text that is only one name becomes its value; if that is None, its key is left out."""
    if isinstance(template, str):
        only = _NAME.fullmatch(template)
        return values[only[1]] if only else text(template, values)
    if isinstance(template, dict):
        rendered = {key: render(part, values) for key, part in template.items()}
        return {key: value for key, value in rendered.items() if value is not None}
    return [render(part, values) for part in template] if isinstance(template, list) else template


def text(template: str, values: Mapping[str, object]) -> str:
    """Return a template's text. Values that are no texts are written as JSON."""
    return _NAME.sub(lambda name: _shown(values[name[1]]), template)


def path(template: str, values: Mapping[str, object]) -> str:
    """Return a template's path and query; the values are percent-encoded."""
    return _NAME.sub(lambda name: quote(_shown(values[name[1]]), safe=""), template)


def find(document: Any, pointer: str, values: Mapping[str, object] | None = None) -> Any:
    """Return the value at a pointer; None without one. `values` are those of names in the pointer."""
    try:
        return None if pointer == NOWHERE else json_pointer.find(document, text(pointer, values) if values else pointer)
    except LookupError:
        return None


def _parts(template: object) -> Iterable[object]:
    if isinstance(template, dict):
        return template.values()
    return template if isinstance(template, list | tuple) else ()


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()
