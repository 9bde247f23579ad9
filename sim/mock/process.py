"""A mock as a separate process, which can be started, killed, and restarted on the same log.

The process ends when ours does, because it reads a pipe that only we hold open. Its event log contains signing keys, so it
is in a temporary folder, which `stop` removes.
"""

import asyncio
import contextlib
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from sim.base import bounded_reads
from sim.base.errors import ShortageError, StorageError, StormgateError, TargetError
from sim.base.ownership import STATE_PREFIX, OwnedFolder
from sim.mock.process_limits import START_LIMIT_S, STOP_LIMIT_S
from sim.mock.server import ERROR_PREFIX, SHORTAGE, ServeOptions

LOG_NAME = "runtime.log"
_LOG_END_BYTES = 1 << 16  # [ours] of the log: what is looked at for its last lines
_LISTENING = re.compile(rb"listening on http://\S+:(?P<port>\d+) ")


class _Process:
    """Base of both kinds of mock process. The process appends its stderr to `log`."""

    def __init__(self, options: ServeOptions, log: Path) -> None:
        self._options, self._log = options, log
        self._state = OwnedFolder(STATE_PREFIX)
        self._port = options.port

    @property
    def url(self) -> str:
        """Base URL of both services."""
        return f"http://{self._options.host}:{self._port}"

    def _command(self) -> list[str]:
        state = str(Path(self._state.name) / "log.sqlite")
        options = msgspec.to_builtins(self._options) | {"port": self._port, "state": state, "exit_with_stdin": True}
        return [sys.executable, "-P", "-m", "sim.mock.server", msgspec.json.encode(options).decode()]

    def _is_listening(self, line: bytes) -> bool:
        """Return whether this is the line that reports listening, and take the port from it."""
        if match := _LISTENING.search(line):
            self._port = int(match["port"])
        return match is not None

    def require_descriptors(self) -> None:
        """Raise `ShortageError` if the mock had no file descriptor left at some time."""
        if f"{ERROR_PREFIX}{SHORTAGE}" in self._last_lines():
            raise ShortageError(f"the embedded mock: {SHORTAGE}")

    def _last_lines(self) -> list[str]:
        return bounded_reads.file_end(self._log, _LOG_END_BYTES).decode(errors="replace").splitlines()

    def _failure(self, code: int) -> StormgateError:
        """Return why the process did not start: the last line of its log, if that line is an error."""
        last = self._last_lines()[-1:]
        if not last or not last[0].startswith(ERROR_PREFIX):
            return TargetError(f"the embedded mock did not start. Its output is in {self._log}.")
        kind = StorageError if code == StorageError.exit_code else TargetError
        return kind(f"the embedded mock did not start: {last[0].removeprefix(ERROR_PREFIX)}")


class MockProcess(_Process):
    """A mock process for asyncio: one at a time, on one port and one event log. It logs to `runtime.log` in `folder`."""

    def __init__(self, options: ServeOptions, folder: Path) -> None:
        super().__init__(options, folder / LOG_NAME)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The running process's id, or 0."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start on the previous port, if any; return when it listens. Raise `TargetError` or `StorageError`."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C on the terminal reaches us only; we then stop the mock cleanly
            )
        assert self._process.stdout is not None
        try:
            if self._is_listening(await asyncio.wait_for(self._process.stdout.readline(), START_LIMIT_S)):
                return
            await asyncio.wait_for(self._process.wait(), STOP_LIMIT_S)  # it is ending, with its own exit code
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            await self.kill()
            raise
        raise self._failure(await self.kill())

    async def kill(self) -> int:
        """Send SIGKILL; return the exit code, negative for a signal."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        return await self._process.wait()

    async def stop(self) -> None:
        """Close the process's pipe, which ends it; kill it if it does not end in time."""
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_LIMIT_S)
            await self.kill()
        self._state.cleanup()


class BlockingMockProcess(_Process):
    """A mock process for threads, and for greenlets if gevent has patched the standard library."""

    def __init__(self, options: ServeOptions, log: Path) -> None:
        """Start the process; return when it listens. Raise `TargetError` or `StorageError`."""
        super().__init__(options, log)
        pipe = subprocess.PIPE
        with log.open("ab") as errors:
            self._process = subprocess.Popen(self._command(), stdin=pipe, stdout=pipe, stderr=errors, start_new_session=True)
        assert self._process.stdout is not None
        is_ready = select.select([self._process.stdout], [], [], START_LIMIT_S)[0]
        if not is_ready or not self._is_listening(self._process.stdout.readline()):
            raise self._failure(self.stop())

    @property
    def pid(self) -> int:
        """The running process's id, or 0."""
        return self._process.pid if self._process.poll() is None else 0

    @property
    def has_died(self) -> bool:
        """Whether the process ended without being stopped."""
        return self._process.poll() is not None

    def stop(self) -> int:
        """Close the process's pipe, which ends it; kill it if it does not end in time. Return its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._process.stdout.close()
        self._state.cleanup()
        return code
