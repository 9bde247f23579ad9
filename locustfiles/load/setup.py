"""Connect a locustfile to Locust: form fields, the conductor, the web page, and a verdict however the test ends."""

import logging
import signal
from dataclasses import dataclass, field
from typing import Any

import gevent
from locust import events
from locust.runners import MasterRunner

from locustfiles.load.run import conductor, options
from locustfiles.load.run.conductor import Conductor
from locustfiles.load.web import routes as web
from sim.base.errors import UsageError

# Anyone who reaches these ports can start storms and send observations, so other addresses need an explicit option.
_LOOPBACK = {"master_bind_host": "127.0.0.1", "web_host": "127.0.0.1"}


@dataclass
class _Chosen:
    """What a locustfile chose; the command line and the form take precedence."""

    drill: str = "observation"
    ramps: bool = False
    defaults: dict[str, object] = field(default_factory=dict)
    is_installed: bool = False


_chosen = _Chosen()


def use_drill(drill: str, ramps: bool = False, **defaults: object) -> None:
    """Run `drill` in this locustfile unless the command line or the form selects another.

    `defaults` set the form's fields, such as `clients=100`. With `ramps`, a green run is followed by a run with more clients.
    """
    _chosen.drill, _chosen.ramps, _chosen.defaults = drill, ramps, defaults
    install()


def install() -> None:
    """Connect this process's Locust to the drills, once."""
    if _chosen.is_installed:
        return
    _chosen.is_installed = True
    events.init_command_line_parser.add_listener(_add_fields)
    events.init.add_listener(_begin)
    events.test_start.add_listener(lambda environment, **_: conductor.of(environment).begin_test())
    events.test_stopping.add_listener(lambda environment, **_: conductor.of(environment).finish())
    events.quitting.add_listener(_end)
    logging.getLogger("locust.runners").addFilter(_is_news)


def _add_fields(parser: Any) -> None:
    parser.set_defaults(**_LOOPBACK)
    options.add_to(parser, _chosen.drill, ramps=_chosen.ramps, **_chosen.defaults)


def _begin(environment: Any, runner: Any, **_: Any) -> None:
    ours = conductor.of(environment)
    if isinstance(ours, Conductor):
        ours.ramps = _chosen.ramps
        web.install(environment)
    gevent.signal_handler(signal.SIGTERM, _quit, environment, runner)
    gevent.signal_handler(signal.SIGINT, _interrupt, environment, runner)


def _end(environment: Any, **_: Any) -> None:
    ours = conductor.of(environment)
    ours.stop("it was interrupted")
    if isinstance(ours, Conductor):
        ours.require_traffic()


def _quit(environment: Any, runner: Any) -> None:
    """Stop the run and Locust on SIGTERM; Locust itself handles it only after a headless test has ended."""
    conductor.of(environment).stop("it was interrupted")
    runner.quit()


def _interrupt(environment: Any, runner: Any) -> None:
    """Save the observations on Ctrl-C before Locust ends; otherwise it would interrupt whichever greenlet is running."""
    conductor.of(environment).interrupt()
    waits_for_workers = isinstance(runner, MasterRunner) and environment.web_ui is None and runner.shape_greenlet is None
    main = gevent.get_hub().parent
    assert main is not None
    gevent.kill(main, SystemExit(UsageError.exit_code) if waits_for_workers else KeyboardInterrupt())


def _is_news(record: logging.LogRecord) -> bool:
    """Drop Locust's spawn-rate warning: users are spawned at once, but each connects at its own time."""
    return "spawn rate is very high" not in str(record.msg)
