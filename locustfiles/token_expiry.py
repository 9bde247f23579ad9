"""Every token expires at once while minting is slow: does everyone come back with a new one?"""

from locustfiles import load
from locustfiles.publisher import PublisherUser
from locustfiles.shapes import DrillShape
from locustfiles.sync_user import SyncUser

load.of("token_expiry_storm")


class Client(SyncUser):
    """A client of the lane."""


class Publisher(PublisherUser):
    """Publishes the drill's events."""


class Course(DrillShape):
    """As long as the drill's course takes."""
