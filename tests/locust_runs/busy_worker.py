"""A second locustfile: keeps the first worker busy, like a load beyond one core."""

import time
from typing import Any

import gevent
from locust import events
from locust.runners import WorkerRunner


def keep_busy(runner: Any, **_: Any) -> None:
    if isinstance(runner, WorkerRunner) and runner.worker_index == 0:
        gevent.spawn(_stall)


def _stall() -> None:
    while True:
        ends = time.perf_counter() + 0.4
        while time.perf_counter() < ends:
            pass
        gevent.sleep(0.8)


events.init.add_listener(keep_busy)
