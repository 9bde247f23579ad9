"""The flat record of everything that was observed, and its Parquet reader and writer.

One row an observation. Columns, with the value that means "none":

    t        float64   seconds since the run began
    kind     string    one of `Kind`
    client   int32     index of the client; -1: not a client's
    stream   string    stream id; "": none
    seq      int64     sequence number in that stream; -1: none
    attempt  int32     the client's connect or backoff attempt; 0: none
    value    float64   milliseconds, events or a count, by kind; NaN: none
    detail   string    a code; "": none

While a run goes on, rows are written as chunk files under `observations/`, each complete in itself, so a
crash loses at most the last chunk. `seal` joins them into `observations.parquet`; a run's header keeps
that file's SHA-256 and row count, so that a changed, cut or column-less file is noticed.
"""

import hashlib
import os
import queue
import shutil
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from sim.base.atomic_files import write_whole
from sim.base.errors import EvidenceError, StorageError
from sim.record.columns import NAN as NAN
from sim.record.columns import SCHEMA as SCHEMA
from sim.record.columns import Columns as Columns
from sim.record.columns import Row as Row
from sim.record.predictions import Prediction
from sim.record.tally import Tally

FILE_NAME = "observations.parquet"
CHUNK_FOLDER = "observations"
CHUNK_ROWS = 131_072
SCHEMA_VERSION = 1  # of a run's files
_WORDS = ["kind", "stream", "detail"]  # columns of few words; of numbers Parquet's dictionaries cost time and save nothing


class Kind(StrEnum):
    """What a row says. `value`, `seq` and `detail` are given in brackets where they are used."""

    PHASE = "phase"  # a phase begins [detail: steady, fault, heal, settle, end]
    TOKEN_MINTED = "token_minted"  # [value: ms from the moment it was due to having it, detail: id of the signing key]
    TOKEN_REFUSED = "token_refused"  # [value: ms, detail: code]
    CONNECT_ATTEMPTED = "connect_attempted"
    CONNECT_FAILED = "connect_failed"  # [value: ms, detail: code; auth codes are the runtime's own]
    CONNECT_DONE = "connect_done"  # the WebSocket is open [value: ms from the moment the attempt was due]
    JOINED = "joined"
    SUBSCRIBED = "subscribed"  # the client is live [value: ms from the due moment of the attempt]
    SUBSCRIBE_REFUSED = "subscribe_refused"  # [detail: code]
    REPLAY_STARTED = "replay_started"  # one a stream of a subscribe [seq: cursor asked from, -1: none]
    REPLAYED = "replayed"  # a stream's replay ended [seq: events replayed, value: those that were new]
    REPLAY_COMPLETED = "replay_completed"  # caught up [value: ms from the connect's due moment; NaN: a replay asked for again]
    STALE = "stale"  # [seq: cursor, value: replay lag in events, detail: reasons joined by +]
    REBOOTSTRAPPED = "rebootstrapped"  # [seq: new watermark, value: old or NaN, detail: snapshot, retained, fresh]
    PUBLISHED = "published"  # acknowledged [seq, value: ms from due to acknowledged, detail: payload hash]
    PUBLISH_FAILED = "publish_failed"  # [value: ms, detail: code]
    RECEIVED = "received"  # one update batch [value: updates in it]
    APPLIED = "applied"  # [seq, detail: payload hash]
    DUPLICATE_DROPPED = "duplicate_dropped"  # [seq]
    GAP = "gap"  # [seq: got, value: watermark, detail: live or replay]
    REPLAY_BELOW_CURSOR = "replay_below_cursor"  # the runtime ignored the cursor [seq: got, value: cursor asked from]
    DECLARED_LOSS = "declared_loss"  # [seq: last lost, value: how many]
    HASH_MISMATCH = "hash_mismatch"  # [seq]
    UNGRANTED = "ungranted"  # an event of a topic never subscribed to [seq]
    MALFORMED = "malformed"  # a frame that is none [detail: code]
    CLAMPED = "clamped"  # watermark taken back to a lower head [seq: new, value: old]
    CHECKPOINT_WRITTEN = "checkpoint_written"  # [seq]
    RESTARTED = "restarted"  # by a fault: its process died [seq: what its store says, -1: nothing, value: said before, detail]
    DISCONNECTED = "disconnected"  # [detail: reason]
    HEARTBEAT_TIMEOUT = "heartbeat_timeout"
    EVICTED = "evicted"  # slow consumer, told to go [detail: action]
    BACKOFF = "backoff"  # [attempt: the policy's own count, value: delay ms, detail: reason]
    TOKEN_FORGOTTEN = "token_forgotten"  # a fault took the client's token
    KEYS_ROTATED = "keys_rotated"  # tokens are signed with another key from now on [detail: its id]
    SESSION_REVOKED = "session_revoked"  # a fault is about to revoke the client's session
    SIGNED_IN = "signed_in"  # the fault is over: the client has a new session
    ROUTE_ANSWERED = "route_answered"  # a route that is gone [value: HTTP status, detail: method and route]
    PROBED = "probed"  # a probe's question was answered [detail: probe:answer, or probe:what:answer]
    FAULT_INJECTED = "fault_injected"  # [attempt: index in the plan, detail: kind]
    FAULT_OBSERVED = "fault_observed"  # it was seen to act [attempt: index, value: how often, detail: kind]
    FAULT_REVERTED = "fault_reverted"  # taken back [attempt: index, detail: kind]
    # Half-open connections that a side was still in when time was up [attempt: the fault's index, value: how many]
    HALF_OPEN_LEFT = "half_open_left"
    RUNTIME_DIED = "runtime_died"  # its process ended by itself, not by a fault
    GENERATOR_LAG = "generator_lag"  # the load generator's own lateness [value: ms]
    CLIENT_LAG = "client_lag"  # sampled head minus watermark [value: events]
    PACED = "paced"  # a connect waited for the target's cap [value: ms]
    METRICS_POLLED = "metrics_polled"  # of the runtime [attempt: which poll, value: ms, detail: ok, or why not]
    SERVER_METRIC = "server_metric"  # of those metrics [attempt: which poll, value, detail: its name]
    STEADY = "steady"  # the check before anything is broken [value: 1 good, 0 sick; detail: why]
    SETTLED = "settled"  # this client converged
    STILL_PENDING = "still_pending"  # [seq: watermark, value: head, detail: why]


class Chunk(Protocol):
    """Rows that were recorded."""

    def __len__(self) -> int:
        """How many."""

    def table(self) -> pa.Table:
        """They, as an Arrow table of `SCHEMA`."""


class Collector(ABC):
    """Takes observations; `flush` hands on what has come, as one chunk, and what becomes of that is a subclass's own matter."""

    def __init__(self, max_rows: int) -> None:
        self._columns = Columns()
        self.share = self._columns.share  # as `extend`, for a tuple of rows that many clients share
        self._max_rows = max_rows

    def add(
        self,
        t: float,
        kind: str,
        client: int = -1,
        stream: str = "",
        seq: int = -1,
        attempt: int = 0,
        value: float = NAN,
        detail: str = "",
    ) -> None:
        """Record one row; see the module's table for units."""
        self._columns.add(t, kind, client, stream, seq, attempt, value, detail)
        if len(self._columns.t) >= self._max_rows:
            self.flush()

    def extend(self, t: float, client: int, rows: Sequence[Row]) -> None:
        """Record what one client noticed at one moment."""
        self._columns.extend(t, client, rows)
        if len(self._columns.t) >= self._max_rows:
            self.flush()

    def flush_if_full(self) -> None:
        """`flush`, if what was recorded so far is worth a chunk."""
        if len(self._columns) >= CHUNK_ROWS:
            self.flush()

    def flush(self) -> None:
        """Hand on what was recorded so far."""
        if len(self._columns):
            columns, self._columns = self._columns, Columns()
            self.share = self._columns.share
            self._hand_on(columns)

    @abstractmethod
    def _hand_on(self, columns: Columns) -> None:
        """Take a chunk that is full."""


class Recorder(Collector):
    """Writes observations to `folder` while the run goes on; a thread does the writing, so the caller never waits for a disk.

    With `at_will` chunks end only where the caller says `flush`, or `flush_if_full`: for who learns late of what happened
    earlier, since only within a chunk rows are put in order. The first failure to write is kept and raised as `StorageError`
    by `check`, `flush` and `seal`.
    """

    def __init__(self, folder: Path, *, at_will: bool = False) -> None:
        super().__init__(sys.maxsize if at_will else CHUNK_ROWS)
        self._folder = folder
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
        """Record rows that came from elsewhere, as a chunk of their own."""
        self._pending.put((self._chunks, chunk))
        self._chunks += 1
        self._rows += len(chunk)

    def _hand_on(self, columns: Columns) -> None:
        self.take(columns)

    def check(self) -> None:
        """Raise `StorageError` if anything could not be written."""
        if self._failure is not None:
            number = getattr(self._failure, "errno", None)  # Arrow knows it, and says it in its own roundabout words
            reason = os.strerror(number) if number else str(self._failure)
            raise StorageError(
                f"{self._folder}: observations cannot be written ({reason}); "
                "free some space or give another folder with --out. What was written before is kept."
            )

    def seal(self) -> tuple[str, int]:
        """Finish: leave `observations.parquet` instead of the chunks; returns its SHA-256 (hex) and row count."""
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
        return file_sha256(self._joined.path), rows

    def _begin_writing(self) -> None:
        """Run `_write_chunks` beside everything else."""
        self._thread = threading.Thread(target=self._write_chunks, name="observations", daemon=True)
        self._thread.start()

    def _end_writing(self) -> None:
        """Wait until it is done."""
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
                pq.write_table(table, partial, compression="lz4", use_dictionary=_WORDS)  # type: ignore[arg-type]
                partial.rename(path)
                self._joined.add(table)
            except Exception as error:  # whatever it is: rows are lost, and a thread that died would not say so
                self._failure = error


class _Joined:
    """All chunks as one file, written beside them as they come; only `finish` gives it its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_suffix(".partial")
        self._writer: pq.ParquetWriter | None = None
        self._failure: Exception | None = None  # the chunks are written all the same
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        """Append a chunk; what goes wrong is told at the end."""
        if self._failure is None:
            try:
                self._open().write_table(table)
                self._rows += table.num_rows
            except Exception as error:
                self._failure = error

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._partial, SCHEMA, compression="zstd", use_dictionary=_WORDS)  # type: ignore[arg-type]
        return self._writer

    def finish(self) -> int:
        """Close the file; returns its rows. Raises `OSError`."""
        if self._failure is not None:
            raise self._failure
        self._open().close()
        self._partial.rename(self.path)
        return self._rows


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(folder: Path) -> pa.Table:
    """All observations of a run, sealed or, after a crash, from its chunks.

    Raises `EvidenceError` when the file is missing, damaged, or lacks a column.
    """
    path = folder / FILE_NAME
    chunks = sorted((folder / CHUNK_FOLDER).glob("*.parquet")) if not path.exists() else [path]
    if not chunks:
        raise EvidenceError(f"{path}: there are no observations.")
    tables = [_read_one(chunk) for chunk in chunks]
    return pa.concat_tables(tables).unify_dictionaries()


def _read_one(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        first_line = str(error).splitlines()[0]
        raise EvidenceError(f"{path}: cannot be read ({first_line}).") from None
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise EvidenceError(f"{path}: column {', '.join(missing)} is missing.")
    try:
        return table.select(SCHEMA.names).cast(SCHEMA)
    except pa.ArrowException as error:
        raise EvidenceError(f"{path}: a column has the wrong type ({str(error).splitlines()[0]}).") from None


class RunHeader(msgspec.Struct, kw_only=True):
    """Who, what and with what: `run.json`, written beside the observations before a run begins and when it ends."""

    schema: int = SCHEMA_VERSION
    run_id: str = ""  # of the run it is a part of; evidence of another run proves nothing about this one
    drill: str
    drill_sha256: str
    engine: str
    target: str  # name or address, never a secret
    target_kind: str  # mock, staging or production
    policy: str
    seed: int
    clients: int  # of the fleet, indices 0..clients-1; probes and the auditor have higher ones
    started_at: str  # ISO 8601, UTC
    clock: str  # wall or virtual
    versions: dict[str, str]
    calibration: str = "none"
    defects: list[str] = []
    plan: list[dict[str, object]] = []  # the fault plan as it was resolved
    subscriptions: dict[str, list[str]] = {}  # client index -> the stream ids it subscribes to
    negative_clients: dict[str, str] = {}  # client index -> name of the probe it is
    auditor: int = -1  # index of the client that reads everything retained at the end
    duration_s: float = 0.0
    complete: bool = False  # it ran its whole course
    stopped_because: str = ""  # why not, in words
    stop_condition: str = ""  # of the target, that ended the run, in words
    metrics_profile: str = "none"  # of the runtime's metrics endpoint, as the target says it is
    remarks: list[str] = []  # what a reader must know of how it was run
    hooks: list[dict[str, object]] = []  # the operators' commands that were run (`sim.engines.sockets.hooks.Done`)
    workers: list[dict[str, object]] = []  # of a load test over several processes: what each said, and what came of it
    prediction: Prediction | None = None  # what a fitted model said of it beforehand
    evidence: dict[str, str] = {}  # further files of this folder, with their hex SHA-256
    tally: Tally | None = None  # of a fleet run, which counts where others record
    observations_sha256: str = ""
    observations_rows: int = 0


HEADER_NAME = "run.json"


def write_header(folder: Path, header: RunHeader) -> None:
    """Write `run.json` atomically; raises `StorageError`."""
    write_whole(folder / HEADER_NAME, msgspec.json.format(msgspec.json.encode(header), indent=2))


def read_header(folder: Path) -> RunHeader:
    """Read `run.json`; raises `EvidenceError` when it is missing or damaged."""
    path = folder / HEADER_NAME
    try:
        header = msgspec.json.decode(path.read_bytes(), type=RunHeader)
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    except msgspec.DecodeError as error:
        raise EvidenceError(f"{path}: is damaged ({error}).") from None
    if header.schema != SCHEMA_VERSION:
        raise EvidenceError(f"{path}: is of schema {header.schema}, which this version does not know.")
    return header


def read_verified(folder: Path) -> tuple[RunHeader, pa.Table]:
    """A finished run's header and observations, checked against each other.

    Raises `EvidenceError` when the run was cut short, or when the observations are not, byte for byte, those it recorded.
    """
    header = read_header(folder)
    table = read(folder)
    if not header.complete:
        raise EvidenceError(f"{folder}: the run did not reach its end ({header.stopped_because or 'it was cut off'}).")
    path = folder / FILE_NAME
    if not path.exists() or file_sha256(path) != header.observations_sha256:
        raise EvidenceError(f"{path}: is not the file this run recorded (its SHA-256 differs from {HEADER_NAME}).")
    if table.num_rows != header.observations_rows:
        raise EvidenceError(f"{path}: has {table.num_rows} rows where {header.observations_rows} were recorded.")
    _require_further(folder, header)
    return header, table


def _require_further(folder: Path, header: RunHeader) -> None:
    for name, sha256 in header.evidence.items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != sha256:
            raise EvidenceError(f"{path}: is not the file this run recorded (its SHA-256 differs from {HEADER_NAME}).")
