"""Half an hour under load, renewing tokens: does anything grow, leak or drift?"""

from locustfiles import load
from locustfiles.publisher import PublisherUser
from locustfiles.shapes import DrillShape
from locustfiles.sync_user import SyncUser

load.of("observation", steady_s=1800.0)


class Client(SyncUser):
    """A client of the lane."""


class Publisher(PublisherUser):
    """Publishes the drill's events."""


class Course(DrillShape):
    """As long as the drill's course takes."""
