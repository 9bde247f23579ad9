"""Answers without an end, with an endless header, or small on the wire and large when inflated: both clients give up early."""

import asyncio
import resource
import subprocess
import sys
from contextlib import ExitStack

import pytest

from sim.engines.shared.endpoints import Endpoints
from sim.engines.sockets import http
from sim.service.requests import Answer, Request
from tests.peers import hostile_http

MOST_SENT = 256 << 20  # read by the client, waiting in the kernel, or sent until the end was noticed
BODIES = ("endless_body", "endless_chunks", "large_length")
HEADERS = ("endless_header", "endless_headers")


async def asked(url: str) -> str:
    async with http.ServiceHttp(Endpoints("hostile", "live", url, url)) as client:
        return await client.ask(lambda endpoints: Request("GET", f"{endpoints.runtime_url}/x", status, unanswered=str))


def status(answer: Answer) -> str:
    return f"status {answer.status_code}"


@pytest.mark.parametrize("answer", [*BODIES, "inflated"])
def test_a_large_answer_ends_at_a_stated_size(answer: str) -> None:
    with hostile_http.serve(answer) as server:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert asyncio.run(asked(server.url)) == "its answer is wrong: it is larger than 16 MiB"
        assert server.sent < MOST_SENT
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10, "KiB"


@pytest.mark.parametrize("answer", HEADERS)
def test_headers_end_at_a_limit_of_the_library(answer: str) -> None:
    with hostile_http.serve(answer) as server:
        assert not asyncio.run(asked(server.url)).startswith("status")
        assert server.sent < MOST_SENT


def test_an_answer_that_trickles_ends_at_a_stated_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_TIMEOUT_S", 0.5)
    with hostile_http.serve("trickle") as server:
        assert "imeout" in asyncio.run(asked(server.url))


def test_a_redirect_is_an_answer_like_others() -> None:
    with hostile_http.serve("elsewhere") as server:
        assert asyncio.run(asked(server.url)) == "status 302"


def test_a_small_answer_is_read() -> None:
    with hostile_http.serve("small") as server:
        assert asyncio.run(asked(server.url)) == "status 200"


LOCUST_SAYS = {
    "endless_body": "its answer is wrong: it is larger than 16 MiB",
    "endless_chunks": "its answer is wrong: it is larger than 16 MiB",
    "endless_header": "its answer is wrong: it is larger than 64 KiB",
    "endless_headers": "its answer is wrong: it is larger than 64 KiB",
    "trickle": "1.0 second",
    "elsewhere": "status 302",
    "small": "status 200",
}


def test_locust_s_client_gives_up_likewise() -> None:
    with ExitStack() as stack:
        servers = {answer: stack.enter_context(hostile_http.serve(answer)) for answer in LOCUST_SAYS}
        command = [sys.executable, "-m", "tests.engines.green_hostile", "1", *(server.url for server in servers.values())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert dict(zip(servers, done.stdout.splitlines(), strict=True)) == LOCUST_SAYS, done.stderr
    assert max(server.sent for server in servers.values()) < MOST_SENT
