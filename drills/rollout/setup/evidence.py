"""Read and write the files of a stage's folder. A file is complete and of its type, or an error names the problem."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from drills.rollout.setup import records
from drills.rollout.setup.records import Evidence, Signoff, StagePlan, StageReport, Waiver
from sim.base import bounded_reads
from sim.base.atomic_files import read_struct, write_whole
from sim.base.errors import EvidenceError, StorageError, UsageError
from sim.base.ownership import MARK_NAME

RENDERED = (records.GATE_RESULTS, records.REPORT_MD, records.REPORT_HTML, records.BLOCKERS, records.JUNIT)
NOT_EVIDENCE = frozenset({*RENDERED, records.REPORT, records.SIGNOFF, records.WAIVERS, MARK_NAME})

T = TypeVar("T", bound=msgspec.Struct)


def read_plan(run_dir: Path) -> StagePlan:
    """A stage's plan. Raises `UsageError` for a folder that is not a stage's, `EvidenceError` for a damaged plan."""
    path = run_dir / records.PLAN
    if not path.is_file():
        if (run_dir / records.REPORT).exists() or (run_dir / records.HOLD).exists():
            raise EvidenceError(f"{path}: is missing, so it is unknown what this stage was going to do.")
        raise UsageError(f"{run_dir}: is not a stage's folder (it has no {records.PLAN}).")
    plan = read_struct(path, StagePlan)
    if plan.schema != records.SCHEMA:
        raise EvidenceError(f"{path}: is of schema {plan.schema}, which this version does not know.")
    return plan


def read_report(run_dir: Path) -> StageReport | None:
    """A stage's report; None without one. Raises `EvidenceError` for a damaged one."""
    path = run_dir / records.REPORT
    return read_struct(path, StageReport) if path.exists() else None


def read_signoff(run_dir: Path) -> Signoff | None:
    """The signature on a stage; None without one. Raises `EvidenceError` for a damaged one."""
    path = run_dir / records.SIGNOFF
    return read_struct(path, Signoff) if path.exists() else None


def read_waivers(run_dir: Path) -> list[Waiver]:
    """All entries of `waivers.json`, valid or not; empty without the file. Raises `EvidenceError`."""
    path = run_dir / records.WAIVERS
    try:
        return msgspec.json.decode(bounded_reads.file_bytes(path), type=list[Waiver]) if path.exists() else []
    except (OSError, msgspec.DecodeError) as error:
        raise EvidenceError(f"{path}: is damaged ({error}).") from None


def read_lines(path: Path, kind: type[T]) -> list[T]:
    """The objects of a JSON-lines file; empty if it does not exist. Raises `EvidenceError` with the line's number.

    Text after the last line feed is ignored, because its writer was killed before the line was complete.
    """
    found = []
    for number, line in enumerate(whole_lines(path), 1):
        try:
            found.append(msgspec.json.decode(line, type=kind))
        except (msgspec.DecodeError, ValueError) as error:
            raise EvidenceError(f"{path}: line {number} is damaged ({error}).") from None
    return found


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that end with a line feed; empty if the file does not exist. Raises `EvidenceError`."""
    try:
        return bounded_reads.file_bytes(path).split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None


def append(path: Path, line: msgspec.Struct) -> None:
    """Add one line to a JSON-lines file. Raises `StorageError`."""
    try:
        with path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
    except OSError as error:
        raise cannot_write(path, error) from None


def write_json(path: Path, content: object) -> bytes:
    """Write a record atomically as indented JSON; return the bytes. Raises `StorageError`."""
    content = encoded(content)
    write_whole(path, content)
    return content


def encoded(content: object) -> bytes:
    """A record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def cannot_write(path: Path, error: OSError) -> StorageError:
    """The error for a file that cannot be written."""
    return StorageError(f"{path}: cannot be written ({error.strerror}); free some space or give another folder.")


class LockedFile:
    """A JSON-lines file that one process at a time may extend. The kernel releases the lock when the process ends or is killed.

    Raises `UsageError` with the text `busy` while another process holds it, and `StorageError`.
    """

    def __init__(self, path: Path, busy: str) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(path, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UsageError(f"{path}: {busy}") from None

    def __enter__(self) -> "LockedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def cut_torn_line(self) -> None:
        """Remove an incomplete line that a killed writer left at the end. Raises `StorageError`."""
        try:
            head, feed, torn = bounded_reads.file_bytes(self.path).rpartition(b"\n")
            if torn:
                os.truncate(self.path, len(head) + len(feed))
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def append(self, line: msgspec.Struct, *, is_durable: bool = False) -> None:
        """Add one line, completely or not at all; `is_durable` waits until it is on the disk. Raises `StorageError`."""
        encoded = msgspec.json.encode(line) + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(encoded) != len(encoded):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if is_durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # no line may follow an incomplete line
                self._file.truncate(end)
            raise cannot_write(self.path, error) from None


def files(run_dir: Path) -> tuple[Evidence, ...]:
    """Every file in a stage's folder that its report is based on, sorted by name. Raises `EvidenceError`."""
    found = sorted(path for path in run_dir.rglob("*") if path.is_file() or path.is_symlink())
    return tuple(described(run_dir, path) for path in found if not _is_derived(run_dir, path))


def seal(run_dir: Path) -> None:
    """Record the evidence of a run that has ended, once: what is changed or missing later shows. Raises `StorageError`."""
    if not (run_dir / records.SEAL).exists():
        write_json(run_dir / records.SEAL, files(run_dir))


def require_sealed(run_dir: Path, now: Sequence[Evidence]) -> None:
    """Raise `EvidenceError` unless these files are those with which the run ended."""
    path = run_dir / records.SEAL
    if not path.is_file():
        raise EvidenceError(f"{path}: is missing, so this run has not ended, or its evidence is not complete.")
    try:
        sealed = msgspec.json.decode(bounded_reads.file_bytes(path), type=tuple[Evidence, ...])
    except (OSError, msgspec.DecodeError) as error:
        raise EvidenceError(f"{path}: is damaged ({error}).") from None
    was, found = ({each.path: each for each in each_list} for each_list in (sealed, now))
    found.pop(records.SEAL, None)
    if changed := sorted(name for name in was.keys() | found.keys() if was.get(name) != found.get(name)):
        what = "is missing" if changed[0] not in found else "is new" if changed[0] not in was else "was changed"
        raise EvidenceError(f"{run_dir / changed[0]}: {what} since this run ended; see {records.SEAL}.")


def _is_derived(run_dir: Path, path: Path) -> bool:
    return path.name == MARK_NAME or (path.parent == run_dir and path.name in NOT_EVIDENCE)


def described(run_dir: Path, path: Path) -> Evidence:
    """The name, hash and size of a file. Raises `EvidenceError`, also for a symbolic link, whose target may change."""
    if path.is_symlink():
        raise EvidenceError(f"{path}: is a link; evidence lies in the stage's own folder.")
    try:
        digest = bounded_reads.file_sha256(path)
        size = path.stat().st_size
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    return Evidence(path=path.relative_to(run_dir).as_posix(), sha256=digest, size_bytes=size)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file. Raises `EvidenceError`."""
    return described(path.parent, path).sha256
