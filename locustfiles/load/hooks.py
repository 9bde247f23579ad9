"""Hooks a locustfile into Locust: its drill's fields, the conductor, and a verdict however the run ends."""

import logging
import signal
from typing import Any

import gevent
from locust import events
from locust.runners import MasterRunner

from locustfiles.load.run import capacity_ramp, conductor, options
from locustfiles.load.run.conductor import Conductor
from locustfiles.load.web import routes as web
from sim.base.errors import UsageError

# Whoever reaches these may start storms and send observations: from other machines that has to be asked for.
_LOOPBACK = {"master_bind_host": "127.0.0.1", "web_host": "127.0.0.1"}


def of(drill: str, ramps: bool = False, **defaults: object) -> None:
    """This locustfile runs that drill, with these defaults of its fields, unless something else is chosen.

    With `climbs` it goes on with more and more clients.
    """

    def add_fields(parser: Any) -> None:
        parser.set_defaults(**_LOOPBACK)
        options.add_to(parser, drill, **defaults)
        if ramps:
            capacity_ramp.add_to(parser)

    def begin(environment: Any, runner: Any, **_: Any) -> None:
        ours = conductor.of(environment)
        if isinstance(ours, Conductor):
            ours.ramps = ramps
            web.install(environment)
        gevent.signal_handler(signal.SIGTERM, _quit, environment, runner)
        gevent.signal_handler(signal.SIGINT, _interrupt, environment, runner)

    def end(environment: Any, **_: Any) -> None:
        conductor.of(environment).stop("it was interrupted")

    events.init_command_line_parser.add_listener(add_fields)
    events.init.add_listener(begin)
    events.test_stopping.add_listener(end)
    events.quitting.add_listener(end)
    logging.getLogger("locust.runners").addFilter(_is_news)


def _quit(environment: Any, runner: Any) -> None:
    """Locust listens to SIGTERM only once a test without a page is over."""
    conductor.of(environment).stop("it was interrupted")
    runner.quit()


def _interrupt(environment: Any, runner: Any) -> None:
    """Ctrl-C would else end whichever greenlet has its turn; here what was observed is safe first, and then Locust ends."""
    conductor.of(environment).stop("it was interrupted")
    waits_for_workers = isinstance(runner, MasterRunner) and environment.web_ui is None and runner.shape_greenlet is None
    main = gevent.get_hub().parent
    assert main is not None
    gevent.kill(main, SystemExit(UsageError.exit_code) if waits_for_workers else KeyboardInterrupt())


def _is_news(record: logging.LogRecord) -> bool:
    """Users are spawned at once, and each arrives at its own moment: a warning of a high rate would be wrong."""
    return "spawn rate is very high" not in str(record.msg)
