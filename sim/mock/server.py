"""Serving a mock on a port, and the command line `python -m sim.mock.server` that engines start as a process of its own."""

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

from sim.base.errors import StormgateError, UsageError
from sim.base.gc_tuning import relaxed_gc
from sim.base.ownership import STATE_PREFIX, OwnedFolder
from sim.mock.app import DEFAULT_ADMIN_TOKEN, Mock, MockOptions
from sim.mock.store import Store
from sim.server.deployment import Deployment
from sim.server.settings import RuntimeSettings, Switches

COMPLAINT = "stormgate mock: "  # begins the one line on stderr that says why it cannot start
ADMIN_TOKEN_VARIABLE = "RUNTIME_ADMIN_TOKEN"
_OUTGOING_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT, _PORTS_TRIED = 10_000, 20  # [ours] above what well-known services listen on
_BACKLOG = 4096  # connections the kernel holds while a storm's connects wait to be accepted


@dataclass(frozen=True)
class ServeOptions:
    """Where and how to serve. `state` empty: a temporary file, gone afterwards. `exit_with_stdin`: end when stdin closes."""

    settings: RuntimeSettings
    switches: Switches
    host: str = "127.0.0.1"
    port: int = 0
    state: str = ""
    exit_with_stdin: bool = False
    deployment: Deployment = field(default_factory=Deployment)


def listening_line(host: str, port: int) -> str:
    """What is printed once the port is open; `MockProcess` reads it."""
    shown = f"[{host}]" if ":" in host else host
    return f"stormgate mock: listening on http://{shown}:{port} (pid {os.getpid()})"


def serve(options: ServeOptions) -> None:
    """Serve until stopped by a signal; raises `UsageError` or `StorageError` when it cannot start."""
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
            backlog=_BACKLOG,
            timeout_graceful_shutdown=1,
        )
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        print(listening_line(options.host, listener.getsockname()[1]), flush=True)
        server = uvicorn.Server(config)
        _end_with_signals(server)
        with relaxed_gc(), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_run(server, listener, options.exit_with_stdin))


def _end_with_signals(server: uvicorn.Server) -> None:
    """A signal is an order to end, not an error: uvicorn raises it again once it has ended, and then it must do no harm."""

    def end(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _temporary_log(cleanup: contextlib.ExitStack) -> Path:
    return Path(cleanup.enter_context(OwnedFolder(STATE_PREFIX))) / "log.sqlite"


def _is_news(record: logging.LogRecord) -> bool:
    """uvicorn takes an upgrade that was refused with a body for one that was forgotten, and logs a traceback of its own for
    bytes of a client that are no text; nothing else is dropped."""
    message = record.getMessage()
    return "without completing handshake" not in message and "Invalid UTF-8 sequence" not in message


def admin_token() -> str:
    """What a mock started from here takes for its metrics endpoint: the environment's, or its default."""
    return os.environ.get(ADMIN_TOKEN_VARIABLE) or DEFAULT_ADMIN_TOKEN


def _mock_options(options: ServeOptions) -> MockOptions:
    return MockOptions(options.settings, options.switches, admin_token(), options.deployment)


async def _run(server: uvicorn.Server, listener: socket.socket, exit_with_stdin: bool) -> None:
    if exit_with_stdin:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _leave_when_closed, server)
    await server.serve(sockets=[listener])


def _leave_when_closed(server: uvicorn.Server) -> None:
    """Whoever started this process is gone, or wants it gone."""
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        server.should_exit = True


def _listen(host: str, port: int, send_buffer_kib: int) -> socket.socket:
    """A listening socket. Raises `UsageError` when the address cannot be had."""
    for candidate in (port,) if port else _lasting_ports():
        try:
            return _bound(host, candidate, send_buffer_kib)
        except (OSError, OverflowError) as error:
            why = error
    raise UsageError(f"cannot listen on {host}:{port} ({why}); choose another --port, or 0 for any free one.") from None


def _lasting_ports() -> Iterator[int]:
    """Ports that the kernel gives to no outgoing connection, so that a mock that is down for a while finds its own free; then
    any that is free."""
    try:
        outgoing_from = int(_OUTGOING_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        outgoing_from = 0
    if outgoing_from > _LOWEST_PORT:
        yield from (_LOWEST_PORT + secrets.randbelow(outgoing_from - _LOWEST_PORT) for _ in range(_PORTS_TRIED))
    yield 0


def _bound(host: str, port: int, send_buffer_kib: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if send_buffer_kib:  # the sockets it accepts have the same
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_kib * 1024)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError):
        listener.close()
        raise
    return listener


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns the limit in force."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def main() -> int:
    """`python -m sim.mock.server OPTIONS-AS-JSON`: how engines start it."""
    try:
        serve(msgspec.json.decode(sys.argv[1], type=ServeOptions))
    except StormgateError as error:
        print(f"{COMPLAINT}{error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
