"""Files that are written whole or not at all, and read as typed values."""

from pathlib import Path
from typing import TypeVar

import msgspec

from sim.base import bounded_reads
from sim.base.errors import EvidenceError, StorageError

T = TypeVar("T")


def read_struct(path: Path, kind: type[T]) -> T:
    """Read one JSON file as `kind`. Raises `EvidenceError` for a missing or damaged file."""
    try:
        return msgspec.json.decode(bounded_reads.file_bytes(path), type=kind)
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise EvidenceError(f"{path}: is damaged ({error}).") from None


def write_whole(path: Path, content: bytes, remedy: str = "free some space and try again") -> None:
    """Write a file atomically: under a temporary name, then rename it. Raises `StorageError`, which ends with `remedy`."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); {remedy}.") from None
