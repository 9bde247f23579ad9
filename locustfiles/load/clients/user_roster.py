"""Which client each Locust user of this process is, in the current run or the next one."""

from typing import Any, Generic, Protocol, TypeVar

import gevent
from gevent.event import Event

from locustfiles.load.clients import locust_tables


class Run(Protocol):
    """A run, as seen by its users."""

    replaced: Event  # set when another run has started

    def take_client(self) -> int | None:
        """Return the next free client of the fleet, None if all are taken."""

    def be_a_client(self, number: int) -> None:
        """Return when the run is over."""

    def leave(self, number: int) -> None:
        """Handle that Locust removes this client's user."""

    def publish(self) -> None:
        """Return when the run wants no more events."""


R = TypeVar("R", bound=Run)


class Users(Generic[R]):
    """The users of one Locust process and their run."""

    def __init__(self, environment: Any) -> None:
        self.run: R | None = None  # the current run, or the last one
        self.is_over = False  # users may leave, because the run is over
        self._environment = environment
        self._run_id = ""
        self._clients: dict[Any, int] = {}

    def be_a_client(self, user: object) -> None:
        """Let this user be the next free client of the fleet until another run starts; a surplus user only waits."""
        if (run := self._run_or_wait()) is not None:
            if (number := run.take_client()) is not None:
                self._clients[user] = number
                run.be_a_client(number)
            run.replaced.wait()

    def leave(self, user: object) -> None:
        """Handle that Locust removes a user."""
        number, run = self._clients.pop(user, None), self.run
        if number is not None and run is not None and not self.is_over:
            run.leave(number)

    def publish(self) -> None:
        """Let this user publish until another run starts."""
        if (run := self._run_or_wait()) is not None:
            run.publish()
            run.replaced.wait()

    def _run_or_wait(self) -> R | None:
        """Return the current run; without one, wait a second and return None, so that the user tries again."""
        if self.run is None:
            gevent.sleep(1.0)
        return self.run

    def _report(self, kind: str, name: str, ms: float, error: str) -> None:
        """Write to Locust's tables."""
        locust_tables.report(self._environment, kind, name, ms, error)
