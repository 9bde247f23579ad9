"""Results of the simulated runs of a sweep, one file per run, so that a killed sweep resumes.

A file's name is a digest of everything that decides its content: engine, drill, model, seed, evaluator and code. It starts with
the hash of the rest, so a truncated file is simulated again and never read.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from sim.analysis.metrics import Metric
from sim.base import bounded_reads
from sim.base.errors import StorageError
from sim.record.stations import StationLoad

ROWS = "rows"
_HASH_BYTES = 32


class HasDigest(Protocol):
    """Something whose result is stored under a digest."""

    @property
    def digest(self) -> str:
        """Hex digest."""


Wanted = TypeVar("Wanted", bound=HasDigest)


class Row(msgspec.Struct, frozen=True):
    """The result of one run. `judgement` is for its evaluator only; `error` says why there are no metrics."""

    digest: str
    seed: int
    metrics: tuple[Metric, ...]
    judgement: bytes = b""
    error: str = ""
    code: str = ""  # `code_digest` of the machine that simulated it
    stations: tuple[StationLoad, ...] = ()  # how busy each queue of the service was


class Store:
    """The rows of a folder. Raises `StorageError` if it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ROWS
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(self._folder, error) from None
        for partial in self._folder.glob("*.partial"):  # of a killed sweep
            partial.unlink(missing_ok=True)

    def get(self, digest: str) -> Row | None:
        """A stored row; None if it is missing or damaged."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            content = bounded_reads.file_bytes(self.path(digest))
            body = content[_HASH_BYTES:]
            if hashlib.sha256(body).digest() == content[:_HASH_BYTES]:
                row = msgspec.msgpack.decode(body, type=Row)
                return row if row.digest == digest else None
        return None

    def rows(self, wanted: Iterable[HasDigest]) -> list[Row]:
        """The stored rows of these runs."""
        return [row for each in wanted if (row := self.get(each.digest)) is not None]

    def missing(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        """The runs without a stored row."""
        return [each for each in wanted if self.get(each.digest) is None]

    def put(self, row: Row) -> None:
        """Store a row. Raises `StorageError`."""
        body = msgspec.msgpack.encode(row)
        path = self.path(row.digest)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.write_bytes(hashlib.sha256(body).digest() + body)
            partial.replace(path)
        except OSError as error:
            raise _cannot_write(path, error) from None

    def path(self, digest: str) -> Path:
        """The file of a row, stored or not."""
        return self._folder / f"{digest}.row"


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written ({error.strerror}). Free some space, or give another folder with --out. "
        "Earlier results are kept."
    )


@cache
def code_digest() -> str:
    """Hex SHA-256 of the code of `sim/` without plots. Rows of other code are not used, because results may differ."""
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*.py") if path.parent.name != "plots"):
        found.update(path.relative_to(root).as_posix().encode() + bounded_reads.file_bytes(path))
    return found.hexdigest()
