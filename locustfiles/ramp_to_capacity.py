"""Storms of more and more clients, until a gate is not green: which load does the lane still take?"""

from locustfiles.load import hooks
from locustfiles.load.publisher_user import PublisherUser
from locustfiles.load.shapes import DrillShape
from locustfiles.load.sync_user import SyncUser

hooks.of("reconnect_storm", ramps=True, clients=100, steady_s=3.0)


class Client(SyncUser):
    """A client of the lane."""


class Publisher(PublisherUser):
    """Publishes the drill's events."""


class Course(DrillShape):
    """One drill after the other."""
