"""The runtime leaves live events out: does every client notice, and get them?"""

from locustfiles.load import hooks
from locustfiles.load.publisher_user import PublisherUser
from locustfiles.load.shapes import DrillShape
from locustfiles.load.sync_user import SyncUser

hooks.of("dropped_delivery")


class Client(SyncUser):
    """A client of the lane."""


class Publisher(PublisherUser):
    """Publishes the drill's events."""


class Course(DrillShape):
    """As long as the drill's course takes."""
