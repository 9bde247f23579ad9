"""A third-party server as a process of ours: on free ports, in a folder of its own, with its log kept.

The server ends when our process ends, in whatever way: a small process beside it (`leash`) reads a pipe that only we hold open.
Hooks of its target act on it through a socket in its folder (`control`).
"""

import contextlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx

from drills.third_party import control, installed, recipes
from drills.third_party.recipe import NO_PARAMETERS, PREFIX, SANE, Parameters, Place, Recipe, Report
from sim.base import bounded_reads
from sim.base.errors import StormgateError, TargetError, UsageError
from sim.base.ownership import OwnedFolder

START_LIMIT_S = 30.0  # [ours] until a started server must be ready
STOP_LIMIT_S = 10.0  # [ours] for a server to end by itself
TARGETS = "targets.toml"
_LOOK_EVERY_S = 0.02
_MAX_REQUEST_BYTES = 1 << 20
_LOG_END_BYTES = 1 << 16  # [ours] of a server's log: what is looked at for its last line


class Server:
    """A running server. `restart`, `kill` and `start` act on its process; `stop` ends it and removes its folder."""

    def __init__(self, recipe: Recipe, variant: str, log: Path, name: str = "", port: int = 0) -> None:
        """Start the server; return when it is ready. Raises `TargetError` if it does not get ready.

        `name` is that of its target, by default the recipe's; `port` is its first port, by default a free one.
        """
        recipes.check_variant(recipe, variant)
        installed.require(recipe)
        self.recipe, self.variant, self.log, self.name = recipe, variant, log, name or recipe.name
        self._folder = OwnedFolder(PREFIX)
        folder = Path(self._folder.name)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        asked_at = folder / control.SOCKET
        self.place = Place(folder, _ports(recipe.ports, port), recipe.settings_of(variant), control.command(asked_at))
        self._listener = _Listener(str(asked_at), self.act)
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()
        try:
            self._argv = recipe.command(self.place)
            self.targets_file = folder / TARGETS
            self.description = recipe.target(self.place).replace(f"[targets.{recipe.name}", f"[targets.{self.name}")
            self.targets_file.write_text(self.description)
            self.start()
        except BaseException:
            self.stop()
            raise

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables that its target names."""
        return self.recipe.environment

    def act(self, action: str, parameters: Parameters = NO_PARAMETERS) -> Report:
        """Do what a hook asks for; return what it reports. Raises `StormgateError` if it fails."""
        own: dict[str, Callable[[], None]] = {"kill": self.kill, "start": self.start, "restart": self.restart}
        if action in own:
            own[action]()
            return {}
        if action in self.recipe.actions:
            return self.recipe.actions[action](self.place, parameters) or {}
        raise TargetError(
            f"{self.recipe.title} has no action '{action}'; there are: {', '.join([*own, *self.recipe.actions])}."
        )

    def start(self) -> None:
        """Start the process, unless it runs; return when it is ready."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "drills.third_party.leash", *self._argv],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=self.place.folder,
                    start_new_session=True,  # Ctrl-C on the terminal reaches us only
                )
            self._wait_until_ready(self._process)
            self.recipe.prepare(self.place)

    def kill(self) -> None:
        """Kill the process, as a crash does."""
        with self._lock:
            self._end(b"k")

    def restart(self) -> None:
        """Let the process end by itself (SIGTERM), and start it again."""
        with self._lock:
            self._end(b"t")
        self.start()

    def stop(self) -> None:
        """End the process, and remove its folder. The log stays."""
        self._listener.shutdown()
        self._listener.server_close()
        self.kill()
        self.recipe.clean_up(self.place)
        self._folder.cleanup()

    def _end(self, how: bytes) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(how)
            process.stdin.close()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        url, until = self.recipe.ready_url(self.place), time.monotonic() + START_LIMIT_S
        while time.monotonic() < until:
            if (code := process.poll()) is not None:
                raise TargetError(f"{self.recipe.title} ended with exit code {code}{self._last_words()}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url, timeout=1.0).status_code in self.recipe.ready_statuses:
                    return
            time.sleep(_LOOK_EVERY_S)
        raise TargetError(f"{self.recipe.title} did not get ready within {START_LIMIT_S:g} s{self._last_words()}")

    def _last_words(self) -> str:
        last = bounded_reads.file_end(self.log, _LOG_END_BYTES).decode(errors="replace").splitlines()[-1:]
        return f". The last line of its log ({self.log}) is: {last[0][:300] if last else '(none)'}"


@contextlib.contextmanager
def running(name: str, variant: str = SANE, *, log: Path, target: str = "", port: int = 0) -> Iterator[Server]:
    """Run a server by name as long as the context lasts, with its target's environment variables set.

    `target` and `port` are as those of `Server`.
    """
    server = Server(recipes.get(name), variant, log, target, port)
    before = {key: os.environ.get(key) for key in server.environment}
    os.environ.update(server.environment)
    try:
        yield server
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        server.stop()


class _Listener(socketserver.UnixStreamServer):
    """Takes the requests of hooks, one at a time: a line of JSON with an action and its parameters.

    The answer is a JSON object with the error, or none, and the action's report.
    """

    def __init__(self, path: str, act: Callable[[str, Parameters], Report]) -> None:
        super().__init__(path, _Request)
        self.act = act


class _Request(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Listener)
        error, report = "", {}
        try:
            report = dict(self.server.act(*json.loads(self.rfile.readline(_MAX_REQUEST_BYTES))))
        except (StormgateError, OSError, ValueError, httpx.HTTPError) as failure:
            error = str(failure) or type(failure).__name__
        with contextlib.suppress(OSError):
            self.wfile.write(json.dumps({"error": error, "report": report}).encode() + b"\n")


def _ports(count: int, first: int) -> tuple[int, ...]:
    """Return free ports, the first as asked for. They stay free in practice: the kernel gives others to those who ask for any.

    Raises `UsageError` if the first is taken.
    """
    with contextlib.ExitStack() as held:
        try:
            sockets = [held.enter_context(socket.create_server(("127.0.0.1", port))) for port in (first, *[0] * (count - 1))]
        except OSError as error:
            raise UsageError(f"--port {first}: cannot be used ({os.strerror(error.errno or 0)}); give another one.") from None
        return tuple(each.getsockname()[1] for each in sockets)
