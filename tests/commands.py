"""Run the command line in its own process, and serve wrong answers."""

import contextlib
import io
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from drills.cli import main

LIMIT_S = 90.0
STORMGATE = (sys.executable, "-m", "drills")


@dataclass(frozen=True)
class Said:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """Its one error sentence, without the program's name."""
        (line,) = (line for line in self.err.splitlines() if line.startswith("stormgate: "))
        return line.removeprefix("stormgate: ")


def stormgate(*arguments: object, before: Callable[[], None] | None = None, **environment: str) -> Said:
    """Run the command line to its end."""
    command = [*STORMGATE, *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        preexec_fn=before,
        env={**os.environ, **environment},
    )
    return Said(done.returncode, done.stdout, done.stderr)


def stormgate_here(*arguments: object) -> Said:
    """Run it in this process, which is faster."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main.run_words([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


@contextmanager
def started(*arguments: object, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Start the command line; it is ended with the body."""
    pipe = subprocess.PIPE
    command = [*STORMGATE, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment})
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=LIMIT_S)


def children_of(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def soon(holds: Callable[[], bool], limit_s: float = 20.0) -> bool:
    """Wait until it holds; returns whether it does."""
    until = time.monotonic() + limit_s
    while not (held := holds()) and time.monotonic() < until:
        time.sleep(0.02)
    return held


def sets(*overrides: str) -> list[str]:
    """Options for overrides of a drill's keys."""
    return [f"--set={override}" for override in overrides]


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


Answer = tuple[int, str, bytes]


@contextmanager
def http_server(answer: Callable[..., Answer], takes_body: bool = False) -> Iterator[str]:
    """An HTTP server that answers (method, path[, body]) with (status, content type, body); returns its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            asked = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, kind, body = answer(self.command, self.path.partition("?")[0], *([asked] if takes_body else []))
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = reply  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        yield from serve(server)


@contextmanager
def tcp_server(greeting: bytes) -> Iterator[str]:
    """A server that sends these bytes and closes; returns its address as an HTTP URL."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(greeting)
            self.request.recv(65536)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        yield from serve(server)


def serve(server: socketserver.TCPServer) -> Iterator[str]:
    """Serve in a thread until the caller is done; yields the address."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
