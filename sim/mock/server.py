"""Serves a mock on a port. Engines start it as a process with `python -m sim.mock.server`."""

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uvicorn

from sim.base import bounded_reads
from sim.base.errors import StormgateError, UsageError, shortage
from sim.base.ownership import STATE_PREFIX, OwnedFolder
from sim.machine.gc_tuning import relaxed_gc
from sim.mock.app import DEFAULT_ADMIN_TOKEN, Mock, MockOptions
from sim.mock.process_limits import BACKLOG, MAX_PORTS_TRIED, MIN_PORT, SHUTDOWN_LIMIT_S, TICK_S
from sim.mock.store import Store
from sim.protocols import registry
from sim.server.deployment import Deployment
from sim.server.settings import RuntimeSettings, Switches

ERROR_PREFIX = "stormgate mock: "  # of the line on stderr with the reason why the mock cannot start or go on
SHORTAGE = "no file descriptor was left, so that connections were refused; raise `ulimit -n`, or use fewer clients."
ADMIN_TOKEN_VARIABLE = "RUNTIME_ADMIN_TOKEN"
_OUTGOING_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


@dataclass(frozen=True)
class ServeOptions:
    """Options of a mock. `state` is the log's file, or empty for a temporary one. `exit_with_stdin`: end when stdin closes."""

    settings: RuntimeSettings
    switches: Switches
    host: str = "127.0.0.1"
    port: int = 0
    state: str = ""
    exit_with_stdin: bool = False
    deployment: Deployment = field(default_factory=Deployment)
    protocol: str = registry.DEFAULT


def listening_line(host: str, port: int) -> str:
    """Return the line that is printed when the port is open. `MockProcess` reads it."""
    shown = f"[{host}]" if ":" in host else host
    return f"stormgate mock: listening on http://{shown}:{port} (pid {os.getpid()})"


def serve(options: ServeOptions) -> None:
    """Serve until a signal stops the mock; raise `UsageError` or `StorageError` if it cannot start."""
    raise_descriptor_limit()
    listener = _listen(options.host, options.port, options.settings.send_buffer_kib)
    with contextlib.ExitStack() as cleanup:
        store = Store(Path(options.state) if options.state else _temporary_log(cleanup))
        mock = Mock(_mock_options(options), store)
        config = uvicorn.Config(
            mock.app(),
            loop="uvloop",
            http="httptools",
            ws="websockets-sansio",
            ws_ping_interval=None,
            ws_per_message_deflate=False,
            access_log=False,  # a request line holds the token
            log_level="warning",
            backlog=BACKLOG,
            timeout_graceful_shutdown=SHUTDOWN_LIMIT_S,
        )
        logging.getLogger("uvicorn.error").addFilter(_is_relevant)
        print(listening_line(options.host, listener.getsockname()[1]), flush=True)
        server = uvicorn.Server(config)
        _end_with_signals(server)
        with relaxed_gc(), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_run(server, listener, options.exit_with_stdin))


def _end_with_signals(server: uvicorn.Server) -> None:
    """End cleanly on a signal. uvicorn raises the signal again at its end, so the default handler would cause an error."""

    def end(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _temporary_log(cleanup: contextlib.ExitStack) -> Path:
    return Path(cleanup.enter_context(OwnedFolder(STATE_PREFIX))) / "log.sqlite"


def _is_relevant(record: logging.LogRecord) -> bool:
    """Filter out two false alarms of uvicorn: an upgrade refused with a body, and a client's bytes that are not UTF-8."""
    message = record.getMessage()
    return "without completing handshake" not in message and "Invalid UTF-8 sequence" not in message


def admin_token() -> str:
    """Return the admin token of a mock that this process starts: from the environment, or the default."""
    return os.environ.get(ADMIN_TOKEN_VARIABLE) or DEFAULT_ADMIN_TOKEN


def _mock_options(options: ServeOptions) -> MockOptions:
    return MockOptions(options.settings, options.switches, admin_token(), options.deployment, options.protocol)


async def _run(server: uvicorn.Server, listener: socket.socket, exit_with_stdin: bool) -> None:
    if exit_with_stdin:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _end_when_closed, server)
    watching = asyncio.create_task(_report_shortage())
    await server.serve(sockets=[listener])
    watching.cancel()


async def _report_shortage() -> None:
    """Say on stderr, once, that no file descriptor is left. The event loop then closes new connections and says nothing."""
    while True:
        await asyncio.sleep(TICK_S)
        try:
            os.close(os.dup(sys.stderr.fileno()))
        except OSError as error:
            if shortage(error) is None:
                raise
            print(f"{ERROR_PREFIX}{SHORTAGE}", file=sys.stderr, flush=True)
            return


def _end_when_closed(server: uvicorn.Server) -> None:
    """End when stdin is closed: the parent process has ended, or asks this process to end."""
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        server.should_exit = True


def _listen(host: str, port: int, send_buffer_kib: int) -> socket.socket:
    """Open a listening socket. Raise `UsageError` for an address that is not available."""
    for candidate in (port,) if port else _candidate_ports():
        try:
            return _bound(host, candidate, send_buffer_kib)
        except (OSError, OverflowError) as error:
            why = error
    raise UsageError(f"cannot listen on {host}:{port} ({why}). Choose another --port, or 0 for any free one.") from None


def _candidate_ports() -> Iterator[int]:
    """Yield ports outside the range of outgoing connections, so that a restarted mock finds its port free; at last 0 (any)."""
    try:
        outgoing_from = int(bounded_reads.file_text(_OUTGOING_PORTS).split()[0])
    except (OSError, ValueError, IndexError):
        outgoing_from = 0
    if outgoing_from > MIN_PORT:
        yield from (MIN_PORT + secrets.randbelow(outgoing_from - MIN_PORT) for _ in range(MAX_PORTS_TRIED))
    yield 0


def _bound(host: str, port: int, send_buffer_kib: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if send_buffer_kib:  # accepted sockets inherit it
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_kib * 1024)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError):
        listener.close()
        raise
    return listener


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit; return the new limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def main() -> int:
    """Run `python -m sim.mock.server OPTIONS-AS-JSON`."""
    try:
        serve(msgspec.json.decode(sys.argv[1], type=ServeOptions))
    except StormgateError as error:
        print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
