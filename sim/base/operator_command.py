"""An operator's command: read by no shell, bounded in time, ended with all it started, its words kept without secrets."""

import asyncio
import contextlib
import hashlib
import os
import signal
from pathlib import Path

from sim.base.redaction import Redactor

MAX_OUTPUT_BYTES = 256 * 1024  # of one command, kept
_CHUNK_BYTES = 64 * 1024
_GRACE_S = 2.0  # from SIGTERM to SIGKILL
_LAST_WORDS_S = 1.0  # for output still under way when the command has ended


class Output:
    """What a command prints, as much of it as is kept, and without the secrets that `redact` knows."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact
        self._most = MAX_OUTPUT_BYTES + redact.longest
        self._kept = bytearray()
        self.total = 0

    async def take(self, stream: asyncio.StreamReader) -> None:
        """Read it to its end."""
        while chunk := await stream.read(_CHUNK_BYTES):
            self.total += len(chunk)
            self._kept += chunk[: self._most - len(self._kept)]

    def keep(self, path: Path) -> str:
        """Write it to a file; returns the file's SHA-256, empty where it could not be written: evidence without its digest is
        an error, but a full disk must not keep anything from being healed."""
        content = self._redact(bytes(self._kept))[:MAX_OUTPUT_BYTES]
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        except OSError:
            return ""
        return hashlib.sha256(content).hexdigest()


async def run(argv: list[str], environment: dict[str, str], limit_s: float, output: Output) -> tuple[int | None, str]:
    """Run a command; returns its exit code and what went wrong. Whatever it started ends with it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a Ctrl-C on the terminal is for us; and a time-out ends its children, too
        )
    except OSError as error:
        return None, f"could not be started ({error.strerror})"
    assert process.stdout is not None
    reading = asyncio.create_task(output.take(process.stdout))
    try:
        await asyncio.wait_for(process.wait(), limit_s)
    except TimeoutError:
        return None, f"did not end within {limit_s:g} s"
    finally:
        await _end(process)
        await asyncio.wait([reading], timeout=_LAST_WORDS_S)
        reading.cancel()
    return process.returncode, f"ended with exit code {process.returncode}" if process.returncode else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    """Make sure that a command has ended; one that was cut short gets a moment to leave in order."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_S)
