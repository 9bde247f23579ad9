"""Templates of requests, such as `/rooms/{stream}/events`, and JSON pointers (RFC 6901) into answers.

Two additions to RFC 6901: the pointer `none` means "not in the answer", and in a list, the step `key={key}` means the first
member whose `key` has that value.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from sim.base.errors import UsageError

Pointer = Annotated[str, msgspec.Meta(pattern=r"^(none|(/[^\n]*)?)$")]  # the empty pointer is the whole answer
NOWHERE = "none"
SECRET_PREFIX = "env:"
_NAME = re.compile(r"\{((?:env:)?[A-Za-z_][A-Za-z0-9_]*)\}")
_MAX_POINTER_STEPS = 32


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
    """Return the value at a pointer; None if there is none. `values` are those of names in the pointer."""
    if pointer == NOWHERE:
        return None
    for step in pointer.split("/", _MAX_POINTER_STEPS)[1:]:
        step = text(step.replace("~1", "/").replace("~0", "~"), values or {})
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list):
            document = _member(document, step)
        else:
            return None
    return document


def _member(members: list[Any], step: str) -> Any:
    key, has_value, value = step.partition("=")
    if has_value:
        return next((each for each in members if isinstance(each, dict) and each.get(key) == value), None)
    return members[int(step)] if step.isascii() and step.isdigit() and int(step) < len(members) else None


def _parts(template: object) -> Iterable[object]:
    if isinstance(template, dict):
        return template.values()
    return template if isinstance(template, list | tuple) else ()


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()
