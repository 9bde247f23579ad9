"""Marks files and folders with their owner process, and finds what a killed owner left behind.

A mark is a file with the owner's process id, for people, and a lock on it, for programs. The kernel releases the lock when the
owner ends in any way, so a mark without a lock is a leftover. Process ids alone are reused.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from sim.base.errors import StorageError

MARK_NAME = "owner"
STATE_PREFIX = "stormgate-mock-"  # of the temporary folders with a mock's event log and signing keys
_CREATION_S = 60.0  # [ours] a younger folder without a mark may still get one


class Mark:
    """A locked file that marks a place where this process works. Raises `StorageError` if it cannot be created."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("w")  # not inherited, so no child process keeps the lock
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.write(f"{os.getpid()}\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror}).") from None

    def remove(self) -> None:
        """Remove the mark after the work is done."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._file.close()


def is_left_over(mark: Path) -> bool:
    """Whether there is a mark whose owner has ended."""
    try:
        with mark.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # it is locked, missing or unreadable
        return False
    return True


class OwnedFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder, removed by `cleanup`, or by `remove_leftovers` if its owner was killed."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self._mark = Mark(Path(self.name) / MARK_NAME)

    def cleanup(self) -> None:
        """Remove the folder with its content."""
        super().cleanup()
        self._mark.remove()


def remove_leftovers(prefix: str) -> list[Path]:
    """Remove our user's temporary folders with this prefix whose owners have ended; returns those removed."""
    found = sorted(Path(tempfile.gettempdir()).glob(f"{prefix}*"))
    abandoned = [folder for folder in found if _is_ours(folder) and _is_abandoned(folder)]
    for folder in abandoned:
        shutil.rmtree(folder, ignore_errors=True)
    return [folder for folder in abandoned if not folder.exists()]


def _is_ours(folder: Path) -> bool:
    try:
        return folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _is_abandoned(folder: Path) -> bool:
    mark = folder / MARK_NAME
    try:
        return is_left_over(mark) if mark.exists() else time.time() - folder.stat().st_mtime > _CREATION_S
    except OSError:
        return False
