"""What happened to a rollout, in order: an append-only file in which every line holds the hash of the one before.

A line that was changed, removed or put in between breaks the chain, and so does one whose time lies before the line above it.
One process at a time may write: the kernel holds the lock, and lets go of it however the process ends.
"""

import fcntl
import hashlib
import os
from pathlib import Path
from typing import IO, Any

import msgspec

from sim.base.clocks import Clock, from_iso, iso
from sim.base.errors import EvidenceError, StorageError, UsageError

NAME = "journal.jsonl"
_START = "0" * 64


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `sha256` is of the line without it, in which `previous_sha256` stands."""

    n: int  # from 1 on
    at: str
    kind: str  # such as stage_begun, hold_restarted, reported, signed
    body: dict[str, Any]
    previous_sha256: str
    sha256: str = ""


def read(path: Path) -> list[Entry]:
    """All entries, of a file that is not there none. Raises `EvidenceError` where the chain is broken, naming the line."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    entries: list[Entry] = []
    for line in lines[:-1]:  # what follows the last line feed was being written when its writer was killed
        entries.append(_checked(line, entries[-1] if entries else None, path))
    return entries


def _checked(line: bytes, before: Entry | None, path: Path) -> Entry:
    n = before.n + 1 if before else 1
    try:
        entry = msgspec.json.decode(line, type=Entry)
        at = from_iso(entry.at)
    except (msgspec.DecodeError, ValueError) as error:
        raise EvidenceError(f"{path}: line {n} is no entry of a journal ({error}).") from None
    previous = before.sha256 if before else _START
    if entry.n != n or entry.previous_sha256 != previous or entry.sha256 != _digest(entry):
        raise EvidenceError(f"{path}: line {n} is not the one that was written; the journal was changed by hand.")
    if before is not None and at < from_iso(before.at):
        raise EvidenceError(f"{path}: line {n} is older than the line before it; a clock was set back.")
    return entry


def _digest(entry: Entry) -> str:
    plain = msgspec.structs.replace(entry, sha256="")
    return hashlib.sha256(msgspec.json.encode(plain, order="deterministic")).hexdigest()


class Journal:
    """The journal of one rollout, held for writing. Use it as a context manager.

    Raises `UsageError` while another process holds it, `EvidenceError` for a broken chain, `StorageError` for a full disk.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._file: IO[bytes] | None = None
        self.entries: list[Entry] = []

    def __enter__(self) -> "Journal":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written ({error.strerror}).") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UsageError(f"{self._path}: another stormgate is at work on this rollout; wait until it has ended.") from None
        try:
            self.entries = read(self._path)
            self._cut_torn_line()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, kind: str, **body: Any) -> Entry:
        """Write an entry, durably. Raises `EvidenceError` when the clock stands before the entry above."""
        if self._file is None:
            raise RuntimeError("a journal is written between __enter__ and __exit__")
        last = self.entries[-1] if self.entries else None
        now = self._clock.now()
        if last is not None and now < from_iso(last.at):
            raise EvidenceError(
                f"{self._path}: it is {iso(now)} here, but its last entry is of {last.at}; the clock was set back, so no time "
                "that was held can be believed."
            )
        previous = last.sha256 if last else _START
        entry = Entry(n=len(self.entries) + 1, at=iso(now), kind=kind, body=body, previous_sha256=previous)
        entry = msgspec.structs.replace(entry, sha256=_digest(entry))
        try:
            self._file.write(msgspec.json.encode(entry) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written ({error.strerror}).") from None
        self.entries.append(entry)
        return entry

    def _cut_torn_line(self) -> None:
        """What a killed writer left of its last line."""
        whole = self._path.read_bytes().rpartition(b"\n")
        if whole[2]:
            os.truncate(self._path, len(whole[0]) + len(whole[1]))
