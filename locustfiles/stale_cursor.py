"""Cursors become stale while clients are offline: does every client get a snapshot, and none loop?"""

from locustfiles.load.setup import use_drill
from locustfiles.load.users import DrillShape, PublisherUser, SyncUser

use_drill("stale_cursor")


class Client(SyncUser):
    """One client of the sync service: connects, subscribes, keeps its cursor, reconnects."""


class Publisher(PublisherUser):
    """Publishes the drill's events over HTTP."""


class Shape(DrillShape):
    """As many users as the drill has clients, for as long as the drill lasts."""
