"""A user that publishes a drill's load over HTTP."""

from locust import User, task

from locustfiles.load.run import conductor


class PublisherUser(User):
    """Publishes the drill's events; there is one of it, however many clients."""

    abstract = True
    fixed_count = 1

    @task
    def publish_events(self) -> None:
        """The whole run's load."""
        conductor.of(self.environment).publish()
