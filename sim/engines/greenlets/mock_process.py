"""The embedded mock as a process of its own, started and stopped by greenlets."""

import subprocess
from pathlib import Path

import gevent

from sim.base.ownership import STATE_PREFIX, OwnedFolder
from sim.mock.process import LOG_NAME, START_LIMIT_S, STOP_LIMIT_S, command, failure, port_of
from sim.mock.server import ServeOptions


class EmbeddedMock:
    """One mock process. It ends by itself when ours does: it watches a pipe that only we hold open."""

    def __init__(self, options: ServeOptions, folder: Path) -> None:
        """Start it; what it says on stderr goes to `folder`. Raises `TargetError` or `StorageError`."""
        self._state = OwnedFolder(STATE_PREFIX)
        with (folder / LOG_NAME).open("ab") as log:
            self._process = subprocess.Popen(
                command(options, options.port, self._state),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a Ctrl-C on the terminal is for us; we then stop the mock in order
            )
        assert self._process.stdout is not None
        said = gevent.with_timeout(START_LIMIT_S, self._process.stdout.readline, timeout_value=b"")
        port = port_of(said)
        if not port:
            code = self.stop()
            raise failure(folder, code)
        self.url = f"http://{options.host}:{port}"

    @property
    def has_died(self) -> bool:
        """Whether it ended, though nobody stopped it."""
        return self._process.poll() is not None

    def stop(self) -> int:
        """Ask it to end by closing its pipe, and make sure; returns its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._state.cleanup()
        return code
