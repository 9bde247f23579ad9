"""A bounded burst of publishes or of connects: is everything taken, or is it too much for the lane's throttle?"""

import asyncio
from collections import Counter
from dataclasses import dataclass

import aiohttp

from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.service_api import REQUEST_TIMEOUT_S, PublishFailedError
from sim.engines.sockets.http import ServiceHttp

RATE_CODES = frozenset({"spacetime_publish_rate_limited", "rate_limited", "http_429"})
_RUNS = 3  # [ours] new streams that a burst is spread over, so that no topic's own limit is met first
_PAYLOAD = {"text": "a burst of stormgate's rollback rehearsal"}
_EVENT = "run.progress"


@dataclass(frozen=True)
class Burst:
    """What became of it. `codes`: of all that was not taken, by how often."""

    what: str  # publishes or connects
    n: int
    codes: dict[str, int]

    @property
    def refused(self) -> int:
        """How many were refused for being too many."""
        return sum(count for code, count in self.codes.items() if code in RATE_CODES)

    @property
    def taken(self) -> int:
        """How many went through."""
        return self.n - sum(self.codes.values())

    @property
    def other(self) -> str:
        """What else they were refused with, in words; empty for nothing."""
        return ", ".join(f"{count} by {code}" for code, count in self.codes.items() if code not in RATE_CODES)

    @property
    def facts(self) -> dict[str, str]:
        """As it is recorded."""
        codes = ", ".join(f"{code} {count}" for code, count in self.codes.items())
        return {self.what: str(self.n), "taken": str(self.taken), "codes": codes}


def publishes(endpoints: Endpoints, n: int) -> Burst:
    """Publish `n` events at once to runs that nobody reads. Raises `TargetError` where no run can be made."""

    async def burst() -> Burst:
        async with ServiceHttp(endpoints) as http:

            async def one(run_id: str, number: int) -> str:
                try:
                    await http.ask(service_api.publish, run_id, _EVENT, _PAYLOAD, f"burst-{number}")
                except PublishFailedError as error:
                    return error.code
                return ""

            runs = [await http.ask(service_api.create_run, f"stormgate-burst-{number}") for number in range(_RUNS)]
            codes = await asyncio.gather(*(one(runs[number % _RUNS], number) for number in range(n)))
        return Burst("publishes", n, dict(Counter(filter(None, codes))))

    return asyncio.run(burst())


def connects(endpoints: Endpoints, n: int) -> Burst:
    """Open `n` sockets at once, and close them. Raises `TargetError` where no token can be had."""

    async def burst() -> Burst:
        async with ServiceHttp(endpoints) as http:
            token = await http.ask(service_api.any_token)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            codes = await asyncio.gather(*(_connect(session, endpoints, token) for _ in range(n)))
        return Burst("connects", n, dict(Counter(filter(None, codes))))

    return asyncio.run(burst())


async def _connect(session: aiohttp.ClientSession, endpoints: Endpoints, token: str) -> str:
    """Empty for an upgrade, else what it was refused with."""
    try:
        async with session.ws_connect(endpoints.socket_url, params={"token": token, "vsn": "2.0.0"}):
            return ""
    except aiohttp.WSServerHandshakeError as error:
        return f"http_{error.status}"
    except (TimeoutError, aiohttp.ClientError):
        return "network"
