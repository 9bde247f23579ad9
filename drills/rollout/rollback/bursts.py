"""Send a bounded burst of publishes or connects, and count what the target's throttle refused."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from drills.targets import check
from drills.targets.asking import NO_ANSWER, FailedError, ask
from drills.targets.listener import Listener, known, run
from sim.base.errors import TargetError
from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.service_api import PublishFailedError
from sim.engines.sockets.http import ServiceHttp
from sim.service.requests import Request

T = TypeVar("T")
GUARD_CODES = frozenset({"http_403", "http_405", "http_409", "http_423", "http_429", "http_503"})  # [ours] of a read-only guard
RATE_CODES = frozenset({"spacetime_publish_rate_limited", "rate_limited", "http_429"})
_RUNS = 3  # [ours] new streams that share a burst, so that the limit of a topic is not reached first
_PAYLOAD = {"text": "a burst of stormgate's rollback rehearsal"}
_EVENT = "run.progress"


@dataclass(frozen=True)
class Burst:
    """The outcome of a burst. `codes`: number of refusals by code."""

    what: str  # publishes, connects or writes
    n: int
    codes: dict[str, int]

    @property
    def refused(self) -> int:
        """The number refused by a rate limit."""
        return sum(count for code, count in self.codes.items() if code in RATE_CODES)

    @property
    def taken(self) -> int:
        """The number accepted."""
        return self.n - sum(self.codes.values())

    @property
    def other(self) -> str:
        """Refusals for other reasons than a rate limit, in words; empty without any."""
        return ", ".join(f"{count} by {code}" for code, count in self.codes.items() if code not in RATE_CODES)

    @property
    def facts(self) -> dict[str, str]:
        """The values that the record has."""
        codes = ", ".join(f"{code} {count}" for code, count in self.codes.items())
        return {self.what: str(self.n), "taken": str(self.taken), "codes": codes}


def publishes(endpoints: Endpoints, n: int) -> Burst:
    """Publish `n` events at once to streams without readers. Raises `TargetError` if no stream can be created."""

    burst_id = secrets.token_hex(6)  # streams that are given by name keep the keys of earlier bursts

    async def burst(http: ServiceHttp) -> list[str]:
        async def one(run_id: str, number: int) -> str:
            try:
                await http.ask(service_api.publish, run_id, _EVENT, _PAYLOAD, f"{burst_id}-{number}")
            except PublishFailedError as error:
                return error.code
            return ""

        runs = list(endpoints.streams.names[:_RUNS])
        runs = runs or [await http.ask(service_api.create_run, f"stormgate-burst-{number}") for number in range(_RUNS)]
        return await asyncio.gather(*(one(runs[number % len(runs)], number) for number in range(n)))

    return _burst("publishes", endpoints, n, burst)


def writes(endpoints: Endpoints, n: int) -> Burst:
    """Create streams and publish `n` events at once; refusals count by status. Raises `TargetError` without an answer."""
    burst_id = secrets.token_hex(6)

    async def burst(http: ServiceHttp) -> list[str]:
        runs = list(endpoints.streams.names[:_RUNS])
        if not runs:
            created = [
                await _asked(http, service_api.create_run(endpoints, f"stormgate-burst-{number}"), "[create]")
                for number in range(_RUNS)
            ]
            if refused := [code for code, _ in created if code]:
                return refused[:1] * n
            runs = [str(run_id) for _, run_id in created]
        events = (
            service_api.publish(endpoints, runs[number % len(runs)], _EVENT, _PAYLOAD, f"{burst_id}-{number}")
            for number in range(n)
        )
        return [code for code, _ in await asyncio.gather(*(_asked(http, event, "[publish]") for event in events))]

    return _burst("writes", endpoints, n, burst)


async def _asked(http: ServiceHttp, request: Request[T], table: str) -> tuple[str, object]:
    """The status of a refusal, empty for none, and the result of a request. Raises `TargetError` without an answer."""
    try:
        return "", (await ask(http, request, table))[2]
    except FailedError as error:
        if error.answer.startswith(NO_ANSWER):
            raise TargetError(f"a burst got {error.answer}.") from None
        return f"http_{error.answer.split()[0]}", None


def connects(endpoints: Endpoints, n: int) -> Burst:
    """Connect and join `n` clients at once, and close them. Raises `TargetError` without a token."""

    async def burst(http: ServiceHttp) -> list[str]:
        mint = known(await http.ask(service_api.any_token))
        topics, settings = check.any_topics(endpoints), check.settings_of(endpoints, "")
        return await asyncio.gather(*(_connect(Listener(endpoints, topics, settings, mint)) for _ in range(n)))

    return _burst("connects", endpoints, n, burst)


def _burst(what: str, endpoints: Endpoints, n: int, burst: Callable[[ServiceHttp], Awaitable[list[str]]]) -> Burst:
    async def work() -> list[str]:
        async with ServiceHttp(endpoints) as http:
            return await burst(http)

    return Burst(what, n, dict(Counter(filter(None, run(work())))))


async def _connect(listener: Listener) -> str:
    """Try to join. Returns an empty text, or else the code of the refusal; its status where the code is no rate limit's."""
    listener.start()
    try:
        await listener.until(lambda: listener.is_joined or bool(listener.refusal))
        if listener.is_joined:
            return ""
        code, status = listener.refusal or "network", listener.refused_status
        return code if code in RATE_CODES or status is None else f"http_{status}"
    finally:
        listener.close()
