"""Runs an operator's command without a shell and with a time limit, and keeps its output without secrets."""

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from sim.base.redaction import Redactor

MAX_OUTPUT_BYTES = 256 * 1024  # of the output that is kept of one command
PREFIX = "STORMGATE_"  # of the variables that commands get from us
NOT_STARTED = "could not be started"  # start of the reason if a command did not run at all
_CHUNK_BYTES = 64 * 1024
_GRACE_S = 2.0  # from SIGTERM to SIGKILL
_LAST_OUTPUT_S = 1.0  # to read the rest of the pipe after the command ended
_CUT = b"\n[... stormgate kept the beginning and the end ...]\n"


class Output:
    """The output of a command, redacted: its first `max_bytes`, or with `keeps_end` half of them from its end."""

    def __init__(self, redact: Redactor, max_bytes: int = MAX_OUTPUT_BYTES, *, keeps_end: bool = False) -> None:
        self._redact, self._max, self._keeps_end = redact, max_bytes, keeps_end
        self._head, self._tail = bytearray(), bytearray()
        self.total = 0

    async def take(self, stream: asyncio.StreamReader) -> None:
        """Read the output to its end."""
        max_head = self._max // 2 if self._keeps_end else self._max + self._redact.longest
        while chunk := await stream.read(_CHUNK_BYTES):
            self.total += len(chunk)
            room = max_head - len(self._head)
            self._head += chunk[:room]
            if self._keeps_end:
                self._tail += chunk[room:]
                del self._tail[: max(len(self._tail) - self._max // 2, 0)]

    @property
    def content(self) -> bytes:
        """Return the kept output, redacted."""
        if not self._keeps_end:
            return self._redact(bytes(self._head))[: self._max]
        return self._redact(bytes(self._head) + (_CUT if self.total > self._max else b"") + bytes(self._tail))

    def keep(self, path: Path) -> str:
        """Write it to a file; returns the file's SHA-256, empty if it could not be written.

        Evidence without a digest is an error, but a full disk must not prevent the revert of a fault.
        """
        content = self.content
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        except OSError:
            return ""
        return hashlib.sha256(content).hexdigest()


def with_ours(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command: that of this process, and these variables with our prefix."""
    return {**os.environ, **{PREFIX + name: value for name, value in variables.items()}}


async def run(
    argv: list[str],
    environment: Mapping[str, str],
    limit_s: float,
    output: Output,
    *,
    cwd: Path | None = None,
    with_stderr: bool = True,
    ends_all: bool = False,
    given: bytes = b"",
) -> tuple[int | None, str]:
    """Run a command; returns its exit code and what went wrong. On a time-out, all processes that it started end with it.

    `ends_all`: they end also after a normal end. Without it, a command may leave a process running, such as a restarted server.
    `given` is the command's input.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if given else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if with_stderr else asyncio.subprocess.DEVNULL,
            cwd=cwd,
            env=environment,
            start_new_session=True,  # Ctrl-C must not reach it, and a time-out must end its children, too
        )
    except OSError as error:
        return None, f"{NOT_STARTED} ({error.strerror})"
    assert process.stdout is not None
    reading = asyncio.create_task(output.take(process.stdout))
    if process.stdin is not None:
        with contextlib.suppress(OSError, RuntimeError):  # it ended without reading its input; uvloop calls the pipe closed
            process.stdin.write(given)
            process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), limit_s)
    except TimeoutError:
        return None, f"did not end within {limit_s:g} s"
    finally:
        await _end(process, ends_all)
        await asyncio.wait([reading], timeout=_LAST_OUTPUT_S)
        reading.cancel()
    return process.returncode, f"ended with exit code {process.returncode}" if process.returncode else ""


async def _end(process: asyncio.subprocess.Process, ends_all: bool) -> None:
    """Make sure that a command has ended, and with `ends_all` its whole session; SIGTERM lets it clean up."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None and not (ends_all and number is signal.SIGKILL):
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_S)
