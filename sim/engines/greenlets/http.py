"""Sends requests to the service from greenlets over pooled keep-alive connections, and reads the answers."""

import contextlib
import os
import signal
import ssl
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Concatenate, NamedTuple, ParamSpec, TypeVar
from urllib.parse import urlsplit

import gevent
from gevent import subprocess
from gevent.lock import BoundedSemaphore
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError

from sim.base import bounded_reads, operator_command
from sim.base.bounded_reads import MAX_ANSWER_BYTES, TooLargeError
from sim.base.errors import shortage
from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.metrics_book import MAX_BODY_BYTES, Fetched
from sim.engines.shared.service_api import MAX_CONNECTIONS, REQUEST_TIMEOUT_S
from sim.engines.transports.wire import MAX_HEAD_BYTES
from sim.service.metrics import OK
from sim.service.requests import Answer, Command, NoAnswerError, Pool, RefusedError, Request, TargetClock, UntrustedError

P = ParamSpec("P")
T = TypeVar("T")

_HEAD_END = b"\r\n\r\n"
_READS_IN_A_ROW = 64  # [ours] of 4 KiB each


def http_client(url: str, connections: int, timeout_s: float = REQUEST_TIMEOUT_S) -> HTTPClient:
    """Return a client for one base URL. A request waits while all connections are busy."""
    parts = urlsplit(url)
    http = HTTPClient(
        str(parts.hostname),
        parts.port,
        ssl=parts.scheme == "https",
        concurrency=connections,
        connection_timeout=timeout_s,
        network_timeout=timeout_s,
    )
    pool = http._connection_pool  # its `_create_socket` is made to be overridden, but the client makes its pool itself
    connect = pool._create_socket
    setattr(pool, "_create_socket", lambda: _LimitedSocket(connect()))  # noqa: B010 - a method, for mypy
    return http


class _LimitedSocket:
    """A socket whose peer may send, after each request, a head and then a body of limited size.

    Other greenlets run now and then although data is there, so that a time-out ends an answer without an end.
    """

    def __init__(self, socket: Any) -> None:
        self._socket, self._read, self._max, self._reads = socket, 0, MAX_HEAD_BYTES, 0
        self._last = b""  # while the head is read: its last bytes

    def sendall(self, data: bytes) -> None:
        self._read, self._max, self._last = 0, MAX_HEAD_BYTES, b"-"
        self._socket.sendall(data)

    def recv(self, count: int) -> bytes:
        data: bytes = self._socket.recv(count)
        self._read, self._reads = self._read + len(data), self._reads + 1
        if self._last:
            head = self._last + data
            self._last, self._max = (b"", MAX_ANSWER_BYTES) if _HEAD_END in head else (head[-len(_HEAD_END) :], MAX_HEAD_BYTES)
        if self._read > self._max:
            raise TooLargeError(self._max)
        if self._reads % _READS_IN_A_ROW == 0:
            gevent.sleep(0)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def fetch(url: str, headers: Mapping[str, str], limit_s: float) -> Fetched:
    """Fetch a page of metrics on a new connection, so that it does not wait behind clients' requests.

    `limit_s` limits the time from connecting to the last byte. Failures of the server are outcomes, not exceptions.
    """
    http = http_client(url, 1)
    try:
        with gevent.Timeout(limit_s):
            answer = http.get(urlsplit(url).path, headers=headers)
            body = bytes(answer.read(MAX_BODY_BYTES + 1))
    except gevent.Timeout:
        return Fetched("timeout")
    except (OSError, HTTPParseError):
        return Fetched("unreachable")
    finally:
        http.close()
    if len(body) > MAX_BODY_BYTES:
        return Fetched("too_large")
    return Fetched(OK if answer.status_code == 200 else f"http_{answer.status_code}", body)


class _Connections(NamedTuple):
    """The connections to one address, and as many slots, so that waiting for one does not count as the service's time."""

    http: HTTPClient
    slots: BoundedSemaphore


class GreenletHttp:
    """One HTTP client for a whole run. Call `close` at the end."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.target_clock = TargetClock()
        self._pools: dict[tuple[Pool, str], _Connections] = {}  # by pool and address

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.http.close()

    def ask(self, operation: Callable[Concatenate[Endpoints, P], Request[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Carry out an operation of `service_api`; raise the errors that it documents."""
        return self._send(operation(self.endpoints, *args, **kwargs))

    def check(self) -> None:
        """Raise `TargetError` unless both services answer and use the expected protocol."""
        for request in service_api.checks(self.endpoints):
            self._send(request)

    def _send(self, request: Request[T]) -> T:
        """Send a request, and those that its answer leads to; return the result of the last one."""
        while isinstance(result := self._sent(request), Request):
            request = result
        return result

    def _sent(self, request: Request[T]) -> T | Request[T]:
        """Send one request; return the result of its `read`, or of its `unanswered`."""
        try:
            printed = _run(request.command) if request.command else b""
            if not request.url:
                return request.read(Answer(200, "text/plain", printed))
            answer = self._exchange(request.with_headers(printed))
        except NoAnswerError as error:
            return request.without_answer(error)
        return request.read(answer)

    def _exchange(self, request: Request[T]) -> Answer:
        parts = urlsplit(request.url)
        key, path = (request.pool, f"{parts.scheme}://{parts.netloc}"), parts._replace(scheme="", netloc="").geturl()
        if key not in self._pools:
            count = MAX_CONNECTIONS[request.pool]
            self._pools[key] = _Connections(http_client(key[1], count), BoundedSemaphore(count))
        pool = self._pools[key]
        try:
            with pool.slots, gevent.Timeout(REQUEST_TIMEOUT_S):
                sent_s = time.time()
                answer = pool.http.request(request.method, path, request.body, request.all_headers)
                content = bounded_reads.joined(answer)
            kind = str(answer.get("content-type", "no content type")).partition(";")[0]
            headers = {name.lower(): value for name, value in answer.items()}
            self.target_clock.note(headers, sent_s, time.time())
            return Answer(answer.status_code, kind, content, headers)
        except ssl.SSLCertVerificationError as error:
            raise UntrustedError(str(error)) from None
        except ConnectionRefusedError as error:
            raise RefusedError(str(error)) from None
        except TooLargeError as error:
            raise NoAnswerError(f"its answer is wrong: {error.strerror}") from None
        except (OSError, HTTPParseError, gevent.Timeout) as error:
            if isinstance(error, OSError) and (ours := shortage(error)) is not None:
                raise ours from None
            raise NoAnswerError(str(error) or type(error).__name__) from None


def _run(command: Command) -> bytes:
    """Return what a command printed. Raises `NoAnswerError` if it failed."""
    name, environment = command.argv[0], operator_command.with_ours(command.variables)
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            command.argv, stdin=pipe, stdout=pipe, stderr=nothing, env=environment, start_new_session=True
        )
    except OSError as error:
        raise NoAnswerError(f"the command {name} failed ({type(error).__name__})") from None
    assert process.stdin is not None
    assert process.stdout is not None
    giving = gevent.spawn(_give, process.stdin, command.body)
    try:
        with gevent.Timeout(REQUEST_TIMEOUT_S):
            printed = bytes(process.stdout.read(MAX_ANSWER_BYTES + 1))
            code = process.wait() if len(printed) <= MAX_ANSWER_BYTES else None
    except gevent.Timeout:
        raise NoAnswerError(f"the command {name} did not end within {REQUEST_TIMEOUT_S:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        giving.kill()
    if code is None:
        raise NoAnswerError(f"the command {name} printed more than {MAX_ANSWER_BYTES >> 20} MiB")
    if code:
        raise NoAnswerError(f"the command {name} ended with exit code {code}")
    return printed


def _give(pipe: IO[bytes], content: bytes) -> None:
    """Write a command's input; one that ends without reading it is no failure."""
    with contextlib.suppress(OSError):
        pipe.write(content)
        pipe.close()
