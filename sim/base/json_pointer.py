"""JSON pointers (RFC 6901): where a value stands in decoded JSON."""

from typing import Any


def find(value: Any, pointer: str) -> Any:
    """Return the value at `pointer`; raises `LookupError` if there is none. The empty pointer is the whole value."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value[key]
        elif isinstance(value, list) and key.isascii() and key.isdigit():
            value = value[int(key)]
        else:
            raise LookupError(f"{pointer}: no value {key!r}")
    return value
