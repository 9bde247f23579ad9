"""A second locustfile: removes three users during the run, like the keys of Locust's terminal."""

from typing import Any

import gevent
from locust import events
from locust.runners import WorkerRunner

from locustfiles.load.run.conductor import conductor_of


def take_away(environment: Any, runner: Any, **_: Any) -> None:
    if not isinstance(runner, WorkerRunner):
        gevent.spawn(_wait_and_take, environment, runner)


def _wait_and_take(environment: Any, runner: Any) -> None:
    conductor = conductor_of(environment)
    while conductor.run is None or conductor.run.phase != "fault":
        gevent.sleep(0.05)
    runner.start(runner.target_user_count - 3, 100)


events.init.add_listener(take_away)
