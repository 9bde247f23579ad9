"""The Locust classes that a locustfile subclasses: a client, the publisher, and the shape of the test."""

from typing import Any

import gevent
from locust import LoadTestShape, User, task

from locustfiles.load import setup
from locustfiles.load.run import conductor

setup.install()  # so that these classes never run without being judged


class SyncUser(User):
    """One client of the sync service for the whole run: one session, over one socket at a time, in any protocol.

    With a `DrillShape`, there are as many as the drill has clients. Otherwise there are as many as Locust says with -u, or as
    another shape says; then nothing is broken, and the run is judged when Locust ends the test.
    """

    abstract = True
    role = "client"

    @task
    def be_a_client(self) -> None:
        """Connect, subscribe, keep cursors and reconnect until the run ends."""
        conductor.of(self.environment).be_a_client(self)

    def on_stop(self) -> None:
        """Disconnect this client when Locust removes its user."""
        conductor.of(self.environment).leave(self)


class PublisherUser(User):
    """Publishes the drill's events; a test has exactly one. Without one, the run publishes them itself."""

    abstract = True
    role = "publisher"
    fixed_count = 1

    @task
    def publish_events(self) -> None:
        """Publish until the drill's settle phase."""
        conductor.of(self.environment).publish()


class DrillShape(LoadTestShape, conductor.Ticks):
    """As many users as the current run has clients, plus its publisher; ends the test after the last run."""

    abstract = True

    def reset_time(self) -> None:
        """Start a run with the next tick. On a master Locust calls this twice; the second call starts nothing."""
        super().reset_time()
        if self.runner is not None and gevent.getcurrent() is not self.runner.shape_greenlet:
            conductor.conductor_of(self.runner.environment).expect_run()

    def tick(self) -> Any:
        """See `LoadTestShape`."""
        assert self.runner is not None
        return conductor.conductor_of(self.runner.environment).tick()
