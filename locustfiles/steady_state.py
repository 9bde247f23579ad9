"""Nothing is broken: does a lane under load keep its gates?"""

from locustfiles.load import hooks
from locustfiles.load.publisher_user import PublisherUser
from locustfiles.load.shapes import DrillShape
from locustfiles.load.sync_user import SyncUser

hooks.of("observation")


class Client(SyncUser):
    """A client of the lane."""


class Publisher(PublisherUser):
    """Publishes the drill's events."""


class Course(DrillShape):
    """As long as the drill's course takes."""
