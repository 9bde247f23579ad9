"""The snapshots of one run's folder: each has a line in `snapshots.jsonl` and a file with the body of the answer.

A body is written before its line. So a killed process leaves at most a body without a line, or an incomplete line. The next
sampler removes both and continues the numbering. Only one process at a time may write.
"""

import contextlib
import hashlib
import re
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import msgspec

from drills.rollout.servers.prometheus import PrometheusSource
from drills.rollout.servers.snapshots import Source, control_source, metrics_source, moment
from drills.rollout.setup.evidence import LockedFile, cannot_write, whole_lines
from drills.rollout.setup.records import BODIES, SNAPSHOTS, Phase, Snapshot
from drills.runs.targets import Target
from sim.base import bounded_reads
from sim.base.clocks import Clock, from_iso
from sim.base.errors import EvidenceError
from sim.base.redaction import Redactor
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.metrics_book import is_asked

MAX_REPEATS = 3  # [ours] consecutive polls that may repeat the same `generated_at`; with more, the body is frozen
_SET_BACK_S = 1.0  # [ours] how far time synchronization may set the clock back
_BODY = re.compile(r"(?P<n>\d{6,})-[a-z]+\.json(\.partial)?")


def sources_of(endpoints: Endpoints, entry: Target | None) -> list[Source]:
    """A target's sources in the order in which they are sampled: metrics endpoint, control service, Prometheus."""
    sources: list[Source] = [control_source(endpoints, entry)]
    if is_asked(endpoints):
        sources.insert(0, metrics_source(endpoints, entry))
    if entry is not None and entry.prometheus is not None:
        sources.append(PrometheusSource(entry.prometheus, Redactor(endpoints.secrets)))
    return sources


class Sampler:
    """Samples all sources of a target and keeps the answers. Close it, or use it as a context manager.

    Raises `UsageError` while another process samples into this folder, `EvidenceError` for damaged lines, `StorageError` for a
    folder that cannot be written to.
    """

    def __init__(self, folder: Path, sources: Sequence[Source], clock: Clock) -> None:
        self._folder, self._sources, self._clock = folder, sources, clock
        self._repeats: dict[str, _Repeats] = {}
        busy = "another stormgate samples into this folder; wait for it, or give another."
        with contextlib.ExitStack() as on_error:
            self._file = on_error.enter_context(LockedFile(folder / SNAPSHOTS, busy))
            before = _lines(folder / SNAPSHOTS)
            self._file.cut_torn_line()
            self._remove_orphans(len(before))
            on_error.pop_all()
        self._n = len(before)
        for snapshot in before:
            self._is_frozen(snapshot)

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder."""
        self._file.__exit__()

    def poll(self, phase: Phase, fault: bool = False) -> list[Snapshot]:
        """Sample every source once; returns what was kept. Raises only `StorageError`.

        A body whose `generated_at` has not changed for more than `MAX_REPEATS` polls becomes `stale_body`.
        """
        kept = []
        for source in self._sources:
            snapshot, body = source.ask(self._n + 1, phase, fault, self._clock)
            if self._is_frozen(snapshot):
                note = f"has had the date {snapshot.generated_at} for more than {MAX_REPEATS} polls"
                snapshot = msgspec.structs.replace(snapshot, outcome="stale_body", notes=(*snapshot.notes, note))
            kept.append(self._keep(snapshot, body))
        return kept

    def _is_frozen(self, snapshot: Snapshot) -> bool:
        if snapshot.generated_at is None or snapshot.outcome not in ("ok", "stale_body"):
            return False
        return self._repeats.setdefault(snapshot.source, _Repeats()).add(snapshot.generated_at) > MAX_REPEATS

    def _keep(self, snapshot: Snapshot, body: bytes) -> Snapshot:
        if body:
            name = f"{BODIES}/{snapshot.n:06d}-{snapshot.source}.json"
            snapshot = msgspec.structs.replace(snapshot, body=name, sha256=hashlib.sha256(body).hexdigest())
            self._write_body(self._folder / name, body)
        self._file.append(snapshot)
        self._n = snapshot.n
        return snapshot

    def _write_body(self, path: Path, body: bytes) -> None:
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(exist_ok=True)
            partial.write_bytes(body)
            partial.replace(path)
        except OSError as error:
            raise cannot_write(self._file.path, error) from None

    def _remove_orphans(self, lines: int) -> None:
        """Remove bodies without a line, which a killed sampler left."""
        try:
            for path in sorted((self._folder / BODIES).glob("*")):
                found = _BODY.fullmatch(path.name)
                if found and (int(found["n"]) > lines or found[2]):
                    path.unlink()
        except OSError as error:
            raise cannot_write(self._file.path, error) from None


class _Repeats:
    """Counts how often in a row the date of a source's body did not advance."""

    def __init__(self) -> None:
        self._latest = ""
        self._times = 0

    def add(self, generated_at: str) -> int:
        advanced = _date_key(generated_at) > _date_key(self._latest)
        self._latest, self._times = (generated_at, 0) if advanced else (self._latest, self._times + 1)
        return self._times


def _date_key(generated_at: str) -> float:
    made = moment(generated_at)
    return made.timestamp() if made else float("-inf")


def read(folder: Path) -> list[Snapshot]:
    """All snapshots of a run's folder; an empty list if it has none.

    Raises `EvidenceError` for a damaged or missing line, a clock that was set back between two of them, and a body that is
    missing or was changed. An incomplete line at the end is ignored, because it is being written.
    """
    snapshots = _lines(folder / SNAPSHOTS)
    for before, after in pairwise(snapshots):
        if from_iso(after.at) < from_iso(before.at) - timedelta(seconds=_SET_BACK_S):
            raise EvidenceError(
                f"{folder / SNAPSHOTS}: line {after.n} is older than the line before it ({after.at}, {before.at}); "
                "a clock was set back, so the times between them are unknown."
            )
    for snapshot in snapshots:
        _require_body(folder, snapshot)
    return snapshots


def _lines(path: Path) -> list[Snapshot]:
    snapshots = []
    for n, line in enumerate(whole_lines(path), 1):
        try:
            snapshot = msgspec.json.decode(line, type=Snapshot)
            from_iso(snapshot.at)
        except (msgspec.DecodeError, ValueError, OverflowError) as error:
            raise EvidenceError(f"{path}: line {n} is not a snapshot ({error}).") from None
        if snapshot.n != n:
            raise EvidenceError(f"{path}: line {n} has the number {snapshot.n}; lines were removed or inserted.")
        snapshots.append(snapshot)
    return snapshots


def _require_body(folder: Path, snapshot: Snapshot) -> None:
    if not snapshot.body:
        return
    place, _, name = snapshot.body.partition("/")
    if place != BODIES or not _BODY.fullmatch(name):
        raise EvidenceError(f"{folder / SNAPSHOTS}: line {snapshot.n} names {snapshot.body!r}, which is not a body's file.")
    path = f"{folder}/{snapshot.body}"  # a plain string is faster: a window of a day has thousands of bodies
    try:
        body = bounded_reads.file_bytes(path)
    except OSError as error:
        raise EvidenceError(f"{path}: the body of snapshot {snapshot.n} cannot be read ({error.strerror}).") from None
    if hashlib.sha256(body).hexdigest() != snapshot.sha256:
        raise EvidenceError(f"{path}: is not the body of snapshot {snapshot.n} as it was written (its SHA-256 differs).")
