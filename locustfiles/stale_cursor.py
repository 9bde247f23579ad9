"""Cursors go stale while clients are away: does everyone get a snapshot, and nobody loop?"""

from locustfiles.load import hooks
from locustfiles.load.publisher_user import PublisherUser
from locustfiles.load.shapes import DrillShape
from locustfiles.load.sync_user import SyncUser

hooks.of("stale_cursor")


class Client(SyncUser):
    """A client of the lane."""


class Publisher(PublisherUser):
    """Publishes the drill's events."""


class Course(DrillShape):
    """As long as the drill's course takes."""
