"""Sends requests to the service from greenlets over pooled keep-alive connections, and reads the answers."""

import ssl
import time
from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

import gevent
from gevent import subprocess
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError

from sim.base import operator_command
from sim.base.errors import shortage
from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.metrics_book import MAX_BODY_BYTES, Fetched
from sim.engines.shared.service_api import MAX_CONNECTIONS, REQUEST_TIMEOUT_S
from sim.service.metrics import OK
from sim.service.requests import Answer, Command, NoAnswerError, Pool, RefusedError, Request, TargetClock, UntrustedError

P = ParamSpec("P")
T = TypeVar("T")


def http_client(url: str, connections: int, timeout_s: float = REQUEST_TIMEOUT_S) -> HTTPClient:
    """Return a client for one base URL. A request waits while all connections are busy."""
    parts = urlsplit(url)
    return HTTPClient(
        str(parts.hostname),
        parts.port,
        ssl=parts.scheme == "https",
        concurrency=connections,
        connection_timeout=timeout_s,
        network_timeout=timeout_s,
    )


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


class GreenletHttp:
    """One HTTP client for a whole run. Call `close` at the end."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.target_clock = TargetClock()
        self._pools: dict[tuple[Pool, str], HTTPClient] = {}  # by pool and address

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.close()

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
            self._pools[key] = http_client(key[1], MAX_CONNECTIONS[request.pool])
        sent_s = time.time()
        try:
            answer = self._pools[key].request(request.method, path, request.body, request.all_headers)
            content = bytes(answer.read())
            kind = str(answer.get("content-type", "no content type")).partition(";")[0]
            headers = {name.lower(): value for name, value in answer.items()}
            self.target_clock.note(headers, sent_s, time.time())
            return Answer(answer.status_code, kind, content, headers)
        except ssl.SSLCertVerificationError as error:
            raise UntrustedError(str(error)) from None
        except ConnectionRefusedError as error:
            raise RefusedError(str(error)) from None
        except (OSError, HTTPParseError, gevent.Timeout) as error:
            if isinstance(error, OSError) and (ours := shortage(error)) is not None:
                raise ours from None
            raise NoAnswerError(str(error) or type(error).__name__) from None


def _run(command: Command) -> bytes:
    """Return what a command printed. Raises `NoAnswerError` if it failed."""
    environment = operator_command.with_ours(command.variables)
    try:
        done = subprocess.run(
            command.argv,
            input=command.body,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=REQUEST_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswerError(f"the command {command.argv[0]} failed ({type(error).__name__})") from None
    if done.returncode:
        raise NoAnswerError(f"the command {command.argv[0]} ended with exit code {done.returncode}")
    return bytes(done.stdout)
