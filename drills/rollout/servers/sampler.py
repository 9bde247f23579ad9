"""The snapshots of one run's folder: a line each in `snapshots.jsonl`, and the body that it is of in a file of its own.

A body is written before its line, so a process that is killed leaves at most a body that no line names, or half a line; both
are taken away by the next sampler, which goes on numbering where the lines end. One process at a time may write: the kernel
holds the lock, and lets go of it however the process ends.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import re
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import msgspec

from drills.rollout.servers.snapshots import Source
from drills.rollout.setup.records import BODIES, SNAPSHOTS, Phase, Snapshot
from sim.base.clocks import Clock, from_iso
from sim.base.errors import EvidenceError, StorageError, UsageError

MAX_REPEATS = 3  # [ours] polls in a row that may repeat what was generated before: beyond it, the body is frozen
_SET_BACK_S = 1.0  # [ours] by which a clock that is being disciplined may go back
_BODY = re.compile(r"(?P<n>\d{6,})-[a-z]+\.json(\.partial)?")


class Sampler:
    """Asks all of a target's sources, again and again, and keeps what they say. Close it, or use it as a context manager.

    Raises `UsageError` while another process samples into this folder, `EvidenceError` for lines that are none, `StorageError`
    for a folder that cannot be written to.
    """

    def __init__(self, folder: Path, sources: Sequence[Source], clock: Clock) -> None:
        self._folder, self._sources, self._clock = folder, sources, clock
        self._path = folder / SNAPSHOTS
        self._frozen: dict[str, _Repeats] = {}
        self._file = self._opened()
        try:
            before = _lines(self._path)
            self._cut_torn_line()
            self._remove_orphans(len(before))
        except OSError as error:
            self._file.close()
            raise _cannot_write(self._path, error) from None
        except BaseException:
            self._file.close()
            raise
        self._n = len(before)
        for snapshot in before:
            self._is_frozen(snapshot)

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._file.close()

    def poll(self, phase: Phase, fault: bool = False) -> list[Snapshot]:
        """Ask every source once; returns what was kept. Raises `StorageError` only.

        A body that has not changed its `generated_at` for more than `MAX_REPEATS` polls is `stale_body`, whatever it says.
        """
        kept = []
        for source in self._sources:
            snapshot, body = source.ask(self._n + 1, phase, fault, self._clock)
            if self._is_frozen(snapshot):
                note = f"has said that it was made at {snapshot.generated_at} for more than {MAX_REPEATS} polls"
                snapshot = msgspec.structs.replace(snapshot, outcome="stale_body", notes=(*snapshot.notes, note))
            kept.append(self._keep(snapshot, body))
        return kept

    def _is_frozen(self, snapshot: Snapshot) -> bool:
        if snapshot.generated_at is None or snapshot.outcome not in ("ok", "stale_body"):
            return False
        return self._frozen.setdefault(snapshot.source, _Repeats()).add(snapshot.generated_at) > MAX_REPEATS

    def _keep(self, snapshot: Snapshot, body: bytes) -> Snapshot:
        if body:
            name = f"{BODIES}/{snapshot.n:06d}-{snapshot.source}.json"
            snapshot = msgspec.structs.replace(snapshot, body=name, sha256=hashlib.sha256(body).hexdigest())
        end = self._file.seek(0, os.SEEK_END)
        try:
            if body:
                self._write_body(self._folder / snapshot.body, body)
            line = msgspec.json.encode(snapshot) + b"\n"
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):  # half a line must not have another after it
                self._file.truncate(end)
            raise _cannot_write(self._path, error) from None
        self._n = snapshot.n
        return snapshot

    def _write_body(self, path: Path, body: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(body)
        partial.replace(path)

    def _opened(self) -> io.FileIO:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise _cannot_write(self._path, error) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise UsageError(
                f"{self._path}: another stormgate samples into this folder; wait for it, or give another."
            ) from None
        return file

    def _cut_torn_line(self) -> None:
        """What a killed sampler left of its last line."""
        whole = self._path.read_bytes().rpartition(b"\n")
        if whole[2]:
            os.truncate(self._path, len(whole[0]) + len(whole[1]))

    def _remove_orphans(self, lines: int) -> None:
        """Bodies that a killed sampler wrote no line for."""
        for path in sorted((self._folder / BODIES).glob("*")):
            found = _BODY.fullmatch(path.name)
            if found and (int(found["n"]) > lines or found[2]):
                path.unlink()


class _Repeats:
    """How often in a row a source has repeated the moment its bodies were made, or gone back behind it."""

    def __init__(self) -> None:
        self._latest = ""
        self._times = 0

    def add(self, generated_at: str) -> int:
        advanced = _moment_key(generated_at) > _moment_key(self._latest)
        self._latest, self._times = (generated_at, 0) if advanced else (self._latest, self._times + 1)
        return self._times


def _moment_key(generated_at: str) -> float:
    try:
        return from_iso(generated_at).timestamp()
    except (ValueError, OverflowError):
        return float("-inf")


def read(folder: Path) -> list[Snapshot]:
    """All snapshots of a run's folder, of one that has none an empty list.

    Raises `EvidenceError` for a line that is none or not the next one, for a clock that was set back between two of them, and
    for a body that is missing or not the one that was written. Half a line at the end is one that is being written, or was.
    """
    snapshots = _lines(folder / SNAPSHOTS)
    for before, after in pairwise(snapshots):
        if from_iso(after.at) < from_iso(before.at) - timedelta(seconds=_SET_BACK_S):
            raise EvidenceError(
                f"{folder / SNAPSHOTS}: line {after.n} is older than the line before it ({after.at}, {before.at}); "
                "a clock was set back, so no time between them can be believed."
            )
    for snapshot in snapshots:
        _require_body(folder, snapshot)
    return snapshots


def _lines(path: Path) -> list[Snapshot]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    snapshots = []
    for n, line in enumerate(lines, 1):
        try:
            snapshot = msgspec.json.decode(line, type=Snapshot)
            from_iso(snapshot.at)
        except (msgspec.DecodeError, ValueError, OverflowError) as error:
            raise EvidenceError(f"{path}: line {n} is no snapshot ({error}).") from None
        if snapshot.n != n:
            raise EvidenceError(f"{path}: line {n} has the number {snapshot.n}; lines were removed or put in.")
        snapshots.append(snapshot)
    return snapshots


def _require_body(folder: Path, snapshot: Snapshot) -> None:
    if not snapshot.body:
        return
    place, _, name = snapshot.body.partition("/")
    if place != BODIES or not _BODY.fullmatch(name):
        raise EvidenceError(f"{folder / SNAPSHOTS}: line {snapshot.n} names {snapshot.body!r}, which is no body's file.")
    path = f"{folder}/{snapshot.body}"  # a day has thousands of them, and each is looked at whenever a window is judged
    try:
        with open(path, "rb") as file:
            body = file.read()
    except OSError as error:
        raise EvidenceError(f"{path}: the body of snapshot {snapshot.n} cannot be read ({error.strerror}).") from None
    if hashlib.sha256(body).hexdigest() != snapshot.sha256:
        raise EvidenceError(f"{path}: is not the body of snapshot {snapshot.n} as it was written (its SHA-256 differs).")


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be written ({error.strerror}); free some space or give another folder.")
