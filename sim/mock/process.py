"""A mock as a process of its own: started, killed, started again on the same log, and never left behind."""

import asyncio
import contextlib
import re
import signal
import sys
from pathlib import Path

import msgspec

from sim.base.errors import StorageError, StormgateError, TargetError
from sim.base.ownership import STATE_PREFIX, OwnedFolder
from sim.mock.server import COMPLAINT, ServeOptions

START_LIMIT_S = 20.0
STOP_LIMIT_S = 5.0
LOG_NAME = "runtime.log"
_LISTENING = re.compile(rb"listening on http://(?P<host>\S+):(?P<port>\d+) ")


def command(options: ServeOptions, port: int, state: OwnedFolder) -> list[str]:
    """The command line of a mock that ends when its stdin closes, with its event log in `state`."""
    told = msgspec.to_builtins(options) | {
        "port": port,
        "state": str(Path(state.name) / "log.sqlite"),
        "exit_with_stdin": True,
    }
    return [sys.executable, "-m", "sim.mock.server", msgspec.json.encode(told).decode()]


def port_of(line: bytes) -> int:
    """The port that a mock says it listens on; 0 where it says something else."""
    match = _LISTENING.search(line)
    return int(match["port"]) if match else 0


def failure(folder: Path, code: int) -> StormgateError:
    """Why a mock did not start, in its own last words in `folder` if it had any."""
    log = folder / LOG_NAME
    said = log.read_text(errors="replace").splitlines()[-1:]
    if not said or not said[0].startswith(COMPLAINT):
        return TargetError(f"the embedded runtime did not start; what it wrote is in {log}.")
    kind = StorageError if code == StorageError.exit_code else TargetError
    return kind(f"the embedded runtime did not start: {said[0].removeprefix(COMPLAINT)}")


class MockProcess:
    """One mock process at a time, on one port and one event log; what it says on stderr goes to `runtime.log` in `folder`.

    The process ends by itself when ours does: it watches a pipe that only we hold open. Its event log is kept apart from
    `folder`, in a temporary one that goes with `stop`, because signing keys are in it.
    """

    def __init__(self, options: ServeOptions, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._state = OwnedFolder(STATE_PREFIX)
        self._process: asyncio.subprocess.Process | None = None
        self._port = options.port

    @property
    def url(self) -> str:
        """Base URL of control service and runtime alike."""
        return f"http://{self._options.host}:{self._port}"

    @property
    def pid(self) -> int:
        """The running process's id, 0 when there is none."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start on the port used before, if any; returns when it listens. Raises `TargetError` or `StorageError`."""
        with (self._folder / LOG_NAME).open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command(self._options, self._port, self._state),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a Ctrl-C on the terminal is for us; we then stop the mock in order
            )
        self._port = await self._port_told(self._process)

    async def _port_told(self, process: asyncio.subprocess.Process) -> int:
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_LIMIT_S)
            if port := port_of(line):
                return port
            await asyncio.wait_for(process.wait(), STOP_LIMIT_S)  # it is on its way out, with an exit code of its own
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            await self.kill()
            raise
        raise failure(self._folder, await self.kill())

    async def kill(self) -> int:
        """SIGKILL, at once; returns the exit code, negative for a signal."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        return await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end by closing its pipe, and make sure."""
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_LIMIT_S)
            await self.kill()
        self._state.cleanup()
