"""A stranger's locustfile: their own users beside ours, under the drill's shape."""

from locust import User, constant, task

from locustfiles.load.setup import use_drill
from locustfiles.load.users import DrillShape, PublisherUser, SyncUser

use_drill("reconnect_storm")


class Client(SyncUser):
    """A client of the drill."""

    weight = 2


class Shopper(User):
    """One for each two clients."""

    wait_time = constant(0.5)

    @task
    def shop(self) -> None:
        """Succeed, and say so."""
        self.environment.events.request.fire(
            request_type="SHOP", name="shop", response_time=1.0, response_length=0, exception=None, context={}
        )


class Cashier(Shopper):
    """Exactly three."""

    fixed_count = 3


class Publisher(PublisherUser):
    """The publisher."""


class Shape(DrillShape):
    """The drill's."""
