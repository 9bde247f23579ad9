"""The header of a run (`run.json`): what was run, how it ended, and the SHA-256 of its observations."""

from pathlib import Path

import msgspec
import pyarrow as pa

from sim.base.atomic_files import write_whole
from sim.base.errors import EvidenceError
from sim.record.parquet import FILE_NAME, file_sha256, read
from sim.record.predictions import Prediction
from sim.record.tally import Tally

HEADER_NAME = "run.json"
SCHEMA_VERSION = 1  # of a run's files


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
