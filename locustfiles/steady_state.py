"""Nothing is broken: does a lane under load keep its gates?"""

from locustfiles import load
from locustfiles.publisher import PublisherUser
from locustfiles.shapes import DrillShape
from locustfiles.sync_user import SyncUser

load.of("observation")


class Client(SyncUser):
    """A client of the lane."""


class Publisher(PublisherUser):
    """Publishes the drill's events."""


class Course(DrillShape):
    """As long as the drill's course takes."""
