"""A user that is one client of the sync lane: its whole life is one ClientSession over one socket at a time."""

from locust import User, task

from locustfiles.load.run import conductor


class SyncUser(User):
    """Takes the next client of the fleet and is it until the run ends; a user too many has nothing to do."""

    abstract = True

    @task
    def be_a_client(self) -> None:
        """One client's life."""
        conductor.of(self.environment).be_a_client(self)

    def on_stop(self) -> None:
        """Locust takes this user away: its client is gone with it."""
        conductor.of(self.environment).leave(self)
