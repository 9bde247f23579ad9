"""Sends requests to the service on asyncio, thousands per second, and reads the answers."""

import asyncio
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import aiohttp

from sim.base import bounded_reads, operator_command
from sim.base.bounded_reads import TooLargeError
from sim.base.errors import shortage
from sim.base.operator_command import Output
from sim.base.redaction import Redactor
from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.service_api import MAX_CONNECTIONS, REQUEST_TIMEOUT_S
from sim.service.requests import Answer, Command, NoAnswerError, RefusedError, Request, TargetClock, UntrustedError

P = ParamSpec("P")
T = TypeVar("T")


class ServiceHttp:
    """One HTTP client for a whole run, without redirects, cookies and proxies. Call `close` at the end.

    It uses aiohttp: on two shared cores with the embedded mock, a token costs this process 0.13 ms. With httpx it cost
    2.7 ms, which made the load generator slower than the service.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.target_clock = TargetClock()
        self._pools = {pool: asyncio.Semaphore(count) for pool, count in MAX_CONNECTIONS.items()}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=sum(MAX_CONNECTIONS.values())),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __aenter__(self) -> "ServiceHttp":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def ask(self, operation: Callable[Concatenate[Endpoints, P], Request[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Carry out an operation of `service_api`; raise the errors that it documents."""
        return await self.send(operation(self.endpoints, *args, **kwargs))

    async def check(self, *, with_refusal: bool = True) -> None:
        """Raise `TargetError` unless both services answer and use the expected protocol; see `service_api.checks`."""
        for request in service_api.checks(self.endpoints, with_refusal=with_refusal):
            await self.send(request)

    async def send(self, request: Request[T]) -> T:
        """Send a request, and those that its answer leads to; return the result of the last one."""
        while isinstance(result := await self._sent(request), Request):
            request = result
        return result

    async def _sent(self, request: Request[T]) -> T | Request[T]:
        """Send one request; return the result of its `read`, or of its `unanswered`."""
        try:
            async with self._pools[request.pool]:
                printed = await _run(request.command) if request.command else b""
                if not request.url:
                    return request.read(Answer(200, "text/plain", printed))
                answer = await self._exchange(request.with_headers(printed))
        except NoAnswerError as error:
            return request.without_answer(error)
        return request.read(answer)

    async def _exchange(self, request: Request[T]) -> Answer:
        sent_s = time.time()
        try:
            async with self._session.request(
                request.method, request.url, headers=request.all_headers, data=request.body, allow_redirects=False
            ) as answer:
                kind = answer.headers.get("Content-Type", "no content type").partition(";")[0]
                headers = {name.lower(): value for name, value in answer.headers.items()}
                self.target_clock.note(headers, sent_s, time.time())
                content = await bounded_reads.joined_async(answer.content.iter_any())
                return Answer(answer.status, kind, content, headers)
        except aiohttp.ClientConnectorCertificateError as error:
            raise UntrustedError(str(error.certificate_error)) from None
        except aiohttp.ClientSSLError as error:
            raise NoAnswerError(str(error)) from None
        except aiohttp.ClientConnectorError as error:
            if (ours := shortage(error.os_error)) is not None:
                raise ours from None
            raise RefusedError(str(error)) from None
        except TooLargeError as error:
            raise NoAnswerError(f"its answer is wrong: {error.strerror}") from None
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise NoAnswerError(str(error) or type(error).__name__) from None


async def _run(command: Command) -> bytes:
    """Return what a command printed. Raises `NoAnswerError` if it failed."""
    output = Output(Redactor(()))
    code, why = await operator_command.run(
        command.argv,
        operator_command.with_ours(command.variables),
        REQUEST_TIMEOUT_S,
        output,
        with_stderr=False,
        ends_all=True,
        given=command.body,
    )
    if code != 0:
        raise NoAnswerError(f"the command {command.argv[0]} {why}")
    return output.content
