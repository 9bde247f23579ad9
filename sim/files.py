"""Files that are there whole or not at all."""

from pathlib import Path

from sim.errors import StorageError


def write_whole(path: Path, content: bytes, remedy: str = "free some space and try again") -> None:
    """Write a file under another name, then give it its own; raises `StorageError`, which ends with the remedy."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); {remedy}.") from None
