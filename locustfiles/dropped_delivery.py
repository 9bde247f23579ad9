"""The runtime leaves live events out: does every client notice, and get them?"""

from locustfiles import load
from locustfiles.publisher import PublisherUser
from locustfiles.shapes import DrillShape
from locustfiles.sync_user import SyncUser

load.of("dropped_delivery")


class Client(SyncUser):
    """A client of the lane."""


class Publisher(PublisherUser):
    """Publishes the drill's events."""


class Course(DrillShape):
    """As long as the drill's course takes."""
