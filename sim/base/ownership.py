"""Whose something on disk is, and whether its owner is still there.

A mark is a file with the owner's process id, for people, and a lock on it, for programs. The kernel lets go of the lock
when the owner ends, however it does, so a mark without a lock is a leftover; ids alone are given out again.
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
STATE_PREFIX = "stormgate-mock-"  # of the temporary folders with a runtime's event log and signing keys
_MAKING_S = 60.0  # [ours] a folder without a mark that is younger may still get one


class Mark:
    """A locked file that says that this process is at work here. Raises `StorageError` when it cannot be made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("w")  # Python's files are not inherited, so no child keeps the lock
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.write(f"{os.getpid()}\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror}).") from None

    def remove(self) -> None:
        """The work is done, and nothing of it is left to find."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._file.close()


def is_left_over(mark: Path) -> bool:
    """Whether there is a mark whose owner is gone."""
    try:
        with mark.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # it is locked, or not there, or not ours to look at
        return False
    return True


class OwnedFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder that goes with `cleanup`, and that `remove_leftovers` finds when its owner was killed before."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self._mark = Mark(Path(self.name) / MARK_NAME)

    def cleanup(self) -> None:
        """Remove the folder and all that is in it."""
        super().cleanup()
        self._mark.remove()


def remove_leftovers(prefix: str) -> list[Path]:
    """Remove our user's temporary folders of that prefix whose owners are gone; returns those removed."""
    found = sorted(Path(tempfile.gettempdir()).glob(f"{prefix}*"))
    gone = [folder for folder in found if _is_ours(folder) and _is_abandoned(folder)]
    for folder in gone:
        shutil.rmtree(folder, ignore_errors=True)
    return [folder for folder in gone if not folder.exists()]


def _is_ours(folder: Path) -> bool:
    try:
        return folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _is_abandoned(folder: Path) -> bool:
    mark = folder / MARK_NAME
    try:
        return is_left_over(mark) if mark.exists() else time.time() - folder.stat().st_mtime > _MAKING_S
    except OSError:
        return False
