"""What Locust's users do in any process: each is a client of the run that goes on, or of the next one."""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import gevent
from gevent.event import Event


class Run(Protocol):
    """A run, as users know it."""

    replaced: Event  # another run has begun

    def take_client(self) -> int | None:
        """The next client of the fleet that no user is yet; None: there is none."""

    def be_a_client(self, number: int) -> None:
        """Return when the run is over."""

    def leave(self, number: int) -> None:
        """Locust takes away the user that was this client."""

    def publish(self) -> None:
        """Return when the run wants no more events."""


class Users(ABC):
    """Of one Locust process."""

    def __init__(self) -> None:
        self._clients: dict[Any, int] = {}

    @abstractmethod
    def run_of_users(self) -> Run | None:
        """The run that goes on, or the last one."""

    @property
    @abstractmethod
    def is_run_over(self) -> bool:
        """Whether users may go without being missed."""

    def be_a_client(self, user: object) -> None:
        """This user is the next client of the fleet, until there is another run; one too many is none."""
        if (run := self._run_or_wait()) is not None:
            if (number := run.take_client()) is not None:
                self._clients[user] = number
                run.be_a_client(number)
            run.replaced.wait()

    def leave(self, user: object) -> None:
        """Locust takes a user away."""
        number, run = self._clients.pop(user, None), self.run_of_users()
        if number is not None and run is not None and not self.is_run_over:
            run.leave(number)

    def publish(self) -> None:
        """This user publishes until there is another run."""
        if (run := self._run_or_wait()) is not None:
            run.publish()
            run.replaced.wait()

    def _run_or_wait(self) -> Run | None:
        """The run that goes on; without one, a user comes back later, or never."""
        if (run := self.run_of_users()) is None:
            gevent.sleep(1.0)
        return run
