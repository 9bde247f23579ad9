"""The header of a run (`run.json`): what was run, how it ended, and the SHA-256 of its observations."""

import hashlib
from pathlib import Path

import msgspec

from sim.base import bounded_reads
from sim.base.atomic_files import read_struct, write_whole
from sim.base.errors import EvidenceError
from sim.protocols import registry
from sim.record.parquet import FILE_NAME, Recorded
from sim.record.predictions import Prediction
from sim.record.stations import StationLoad
from sim.record.tally import Tally
from sim.service.paths import RETIRED

HEADER_NAME = "run.json"
SCHEMA_VERSION = 1  # of a run's files


class StreamLimits(msgspec.Struct, frozen=True):
    """What a service promises of a stream."""

    replay_budget_events: int  # a cursor farther behind the head is stale
    has_snapshots: bool


class RunHeader(msgspec.Struct, kw_only=True):
    """What was run, against which target, and how it ended: written to `run.json` when a run starts and when it ends."""

    schema: int = SCHEMA_VERSION  # version of a run's files
    run_id: str = ""  # of the stage run that this run belongs to; evidence of another stage run does not count
    drill: str  # name
    drill_sha256: str  # of the drill in canonical form
    engine: str  # sockets, virtual, fleet or locust
    target: str  # name or address, never a secret
    target_kind: str  # mock, staging or production
    policy: str  # client policy
    seed: int  # random seed
    clients: int  # of the fleet, indices 0..clients-1; negative clients and the auditor have higher ones
    started_at: str  # ISO 8601, UTC
    clock: str  # wall or virtual
    protocol: str = registry.DEFAULT  # name of the protocol
    capabilities: dict[str, object] = {}  # of the protocol; checks read these, and never the protocol's name
    marker_run: str = ""  # the run field of the markers in this run's payloads
    versions: dict[str, str]  # of Python, stormgate and dependencies
    machine: str = ""  # processor, cores and operating system of the load generator; empty in runs of older versions
    calibration: str = "none"  # reserved; always none
    defects: list[str] = []  # misbehaviours of the mock that were switched on
    plan: list[dict[str, object]] = []  # the resolved fault schedule
    subscriptions: dict[str, list[str]] = {}  # client index -> ids of the streams it subscribes to
    streams: dict[str, StreamLimits] = {}  # what the service promises of each stream, by its id
    window_events: int = 1024  # entries of a stream that the service keeps, as its target states
    own_streams: list[str] = []  # ids of the streams that only this run publishes to
    malformed_kinds: list[str] = []  # the malformed frames that negative clients send
    negative_clients: dict[str, str] = {}  # client index -> name of the negative client
    unasked: dict[str, str] = {}  # names of negative clients that were left out -> why
    retired_routes: tuple[str, ...] = RETIRED  # that must answer 404, where the drill asks them
    has_socket: bool = True  # without one there are no clients, and checks of clients have no data
    auditor: int = -1  # index of the client that reads all retained events at the end
    duration_s: float = 0.0  # of the run, by its clock
    complete: bool = False  # all phases were run
    stopped_because: str = ""  # why the run was cut short
    stop_condition: str = ""  # the target's stop condition that ended the run
    metrics_profile: str = "none"  # of the service's metrics endpoint, from the targets file
    remarks: list[str] = []  # for the reader: what was special about this run
    hooks: list[dict[str, object]] = []  # the operators' commands that were run (`sim.engines.sockets.hooks.Done`)
    workers: list[dict[str, object]] = []  # of a load test with several processes: reports and outcome per worker
    prediction: Prediction | None = None  # made with a fitted model before the run
    evidence: dict[str, str] = {}  # further files of this folder with their hex SHA-256
    tally: Tally | None = None  # counts of a fleet run, which has no observations
    stations: list[StationLoad] = []  # of a simulated service: how busy each of its queues was, and how long
    observations_sha256: str = ""  # of observations.parquet
    observations_rows: int = 0  # number of rows
    sha256: str = ""  # of everything else in this file


def write_header(folder: Path, header: RunHeader) -> None:
    """Write `run.json` atomically, with its own SHA-256; raises `StorageError`."""
    header.sha256 = _digest(msgspec.json.encode(header))
    write_whole(folder / HEADER_NAME, msgspec.json.format(msgspec.json.encode(header), indent=2))


def read_header(folder: Path) -> RunHeader:
    """Read `run.json`; raises `EvidenceError` when it is missing, damaged or changed since it was written."""
    path = folder / HEADER_NAME
    header = read_struct(path, RunHeader)
    if header.schema != SCHEMA_VERSION:
        raise EvidenceError(f"{path}: has schema {header.schema}, but this version reads schema {SCHEMA_VERSION} only.")
    if header.sha256 != _digest(bounded_reads.file_bytes(path)):
        raise EvidenceError(f"{path}: is not as it was written (its SHA-256 is not the one that it states).")
    return header


def _digest(content: bytes) -> str:
    """SHA-256 of a header's content, in any layout, without its own SHA-256."""
    fields = msgspec.json.decode(content)
    fields.pop("sha256", None)
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


def read_verified(folder: Path) -> tuple[RunHeader, Recorded]:
    """Header and observations of a complete run.

    Raises `EvidenceError` when the run was cut short, or when its files changed since they were recorded.
    """
    header = read_header(folder)
    recorded = Recorded(folder)
    if not header.complete:
        raise EvidenceError(f"{folder}: the run did not complete ({header.stopped_because or 'it was cut off'}).")
    path = folder / FILE_NAME
    _check_unchanged(path, header.observations_sha256)
    if recorded.num_rows != header.observations_rows:
        raise EvidenceError(f"{path}: has {recorded.num_rows} rows, but {header.observations_rows} were recorded.")
    for name, sha256 in header.evidence.items():
        _check_unchanged(folder / name, sha256)
    return header, recorded


def _check_unchanged(path: Path, sha256: str) -> None:
    if not path.is_file() or bounded_reads.file_sha256(path) != sha256:
        raise EvidenceError(f"{path}: is not the file that the run recorded (its SHA-256 differs from {HEADER_NAME}).")
