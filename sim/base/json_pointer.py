"""JSON pointers (RFC 6901): where a value stands in decoded JSON.

One addition: in a list, the step `key=value` is the first member whose `key` has that value.
"""

from typing import Any


def find(value: Any, pointer: str) -> Any:
    """Return the value at `pointer`; raises `LookupError` if it has no such value. The empty pointer is the whole value."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value[key]
        elif isinstance(value, list):
            value = _member(value, key)
        else:
            raise LookupError(f"{pointer}: no value {key!r}")
    return value


def _member(members: list[Any], step: str) -> Any:
    key, has_value, wanted = step.partition("=")
    if has_value:
        found = [each for each in members if isinstance(each, dict) and each.get(key) == wanted]
        return found[0]
    if step.isascii() and step.isdigit():
        return members[int(step)]
    raise LookupError(f"no member {step!r} in a list")
