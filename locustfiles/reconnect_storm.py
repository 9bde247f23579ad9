"""Cut every socket at once, twice: do all clients come back soon, spread out, and without losing an event?"""

from locustfiles.load.setup import use_drill
from locustfiles.load.users import DrillShape, PublisherUser, SyncUser

use_drill("reconnect_storm")


class Client(SyncUser):
    """One client of the sync service: connects, subscribes, keeps its cursor, reconnects."""


class Publisher(PublisherUser):
    """Publishes the drill's events over HTTP."""


class Shape(DrillShape):
    """As many users as the drill has clients, for as long as the drill lasts."""
