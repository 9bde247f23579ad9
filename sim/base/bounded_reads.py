"""Reads of what others wrote, each within a limit on its size: files, and answers that come in parts.

Nothing else in the program reads a whole file or a whole answer; `tests/test_bounded_reads.py` looks for it. Every failure
is an `OSError`, so that a reader has one sentence for a file that is missing, unreadable, or larger than it may be.
"""

import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterable, Iterable
from io import BufferedReader
from pathlib import Path

MAX_FILE_BYTES = 64 * 1024 * 1024  # [ours] of a file; a rollout's journal, the largest, has a few MiB
MAX_ANSWER_BYTES = 16 * 1024 * 1024  # [ours] of an answer of a service, after inflation; the largest, a snapshot, has a few MiB
_PIECE_BYTES = 64 * 1024  # [ours] what is read at once; the kernel refuses to fill a large buffer from some files of /proc


class TooLargeError(OSError):
    """Something is larger than it may be."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(errno.EFBIG, f"it is larger than {_size(max_bytes)}")


def open_file(path: Path | str) -> BufferedReader:
    """Open a file to read it. Raises `OSError`, also for what is no file, such as a pipe that nobody writes to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a file")


def file_bytes(path: Path | str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return a file's content. Raises `OSError`, also for a file of more than `max_bytes`."""
    with open_file(path) as file:
        return joined(iter(lambda: file.read(_PIECE_BYTES), b""), max_bytes)


def file_text(path: Path, max_bytes: int = MAX_FILE_BYTES) -> str:
    """Return a file's content as text. Raises `OSError` like `file_bytes`, also for bytes that are not UTF-8."""
    try:
        return file_bytes(path, max_bytes).decode()
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, f"byte {error.start + 1} is not UTF-8 text") from None


def file_end(path: Path, max_bytes: int) -> bytes:
    """Return the last bytes of a file, at most `max_bytes`, for a log of any size. Raises `OSError`."""
    with open_file(path) as file:
        file.seek(max(file.seek(0, os.SEEK_END) - max_bytes, 0))
        return file.read(max_bytes)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal digits. Raises `OSError`."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def joined(parts: Iterable[bytes], max_bytes: int = MAX_ANSWER_BYTES) -> bytes:
    """Return an answer that comes in parts. Raises `TooLargeError` as soon as it has more than `max_bytes`."""
    found = bytearray()
    for part in parts:
        found += part
        _require(len(found), max_bytes)
    return bytes(found)


async def joined_async(parts: AsyncIterable[bytes], max_bytes: int = MAX_ANSWER_BYTES) -> bytes:
    """Return an answer like `joined`."""
    found = bytearray()
    async for part in parts:
        found += part
        _require(len(found), max_bytes)
    return bytes(found)


def _require(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLargeError(max_bytes)


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >> 20 else f"{count >> 10} KiB" if count >> 10 else f"{count} bytes"
