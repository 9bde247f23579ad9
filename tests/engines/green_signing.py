"""A process that publishes in greenlets with a signing command: `python -m tests.engines.green_signing TARGETS`."""

import locust  # noqa: F401 - first of all: it changes Python's sockets

# isort: split
import json
import sys
from pathlib import Path

from drills.runs import targets
from sim.engines.greenlets.http import GreenletHttp
from sim.engines.shared import service_api
from sim.engines.shared.service_api import PublishFailedError


def main(file: Path) -> None:
    endpoints = targets.resolve("rooms", file)
    assert endpoints is not None
    http = GreenletHttp(endpoints)
    token = http.ask(service_api.any_token)
    run = http.ask(service_api.create_run, "signed")
    try:
        outcome: object = [http.ask(service_api.publish, run, "said", {"n": n}, f"key-{n}").seq for n in (1, 2)]
    except PublishFailedError as error:
        outcome = error.code
    stored = [event.payload for event in http.ask(service_api.read_back, run) or []]
    http.close()
    print(json.dumps({"outcome": outcome, "stored": stored, "token": len(token.text), "session": token.session_id}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
