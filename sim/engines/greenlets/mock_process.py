"""The embedded mock as a separate process, started and stopped by greenlets."""

import subprocess
from pathlib import Path

import gevent

from sim.base.ownership import STATE_PREFIX, OwnedFolder
from sim.mock.limits import START_LIMIT_S, STOP_LIMIT_S
from sim.mock.process import LOG_NAME, command, failure, port_of
from sim.mock.server import ServeOptions


class EmbeddedMock:
    """One mock process. It ends when ours does, because it reads a pipe that only we hold open."""

    def __init__(self, options: ServeOptions, folder: Path) -> None:
        """Start it; its stderr goes to `folder`. Raises `TargetError` or `StorageError`."""
        self._state = OwnedFolder(STATE_PREFIX)
        with (folder / LOG_NAME).open("ab") as log:
            self._process = subprocess.Popen(
                command(options, options.port, self._state),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C on the terminal reaches us only; we then stop the mock cleanly
            )
        assert self._process.stdout is not None
        line = gevent.with_timeout(START_LIMIT_S, self._process.stdout.readline, timeout_value=b"")
        port = port_of(line)
        if not port:
            code = self.stop()
            raise failure(folder, code)
        self.url = f"http://{options.host}:{port}"

    @property
    def has_died(self) -> bool:
        """Whether it ended without being stopped."""
        return self._process.poll() is not None

    def stop(self) -> int:
        """Close its pipe, which ends it, or kill it; returns its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._state.cleanup()
        return code
