"""The embedded mock: a process of its own that ends when this one does."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sim.base.errors import TargetError
from sim.base.ownership import STATE_PREFIX, OwnedFolder
from sim.engines.shared.endpoints import Endpoints
from sim.mock.server import ServeOptions, admin_token
from sim.server.settings import RuntimeSettings, Switches

NAME = "embedded mock"
_LIMIT_S = 20.0


@contextlib.contextmanager
def serving(log: Path, options: ServeOptions | None = None) -> Iterator[Endpoints]:
    """Start it and yield its endpoints; its output goes to `log`. Raises `TargetError` if it does not start."""
    options = options or ServeOptions(RuntimeSettings(), Switches())
    state = OwnedFolder(STATE_PREFIX)
    try:
        arguments = msgspec.to_builtins(options) | {"state": str(Path(state.name) / "log.sqlite"), "exit_with_stdin": True}
        command = [sys.executable, "-m", "sim.mock.server", msgspec.json.encode(arguments).decode()]
        pipe = subprocess.PIPE
        with log.open("ab") as errors:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, start_new_session=True)
        try:
            url = _address(process, log)
            yield Endpoints(NAME, "mock", url, url, admin_token=admin_token())
        finally:
            _end(process)
    finally:
        state.cleanup()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    if "listening on " not in line:
        raise TargetError(f"the embedded mock did not start; its output is in {log}.")
    return line.split("listening on ")[1].split()[0]


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
