"""Writer and reader of a run's observations as Parquet.

During a run, rows are written as chunk files below `observations/`, each complete in itself: a crash loses at most the
last chunk. `Recorder.seal` joins them into `observations.parquet`; the run header keeps its SHA-256 and its row count.
"""

import errno
import os
import queue
import shutil
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from sim.base import bounded_reads
from sim.base.errors import EvidenceError, StorageError
from sim.record.columns import Columns, RowSink
from sim.record.observations import SCHEMA, Row

FILE_NAME = "observations.parquet"
CHUNK_FOLDER = "observations"
CHUNK_ROWS = 65_536
_WRITING: dict[str, Any] = {
    "use_dictionary": [
        "kind",
        "stream",
        "detail",
    ],  # few distinct values; for numbers a dictionary costs time and saves nothing
    "memory_pool": pa.system_memory_pool(),  # Arrow's own pool keeps 10 MiB more of what each chunk needed
}


class Chunk(Protocol):
    """Recorded rows."""

    def __len__(self) -> int:
        """Number of rows."""

    def table(self) -> pa.Table:
        """Arrow table of `SCHEMA`."""


class Collector(RowSink):
    """Collects observations. `flush` passes them on as one chunk; a subclass decides what happens to it."""

    def __init__(self, max_rows: int) -> None:
        self._columns = Columns()
        self.share = self._columns.share  # like `extend`, for a tuple of rows that many clients share
        self._max_rows = max_rows

    def extend(self, t: float, client: int, rows: Sequence[Row]) -> None:
        self._columns.extend(t, client, rows)
        if len(self._columns) >= self._max_rows:
            self.flush()

    def flush_if_full(self) -> None:
        """`flush` if there are enough rows for a chunk."""
        if len(self._columns) >= CHUNK_ROWS:
            self.flush()

    def flush(self) -> None:
        """Pass on the rows recorded so far."""
        if len(self._columns):
            columns, self._columns = self._columns, Columns()
            self.share = self._columns.share
            self._hand_on(columns)

    @abstractmethod
    def _hand_on(self, columns: Columns) -> None:
        """Process a chunk."""


class Recorder(Collector):
    """Writes observations to `folder` during the run. A thread writes, so the caller never waits for the disk.

    With `at_will`, a chunk ends only when the caller calls `flush` or `flush_if_full`: rows are sorted only within a chunk,
    and some engines record an earlier event later. `check` and `seal` raise the first write failure as `StorageError`.
    The thread passes each written chunk to `observe`, which must not raise.
    """

    def __init__(
        self, folder: Path, *, at_will: bool = False, observe: Callable[[pa.Table], None] = lambda chunk: None
    ) -> None:
        super().__init__(sys.maxsize if at_will else CHUNK_ROWS)
        self._folder, self._observe = folder, observe
        self._pending: queue.SimpleQueue[tuple[int, Chunk] | None] = queue.SimpleQueue()
        self._chunks = 0
        self._rows = 0  # handed to the writer
        self._failure: Exception | None = None
        chunks = folder / CHUNK_FOLDER
        try:
            chunks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{chunks}: cannot be created ({error.strerror}); give another folder with --out.") from None
        self._joined = _Joined(folder / FILE_NAME)
        self._begin_writing()

    def take(self, chunk: Chunk) -> None:
        """Record rows from another process as a separate chunk."""
        self._pending.put((self._chunks, chunk))
        self._chunks += 1
        self._rows += len(chunk)

    def _hand_on(self, columns: Columns) -> None:
        self.take(columns)

    def check(self) -> None:
        """Raise `StorageError` if anything could not be written."""
        if self._failure is not None:
            number = getattr(self._failure, "errno", None)  # Arrow's own message is harder to read
            reason = os.strerror(number) if number else str(self._failure)
            remedy = "free some space or give another folder with --out"
            if number in (errno.EMFILE, errno.ENFILE):
                remedy = "raise `ulimit -n` or use fewer clients"
            raise StorageError(f"{self._folder}: observations cannot be written ({reason}); {remedy}. Earlier chunks are kept.")

    def seal(self) -> tuple[str, int]:
        """Replace the chunks by `observations.parquet`; returns its SHA-256 (hex) and row count."""
        self.flush()
        self._pending.put(None)
        self._end_writing()
        self.check()
        try:
            rows = self._joined.finish()
            shutil.rmtree(self._folder / CHUNK_FOLDER)
        except OSError as error:
            self._failure = error
            self.check()
            raise
        if rows != self._rows:
            raise StorageError(f"{self._joined.path}: {rows} rows were written where {self._rows} were observed.")
        return bounded_reads.file_sha256(self._joined.path), rows

    def _begin_writing(self) -> None:
        """Start `_write_chunks` in a thread."""
        self._thread = threading.Thread(target=self._write_chunks, name="observations", daemon=True)
        self._thread.start()

    def _end_writing(self) -> None:
        """Wait until it has finished."""
        self._thread.join()

    def _write_chunks(self) -> None:
        while (item := self._pending.get()) is not None:
            number, chunk = item
            if self._failure is not None:
                continue
            path = self._folder / CHUNK_FOLDER / f"{number:06d}.parquet"
            try:
                table = chunk.table()
                partial = path.with_suffix(".partial")
                pq.write_table(table, partial, compression="lz4", **_WRITING)
                partial.rename(path)
                self._joined.add(table)
                self._observe(table)
            except Exception as error:  # any error loses rows, and a dead thread would not report it
                self._failure = error


class _Joined:
    """All chunks as one file, written at the same time as the chunks. Only `finish` gives it its final name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_suffix(".partial")
        self._writer: pq.ParquetWriter | None = None
        self._failure: Exception | None = None  # the chunks are still written
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        """Append a chunk; `finish` raises the first failure."""
        if self._failure is None:
            try:
                self._open().write_table(table)
                self._rows += table.num_rows
            except Exception as error:
                self._failure = error

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._partial, SCHEMA, compression="zstd", **_WRITING)
        return self._writer

    def finish(self) -> int:
        """Close the file; returns its number of rows. Raises `OSError`."""
        if self._failure is not None:
            raise self._failure
        self._open().close()
        self._partial.rename(self.path)
        return self._rows


class Recorded:
    """The observations of a run, read column by column: all of them at once would take gigabytes.

    Takes them from the sealed file or, after a crash, from the chunks. Raises `EvidenceError` when the file is missing or
    damaged, or lacks a column.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FILE_NAME
        chunks = sorted((folder / CHUNK_FOLDER).glob("*.parquet")) if not path.exists() else [path]
        if not chunks:
            raise EvidenceError(f"{path}: there are no observations.")
        self._files = [(chunk, _opened(chunk)) for chunk in chunks]
        self.num_rows = sum(file.metadata.num_rows for _, file in self._files)

    def column(self, name: str) -> "pa.ChunkedArray[Any]":
        """One column of all rows, with the type that `SCHEMA` gives it."""
        found = [_column(path, file, name) for path, file in self._files]
        return pa.chunked_array([chunk for column in found for chunk in column.chunks], SCHEMA.field(name).type)

    def table(self) -> pa.Table:
        """All columns at once."""
        return pa.Table.from_arrays([self.column(name) for name in SCHEMA.names], schema=SCHEMA).unify_dictionaries()


def read(folder: Path) -> pa.Table:
    """All observations of a run as one table. Raises `EvidenceError` as `Recorded` does."""
    return Recorded(folder).table()


def _opened(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
    if missing:
        raise EvidenceError(f"{path}: column {', '.join(missing)} is missing.")
    return file


def _column(path: Path, file: pq.ParquetFile, name: str) -> "pa.ChunkedArray[Any]":
    try:
        column = file.read([name]).column(name)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    try:
        return column.cast(SCHEMA.field(name).type)
    except pa.ArrowException as error:
        raise EvidenceError(f"{path}: a column has the wrong type ({str(error).splitlines()[0]}).") from None


def _unreadable(path: Path, error: Exception) -> EvidenceError:
    return EvidenceError(f"{path}: cannot be read ({str(error).splitlines()[0]}).")
