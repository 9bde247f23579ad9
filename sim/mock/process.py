"""A mock as a separate process: started, killed, and restarted on the same log."""

import asyncio
import contextlib
import re
import signal
import sys
from pathlib import Path

import msgspec

from sim.base.errors import StorageError, StormgateError, TargetError
from sim.base.ownership import STATE_PREFIX, OwnedFolder
from sim.mock.limits import START_LIMIT_S, STOP_LIMIT_S
from sim.mock.server import ERROR_PREFIX, ServeOptions

LOG_NAME = "runtime.log"
_LISTENING = re.compile(rb"listening on http://(?P<host>\S+):(?P<port>\d+) ")


def command(options: ServeOptions, port: int, state: OwnedFolder) -> list[str]:
    """The command line of a mock that ends when its stdin closes, with its event log in `state`."""
    served = msgspec.to_builtins(options) | {
        "port": port,
        "state": str(Path(state.name) / "log.sqlite"),
        "exit_with_stdin": True,
    }
    return [sys.executable, "-m", "sim.mock.server", msgspec.json.encode(served).decode()]


def port_of(line: bytes) -> int:
    """The port in a mock's listening line; 0 for any other line."""
    match = _LISTENING.search(line)
    return int(match["port"]) if match else 0


def failure(folder: Path, code: int) -> StormgateError:
    """Why a mock did not start: the last line of its log in `folder`, if that is an error."""
    log = folder / LOG_NAME
    last = log.read_text(errors="replace").splitlines()[-1:]
    if not last or not last[0].startswith(ERROR_PREFIX):
        return TargetError(f"the embedded mock did not start. Its output is in {log}.")
    kind = StorageError if code == StorageError.exit_code else TargetError
    return kind(f"the embedded mock did not start: {last[0].removeprefix(ERROR_PREFIX)}")


class MockProcess:
    """One mock process at a time, on one port and one event log; its stderr goes to `runtime.log` in `folder`.

    The process ends when ours does, because it reads a pipe that only we hold open. Its event log holds signing keys, so it is
    in a temporary folder, which `stop` removes.
    """

    def __init__(self, options: ServeOptions, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._state = OwnedFolder(STATE_PREFIX)
        self._process: asyncio.subprocess.Process | None = None
        self._port = options.port

    @property
    def url(self) -> str:
        """Base URL of both services."""
        return f"http://{self._options.host}:{self._port}"

    @property
    def pid(self) -> int:
        """The running process's id, or 0."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start on the previous port, if any; returns when it listens. Raises `TargetError` or `StorageError`."""
        with (self._folder / LOG_NAME).open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command(self._options, self._port, self._state),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C on the terminal reaches us only; we then stop the mock cleanly
            )
        self._port = await self._listening_port(self._process)

    async def _listening_port(self, process: asyncio.subprocess.Process) -> int:
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_LIMIT_S)
            if port := port_of(line):
                return port
            await asyncio.wait_for(process.wait(), STOP_LIMIT_S)  # it is ending, with its own exit code
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            await self.kill()
            raise
        raise failure(self._folder, await self.kill())

    async def kill(self) -> int:
        """Send SIGKILL; returns the exit code, negative for a signal."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        return await self._process.wait()

    async def stop(self) -> None:
        """Close its pipe, which ends it, or kill it."""
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_LIMIT_S)
            await self.kill()
        self._state.cleanup()
