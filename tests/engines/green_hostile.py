"""A process that sends one request in greenlets to each address: `python -m tests.engines.green_hostile LIMIT_S URL ...`."""

import locust  # noqa: F401 - first of all: it changes Python's sockets

# isort: split
import sys

from sim.engines.greenlets import http
from sim.engines.shared.endpoints import Endpoints
from sim.service.requests import Answer, Request


def asked(url: str) -> str:
    """What became of a request."""
    client = http.GreenletHttp(Endpoints("hostile", "live", url, url))
    return client.ask(lambda endpoints: Request("GET", f"{endpoints.runtime_url}/x", status, unanswered=str))


def status(answer: Answer) -> str:
    """An answer that was read, in words."""
    return f"status {answer.status_code}"


http.REQUEST_TIMEOUT_S = float(sys.argv[1])  # type: ignore[misc]
print(*map(asked, sys.argv[2:]), sep="\n")
