"""All sockets are cut at once, and once more: does every client come back soon, spread out, and without losing an event?"""

from locustfiles import load
from locustfiles.publisher import PublisherUser
from locustfiles.shapes import DrillShape
from locustfiles.sync_user import SyncUser

load.of("reconnect_storm")


class Client(SyncUser):
    """A client of the lane."""


class Publisher(PublisherUser):
    """Publishes the drill's events."""


class Course(DrillShape):
    """As long as the drill's course takes."""
