"""What came of each simulated run of a sweep, one file a run, so that a sweep that was killed goes on where it was.

A file's name is a digest of everything that decides what is in it: engine, drill, model, seed, by what it is judged, and the
code. It is written under another name first, and begins with the hash of the rest: what was cut short is run again, never read.
"""

import contextlib
import hashlib
import os
from functools import cache
from pathlib import Path

import msgspec

from sim.analysis.metrics import Metric
from sim.base.errors import StorageError

ROWS = "rows"
_HASH_BYTES = 32


class Row(msgspec.Struct, frozen=True):
    """One run. `judgement` is whatever who judged it made of it; `trouble` says why there are no measures."""

    digest: str
    seed: int
    metrics: tuple[Metric, ...]
    judgement: bytes = b""
    trouble: str = ""
    code: str = ""  # `code_digest` of where it was run


class Store:
    """The rows of a folder. Raises `StorageError` when it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ROWS
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(self._folder, error) from None
        for partial in self._folder.glob("*.partial"):  # of a sweep that was killed
            partial.unlink(missing_ok=True)

    def get(self, digest: str) -> Row | None:
        """A row that is there and whole."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            content = self.path(digest).read_bytes()
            body = content[_HASH_BYTES:]
            if hashlib.sha256(body).digest() == content[:_HASH_BYTES]:
                row = msgspec.msgpack.decode(body, type=Row)
                return row if row.digest == digest else None
        return None

    def put(self, row: Row) -> None:
        """Keep a row. Raises `StorageError`."""
        body = msgspec.msgpack.encode(row)
        path = self.path(row.digest)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.write_bytes(hashlib.sha256(body).digest() + body)
            partial.replace(path)
        except OSError as error:
            raise _cannot_write(path, error) from None

    def path(self, digest: str) -> Path:
        """Where a row is kept, whether it is there or not."""
        return self._folder / f"{digest}.row"


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written ({error.strerror}); free some space or give another folder with --out. "
        "What was simulated before is kept."
    )


@cache
def code_digest() -> str:
    """Hex SHA-256 of all of `sim/` but figures, as it may change what a run comes to: rows of other code are not believed."""
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*.py") if path.parent.name != "plots"):
        found.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return found.hexdigest()
