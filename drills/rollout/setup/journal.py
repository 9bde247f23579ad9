"""The journal of a rollout: an append-only file in which every line holds the hash of the line before.

A changed, removed or inserted line breaks the chain, and so does a line that is older than the line above it.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import msgspec

from drills.rollout.setup.evidence import LockedFile, whole_lines
from sim.base.clocks import Clock, from_iso, iso
from sim.base.errors import EvidenceError

NAME = "journal.jsonl"
_START = "0" * 64


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `sha256` is the hash of the line without it; `previous_sha256` is part of the line."""

    n: int  # number of the line, starting at 1
    at: str
    kind: str  # for example stage_started, hold_restarted, reported, signed
    body: dict[str, Any]
    previous_sha256: str
    sha256: str = ""


def read(path: Path) -> list[Entry]:
    """All entries; empty without a file. Raises `EvidenceError` with the line's number if the chain is broken."""
    entries: list[Entry] = []
    for line in whole_lines(path):
        entries.append(_checked(line, entries[-1] if entries else None, path))
    return entries


def _checked(line: bytes, before: Entry | None, path: Path) -> Entry:
    n = before.n + 1 if before else 1
    try:
        entry = msgspec.json.decode(line, type=Entry)
        at = from_iso(entry.at)
    except (msgspec.DecodeError, ValueError) as error:
        raise EvidenceError(f"{path}: line {n} is not a journal entry ({error}).") from None
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
    """The journal of one rollout, open for writing. Use it as a context manager.

    Raises `UsageError` while another process holds it, `EvidenceError` for a broken chain, `StorageError` for a full disk.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._file: LockedFile | None = None
        self.entries: list[Entry] = []

    def __enter__(self) -> "Journal":
        with contextlib.ExitStack() as on_error:
            busy = "another stormgate works on this rollout; wait until it has ended."
            file = on_error.enter_context(LockedFile(self._path, busy))
            self.entries = read(self._path)
            file.cut_torn_line()
            on_error.pop_all()
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.__exit__()

    def append(self, kind: str, **body: Any) -> Entry:
        """Write an entry durably. Raises `EvidenceError` if the clock shows a time before the previous entry."""
        if self._file is None:
            raise RuntimeError("a journal is written between __enter__ and __exit__")
        last = self.entries[-1] if self.entries else None
        now = self._clock.now()
        if last is not None and now < from_iso(last.at):
            raise EvidenceError(
                f"{self._path}: the time here is {iso(now)}, but the last entry is of {last.at}; the clock was set back, so "
                "the length of a hold is unknown."
            )
        previous = last.sha256 if last else _START
        entry = Entry(n=len(self.entries) + 1, at=iso(now), kind=kind, body=body, previous_sha256=previous)
        entry = msgspec.structs.replace(entry, sha256=_digest(entry))
        self._file.append(entry, is_durable=True)
        self.entries.append(entry)
        return entry
